package transfer

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// enemy is the other end of a connection, and says what it likes.
type enemy struct {
	net.Conn
	asked request
	acks  chan Place
}

// await reads acknowledgements until that of an entry.
func (e *enemy) await(name Name) {
	for p := range e.acks {
		if p.Path == name && p.Whole {
			return
		}
	}
}

func (e *enemy) say(ms ...message) {
	for _, m := range ms {
		b, _ := json.Marshal(m)
		_, _ = e.Write(append(frameHeader(kindMessage, len(b)), b...))
	}
}

func (e *enemy) pieces(bs ...[]byte) {
	for _, b := range bs {
		_, _ = e.Write(append(frameHeader(kindPiece, len(b)), b...))
	}
}

func dir(name string) message {
	return message{Entry: &entry{Name: Name(name), Mode: fs.ModeDir | 0o755}}
}

func symlink(name, target string) message {
	return message{Entry: &entry{Name: Name(name), Mode: fs.ModeSymlink | 0o777, Target: Name(target)}}
}

func hard(name, first string) message {
	return message{Entry: &entry{Name: Name(name), Mode: 0o644, Link: Name(first), Size: 3, MTime: 5e9}}
}

func file(name string, size int) message {
	return message{Entry: &entry{Name: Name(name), Mode: 0o644, Size: int64(size), MTime: 5e9}}
}

// whole sends a file.
func (e *enemy) whole(name, content string) {
	e.say(file(name, len(content)))
	if content != "" {
		e.pieces([]byte(content))
	}
	s := sum([]byte(content))
	e.say(message{End: &end{SHA256: s[:]}})
}

// against pulls from an enemy into a directory.
func against(t *testing.T, to string, o Options, script func(e *enemy)) (Result, error) {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	e := &enemy{Conn: theirs, acks: make(chan Place, 1000)}
	over := make(chan struct{})
	go func() {
		defer close(over)
		e.asked = *readFrame(theirs).Request
		go func() {
			defer close(e.acks)
			for {
				got := readFrame(theirs)
				if got.err != nil && got.Error == "" {
					return
				}
				if got.Ack != nil {
					e.acks <- *got.Ack
				}
			}
		}()
		script(e)
		e.say(message{Error: "nothing was wrong with that"})
	}()
	o.ID = testID
	r, err := Pull(t.Context(), ours, "/srv/src", to, o)
	_ = ours.Close()
	<-over
	return r, err
}

func TestHostileSenders(t *testing.T) {
	for _, c := range []struct {
		name   string
		script func(e *enemy)
		err    string
	}{
		{"a name above", func(e *enemy) { e.say(dir("."), dir("../x")) }, "is not one of a file"},
		{"a name above, further in", func(e *enemy) { e.say(dir("."), dir("a"), dir("a/../../x")) }, "is not one of a file"},
		{"an absolute name", func(e *enemy) { e.say(dir("."), dir("/etc")) }, "is not one of a file"},
		{"no name", func(e *enemy) { e.say(dir("."), dir("")) }, "is not one of a file"},
		{"an empty element", func(e *enemy) { e.say(dir("."), dir("a//b")) }, "is not one of a file"},
		{"a NUL", func(e *enemy) { e.say(dir("."), dir("a\x00b")) }, "is not one of a file"},
		{"a name that is too long", func(e *enemy) { e.say(dir("."), dir(strings.Repeat("x", maxName+1))) }, "at most 4096"},
		{"a name that is too deep", func(e *enemy) { e.say(dir("."), dir("x"+strings.Repeat("/x", maxDepth))) }, "directories deep"},
		{"a name that no file system has", func(e *enemy) { e.say(dir("."), dir(strings.Repeat("x", 300))) }, "file name too long"},
		{"through a link", func(e *enemy) { e.say(dir("."), symlink("a", "/tmp"), file("a/x", 1)) }, "does not come in the directory"},
		{"through a link, with a directory", func(e *enemy) { e.say(dir("."), symlink("a", "/tmp"), dir("a"), file("a/x", 1)) }, "out of order"},
		{"into nothing", func(e *enemy) { e.say(dir("."), file("a/x", 1)) }, "does not come in the directory"},
		{"without the thing itself", func(e *enemy) { e.say(dir("a")) }, "does not come in the directory"},
		{"the same twice", func(e *enemy) { e.say(dir("."), dir("a"), dir("a")) }, "out of order"},
		{"backwards", func(e *enemy) { e.say(dir("."), dir("b"), dir("a")) }, "out of order"},
		{"back into a directory", func(e *enemy) { e.say(dir("."), dir("a"), dir("a.b"), dir("a/b")) }, "out of order"},
		{"a device", func(e *enemy) {
			e.say(dir("."), message{Entry: &entry{Name: "a", Mode: fs.ModeDevice | 0o666}})
		}, "neither a file"},
		{"a link to nothing", func(e *enemy) { e.say(dir("."), symlink("a", "")) }, "can't be a path"},
		{"a link with a NUL", func(e *enemy) { e.say(dir("."), symlink("a", "b\x00")) }, "can't be a path"},
		{"a link that is too long", func(e *enemy) { e.say(dir("."), symlink("a", strings.Repeat("x", maxName+1))) }, "can't be a path"},
		{"a hard link to outside", func(e *enemy) { e.say(dir("."), hard("a", "../../secret")) }, "is not one of a file"},
		{"a hard link to an absolute path", func(e *enemy) { e.say(dir("."), hard("a", "/etc/passwd")) }, "is not one of a file"},
		{"a hard link to nothing", func(e *enemy) { e.say(dir("."), hard("b", "a")) }, "did not come before"},
		{"a hard link to what comes later", func(e *enemy) { e.say(dir("."), hard("b", "old")) }, "did not come before"},
		{"a hard link to itself", func(e *enemy) { e.say(dir("."), hard("old", "old")) }, "did not come before"},
		{"a hard link to what did not come", func(e *enemy) { e.say(dir("."), hard("z", "pipe")) }, "did not come before"},
		{"a hard link to what has changed", func(e *enemy) { e.say(dir("."), hard("z", "sub/other")) }, "did not come before"},
		{"a hard link to a directory", func(e *enemy) { e.say(dir("."), dir("a"), hard("b", "a")) }, "did not come before"},
		{"a hard link to a link", func(e *enemy) { e.say(dir("."), symlink("a", "abc"), hard("b", "a")) }, "did not come before"},
		{"a hard link through a link", func(e *enemy) { e.say(dir("."), symlink("a", "sub"), hard("b", "a/in")) }, "did not come before"},
		{"a hard link through a link to outside", func(e *enemy) { e.say(dir("."), symlink("a", "../.."), hard("b", "a/secret")) }, "did not come before"},

		{"our own part", func(e *enemy) { e.say(dir("."), symlink(".miosa-"+testID+".part", "../../secret")) }, "the transfer itself needs"},
		{"another digest", func(e *enemy) {
			e.say(dir("."), file("a", 3))
			e.pieces([]byte("abc"))
			e.say(message{End: &end{SHA256: make([]byte, 32)}})
		}, "did not arrive as it was read"},
		{"no digest", func(e *enemy) { e.say(dir("."), file("a", 0), message{End: &end{}}) }, "did not arrive as it was read"},
		{"more bytes than it said", func(e *enemy) {
			e.say(dir("."), file("a", 3))
			e.pieces([]byte("ab"), []byte("cd"))
		}, "more than the 3 bytes"},
		{"bytes of nothing", func(e *enemy) { e.say(dir(".")); e.pieces([]byte("ab")) }, "than was its turn"},
		{"an end of nothing", func(e *enemy) { e.say(dir("."), message{End: &end{}}) }, "than was its turn"},
		{"an entry within a file", func(e *enemy) { e.say(dir("."), file("a", 3), dir("b")) }, "than was its turn"},
		{"done within a file", func(e *enemy) { e.say(dir("."), file("a", 3), message{Done: &done{Entries: 2}}) }, "than was its turn"},
		{"a request", func(e *enemy) { e.say(message{Request: &request{Version: 1, Receive: "/"}}) }, "than was its turn"},
		{"nothing at all", func(e *enemy) { e.say(message{}) }, "than was its turn"},
		{"another sum", func(e *enemy) { e.say(dir("."), message{Done: &done{Entries: 7}}) }, "but the other end sent 7"},
		{"an offset nobody asked for", func(e *enemy) {
			e.say(dir("."), message{Entry: &entry{Name: "a", Size: 9, Offset: 5}})
		}, "does not go on"},
		{"an offset behind the end", func(e *enemy) {
			e.say(dir("."), message{Entry: &entry{Name: "a", Size: 9, Offset: 10}})
		}, "is said to begin"},
		{"a negative size", func(e *enemy) { e.say(dir("."), file("a", -1)) }, "is said to begin"},
		{"a giant size", func(e *enemy) { e.say(dir("."), file("a", 1<<62)) }, "which is the limit"},
		{"too many entries", func(e *enemy) {
			e.say(dir("."))
			for n := range 100 {
				e.say(dir(fmt.Sprintf("%03d", n)))
			}
		}, "more than 50 entries"},
		{"a giant frame", func(e *enemy) { _, _ = e.Write([]byte{kindPiece, 0xff, 0xff, 0xff, 0xff}) }, "is not of this protocol"},
		{"an empty frame", func(e *enemy) { _, _ = e.Write([]byte{kindPiece, 0, 0, 0, 0}) }, "is not of this protocol"},
		{"text", func(e *enemy) { _, _ = e.Write([]byte("sh: not found\n")) }, "is not of this protocol"},
		{"no JSON", func(e *enemy) { _, _ = e.Write(append(frameHeader(kindMessage, 2), "{{"...)) }, "is not of this protocol"},
		{"an error that harms the terminal", func(e *enemy) { e.say(message{Error: "no\x1b[2Jo \u202e\xff"}) }, "the other end: no?[2Jo ?"},
		{"a file in the place of a directory", func(e *enemy) { e.say(dir("."), file("sub", 1)) }, "is a directory already"},
		{"a link in the place of a directory", func(e *enemy) { e.say(dir("."), symlink("sub", "x")) }, "is a directory already"},
		{"a link in the place of a pipe", func(e *enemy) { e.say(dir("."), symlink("pipe", "x")) }, "is neither a file nor a link"},
		{"a directory in the place of a file", func(e *enemy) { e.say(dir("."), dir("old")) }, "is no directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			top := t.TempDir()
			to := filepath.Join(top, "to")
			write(t, filepath.Join(top, "secret"), "abc")
			write(t, filepath.Join(to, "src", "old"), "old")
			write(t, filepath.Join(to, "src", "sub", "in"), "old")
			write(t, filepath.Join(to, "src", "sub", "other"), "old")
			do(t, syscall.Mkfifo(filepath.Join(to, "src", "pipe"), 0o600))
			for _, name := range []string{"src/old", "src/sub/in", "../secret"} { // as hard says
				do(t, os.Chtimes(filepath.Join(to, name), time.Time{}, time.Unix(5, 0)))
			}
			_, err := against(t, to, Options{MaxEntries: 50}, c.script)
			says(t, err, c.err)
			if _, broken := errors.AsType[*BrokenError](err); broken {
				t.Error("is said to be worth another attempt")
			}
			clean(t, to)
			same(t, read(t, filepath.Join(top, "secret")), "abc")
			same(t, read(t, filepath.Join(to, "src", "old")), "old")
			info, err := os.Stat(filepath.Join(top, "secret"))
			do(t, err)
			if _, links, _, _ := identity(info); links != 1 {
				t.Error("the secret has another name")
			}
			if names, _ := filepath.Glob(filepath.Join(top, "*")); len(names) != 2 {
				t.Errorf("there is something new outside: %v", names)
			}
			if names, _ := filepath.Glob(filepath.Join(to, "*")); len(names) != 1 {
				t.Errorf("there is something new beside the target: %v", names)
			}
		})
	}
}

// What an honest sender says is taken: else the table above proves nothing.
func TestHonestScript(t *testing.T) {
	to := t.TempDir()
	r, err := against(t, to, Options{}, func(e *enemy) {
		e.say(dir("."))
		e.whole("a", "abc")
		e.say(dir("b"), hard("b/c", "a"), symlink("d", "/etc"), message{Done: &done{
			Entries: 5, Bytes: 3,
			Skipped: Notes{Count: 100, First: strings.Split(strings.Repeat("\x1b\n", 20), "\n")},
		}})
		e.say(message{Bye: true})
	})
	do(t, err)
	clean(t, to)
	if r.Entries != 5 || r.Bytes != 3 || r.Skipped.Count != 100 || len(r.Skipped.First) != 10 || r.Skipped.First[0] != "?" {
		t.Errorf("got %+v", r)
	}
	same(t, read(t, filepath.Join(to, "src", "b", "c")), "abc")
}

func TestALinkAsTheThingItself(t *testing.T) {
	to, outside := t.TempDir(), t.TempDir()
	_, err := against(t, to, Options{}, func(e *enemy) { e.say(symlink(".", outside), file("x", 1)) })
	says(t, err, "does not come in the directory")
	if names, _ := filepath.Glob(outside + "/*"); len(names) != 0 {
		t.Errorf("written through the link: %v", names)
	}
	clean(t, to)
}

// A directory that was gone into in an earlier attempt, and is a link now.
func TestALinkTakesADirectorysPlace(t *testing.T) {
	to, outside := t.TempDir(), t.TempDir()
	_, err := against(t, to, Options{}, func(e *enemy) {
		e.say(dir("."), dir("a"))
		e.whole("a/b", "abc")
		e.await("a/b")
		_ = e.Close()
	})
	if _, ok := errors.AsType[*BrokenError](err); !ok {
		t.Fatalf("got %v", err)
	}
	do(t, os.RemoveAll(filepath.Join(to, "src", "a")))
	do(t, os.Symlink(outside, filepath.Join(to, "src", "a")))
	_, err = against(t, to, Options{}, func(e *enemy) {
		if p := e.asked.Place; p.Path != "a/b" || !p.Whole {
			t.Errorf("asked to go on from %+v", p)
		}
		e.say(dir("."), dir("a"))
		e.whole("a/c", "abc")
	})
	says(t, err, "symbolic link")
	if names, _ := filepath.Glob(outside + "/*"); len(names) != 0 {
		t.Errorf("written through the link: %v", names)
	}
	clean(t, to)
}

// What a hard link is made to is a file: its size and time alone are not enough.
func TestAHardLinkToALink(t *testing.T) {
	to := t.TempDir()
	_, err := against(t, to, Options{}, func(e *enemy) {
		e.say(dir("."), symlink("a", "abc"))
		e.await("a")
		info, err := os.Lstat(filepath.Join(to, "src", "a"))
		if err != nil {
			t.Error(err)
			return
		}
		e.say(message{Entry: &entry{Name: "b", Link: "a", Size: 3, MTime: info.ModTime().UnixNano()}})
	})
	says(t, err, "did not come before")
}

// An attempt that ended after a hard link was made, and before that was written down.
func TestAHardLinkThatIsThere(t *testing.T) {
	to := t.TempDir()
	_, _ = against(t, to, Options{}, func(e *enemy) {
		e.say(dir("."))
		e.whole("a", "abc")
		e.await("a")
		_ = e.Close()
	})
	do(t, os.Link(filepath.Join(to, "src", "a"), filepath.Join(to, "src", "b")))
	_, err := against(t, to, Options{}, func(e *enemy) {
		e.say(dir("."), hard("b", "a"), message{Done: &done{Entries: 1}}, message{Bye: true})
	})
	do(t, err)
	clean(t, to)
}

// A link where the transfer writes down how far it is.
func TestALinkAsTheRecord(t *testing.T) {
	to := t.TempDir()
	write(t, filepath.Join(to, "victim"), "old")
	do(t, os.Symlink("victim", filepath.Join(to, ".miosa-"+testID)))
	synctest.Test(t, func(t *testing.T) {
		_, err := openDestination(t.Context(), to, testID, "src")
		says(t, err, "has not ended")
	})
	same(t, read(t, filepath.Join(to, "victim")), "old")
}

// Limits hold over all attempts together, and what is there does not come again.
func TestLimitsOverAttempts(t *testing.T) {
	to := t.TempDir()
	o := Options{MaxEntries: 3, MaxBytes: 5}
	break3 := func(e *enemy) {
		e.say(dir("."))
		e.whole("a", "abc")
		e.await("a")
		_ = e.Close()
	}
	for _, c := range []struct {
		err    string
		script func(e *enemy)
	}{
		{"more than 5", func(e *enemy) { e.say(dir("."), file("b", 3)) }},
		{"more than 3 entries", func(e *enemy) { e.say(dir("."), symlink("b", "x"), symlink("c", "x")) }},
		{"out of order", func(e *enemy) { e.say(dir("."), file("a", 1)) }},
	} {
		if _, err := against(t, to, o, break3); err == nil {
			t.Fatal("nothing broke")
		}
		_, err := against(t, to, o, c.script)
		says(t, err, c.err)
		clean(t, to)
	}
}

// Who is asked for one name must not put in another.
func TestTheNameIsOurs(t *testing.T) {
	for at, want := range map[string]Name{
		"a": "a", "/x/a": "a", "a/": "a", "a//": "a", "a/.": "", "a/./": "", ".": "", "..": "", "a/..": "", "/": "", "": "", "a/.b": ".b", "...": "...",
	} {
		if got := baseName(at); got != want {
			t.Errorf("%q is called %q, want %q", at, got, want)
		}
	}
	// A Push does say how its source is called: that is checked.
	for _, name := range []Name{"..", "a/b", "/", ".", "a\x00", Name(strings.Repeat("x", maxName+1))} {
		to := t.TempDir()
		ours, theirs := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- Serve(t.Context(), theirs, theirs, nil) }()
		e := &enemy{Conn: ours}
		e.say(message{Request: &request{Version: version, Receive: Name(to), Name: name, Options: Options{ID: testID}}})
		if got := readFrame(ours); got.Error == "" {
			t.Errorf("%q is taken: %+v", name, got)
		}
		says(t, <-served, "is no name")
		_ = ours.Close()
		clean(t, to)
	}
}

func TestRequests(t *testing.T) {
	for _, c := range []struct {
		m   message
		err string
	}{
		{message{Request: &request{Version: 2, Send: "/"}}, "by version 1 of the protocol, the other by version 2"},
		{message{Request: &request{Version: 1}}, "than was its turn"},
		{message{Ready: &Place{}}, "than was its turn"},
		{message{Request: &request{Version: 1, Discard: "/tmp", Options: Options{ID: "../x"}}}, "is not of 8 to 64"},
	} {
		ours, theirs := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- Serve(t.Context(), theirs, theirs, nil) }()
		e := &enemy{Conn: ours}
		e.say(c.m)
		got := readFrame(ours)
		says(t, got.err, c.err)
		says(t, <-served, c.err)
		_ = ours.Close()
	}
}

// A guest that takes an upload in may lie about its place; ours must end in words
// whatever it says.
func TestHostileReceivers(t *testing.T) {
	for _, c := range []struct {
		name   string
		script func(e *enemy)
		err    string
	}{
		{"an offset behind the end", func(e *enemy) {
			e.say(message{Ready: &Place{Path: "file", Offset: 1 << 60, Size: 3, MTime: 5e9}})
			got := readFrame(e)
			for got.Entry == nil || got.Entry.Name != "file" {
				got = readFrame(e)
			}
			e.say(message{Error: fmt.Sprintf("began at %d", got.Entry.Offset)})
		}, "began at 0"},
		{"a name that is none", func(e *enemy) {
			e.say(message{Ready: &Place{Path: "../..//\x00", Offset: -1}})
			e.say(message{Error: "over"})
		}, "over"},
		{"no place", func(e *enemy) { e.say(message{Finished: &finished{}}) }, "than was its turn"},
		{"an entry", func(e *enemy) { e.say(message{Ready: &Place{}}, dir(".")) }, "than was its turn"},
		{"text", func(e *enemy) { _, _ = e.Write([]byte("sh: not found\n")) }, "is not of this protocol"},
	} {
		t.Run(c.name, func(t *testing.T) {
			from := filepath.Join(t.TempDir(), "src")
			write(t, filepath.Join(from, "file"), "abc")
			do(t, os.Chtimes(filepath.Join(from, "file"), time.Time{}, time.Unix(5, 0)))
			ours, theirs := net.Pipe()
			over := make(chan struct{})
			go func() {
				defer close(over)
				readFrame(theirs)
				c.script(&enemy{Conn: theirs})
				_, _ = io.Copy(io.Discard, theirs)
			}()
			_, err := Push(t.Context(), ours, from, "/srv", Options{ID: testID})
			_ = ours.Close()
			<-over
			says(t, err, c.err)
		})
	}
}

// Who neither reads nor speaks holds nobody for longer than the grace that the last
// word has, once it is due. In the bubble that takes no time.
func TestSilentPeers(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "src"), t.TempDir()
	big := filepath.Join(t.TempDir(), "big")
	write(t, filepath.Join(from, "file"), "abc")
	write(t, big, strings.Repeat("x", 1<<20))
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		begin := time.Now()
		go func() {
			readFrame(theirs)
			(&enemy{Conn: theirs}).say(dir("../x")) // and reads no answer
		}()
		_, err := Pull(t.Context(), ours, "/srv/src", to, Options{ID: testID})
		says(t, err, "is not one of a file")
		if waited := time.Since(begin); waited > grace {
			t.Errorf("waited %v", waited)
		}
		_ = ours.Close()
	})
	clean(t, to)
	synctest.Test(t, func(t *testing.T) {
		for _, word := range []message{{}, {Ready: &Place{}}} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			ours, theirs := net.Pipe()
			go func() {
				readFrame(theirs)
				if word.Ready != nil {
					(&enemy{Conn: theirs}).say(word)
				}
			}()
			_, err := Push(ctx, ours, big, "/srv", Options{ID: testID})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			_ = ours.Close()
			cancel()
		}
	})
}

// A cut is noticed at once by both ends, wherever it is: an attempt that lingers
// keeps the next one waiting. In the bubble time passes only while all wait.
func TestCutsAreNoticedAtOnce(t *testing.T) {
	bothWays(t, func(t *testing.T, d copying) {
		from := filepath.Join(t.TempDir(), "src")
		for n := range 50 {
			write(t, filepath.Join(from, fmt.Sprint(n)), strings.Repeat("x", n*1000))
		}
		for cut := int64(0); cut < 1<<20; cut += 41_234 {
			to := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				w := dial(t.Context(), cut)
				_, err := d.call(t.Context(), w, from, to, Options{ID: testID})
				if _, ok := errors.AsType[*BrokenError](err); !ok {
					t.Errorf("got %v", err)
				}
				_ = w.end()
				if waited := time.Since(begin); waited > 0 {
					t.Errorf("cut at %d: waited %v", cut, waited)
				}
			})
		}
	})
}

func TestFrames(t *testing.T) {
	frame := messageFrame(message{Ack: &Place{Path: "\xff/a", Offset: 7}})
	if n := binary.BigEndian.Uint32(frame[1:]); int(n) != len(frame)-headerLen {
		t.Errorf("is said to have %d bytes", n)
	}
	got := readFrame(bytes.NewReader(frame))
	if got.err != nil || got.Ack.Path != "\xff/a" || got.Ack.Offset != 7 {
		t.Errorf("got %+v", got)
	}
	for n := range frame {
		if got := readFrame(bytes.NewReader(frame[:n])); got.err == nil {
			t.Errorf("%d bytes of it pass", n)
		}
	}
	// The largest messages that there can be, with what JSON makes of their bytes.
	worst := Name(strings.Repeat("\xff", maxName))
	notes := Notes{Count: 1 << 62}
	for range 20 {
		notes.add(worst)
		notes.add(Name(strings.Repeat("<", maxName)))
	}
	for _, m := range []message{
		{Entry: &entry{Name: worst, Target: worst, Link: worst, Size: 1 << 62, MTime: -1 << 62, Mode: 1<<32 - 1}},
		{Request: &request{Receive: worst, Name: worst, Place: Place{Path: worst}}},
		{Done: &done{Skipped: notes, Changed: notes}},
		{Error: printable(strings.Repeat("<\"", 1000), 1000)},
	} {
		messageFrame(m) // panics if it is too large
	}
}

// What a session was allowed is all that comes of it, whatever the other end asks for.
func TestOnlyWhatIsAllowed(t *testing.T) {
	dir := t.TempDir()
	id := Options{ID: testID}
	for _, c := range []struct {
		only    Only
		q       request
		allowed bool
	}{
		{Only{Path: dir, Send: true}, request{Send: Name(dir)}, true},
		{Only{Path: dir, Send: true}, request{Send: "/etc"}, false},
		{Only{Path: dir, Send: true}, request{Receive: Name(dir), Name: "x", Options: id}, false},
		{Only{Path: dir, Send: true}, request{Discard: Name(dir), Options: id}, false},
		{Only{Path: dir, Send: true}, request{Send: Name(dir), Receive: "/etc", Options: id}, false},
		{Only{Path: dir}, request{Receive: Name(dir), Name: "x", Options: id}, true},
		{Only{Path: dir}, request{Discard: Name(dir), Options: id}, true},
		{Only{Path: dir}, request{Receive: Name(dir + "/.."), Name: "x", Options: id}, false},
		{Only{Path: dir}, request{Send: Name(dir)}, false},
		{Only{Path: dir}, request{Receive: Name(dir), Discard: "/etc", Options: id}, false},
	} {
		ours, theirs := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- Serve(t.Context(), theirs, theirs, &c.only) }()
		e := &enemy{Conn: ours}
		c.q.Version = version
		e.say(message{Request: &c.q})
		got := readFrame(ours)
		_ = ours.Close()
		err := <-served
		if refused := got.err != nil && strings.Contains(got.err.Error(), "only one way"); refused == c.allowed {
			t.Errorf("%+v asked for %+v: %v, %v", c.only, c.q, got.err, err)
		}
	}
}
