package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const testID = "0123456789ABCDEF"

// tester is what *testing.T and *rapid.T have in common.
type tester interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// wire is one connection to a Serve, of which the caller has an end.
type wire struct {
	net.Conn
	left    atomic.Int64 // bytes both ways until it is cut
	moved   atomic.Int64 // both ways
	onWrite func(moved int64)
	served  chan error
}

// dial begins one that is cut after so many bytes; below 0: never.
func dial(ctx context.Context, cut int64) *wire {
	ours, theirs := net.Pipe()
	w := &wire{Conn: ours, served: make(chan error, 1)}
	if w.left.Store(cut); cut < 0 {
		w.left.Store(math.MaxInt64)
	}
	go func() {
		err := Serve(ctx, theirs, theirs, nil)
		_ = theirs.Close() // as the end of its process does
		w.served <- err
	}()
	return w
}

// pass tells how many of n bytes get through; less: it is cut behind them.
func (w *wire) pass(n int) int {
	through := int(max(0, min(int64(n), w.left.Add(-int64(n))+int64(n))))
	w.moved.Add(int64(through))
	return through
}

func (w *wire) Write(b []byte) (int, error) {
	through := w.pass(len(b))
	n, err := w.Conn.Write(b[:through])
	if w.onWrite != nil {
		w.onWrite(w.moved.Load())
	}
	if through < len(b) {
		_ = w.Close()
		err = io.ErrClosedPipe
	}
	return n, err
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	through := w.pass(n)
	if through < n {
		_ = w.Close()
		err = io.ErrUnexpectedEOF
	}
	return through, err
}

// end closes it and is what Serve said.
func (w *wire) end() error {
	_ = w.Close()
	return <-w.served
}

// copying is a direction.
type copying struct {
	name string
	call func(ctx context.Context, rw io.ReadWriter, from, to string, o Options) (Result, error)
}

var directions = []copying{{"push", Push}, {"pull", Pull}}

func bothWays(t *testing.T, test func(t *testing.T, d copying)) {
	t.Helper()
	for _, d := range directions {
		t.Run(d.name, func(t *testing.T) { test(t, d) })
	}
}

// copy is one attempt that nothing cuts.
func (d copying) copy(t *testing.T, from, to string, o Options) (Result, error) {
	t.Helper()
	if o.ID == "" {
		o.ID = testID
	}
	w := dial(t.Context(), -1)
	r, err := d.call(t.Context(), w, from, to, o)
	served := w.end()
	if err == nil && served != nil {
		t.Errorf("the caller is content, the other end says: %v", served)
	}
	return r, err
}

func (d copying) must(t *testing.T, from, to string) Result {
	t.Helper()
	r, err := d.copy(t, from, to, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func write(t tester, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t tester, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func do(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree is all that is kept of a directory, one line an entry.
func tree(t tester, dir string) string {
	t.Helper()
	var lines []string
	names := map[inode]string{}
	do(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := os.Lstat(path)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		line := fmt.Sprintf("%q %v", name, info.Mode())
		switch info.Mode().Type() {
		case fs.ModeDir:
			line += fmt.Sprintf(" %d", info.ModTime().UnixNano())
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" -> %q", target)
		default:
			id, links, _, _ := identity(info)
			if first, ok := names[id]; ok && links > 1 {
				line += " = " + first
				break
			}
			names[id] = name
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %d bytes %x", info.ModTime().UnixNano(), len(b), sum(b))
		}
		lines = append(lines, line)
		return nil
	}))
	return strings.Join(lines, "\n")
}

func same(t tester, got, want string) {
	t.Helper()
	if got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
}

// clean fails if a transfer has left anything of its own.
func clean(t tester, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		do(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if strings.Contains(path, ".miosa-") {
				t.Errorf("%s is left", path)
			}
			return err
		}))
	}
}

func says(t tester, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Fatalf("got %v, want an error that says %q", err, part)
	}
}

// sample makes a tree with an entry of every kind.
func sample(t *testing.T, dir string) {
	t.Helper()
	write(t, filepath.Join(dir, "a.txt"), "hello")
	write(t, filepath.Join(dir, "a", "b", "deep"), strings.Repeat("deep", 100_000))
	write(t, filepath.Join(dir, "a", "\xff\n \u00e9"), "odd name")
	write(t, filepath.Join(dir, "empty"), "")
	write(t, filepath.Join(dir, "run"), "#!/bin/sh")
	write(t, filepath.Join(dir, "holes"), "begin"+strings.Repeat("\x00", 3<<20)+"end"+strings.Repeat("\x00", 1<<20))
	do(t, os.Mkdir(filepath.Join(dir, "nothing"), 0o700))
	do(t, os.Chmod(filepath.Join(dir, "run"), 0o751))
	do(t, os.Chmod(filepath.Join(dir, "a", "b", "deep"), 0o400))
	do(t, os.Link(filepath.Join(dir, "a", "b", "deep"), filepath.Join(dir, "z-hard")))
	do(t, os.Link(filepath.Join(dir, "a.txt"), filepath.Join(dir, "nothing.txt")))
	do(t, os.Symlink("a/b", filepath.Join(dir, "link")))
	do(t, os.Symlink("/nowhere/at all", filepath.Join(dir, "a", "dangling")))
	do(t, os.Chmod(filepath.Join(dir, "nothing"), fs.ModeSticky|0o777))
	old := time.Unix(1_000_000_000, 123_456_789)
	for _, name := range []string{"a.txt", "a/b", "a", "nothing", "."} {
		do(t, os.Chtimes(filepath.Join(dir, name), old, old))
		old = old.Add(time.Hour + time.Nanosecond)
	}
	do(t, os.Chmod(filepath.Join(dir, "a", "b"), 0o555))
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "a", "b"), 0o755) })
}

func TestTreesArriveAsTheyAre(t *testing.T) {
	bothWays(t, func(t *testing.T, d copying) {
		from, to := filepath.Join(t.TempDir(), "src"), t.TempDir()
		sample(t, from)
		r := d.must(t, from, to)
		got := filepath.Join(to, "src")
		t.Cleanup(func() { _ = os.Chmod(filepath.Join(got, "a", "b"), 0o755) })
		same(t, tree(t, got), tree(t, from))
		clean(t, to)
		if lines := int64(strings.Count(tree(t, from), "\n") + 1); r.Entries != lines {
			t.Errorf("%d entries, want %d", r.Entries, lines)
		}
		if want := int64(5 + 400_000 + 8 + 0 + 9 + 8 + 4<<20); r.Bytes != want {
			t.Errorf("%d bytes, want %d", r.Bytes, want)
		}
		var st syscall.Stat_t
		do(t, syscall.Stat(filepath.Join(got, "holes"), &st))
		if st.Blocks*512 > 1<<20 {
			t.Errorf("a file of holes takes %d bytes", st.Blocks*512)
		}
		d.must(t, from, to) // onto itself
		same(t, tree(t, got), tree(t, from))
		clean(t, to)
	})
}

func TestWhereThingsGo(t *testing.T) {
	for _, c := range []struct {
		from, to string
		want     string // a file that is there then
		err      string
	}{
		{from: "file", to: "new", want: "new"},
		{from: "file", to: "old", want: "old"},
		{from: "file", to: "dir", want: "dir/file"},
		{from: "file", to: "dir/", want: "dir/file"},
		{from: "file", to: "dir/.", want: "dir/file"},
		{from: "file", to: "link", want: "dir/file"},
		{from: "file", to: "gone/new", err: "there is no directory"},
		{from: "file", to: "old/new", err: "old"},
		{from: "file", to: "new/", err: "is to be a directory"},
		{from: "file", to: "gone/.", err: "is to be a directory"},
		{from: "file", to: "full", err: "is a directory already"}, // full/file is one
		{from: "tree", to: "new", want: "new/in"},
		{from: "tree", to: "new/", want: "new/in"},
		{from: "tree", to: "dir", want: "dir/tree/in"},
		{from: "tree/", to: "dir", want: "dir/tree/in"},
		{from: "tree/.", to: "dir", want: "dir/in"},
		{from: "tree/.", to: "new", want: "new/in"},
		{from: "tree/../tree", to: "dir", want: "dir/tree/in"},
		{from: "tree", to: "old", err: "is no directory"},
		{from: "tree", to: "full", err: "is no directory"}, // full/tree is a file
		{from: "to-tree", to: "dir", want: "dir/to-tree"},
		{from: "to-tree/", to: "dir", want: "dir/to-tree/in"},
		{from: "to-tree/.", to: "dir", want: "dir/in"},
		{from: "missing", to: "dir", err: "no such file"},
		{from: "file/", to: "dir", err: "not a directory"},
		{from: "pipe", to: "dir", err: "neither a file"},
	} {
		t.Run(c.from+" to "+c.to, func(t *testing.T) {
			bothWays(t, func(t *testing.T, d copying) {
				from, to := t.TempDir(), t.TempDir()
				write(t, filepath.Join(from, "file"), "new")
				write(t, filepath.Join(from, "tree", "in"), "new")
				do(t, os.Symlink("tree", filepath.Join(from, "to-tree")))
				do(t, syscall.Mkfifo(filepath.Join(from, "pipe"), 0o600))
				write(t, filepath.Join(to, "old"), "old")
				write(t, filepath.Join(to, "full", "tree"), "old")
				write(t, filepath.Join(to, "full", "file", "in"), "old")
				do(t, os.Mkdir(filepath.Join(to, "dir"), 0o755))
				do(t, os.Symlink("dir", filepath.Join(to, "link")))
				before := tree(t, to)
				// Clean names would hide what is tested.
				_, err := d.copy(t, from+"/"+c.from, to+"/"+c.to, Options{})
				clean(t, to)
				if c.err != "" {
					says(t, err, c.err)
					if after := tree(t, to); stripTimes(after) != stripTimes(before) {
						t.Fatalf("got\n%s\nwant\n%s", after, before)
					}
					return
				}
				do(t, err)
				if c.want == "dir/to-tree" {
					if target, err := os.Readlink(filepath.Join(to, c.want)); err != nil || target != "tree" {
						t.Fatalf("got %q, %v", target, err)
					}
					return
				}
				same(t, read(t, filepath.Join(to, c.want)), "new")
			})
		})
	}
}

// stripTimes leaves the times of directories out of a tree.
func stripTimes(tree string) string {
	lines := strings.Split(tree, "\n")
	for i, l := range lines {
		if f := strings.Fields(l); strings.HasPrefix(f[len(f)-2], "d") {
			lines[i] = strings.Join(f[:len(f)-1], " ")
		}
	}
	return strings.Join(lines, "\n")
}

func TestTheDirectoryItselfStaysAsItWas(t *testing.T) {
	bothWays(t, func(t *testing.T, d copying) {
		from, to := t.TempDir(), t.TempDir()
		write(t, filepath.Join(from, "in"), "new")
		do(t, os.Chmod(from, 0o777))
		mode := fs.FileMode(0o750)
		if os.Geteuid() == 0 {
			mode = 0o550 // root writes there all the same
		}
		do(t, os.Chmod(to, mode))
		d.must(t, from+"/.", to)
		info, err := os.Stat(to)
		do(t, err)
		if info.Mode().Perm() != mode {
			t.Errorf("the destination's mode is %v now", info.Mode())
		}
	})
}

func TestModesThatAreGifts(t *testing.T) {
	bothWays(t, func(t *testing.T, d copying) {
		from := filepath.Join(t.TempDir(), "src")
		write(t, filepath.Join(from, "su"), "x")
		do(t, os.Chmod(filepath.Join(from, "su"), fs.ModeSetuid|fs.ModeSetgid|0o755))
		for _, keep := range []bool{false, true} {
			to := t.TempDir()
			_, err := d.copy(t, from, to, Options{KeepSetID: keep})
			do(t, err)
			info, err := os.Stat(filepath.Join(to, "src", "su"))
			do(t, err)
			if got := info.Mode()&fs.ModeSetuid != 0 && info.Mode()&fs.ModeSetgid != 0; got != keep || info.Mode().Perm() != 0o755 {
				t.Errorf("asked to keep them: %v, got %v", keep, info.Mode())
			}
		}
	})
}

func TestOwners(t *testing.T) {
	root := os.Geteuid() == 0 // who alone can give files away: others keep what they get
	bothWays(t, func(t *testing.T, d copying) {
		from := filepath.Join(t.TempDir(), "src")
		write(t, filepath.Join(from, "file"), "x")
		do(t, os.Symlink("file", filepath.Join(from, "link")))
		names := []string{"file", "link", "."}
		for n, name := range names {
			if root {
				do(t, os.Lchown(filepath.Join(from, name), 1234+n, 4321+n))
			}
		}
		for _, keep := range []bool{false, true} {
			to := t.TempDir()
			_, err := d.copy(t, from, to, Options{KeepOwner: keep})
			do(t, err)
			for n, name := range names {
				info, err := os.Lstat(filepath.Join(to, "src", name))
				do(t, err)
				want := [2]uint32{uint32(os.Geteuid()), uint32(os.Getegid())}
				if keep && root {
					want = [2]uint32{uint32(1234 + n), uint32(4321 + n)}
				}
				if _, _, uid, gid := identity(info); [2]uint32{uid, gid} != want {
					t.Errorf("asked to keep them: %v, %s belongs to %d:%d", keep, name, uid, gid)
				}
			}
		}
	})
}

func TestWhatIsPassedOver(t *testing.T) {
	bothWays(t, func(t *testing.T, d copying) {
		from, to := filepath.Join(t.TempDir(), "src"), t.TempDir()
		write(t, filepath.Join(from, "file"), "x")
		for n := range 12 {
			do(t, syscall.Mkfifo(filepath.Join(from, fmt.Sprintf("pipe\x1b%02d", n)), 0o600))
		}
		r := d.must(t, from, to)
		if r.Skipped.Count != 12 || len(r.Skipped.First) != 10 || r.Skipped.First[0] != "pipe?00" {
			t.Errorf("got %+v", r.Skipped)
		}
		if r.Entries != 2 || r.Changed.Count != 0 {
			t.Errorf("got %+v", r)
		}
	})
}

func TestAnOldFileIsReplacedWhole(t *testing.T) {
	bothWays(t, func(t *testing.T, d copying) {
		from, to := filepath.Join(t.TempDir(), "file"), t.TempDir()
		write(t, from, strings.Repeat("new", 1<<20))
		old := filepath.Join(to, "file")
		write(t, old, "old")
		do(t, os.Link(old, filepath.Join(to, "other")))
		do(t, os.Chmod(old, 0o400))

		w := dial(t.Context(), 2<<20)
		_, err := d.call(t.Context(), w, from, to, Options{ID: testID})
		if _, ok := errors.AsType[*BrokenError](err); !ok {
			t.Fatalf("got %v, want a broken connection", err)
		}
		_ = w.end()
		same(t, read(t, old), "old")

		d.must(t, from, to)
		same(t, read(t, old), strings.Repeat("new", 1<<20))
		same(t, read(t, filepath.Join(to, "other")), "old")
		clean(t, to)
	})
}

func TestLinksAtTheDestinationAreNotFollowed(t *testing.T) {
	bothWays(t, func(t *testing.T, d copying) {
		for _, target := range []string{"outside", "inside"} {
			from, to, outside := filepath.Join(t.TempDir(), "src"), t.TempDir(), t.TempDir()
			write(t, filepath.Join(from, "sub", "file"), "new")
			write(t, filepath.Join(from, "leaf"), "new")
			write(t, filepath.Join(outside, "leaf"), "old")
			do(t, os.MkdirAll(filepath.Join(to, "src", "inside"), 0o755))
			write(t, filepath.Join(to, "src", "inside", "leaf"), "old")
			if target == "outside" {
				target = outside
			}
			do(t, os.Symlink(target, filepath.Join(to, "src", "sub")))
			do(t, os.Symlink(filepath.Join(target, "leaf"), filepath.Join(to, "src", "leaf")))
			_, err := d.copy(t, from, to, Options{})
			says(t, err, "symbolic link")
			same(t, read(t, filepath.Join(outside, "leaf")), "old")
			same(t, read(t, filepath.Join(to, "src", "inside", "leaf")), "old")
			same(t, read(t, filepath.Join(to, "src", "leaf")), "new") // took the link's place
			for _, dir := range []string{outside, filepath.Join(to, "src", "inside")} {
				if _, err := os.Lstat(filepath.Join(dir, "file")); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("written through the link: %v", err)
				}
			}
			clean(t, to)
		}
	})
}

func TestFilesThatChangeWhileTheyAreSent(t *testing.T) {
	const size = 4 << 20
	for name, change := range map[string]func(t *testing.T, path string){
		"shrinks": func(t *testing.T, path string) { do(t, os.Truncate(path, size-100_000)) },
		"grows": func(t *testing.T, path string) {
			f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
			do(t, err)
			_, err = f.WriteString("more")
			do(t, errors.Join(err, f.Close()))
		},
		"empties": func(t *testing.T, path string) { do(t, os.Truncate(path, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			from, to := filepath.Join(t.TempDir(), "src"), t.TempDir()
			before := strings.Repeat("0123456789abcdef", size/16)
			file := filepath.Join(from, "file")
			write(t, file, before)
			write(t, filepath.Join(from, "after"), "x") // sorts before, in spite of its name
			do(t, os.Link(file, filepath.Join(from, "same")))
			w := dial(t.Context(), -1)
			var once sync.Once
			w.onWrite = func(sent int64) {
				if sent > 1<<20 {
					once.Do(func() { change(t, file) })
				}
			}
			r, err := Push(t.Context(), w, from, to, Options{ID: testID})
			do(t, errors.Join(err, w.end()))
			if r.Changed.Count != 1 || r.Changed.First[0] != "file" {
				t.Errorf("got %+v", r)
			}
			got := read(t, filepath.Join(to, "src", "file"))
			if len(got) < 900_000 || !strings.HasPrefix(before, got) {
				t.Errorf("%d bytes have arrived that were not the file's", len(got))
			}
			same(t, read(t, filepath.Join(to, "src", "same")), got)
			clean(t, to)
		})
	}
}

// A directory that becomes a link while it is walked leads to nothing outside.
func TestADirectoryThatBecomesALink(t *testing.T) {
	from, to, outside := filepath.Join(t.TempDir(), "src"), t.TempDir(), t.TempDir()
	write(t, filepath.Join(outside, "secret"), "secret")
	write(t, filepath.Join(from, "a"), strings.Repeat("x", 2<<20))
	write(t, filepath.Join(from, "dir", "secret"), "harmless")
	w := dial(t.Context(), -1)
	var once sync.Once
	w.onWrite = func(sent int64) {
		if sent > 1<<20 {
			once.Do(func() {
				do(t, os.RemoveAll(filepath.Join(from, "dir")))
				do(t, os.Symlink(outside, filepath.Join(from, "dir")))
			})
		}
	}
	_, err := Push(t.Context(), w, from, to, Options{ID: testID})
	do(t, errors.Join(err, w.end()))
	if target, err := os.Readlink(filepath.Join(to, "src", "dir")); err != nil || target != outside {
		t.Errorf("got %q, %v", target, err)
	}
}

// What changes in the moment between two looks at it is told from what it was.
func TestBetweenTwoLooks(t *testing.T) {
	from, outside := t.TempDir(), t.TempDir()
	write(t, filepath.Join(from, "file"), "0123456789")
	do(t, os.Mkdir(filepath.Join(from, "dir"), 0o755))
	do(t, os.Mkdir(filepath.Join(from, "other"), 0o755))
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	w, err := newSender(newStream(t.Context(), ours), from, Options{})
	do(t, err)
	defer w.end(nil)
	w.finish = &finished{}

	for n, target := range []string{"other", outside} {
		info, err := os.Lstat(filepath.Join(from, "dir"))
		do(t, err)
		do(t, os.Remove(filepath.Join(from, "dir")))
		do(t, os.Symlink(target, filepath.Join(from, "dir")))
		if f, err := w.openAs("dir", info); f != nil || err != nil || w.done.Changed.Count != int64(n+1) {
			t.Errorf("opened %v, %v", f, err)
		}
		do(t, os.Remove(filepath.Join(from, "dir")))
		do(t, os.Mkdir(filepath.Join(from, "dir"), 0o755))
	}

	f, err := os.Open(filepath.Join(from, "file"))
	do(t, err)
	defer f.Close()
	digest := sha256.New()
	w.from = Place{Path: "file", Offset: 15, Size: 20}
	e := entry{Name: "file", Size: 20}
	do(t, w.goOn(&e, f, digest))
	if at, _ := f.Seek(0, io.SeekCurrent); e.Offset != 0 || at != 0 || [32]byte(digest.Sum(nil)) != sum(nil) {
		t.Errorf("goes on at %d, reads at %d", e.Offset, at)
	}
}

func TestLimits(t *testing.T) {
	bothWays(t, func(t *testing.T, d copying) {
		from := filepath.Join(t.TempDir(), "src")
		write(t, filepath.Join(from, "a"), strings.Repeat("x", 600))
		write(t, filepath.Join(from, "b"), strings.Repeat("x", 401))
		for _, c := range []struct {
			o   Options
			err string
		}{
			{Options{MaxBytes: 1001, MaxEntries: 3}, ""},
			{Options{MaxBytes: 1000}, "more than 1000, which is the limit"},
			{Options{MaxEntries: 2}, "more than 2 entries, which is the limit"},
			{Options{ID: "short"}, "is not of 8 to 64"},
			{Options{ID: "../../../etc"}, "is not of 8 to 64"},
			{Options{ID: strings.Repeat("x", 100_000)}, "is not of 8 to 64"},
		} {
			to := t.TempDir()
			_, err := d.copy(t, from, to, c.o)
			if c.err == "" {
				do(t, err)
			} else {
				says(t, err, c.err)
			}
			clean(t, to)
		}
		deep := filepath.Join(t.TempDir(), "src")
		do(t, os.MkdirAll(filepath.Join(deep, strings.Repeat("d/", maxDepth+1)), 0o755))
		_, err := d.copy(t, deep, t.TempDir(), Options{})
		says(t, err, "directories deep")
		w := dial(t.Context(), -1)
		local, remote := t.TempDir(), strings.Repeat("x", 100_000)
		if d.name == "pull" {
			local, remote = remote, local
		}
		_, err = d.call(t.Context(), w, local, remote, Options{ID: testID})
		_ = w.end()
		if err == nil {
			t.Error("a path of 100,000 bytes is taken")
		}
	})
}

func TestProgress(t *testing.T) {
	bothWays(t, func(t *testing.T, d copying) {
		from := filepath.Join(t.TempDir(), "file")
		write(t, from, strings.Repeat("x", 1<<20))
		var told []Progress
		_, err := d.copy(t, from, t.TempDir(), Options{Progress: func(p Progress) { told = append(told, p) }})
		do(t, err)
		if last := told[len(told)-1]; last.Entries != 1 || last.Bytes != 1<<20 || last.Total != 1<<20 {
			t.Errorf("got %+v", last)
		}
		if !slices.IsSortedFunc(told, func(a, b Progress) int { return int(a.Bytes - b.Bytes) }) {
			t.Errorf("goes backwards: %v", told)
		}
	})
}

// Nobody who ends early leaves a goroutine once the stream is closed: the bubble
// does not end before they do.
func TestCancelling(t *testing.T) {
	bothWays(t, func(t *testing.T, d copying) {
		from, to := filepath.Join(t.TempDir(), "src"), t.TempDir()
		write(t, filepath.Join(from, "file"), strings.Repeat("x", 4<<20))
		for _, whose := range []string{"ours", "theirs", "nobody"} {
			synctest.Test(t, func(t *testing.T) {
				ours, cancelOurs := context.WithCancelCause(t.Context())
				theirs, cancelTheirs := context.WithCancelCause(t.Context())
				defer cancelOurs(nil)
				defer cancelTheirs(nil)
				why := errors.New("enough")
				w := dial(theirs, -1)
				w.onWrite = func(int64) {
					switch whose {
					case "ours":
						cancelOurs(why)
					case "theirs":
						cancelTheirs(why)
					}
				}
				_, err := d.call(ours, w, from, to, Options{ID: testID})
				switch _, broken := errors.AsType[*BrokenError](err); {
				case whose == "ours" && !errors.Is(err, why), whose == "theirs" && !broken, whose == "nobody" && err != nil:
					t.Errorf("%s: got %v", whose, err)
				}
				served := w.end()
				if whose == "theirs" && !errors.Is(served, why) {
					t.Errorf("the other end: got %v", served)
				}
			})
		}
		clean(t, to) // the last attempt went on where the others stopped
		same(t, tree(t, filepath.Join(to, "src")), tree(t, from))
	})
}
