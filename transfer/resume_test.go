package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func sum(b []byte) [32]byte { return sha256.Sum256(b) }

// anyTree fills a directory with what chance says.
func anyTree(t *rapid.T, dir string) {
	fail := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	dirs, files := []string{dir}, []string{}
	fail(os.Mkdir(dir, 0o755))
	for n := range rapid.IntRange(0, 14).Draw(t, "entries") {
		in := rapid.SampledFrom(dirs).Draw(t, "in")
		path := filepath.Join(in, rapid.SampledFrom([]string{"a", "b", "a.b", "\xfe", "Z", " "}).Draw(t, "letter")+fmt.Sprint(n))
		switch rapid.SampledFrom([]string{"dir", "file", "file", "file", "link", "hard", "big"}).Draw(t, "kind") {
		case "dir":
			fail(os.Mkdir(path, 0o755))
			dirs = append(dirs, path)
			continue
		case "link":
			fail(os.Symlink(rapid.SampledFrom([]string{".", "a1", "/etc", "../.."}).Draw(t, "target"), path))
			continue
		case "hard":
			if len(files) > 0 {
				fail(os.Link(rapid.SampledFrom(files).Draw(t, "first"), path))
			}
			continue
		case "file":
			size := rapid.SampledFrom([]int{0, 1, 100, maxPiece - 1, maxPiece, maxPiece + 1, 100_000}).Draw(t, "size")
			fail(os.WriteFile(path, noise(n, size), 0o644))
		case "big":
			b := noise(n, rapid.SampledFrom([]int{1 << 20, 1<<20 + 1, 3 << 20}).Draw(t, "size"))
			if rapid.Bool().Draw(t, "holes") {
				clear(b[1000 : len(b)-rapid.SampledFrom([]int{0, 1, 300_000}).Draw(t, "tail")])
			}
			fail(os.WriteFile(path, b, 0o644))
		}
		files = append(files, path)
		fail(os.Chmod(path, rapid.SampledFrom([]fs.FileMode{0o644, 0o400, 0o777}).Draw(t, "mode")))
		at := time.Unix(rapid.Int64Range(0, 2_000_000_000).Draw(t, "mtime"), int64(n))
		fail(os.Chtimes(path, at, at))
	}
	for n, d := range dirs {
		fail(os.Chtimes(d, time.Time{}, time.Unix(1_500_000_000+int64(n), 5)))
	}
}

func noise(seed, size int) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(b)
	return b
}

// A connection that is cut at any byte, again and again, always ends in the same
// tree, and little is sent twice.
func TestCutsAnywhere(t *testing.T) {
	bothWays(t, func(t *testing.T, d copying) {
		rapid.Check(t, func(t *rapid.T) {
			top, err := os.MkdirTemp("", "cuts")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(top)
			from := filepath.Join(top, "src")
			anyTree(t, from)
			want := tree(t, from)

			whole, uncut, _ := attempt(d, from, filepath.Join(top, "uncut"), -1)
			if whole.err != nil {
				t.Fatal(whole.err)
			}
			same(t, tree(t, filepath.Join(top, "uncut")), want)

			to, in := filepath.Join(top, "dst"), filepath.Join(top, "dst")
			if rapid.Bool().Draw(t, "into") {
				if err := os.Mkdir(to, 0o755); err != nil {
					t.Fatal(err)
				}
				in = filepath.Join(to, "src")
			}
			var sent, cuts int64
			most := rapid.IntRange(1, 12).Draw(t, "cuts")
			for {
				cut := int64(-1)
				if cuts < int64(most) {
					cut = rapid.Int64Range(0, uncut.moved.Load()).Draw(t, "cut")
				}
				a, w, served := attempt(d, from, to, cut)
				sent += w.moved.Load()
				if a.err == nil {
					same(t, tree(t, in), want)
					if a.Entries != whole.Entries || a.Bytes != whole.Bytes || a.last.Bytes != whole.Bytes {
						t.Fatalf("got %+v, want %+v", a, whole)
					}
					// Only the farewell may have been lost; nobody can know.
					if served == nil {
						clean(t, top)
					}
					break
				}
				if _, ok := errors.AsType[*BrokenError](a.err); !ok || cut < 0 {
					t.Fatal(a.err)
				}
				cuts++
			}
			// Each attempt begins with a few words, and the directories that it is in.
			if most := uncut.moved.Load() + cuts*(2*maxFrame+16<<10); sent > most {
				t.Fatalf("%d bytes were sent with %d cuts, %d without any", sent, cuts, uncut.moved.Load())
			}
		})
	})
}

type attempted struct {
	Result
	err  error
	last Progress
}

func attempt(d copying, from, to string, cut int64) (attempted, *wire, error) {
	w := dial(context.Background(), cut)
	var last Progress
	r, err := d.call(context.Background(), w, from, to, Options{ID: testID, Progress: func(p Progress) { last = p }})
	return attempted{r, err, last}, w, w.end()
}

// breakAt is one attempt that is cut within a file.
func breakAt(t *testing.T, d copying, from, to string, cut int64) {
	t.Helper()
	a, _, _ := attempt(d, from, to, cut)
	b, ok := errors.AsType[*BrokenError](a.err)
	if !ok {
		t.Fatalf("got %v, want a broken connection", a.err)
	}
	if b.Place.Path == "" || b.Place.Offset < ackEvery {
		t.Fatalf("it is said to stand at %+v", b.Place)
	}
}

func TestWhatChangesBetweenAttempts(t *testing.T) {
	content := string(noise(1, 5<<20))
	other := string(noise(2, 5<<20))
	for _, c := range []struct {
		name   string
		change func(t *testing.T, from, to string)
		want   string // of src/file; "": it is gone
		err    string
	}{
		{name: "nothing", change: func(*testing.T, string, string) {}, want: content},
		{name: "another file", want: other, change: func(t *testing.T, from, _ string) {
			write(t, filepath.Join(from, "file"), other)
		}},
		{name: "a shorter file", want: "short", change: func(t *testing.T, from, _ string) {
			write(t, filepath.Join(from, "file"), "short")
		}},
		{name: "no file", change: func(t *testing.T, from, _ string) {
			do(t, os.Remove(filepath.Join(from, "file")))
		}},
		{name: "a link", want: "first", change: func(t *testing.T, from, _ string) {
			do(t, os.Remove(filepath.Join(from, "file")))
			do(t, os.Symlink("a", filepath.Join(from, "file")))
		}},
		{name: "a directory", change: func(t *testing.T, from, _ string) {
			do(t, os.Remove(filepath.Join(from, "file")))
			do(t, os.Mkdir(filepath.Join(from, "file"), 0o755))
		}},
		{name: "another content of the same size and time", err: "did not arrive as it was read", change: func(t *testing.T, from, _ string) {
			info, err := os.Stat(filepath.Join(from, "file"))
			do(t, err)
			write(t, filepath.Join(from, "file"), other)
			do(t, os.Chtimes(filepath.Join(from, "file"), time.Time{}, info.ModTime()))
		}},
		{name: "the part", err: "did not arrive as it was read", change: func(t *testing.T, _, to string) {
			f, err := os.OpenFile(partIn(t, to), os.O_WRONLY, 0)
			do(t, err)
			_, err = f.WriteString("!")
			do(t, errors.Join(err, f.Close()))
		}},
		{name: "the part is shorter", want: content, change: func(t *testing.T, _, to string) {
			do(t, os.Truncate(partIn(t, to), 1000))
		}},
		{name: "the part is longer", want: content, change: func(t *testing.T, _, to string) {
			f, err := os.OpenFile(partIn(t, to), os.O_WRONLY|os.O_APPEND, 0)
			do(t, err)
			_, err = f.WriteString(other)
			do(t, errors.Join(err, f.Close()))
		}},
		{name: "no file, nor anything behind it", change: func(t *testing.T, from, _ string) {
			do(t, os.Remove(filepath.Join(from, "file")))
			do(t, os.RemoveAll(filepath.Join(from, "z")))
		}},
		{name: "the part is gone", want: content, change: func(t *testing.T, _, to string) {
			do(t, os.Remove(partIn(t, to)))
		}},
		{name: "the part is a link", want: content, change: func(t *testing.T, _, to string) {
			part := partIn(t, to)
			write(t, filepath.Join(to, "victim"), content+"!")
			do(t, os.Remove(part))
			do(t, os.Symlink(filepath.Join(to, "victim"), part))
		}},
		{name: "the machine", want: content, change: func(t *testing.T, _, to string) {
			do(t, os.RemoveAll(to))
			do(t, os.Mkdir(to, 0o755))
		}},
		{name: "what was written down", want: content, change: func(t *testing.T, _, to string) {
			do(t, os.WriteFile(filepath.Join(to, ".miosa-"+testID), []byte("{"), 0o600))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, d copying) {
				from, to := filepath.Join(t.TempDir(), "src"), t.TempDir()
				write(t, filepath.Join(from, "a"), "first")
				write(t, filepath.Join(from, "file"), content)
				write(t, filepath.Join(from, "z", "last"), "last")
				do(t, os.Chtimes(from, time.Time{}, time.Unix(1, 1)))
				breakAt(t, d, from, to, 3<<20)
				c.change(t, from, to)
				do(t, os.Chtimes(from, time.Time{}, time.Unix(1, 1)))
				a, _, served := attempt(d, from, to, -1)
				if _, err := os.Lstat(filepath.Join(to, "victim")); err == nil {
					same(t, read(t, filepath.Join(to, "victim")), content+"!")
				}
				if c.err != "" {
					says(t, a.err, c.err)
					says(t, served, c.err)
					clean(t, to)
					return
				}
				do(t, errors.Join(a.err, served))
				if _, err := os.Stat(filepath.Join(from, "z")); err == nil {
					same(t, read(t, filepath.Join(to, "src", "z", "last")), "last")
				}
				if c.want != "" {
					same(t, read(t, filepath.Join(to, "src", "file")), c.want)
				}
				same(t, strings.Split(tree(t, filepath.Join(to, "src")), "\n")[0], strings.Split(tree(t, from), "\n")[0])
				clean(t, to)
			})
		})
	}
}

func partIn(t *testing.T, to string) string {
	t.Helper()
	part := filepath.Join(to, "src", ".miosa-"+testID+".part")
	if _, err := os.Lstat(part); err != nil {
		t.Fatal(err)
	}
	return part
}

func TestDiscarding(t *testing.T) {
	bothWays(t, func(t *testing.T, d copying) {
		from, to := filepath.Join(t.TempDir(), "src"), t.TempDir()
		write(t, filepath.Join(from, "a"), "first")
		write(t, filepath.Join(from, "file"), strings.Repeat("x", 5<<20))
		for _, into := range []string{to, filepath.Join(to, "new")} {
			breakAt(t, d, from, into, 3<<20)
			if d.name == "pull" {
				do(t, Discard(into, testID))
			} else {
				w := dial(t.Context(), -1)
				do(t, DiscardRemote(t.Context(), w, into, testID))
				do(t, w.end())
			}
			clean(t, to)
			do(t, Discard(into, testID)) // there is nothing to discard
		}
		same(t, read(t, filepath.Join(to, "src", "a")), "first")
		same(t, read(t, filepath.Join(to, "new", "a")), "first")
	})
}

// An attempt waits until the one before, which has not noticed the cut yet, ends.
func TestOneAttemptAtATime(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "src"), t.TempDir()
	write(t, filepath.Join(from, "file"), strings.Repeat("x", 5<<20))
	d, err := openDestination(t.Context(), to, testID, "src")
	do(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = openDestination(ctx, to, testID, "src"); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want to wait", err)
	}
	w := dial(t.Context(), -1)
	result := make(chan error, 1)
	go func() {
		_, err := Push(t.Context(), w, from, to, Options{ID: testID})
		result <- err
	}()
	select {
	case err := <-result:
		t.Fatalf("did not wait: %v", err)
	default:
	}
	do(t, d.forget())
	d.close()
	do(t, errors.Join(<-result, w.end()))
	same(t, tree(t, filepath.Join(to, "src")), tree(t, from))
	clean(t, to)
}

// process is a Serve in a process of its own, which is killed when so many bytes
// have gone either way.
type process struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   io.Reader
	until int64
	moved atomic.Int64
}

func (p *process) Write(b []byte) (int, error) { return p.count(p.in.Write(b)) }
func (p *process) Read(b []byte) (int, error)  { return p.count(p.out.Read(b)) }

func (p *process) count(n int, err error) (int, error) {
	if p.moved.Add(int64(n)) > p.until {
		_ = p.cmd.Process.Kill()
	}
	return n, err
}

func TestMain(m *testing.M) {
	if os.Getenv("TRANSFER_SERVE") != "" {
		signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
		if err := Serve(context.Background(), os.Stdin, os.Stdout, nil); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A receiver that is killed had no time to write down how far it is; at most a MiB
// more than it had written down comes twice.
func TestKilledProcesses(t *testing.T) {
	bothWays(t, func(t *testing.T, d copying) {
		from, to := filepath.Join(t.TempDir(), "src"), t.TempDir()
		for n := range 200 {
			write(t, filepath.Join(from, fmt.Sprint("many", n%7), fmt.Sprint(n)), string(noise(n, n*10)))
		}
		write(t, filepath.Join(from, "big"), string(noise(1, 20<<20)))
		total := int64(20<<20 + 10*199*200/2)
		chance := rand.New(rand.NewPCG(1, 2))
		var moved, kills int64
		for {
			until := chance.Int64N(6 << 20)
			if kills == 12 {
				until = 1 << 40
			}
			n, err := killed(t, d, from, to, until)
			if moved += n; err == nil {
				break
			}
			kills++
		}
		same(t, tree(t, filepath.Join(to, "src")), tree(t, from))
		clean(t, to)
		if kills == 0 {
			t.Error("nobody was killed")
		}
		// Pipes of 64 KiB may hold what nobody got.
		if most := total + total/10 + kills*(ackEvery+256<<10); moved > most {
			t.Errorf("%d bytes went either way for %d, with %d kills", moved, total, kills)
		}
	})
}

// killed is one attempt with a process that is killed.
func killed(t *testing.T, d copying, from, to string, until int64) (moved int64, err error) {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0]), until: until}
	p.cmd.Env = append(os.Environ(), "TRANSFER_SERVE=1")
	p.in, err = p.cmd.StdinPipe()
	do(t, err)
	p.out, err = p.cmd.StdoutPipe()
	do(t, err)
	do(t, p.cmd.Start())
	_, err = d.call(t.Context(), p, from, to, Options{ID: testID})
	_ = p.in.Close()
	_, _ = io.Copy(io.Discard, p.out)
	_ = p.cmd.Wait()
	if _, broken := errors.AsType[*BrokenError](err); err != nil && !broken {
		t.Fatal(err)
	}
	return p.moved.Load(), err
}

// Whatever moment a receiver is killed at, it has written down what lies about.
func TestDiscardingAfterAKill(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "file"), t.TempDir()
	write(t, from, strings.Repeat("x", 5<<20))
	for n := range int64(10) {
		if _, err := killed(t, directions[0], from, to, n*100_000); err == nil {
			t.Fatal("it was not killed")
		}
		do(t, Discard(to, testID))
		clean(t, to)
	}
}
