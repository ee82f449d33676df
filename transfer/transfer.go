// Package transfer copies a file or a tree of them through one byte stream, for
// `miosa cp`: one end is the CLI, the other a process of its own in a microVM.
// Either may be the sender, and neither trusts the other.
//
// What is sent. A source that is a file or a symbolic link is sent as it is, one
// that is a directory with all that is in it, as `cp -a` does. A source that ends
// in "/" is the directory behind it, be that a link or not. One whose last element
// is "." or "..", and "/", stand for what is in the directory: it has no name then.
//
// Where it goes. Into the destination under the source's own name, if that is a
// directory already (or a link to one, which is followed here and nowhere else);
// what has no name is put into it beside what is there. Else the destination is the
// new name, and the directory above it must be there. What is there stays, unless
// something of the same name comes: files and links then take the place of files
// and links, whole or not at all; directories are merged. A file is never put in
// the place of a directory, nor a directory in that of anything else.
//
// What is kept: content, permissions, times of files and directories in
// nanoseconds, symbolic links as they are, hard links among what is copied. Not
// kept: extended attributes, times of symbolic links, and, unless it is asked for,
// owners and the bits that make a program run as its owner. Sockets, devices and
// pipes are passed over and counted. Blocks of zeros become holes. Nothing is
// synced, as with cp.
//
// How. The sender walks in one order, names sorted, a directory before what is in
// it. So one name tells all that is behind it: what must not come twice, and where
// to go on after a cut. The receiver writes down how far it is, in a file at the
// destination that is named after the transfer's ID, and begins by telling the
// sender: another process, too, goes on where the last one stopped, and one that
// finds nothing (a machine that was replaced) begins anew. What changes at the
// source before that place is not noticed. Each file has its SHA-256 behind it and
// gets its name once that holds, so that no other part of a file ever passes.
//
// Each entry is a frame of JSON, its content frames of bytes. An archive format
// would bring names and sizes of its own to check, and could not be entered in the
// middle.
package transfer

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// What Options have by default.
const (
	DefaultMaxBytes   = 100 << 30
	DefaultMaxEntries = 1_000_000
)

// Options say how. Those but Progress are the receiver's; Push sends them along.
type Options struct {
	// ID names one copying of one source to one destination, in 8 to 64 letters
	// and digits. Who calls again with the same ID goes on where it broke off. It
	// is chance (crypto/rand.Text): a sender must not guess it.
	ID string `json:"id,omitempty"`
	// Progress is called by the call's own goroutine, at most every 100 ms and once
	// at the end.
	Progress func(Progress) `json:"-"`
	// MaxBytes and MaxEntries bound what is received; 0: the defaults.
	MaxBytes   int64 `json:"max_bytes,omitempty"`
	MaxEntries int64 `json:"max_entries,omitempty"`
	// KeepSetID keeps setuid and setgid. From a machine that is not trusted they
	// are a gift to whoever runs the file.
	KeepSetID bool `json:"keep_setid,omitempty"`
	// KeepOwner keeps the numbers of owner and group, where the receiver is root.
	KeepOwner bool `json:"keep_owner,omitempty"`
}

// Progress is how far a transfer is, with what earlier attempts have done.
type Progress struct {
	Path           string // of the entry, without what could harm a terminal
	Entries, Bytes int64
	Total          int64 // bytes; 0: not known, as for a directory
}

// Result is what was copied, by all attempts together.
type Result struct {
	Entries, Bytes int64
	// Skipped is neither file nor directory nor link. Changed was written to, or
	// vanished, while this attempt read it: what was copied of it may be no state
	// that it ever had.
	Skipped, Changed Notes
}

// Notes are names for a person to look at.
type Notes struct {
	Count int64    `json:"count,omitempty"`
	First []string `json:"first,omitempty"` // at most 10
}

func (n *Notes) add(name Name) {
	if n.Count++; len(n.First) < 10 {
		n.First = append(n.First, printable(string(name), 200))
	}
}

// bounded is what another end's notes come to.
func (n Notes) bounded() Notes {
	n.First = n.First[:min(len(n.First), 10)]
	for i, name := range n.First {
		n.First[i] = printable(name, 200)
	}
	return n
}

// Place is how far a receiver is: it has all entries before Path, and of Path
// itself the first Offset bytes, or all of it if Whole. The zero Place is the
// beginning.
type Place struct {
	Path   Name  `json:"path,omitempty"`
	Whole  bool  `json:"whole,omitempty"`
	Offset int64 `json:"offset,omitempty"`
	Size   int64 `json:"size,omitempty"` // of the file at the source
	MTime  int64 `json:"mtime,omitempty"`
}

// covers tells whether an entry is there.
func (p Place) covers(n Name) bool {
	if p.Path == "" {
		return false
	}
	order := n.compare(p.Path)
	return order < 0 || order == 0 && p.Whole
}

// BrokenError is a stream that ended too early. Another call with the same ID, over
// a new stream, goes on.
type BrokenError struct {
	Place Place // that the receiver was last known to have
	Err   error
}

func (e *BrokenError) Error() string { return "the connection broke: " + e.Err.Error() }
func (e *BrokenError) Unwrap() error { return e.Err }

// RemoteError is what the other end says it could not do.
type RemoteError struct{ Message string }

func (e *RemoteError) Error() string { return "the other end: " + e.Message }

// Push sends source to where a Serve runs at the other end of rw.
//
// Push and Pull return soon after ctx ends. What they have begun to read and write
// on rw ends only when the caller closes it, as it must when they return. Errors:
// *BrokenError, *RemoteError, ctx's own, else what went wrong here, in words. After
// the first and ctx's a call with the same ID goes on, and who gives up instead
// calls DiscardRemote; after the others nothing half done is left.
func Push(ctx context.Context, rw io.ReadWriter, source, remote string, o Options) (Result, error) {
	s := newStream(ctx, rw)
	w, err := newSender(s, source, o)
	if err == nil {
		err = s.ask(request{Receive: Name(remote), Name: baseName(source), Options: o}, remote)
	}
	var got received
	if err == nil {
		got, err = s.next()
	}
	if err == nil && got.Ready == nil {
		err = errOutOfTurn
	}
	if err == nil {
		err = w.run(*got.Ready)
	}
	return w.end(err)
}

// Pull receives what a Serve at the other end of rw finds at remote, under the name
// that remote ends in, whatever the other end may wish. See Push; who gives up
// calls Discard.
func Pull(ctx context.Context, rw io.ReadWriter, remote, destination string, o Options) (Result, error) {
	s := newStream(ctx, rw)
	r, err := newReceiver(s, destination, baseName(remote), o)
	if err == nil {
		err = s.ask(request{Send: Name(remote), Place: r.began}, remote)
	}
	if err == nil {
		err = r.run()
	}
	return r.end(err)
}

// DiscardRemote is Discard where a Serve runs at the other end of rw.
func DiscardRemote(ctx context.Context, rw io.ReadWriter, remote, id string) error {
	s := newStream(ctx, rw)
	err := s.ask(request{Discard: Name(remote), Options: Options{ID: id}}, remote)
	var got received
	if err == nil {
		got, err = s.next()
	}
	if err == nil && got.Finished == nil {
		err = errOutOfTurn
	}
	return s.end(err)
}

// ask sends the request that all begins with.
func (s *stream) ask(q request, remote string) error {
	if remote == "" || len(remote) > maxName {
		return fmt.Errorf("a path at the other end has 1 to %d bytes, not %d", maxName, len(remote))
	}
	if q.Send == "" {
		if err := checkID(q.Options.ID); err != nil {
			return err
		}
	}
	q.Version = version
	return s.put(message{Request: &q}, nil)
}

// Only is all that a Serve may be asked for: this path, as the other end writes it, and
// to send it, or else to receive there.
type Only struct {
	Path string
	Send bool
}

func (o Only) allows(q request) bool {
	path := Name(o.Path)
	if o.Send {
		return q.Send == path && q.Receive == "" && q.Discard == ""
	}
	return q.Send == "" && (q.Receive == path && q.Discard == "" || q.Receive == "" && q.Discard == path)
}

// Serve does what one Push, Pull or DiscardRemote at the other end asks for, and
// has told it of an error that it returns. Relative paths are the process's own.
// Its process should ignore SIGHUP and SIGPIPE: the end of stdin is what ends it,
// and leaves it the time to write down how far it is.
func Serve(ctx context.Context, stdin io.Reader, stdout io.Writer, only *Only) error {
	s := newStream(ctx, struct {
		io.Reader
		io.Writer
	}{stdin, stdout})
	got, err := s.next()
	q := got.Request
	switch {
	case err != nil:
	case q == nil:
		err = errOutOfTurn
	case q.Version != version:
		err = fmt.Errorf("this end copies by version %d of the protocol, the other by version %d: update the older one", version, q.Version)
	case only != nil && !only.allows(*q):
		err = fmt.Errorf("this end may copy what lies at %q only, and only one way", only.Path)
	case q.Send != "":
		w, err := newSender(s, string(q.Send), Options{})
		if err == nil {
			err = w.run(q.Place)
		}
		_, err = w.end(err)
		return err
	case q.Receive != "":
		r, err := newReceiver(s, string(q.Receive), q.Name, q.Options)
		if err == nil {
			err = s.put(message{Ready: &r.began}, nil)
		}
		if err == nil {
			err = r.run()
		}
		_, err = r.end(err)
		return err
	case q.Discard != "":
		if err = Discard(string(q.Discard), q.Options.ID); err == nil {
			s.last(message{Finished: &finished{}})
		}
	default:
		err = errOutOfTurn
	}
	return s.end(err)
}

// meter tells of progress, not too often.
type meter struct {
	Progress
	report func(Progress)
	last   time.Time
}

func (m *meter) tell(name Name, end bool) {
	if m.report == nil || !end && time.Since(m.last) < 100*time.Millisecond {
		return
	}
	m.last, m.Path = time.Now(), printable(string(name), maxName)
	m.report(m.Progress)
}

// printable is what may go to a terminal of what a stranger wrote.
func printable(s string, limit int) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, strings.ToValidUTF8(s[:min(len(s), limit)], "?"))
}
