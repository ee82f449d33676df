package transfer

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// A frame is a byte for what it is, the length of the rest in four bytes, the
// highest first, and the rest: a message in JSON, or a piece of a file. This, and
// what a request's version and an error are called, is the same in all versions.
const (
	version     = 1
	headerLen   = 5
	maxFrame    = 32 << 10 // with its header
	maxPiece    = maxFrame - headerLen
	kindMessage = 0xC1 // neither is text, which a shell or a program that fails may write
	kindPiece   = 0xC2
)

// grace is how long the last word waits for somebody who reads it, and a stream
// that can't be written to for the reason, which may be about to be read.
const grace = 5 * time.Second

// message has one field set. It begins with a Request, which a receiver answers with
// Ready, its place. The sender sends an Entry, for a file its pieces and their End,
// again and again, then Done; the receiver an Ack for each MiB and each entry, then
// Finished; the sender says Bye, so that the receiver may forget the transfer. Error
// comes at any time.
type message struct {
	Request  *request  `json:"request,omitempty"`
	Ready    *Place    `json:"ready,omitempty"`
	Entry    *entry    `json:"entry,omitempty"`
	End      *end      `json:"end,omitempty"`
	Done     *done     `json:"done,omitempty"`
	Ack      *Place    `json:"ack,omitempty"`
	Finished *finished `json:"finished,omitempty"`
	Bye      bool      `json:"bye,omitempty"`
	Error    string    `json:"error,omitempty"`
}

// request is for Serve: one of the three paths.
type request struct {
	Version int     `json:"version"`
	Send    Name    `json:"send,omitempty"`
	Place   Place   `json:"place,omitzero"` // to go on from
	Receive Name    `json:"receive,omitempty"`
	Name    Name    `json:"name,omitempty"` // of what is sent; "": it has none
	Discard Name    `json:"discard,omitempty"`
	Options Options `json:"options,omitzero"` // not for who sends: see Options.ID
}

// entry is a file, a directory or a link.
type entry struct {
	Name   Name        `json:"name"`
	Mode   fs.FileMode `json:"mode"`            // Go's bits, which are the same everywhere
	MTime  int64       `json:"mtime,omitempty"` // ns since 1970
	Size   int64       `json:"size,omitempty"`  // of a file: at most that comes
	Offset int64       `json:"offset,omitempty"`
	Target Name        `json:"target,omitempty"` // of a symbolic link
	Link   Name        `json:"link,omitempty"`   // an entry before: a hard link to it
	UID    uint32      `json:"uid,omitempty"`
	GID    uint32      `json:"gid,omitempty"`
}

type end struct {
	SHA256 []byte `json:"sha256"` // of the whole file, whatever its Offset
}

// done tells what this attempt has sent.
type done struct {
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
	Skipped Notes `json:"skipped"`
	Changed Notes `json:"changed"`
}

type finished struct {
	Entries int64 `json:"entries"`
	Bytes   int64 `json:"bytes"`
}

var errOutOfTurn = errors.New("the other end sent something else than was its turn")

// stream carries frames. It has one goroutine that reads and one that writes, so
// that its owner always hears the end of its context, and what the other end says
// while it takes nothing itself.
type stream struct {
	ctx   context.Context // of the one call
	in    chan received   // closed at its end
	out   chan []byte     // a frame; none: everything before is to be on its way
	wrote chan error      // has the answer to that, or why nothing can be written
	over  chan struct{}   // closed when the owner has gone
}

// received is a message, a piece of a file, or why there will be no more.
type received struct {
	message
	piece []byte
	err   error
}

func newStream(ctx context.Context, rw io.ReadWriter) *stream {
	s := &stream{ctx: ctx, in: make(chan received), out: make(chan []byte, 4), wrote: make(chan error, 1), over: make(chan struct{})}
	go s.read(rw)
	go s.write(rw)
	return s
}

func (s *stream) read(r io.Reader) {
	defer close(s.in)
	b := bufio.NewReaderSize(r, maxFrame)
	for {
		got := readFrame(b)
		select {
		case s.in <- got:
		case <-s.over:
			return
		}
		if got.err != nil {
			return
		}
	}
}

func readFrame(r io.Reader) (got received) {
	var header [headerLen]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return received{err: &BrokenError{Err: err}}
	}
	n := binary.BigEndian.Uint32(header[1:])
	if kind := header[0]; kind != kindMessage && kind != kindPiece || n == 0 || n > maxPiece {
		return received{err: fmt.Errorf("what the other end wrote is not of this protocol; it begins with %q", header)}
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return received{err: &BrokenError{Err: err}}
	}
	if header[0] == kindPiece {
		return received{piece: payload}
	}
	if err := json.Unmarshal(payload, &got.message); err != nil {
		return received{err: fmt.Errorf("what the other end wrote is not of this protocol: %w", err)}
	}
	if got.Error != "" {
		got.err = &RemoteError{Message: printable(got.Error, 1000)}
	}
	return got
}

func (s *stream) write(w io.Writer) {
	b := bufio.NewWriterSize(w, maxFrame)
	for {
		var frame []byte
		select {
		case frame = <-s.out:
		case <-s.over:
			return
		}
		_, err := b.Write(frame)
		if err == nil && len(s.out) == 0 {
			err = b.Flush()
		}
		if err != nil || len(frame) == 0 {
			s.wrote <- err
		}
		if err != nil {
			return
		}
	}
}

// unwritable is why nothing can be written: what the other end has said before it
// went, if it has.
func (s *stream) unwritable(err error) error {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	for {
		select {
		case got, ok := <-s.in:
			if got.err != nil {
				return got.err
			}
			if ok {
				continue
			}
		case <-timer.C:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
		return &BrokenError{Err: err}
	}
}

// next is what comes next. A message with an error in it is that error.
func (s *stream) next() (received, error) {
	select {
	case got, ok := <-s.in:
		if !ok {
			got.err = &BrokenError{Err: io.ErrUnexpectedEOF}
		}
		return got, got.err
	case err := <-s.wrote:
		return received{}, s.unwritable(err)
	case <-s.ctx.Done():
		return received{}, context.Cause(s.ctx)
	}
}

// put sends a message. hear is given what comes meanwhile; nil: that waits.
func (s *stream) put(m message, hear func(received) error) error {
	return s.putFrame(messageFrame(m), hear)
}

func (s *stream) putFrame(frame []byte, hear func(received) error) error {
	in := s.in
	if hear == nil {
		in = nil
	}
	for {
		select {
		case s.out <- frame:
			return nil
		case got, ok := <-in:
			if !ok {
				return &BrokenError{Err: io.ErrUnexpectedEOF}
			}
			if got.err != nil {
				return got.err
			}
			if err := hear(got); err != nil {
				return err
			}
		case err := <-s.wrote:
			return s.unwritable(err)
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
}

func messageFrame(m message) []byte {
	b, err := json.Marshal(m)
	if err != nil || len(b) > maxPiece {
		panic("transfer: a message that can't be sent") // all that is in one is bounded
	}
	return append(frameHeader(kindMessage, len(b)), b...)
}

func frameHeader(kind byte, n int) []byte {
	return binary.BigEndian.AppendUint32([]byte{kind}, uint32(n))
}

// last sends a message behind which nothing comes, as well as it can be: it waits
// until it is written, but not for ever.
func (s *stream) last(m message) {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	in := s.in // the other end may be waiting for us to read
	for frames := [][]byte{messageFrame(m), nil}; ; {
		out, frame := s.out, []byte(nil)
		if len(frames) == 0 {
			out = nil
		} else {
			frame = frames[0]
		}
		select {
		case out <- frame:
			frames = frames[1:]
		case _, ok := <-in:
			if !ok {
				in = nil
			}
		case <-s.wrote: //nolint:errcheck // nobody is left to tell of it
			return
		case <-timer.C:
			return
		case <-s.ctx.Done():
			return
		}
	}
}

// end is the end of the stream: the other end is told of an error that is ours.
func (s *stream) end(err error) error {
	_, broken := errors.AsType[*BrokenError](err)
	_, theirs := errors.AsType[*RemoteError](err)
	if err != nil && !broken && !theirs && s.ctx.Err() == nil {
		s.last(message{Error: printable(err.Error(), 1000)})
	}
	close(s.over)
	return err
}

// about is an error about an entry, with what the system said and not what it
// calls the entry: names of a stranger's go to a terminal quoted.
func about(doing, name string, err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	} else if l, ok := errors.AsType[*os.LinkError](err); ok {
		err = l.Err
	}
	return fmt.Errorf("%s %q: %w", doing, name, err)
}
