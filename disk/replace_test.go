package disk_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/miosa/miosa/disk"
)

// want checks what a file holds, and that beside it lie only the others.
func want(t *testing.T, path, content string, others ...string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != content {
		t.Errorf("%s holds %.20q (%d bytes), %v; want %.20q", path, got, len(got), err, content)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filepath.Base(path) && !slices.Contains(others, e.Name()) {
			t.Errorf("%s lies beside it", e.Name())
		}
	}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

// ways are the two that write a file whole.
var ways = map[string]func(string, []byte, fs.FileMode) error{"synced": disk.Replace, "unsynced": disk.ReplaceUnsynced}

func TestReplace(t *testing.T) {
	for name, replace := range ways {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			former := syscall.Umask(0o077)
			defer syscall.Umask(former)
			for _, step := range []struct {
				content string
				mode    fs.FileMode
			}{{"first", 0o600}, {"", 0o644}, {strings.Repeat("long", 1<<18), 0o444}, {"short again", 0o640}} {
				if err := replace(path, []byte(step.content), step.mode); err != nil {
					t.Fatal(err)
				}
				want(t, path, step.content)
				if got := mode(t, path); got != step.mode {
					t.Errorf("mode %v, want %v: neither the umask's nor that of the former file", got, step.mode)
				}
			}
		})
	}
}

// Who has the file open goes on reading the former one: it is never written over.
func TestReplaceLeavesReaders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	if err := disk.Replace(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := disk.Replace(path, []byte("new and longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(f); err != nil || string(b) != "old" {
		t.Errorf("reads %q, %v", b, err)
	}
	want(t, path, "new and longer")
}

// Where it can't take the place of what is there, that stays, and nothing else.
func TestReplaceFails(t *testing.T) {
	for name, replace := range ways {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "taken")
			if err := os.MkdirAll(filepath.Join(path, "by a directory"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := replace(path, []byte("x"), 0o600); err == nil {
				t.Error("it replaced a directory that is not empty")
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 1 || !entries[0].IsDir() {
				t.Errorf("there is %v, %v", entries, err)
			}
			if err := replace(filepath.Join(dir, "missing", "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("in a directory that is not there: %v", err)
			}
		})
	}
}

func TestCommitNew(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	create := func(content string) error {
		p, err := disk.Create(path, 0o400)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.WriteString(content); err != nil {
			t.Fatal(err)
		}
		return errors.Join(p.CommitNew(), p.Discard())
	}
	if err := create("first"); err != nil {
		t.Fatal(err)
	}
	if err := create("second"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over what is there: %v", err)
	}
	want(t, path, "first")
	if got := mode(t, path); got != 0o400 {
		t.Errorf("mode %v", got)
	}
}

// What was committed stays, open for more; what was not is gone.
func TestPending(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	p, err := disk.Create(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it has its name before it is whole: %v", err)
	}
	if err := p.Discard(); err != nil || p.Named() {
		t.Errorf("discard: %v, named %v", err, p.Named())
	}
	if p, err = disk.Create(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.WriteString("begun"); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(); err != nil || !p.Named() {
		t.Fatalf("%v, named %v", err, p.Named())
	}
	if _, err := p.WriteString(", gone on with"); err != nil {
		t.Fatal(err)
	}
	want(t, path, "begun, gone on with")
	if err := p.Discard(); err != nil {
		t.Error(err)
	}
	want(t, path, "begun, gone on with")
}

// Many at once: one of them stays, whole, and nothing of the others.
func TestReplaceAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	var writers sync.WaitGroup
	for n := range 8 {
		writers.Go(func() {
			for range 20 {
				if err := disk.Replace(path, bytes.Repeat([]byte{byte('a' + n)}, 5000+n), 0o600); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := int(got[0] - 'a'); string(got) != strings.Repeat(string(got[:1]), 5000+n) {
		t.Errorf("a mixture of %d bytes", len(got))
	}
	want(t, path, string(got))
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	keep := []string{"state", ".hidden", "bundle.new", ".dir.new"}
	for _, name := range keep[:3] {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, keep[3]), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		p, err := disk.Create(filepath.Join(dir, "state"), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if !disk.IsLeftover(filepath.Base(p.Name())) {
			t.Errorf("%s is not known for what it is", p.Name())
		}
		p.Close()
	}
	if err := disk.Sweep(dir); err != nil {
		t.Fatal(err)
	}
	want(t, filepath.Join(dir, "state"), "", keep...)
	if err := disk.Sweep(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}

func TestMakeDir(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a", "b", "c")
	for range 2 {
		if err := disk.MakeDir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for p := path; p != dir; p = filepath.Dir(p) {
		if got := mode(t, p); got != fs.ModeDir|0o700 {
			t.Errorf("%s: mode %v", p, got)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{file, filepath.Join(file, "below")} {
		if err := disk.MakeDir(p, 0o700); err == nil {
			t.Errorf("%s is made", p)
		}
	}
	t.Chdir(dir)
	if err := disk.MakeDir("relative/d/", 0o700); err != nil || !mode(t, "relative/d").IsDir() {
		t.Error(err)
	}
}

const (
	stageEnv = "MIOSA_TEST_DISK_STAGE"
	placeEnv = "MIOSA_TEST_DISK"
)

// child is this test in a process of its own, at a stage.
func child(t *testing.T, stage, place string, how *syscall.SysProcAttr) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), stageEnv+"="+stage, placeEnv+"="+place)
	how.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr = how
	return cmd
}

// content is what the n-th replacement holds: the number says it all.
func content(n int) string { return fmt.Sprintf("%d:%s", n, strings.Repeat(fmt.Sprint(n), 30_000)) }

// A process that is killed in the middle of its work leaves the former or the
// next file whole; and what it left beside that is swept away.
func TestKilledWhileReplacing(t *testing.T) {
	place := os.Getenv(placeEnv)
	if os.Getenv(stageEnv) != "" {
		for n := 1; ; n++ {
			if err := disk.Replace(place, []byte(content(n)), 0o600); err != nil {
				t.Fatal(err)
			}
			fmt.Printf("done %d\n", n)
		}
	}
	path := filepath.Join(t.TempDir(), "state")
	for round := range 10 {
		cmd := child(t, "write", path, &syscall.SysProcAttr{})
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		least, until := 0, 1+rand.IntN(30)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if n := 0; sscan(lines.Text(), &n) {
				least = n
			}
			if least == until {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		// One more may have been done than was said.
		if s := string(got); least < until || s != content(least) && s != content(least+1) {
			t.Fatalf("round %d: %.20q (%d bytes) is there after replacement %d of %d", round, got, len(got), least, until)
		}
		if err := disk.Sweep(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		want(t, path, string(got))
	}
}

func sscan(line string, n *int) bool {
	_, err := fmt.Sscanf(line, "done %d", n)
	return err == nil
}

// A full disk: the former file is there, and the room that the next one took is
// free again.
func TestReplaceOnAFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	place := os.Getenv(placeEnv)
	if os.Getenv(stageEnv) == "" {
		if out, err := child(t, "full", t.TempDir(), &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := syscall.Mount("tmpfs", place, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(place, "state")
	if err := disk.Replace(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	before, _, err := disk.Stat(place)
	if err != nil {
		t.Fatal(err)
	}
	for name, replace := range ways {
		for range 3 {
			if err := replace(path, make([]byte, 2<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s: %v", name, err)
			}
			want(t, path, "old")
		}
	}
	if after, _, err := disk.Stat(place); err != nil || after != before {
		t.Errorf("%d bytes are free, %v; before %d were", after, err, before)
	}
	if err := disk.Replace(path, []byte("fits"), 0o600); err != nil {
		t.Error(err)
	}
	want(t, path, "fits")
}

// A directory that cannot be made to last is an error, told apart from a file
// that did not get its name. Of one that may be written but not read the names
// cannot be synced.
func TestDirectoryThatCannotBeSynced(t *testing.T) {
	const nobody = 65534
	place := os.Getenv(placeEnv)
	if os.Getenv(stageEnv) == "" {
		how := &syscall.SysProcAttr{}
		dir := t.TempDir()
		if os.Getuid() == 0 { // whom modes do not bind
			how.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
			for p := dir; p != os.TempDir() && p != "/"; p = filepath.Dir(p) {
				if err := os.Chmod(p, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chown(dir, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
		cmd := child(t, "unreadable", dir, how)
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		// The test's own directory is not open to all.
		binary := filepath.Join(t.TempDir(), "test")
		if b, err := os.ReadFile(self); err != nil {
			t.Fatal(err)
		} else if err := os.WriteFile(binary, b, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(binary), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd.Path, cmd.Dir = binary, dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	path := filepath.Join(place, "state")
	if err := disk.Replace(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(place, 0o300); err != nil {
		t.Fatal(err)
	}
	for name, commit := range map[string]func(*disk.Pending) error{"state": (*disk.Pending).Commit, "other": (*disk.Pending).CommitNew} {
		p, err := disk.Create(filepath.Join(place, name), 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.WriteString("new"); err != nil {
			t.Fatal(err)
		}
		if err := commit(p); !errors.Is(err, fs.ErrPermission) || !p.Named() {
			t.Errorf("%s: %v, named %v", name, err, p.Named())
		}
		if err := p.Discard(); err != nil {
			t.Error(err)
		}
	}
	if err := disk.Replace(path, []byte("newest"), 0o600); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("replace: %v", err)
	}
	if err := disk.Rename(path, filepath.Join(place, "moved")); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("rename: %v", err)
	}
	if err := disk.MakeDir(filepath.Join(place, "below"), 0o700); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("make a directory: %v", err)
	}
	if err := os.Chmod(place, 0o700); err != nil {
		t.Fatal(err)
	}
	want(t, filepath.Join(place, "moved"), "newest", "other")
}
