package etcd_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/etcd"
)

// These tests fill a disk: a tmpfs in a mount namespace of a child process,
// so that it is gone with the child, whatever happens.

const (
	stageEnv = "MIOSA_TEST_DISK_STAGE"
	diskEnv  = "MIOSA_TEST_DISK"
	diskSize = 256 << 20
)

// stage runs one stage of a test in a child process and returns what it
// printed on standard output between the marks.
func stage(t *testing.T, name, disk string, flags uintptr) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+strings.Split(t.Name(), "/")[0]+"$", "-test.v", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), stageEnv+"="+name, diskEnv+"="+disk)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: flags, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("stage %s: %v\n%s", name, err, out)
	}
	_, rest, _ := strings.Cut(string(out), "<<")
	result, _, _ := strings.Cut(rest, ">>")
	return result
}

// onSmallDisk calls fn, in a child process, with a directory on a disk of
// diskSize.
func onSmallDisk(t *testing.T, fn func(disk string)) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounting a small disk needs root")
	}
	disk := os.Getenv(diskEnv)
	if disk == "" {
		stage(t, "mount", t.TempDir(), syscall.CLONE_NEWNS)
		return
	}
	if os.Getenv(stageEnv) == "mount" {
		if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d", diskSize)); err != nil {
			t.Fatal(err)
		}
	}
	fn(disk)
}

// fill leaves so many bytes free on the disk, by the size of its filler. The
// engine takes room beside it (it allocates its next log segment after it has
// opened), so that a look at the disk may be late as soon as it is had: the
// filler never takes more than there is, and whoever needs it exact fills again.
func fill(t *testing.T, disk string, leave int64) {
	t.Helper()
	file, err := os.OpenFile(fillerPath(disk), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for {
		info, err := file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		var fs syscall.Statfs_t
		if err := syscall.Statfs(disk, &fs); err != nil {
			t.Fatal(err)
		}
		size := max(1, info.Size()+int64(fs.Bavail)*fs.Bsize-leave)
		if size < info.Size() {
			err = file.Truncate(size)
		} else {
			err = syscall.Fallocate(int(file.Fd()), 0, 0, size)
		}
		// A tmpfs gives back what it had allocated when room runs out.
		if !errors.Is(err, syscall.ENOSPC) {
			if err := errors.Join(err, file.Close()); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
}

func fillerPath(disk string) string { return filepath.Join(disk, "filler") }

func TestWritesStopBeforeTheDiskIsFull(t *testing.T) {
	onSmallDisk(t, func(disk string) {
		const reserve = 64 << 20
		s := open(t, etcd.Config{Dir: filepath.Join(disk, "db"), Reserve: reserve})
		put(t, s, "/a", "x")
		scarce := func() { fill(t, disk, reserve*3/4) }
		until(t, s, store.Txn{Put: []store.Put{{Key: "/b", Value: []byte("x")}}}, miosa.NoSpace, scarce)
		if e, err := s.Get(t.Context(), "/a"); err != nil || string(e.Value) != "x" {
			t.Errorf("read: %+v, %v", e, err)
		}
		until(t, s, store.Txn{Delete: []string{"/a"}}, "", scarce)
		if err := os.Remove(fillerPath(disk)); err != nil {
			t.Fatal(err)
		}
		until(t, s, store.Txn{Put: []store.Put{{Key: "/b", Value: []byte("x")}}}, "", func() {})
	})
}

// until commits until the answer is as it has to be, with the disk made ready
// before each: the store looks at the disk a few times a second only.
func until(t *testing.T, s store.Store, txn store.Txn, want miosa.Code, ready func()) {
	t.Helper()
	for {
		ready()
		_, err := s.Commit(t.Context(), txn)
		if miosa.CodeOf(err) == want {
			return
		}
		if err != nil && miosa.CodeOf(err) != miosa.NoSpace {
			t.Fatal(err)
		}
	}
}

// Somebody else fills the disk to the last byte: the engine ends, the process
// does not, everything answers, and nothing acknowledged is lost.
func TestTheEngineEndsWithItsDisk(t *testing.T) {
	onSmallDisk(t, func(disk string) {
		dir := filepath.Join(disk, "db")
		switch os.Getenv(stageEnv) {
		case "mount":
			acknowledged := stage(t, "break", disk, 0)
			if err := os.Remove(fillerPath(disk)); err != nil {
				t.Fatal(err)
			}
			s := open(t, etcd.Config{Dir: dir, Reserve: 1})
			n, err := strconv.Atoi(acknowledged)
			if err != nil || n < 1 {
				t.Fatalf("%q records were acknowledged", acknowledged)
			}
			for i := range n {
				if e, err := s.Get(t.Context(), fmt.Sprint("/full/", i)); err != nil || len(e.Value) == 0 {
					t.Errorf("record %d of %d: %d bytes, %v", i, n, len(e.Value), err)
				}
			}
			put(t, s, "/again", "x")
		case "break":
			s, err := etcd.Open(t.Context(), etcd.Config{Dir: dir, Reserve: 1})
			if err != nil {
				t.Fatal(err)
			}
			fill(t, disk, 8<<20)
			n := 0
			value := []byte(strings.Repeat("x", 256<<10))
			for ; err == nil; n++ {
				_, err = s.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: fmt.Sprint("/full/", n), Value: value}}})
			}
			if miosa.CodeOf(err) != miosa.NoSpace {
				t.Errorf("the %d. put: %v", n, err)
			}
			if err := s.Wait(t.Context()); miosa.CodeOf(err) != miosa.NoSpace {
				t.Errorf("wait: %v", err)
			}
			if _, err := s.Get(t.Context(), "/full/0"); miosa.CodeOf(err) != miosa.NoSpace {
				t.Errorf("get: %v", err)
			}
			for _, err := range s.Watch(t.Context(), "/", 1) {
				if miosa.CodeOf(err) != miosa.NoSpace {
					t.Errorf("watch: %v", err)
				}
			}
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			fmt.Printf("<<%d>>", n-1)
		}
	})
}
