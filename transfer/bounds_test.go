package transfer

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// What the walk may remember is bounded: beyond it a file comes once for each of its
// names, and a directory of too many names not at all.
func TestWhatIsRemembered(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "src"), t.TempDir()
	write(t, filepath.Join(from, "a"), "abc")
	do(t, os.Link(filepath.Join(from, "a"), filepath.Join(from, "b")))
	for _, c := range []struct {
		cost, listed int
		same         bool
		err          string
	}{
		{same: true},
		{cost: maxLinked},
		{listed: maxListed, err: "more names to remember"},
	} {
		rw := dial(t.Context(), -1)
		s := newStream(t.Context(), rw)
		w, err := newSender(s, from, Options{})
		do(t, err)
		w.cost, w.listed = c.cost, c.listed
		do(t, s.ask(request{Receive: Name(to), Name: "src", Options: Options{ID: testID}}, to))
		got, err := s.next()
		do(t, err)
		_, err = w.end(w.run(*got.Ready))
		_ = rw.end()
		if c.err != "" {
			says(t, err, c.err)
			continue
		}
		do(t, err)
		a, err := os.Stat(filepath.Join(to, "src", "a"))
		do(t, err)
		b, err := os.Stat(filepath.Join(to, "src", "b"))
		do(t, err)
		if os.SameFile(a, b) != c.same || b.Size() != 3 {
			t.Errorf("%+v: the names are of one file: %v", c, os.SameFile(a, b))
		}
	}
	clean(t, to)
}

// deaf is what a process leaves that has said why it ends: nothing can be written to
// it, and that can be read.
type deaf struct {
	io.Reader
	once    sync.Once
	written chan struct{}
}

func (d *deaf) Write([]byte) (int, error) {
	d.once.Do(func() { close(d.written) })
	return 0, io.ErrClosedPipe
}

func (d *deaf) Read(b []byte) (int, error) {
	<-d.written
	return d.Reader.Read(b)
}

func TestWhyNothingCanBeWritten(t *testing.T) {
	words := string(messageFrame(message{Ack: &Place{}})) + string(messageFrame(message{Error: "the disk burns"}))
	rw := &deaf{Reader: strings.NewReader(words), written: make(chan struct{})}
	s := newStream(t.Context(), rw)
	hear := func(received) error { return nil }
	var err error
	for err == nil {
		err = s.put(message{Bye: true}, hear)
	}
	says(t, s.end(err), "the other end: the disk burns")

	rw = &deaf{Reader: strings.NewReader(words), written: make(chan struct{})}
	s = newStream(t.Context(), rw)
	for err = nil; err == nil; {
		err = s.put(message{Bye: true}, nil)
	}
	says(t, s.end(err), "the other end: the disk burns")
}
