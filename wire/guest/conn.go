package guest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// A frame is a 16-byte header and a JSON body:
//
//	0xFF 'M' 'G' 'F' | body length | checksum of the body | checksum of the 12 bytes before
//
// numbers big-endian, checksums 32-bit FNV-1a (against cuts, not against an
// enemy; it needs no tables, whose making would cost the guest's boot). The byte 0xFF can't occur in JSON text, which is what
// makes a stream recoverable that was cut anywhere: a virtio-serial port is
// one byte stream for the life of the VM, and a host process that dies in the
// middle of a frame leaves its first half for the next one to continue. The
// reader therefore
//
//   - trusts a length only when the header's own checksum holds, and
//   - gives a body up at the first 0xFF within it, which begins a newer frame,
//
// so that a half frame never swallows, or waits for, the frame after it.
const (
	headerLen = 16
	sync0     = 0xFF
)

var preamble = [4]byte{sync0, 'M', 'G', 'F'}

// ErrFrameTooLarge says that a message does not fit into MaxFrame.
var ErrFrameTooLarge = errors.New("guest frame larger than the limit")

// InvalidMessageError is a frame that arrived whole but does not hold exactly
// one known message: a peer that is hostile or speaks another version. The
// stream is still in step; the caller decides whether to go on.
type InvalidMessageError struct{ Reason string }

func (e *InvalidMessageError) Error() string { return "invalid guest message: " + e.Reason }

// Conn reads and writes messages on a byte stream. One goroutine may read
// while others write; ReadMessage itself is for one goroutine.
type Conn struct {
	r       io.Reader
	buf     []byte // read and not yet consumed: buf[off:]
	off     int
	skipped uint64

	wmu  sync.Mutex // guards w and wbuf
	w    io.Writer
	wbuf bytes.Buffer
}

// NewConn frames messages on rw. It starts nothing and does not own rw.
func NewConn(rw io.ReadWriter) *Conn { return &Conn{r: rw, w: rw} }

// Skipped is the number of bytes thrown away to find a frame's start: the
// remains of frames that an earlier connection left half-sent.
func (c *Conn) Skipped() uint64 { return c.skipped }

// WriteMessage sends one message, in one Write. It fails with
// InvalidMessageError unless exactly one field is set, with ErrFrameTooLarge,
// or with the stream's own error; after the latter the frame may be half sent.
func (c *Conn) WriteMessage(m Message) error {
	if err := m.check(); err != nil {
		return err
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.wbuf.Reset()
	c.wbuf.Write(make([]byte, headerLen))
	enc := json.NewEncoder(&c.wbuf)
	enc.SetEscapeHTML(false) // it is for no browser
	if err := enc.Encode(m); err != nil {
		return fmt.Errorf("encode guest message: %w", err)
	}
	frame := c.wbuf.Bytes()
	body := frame[headerLen:]
	if len(body) > MaxFrame {
		return ErrFrameTooLarge
	}
	putHeader(frame, body)
	_, err := c.w.Write(frame)
	if c.wbuf.Cap() > 256<<10 {
		c.wbuf = bytes.Buffer{} // a rare large frame is not kept for ever
	}
	return err
}

// ReadMessage returns the next whole message, skipping what is not a frame.
// It fails with InvalidMessageError, after which it may be called again, or
// with the stream's error.
func (c *Conn) ReadMessage() (Message, error) {
	for {
		body, err := c.readBody()
		if err != nil {
			return Message{}, err
		}
		if body == nil {
			continue
		}
		if tooManyLines(body) {
			return Message{}, &InvalidMessageError{Reason: "more lines than a frame may hold"}
		}
		var m Message
		dec := json.NewDecoder(bytes.NewReader(body))
		if err := dec.Decode(&m); err != nil {
			return Message{}, &InvalidMessageError{Reason: "not a JSON message"}
		}
		if err := m.check(); err != nil {
			return Message{}, err
		}
		return m, nil
	}
}

// tooManyLines looks before the body is decoded: an empty line is 3 bytes there
// and 64 in memory. Commas bound the lines, whatever they look like; what else
// a frame may hold (Boot's variables) has as many as it likes.
func tooManyLines(body []byte) bool {
	const commas = 16 // of a line: it has six fields, and may get more
	if bytes.Count(body, []byte{','}) <= commas*MaxLines {
		return false
	}
	var m struct {
		Lines json.RawMessage `json:"lines"`
	}
	return json.NewDecoder(bytes.NewReader(body)).Decode(&m) == nil && m.Lines != nil
}

// readBody returns the body of the next frame, valid until the next call, or
// nil when it had to skip something and should be called again.
func (c *Conn) readBody() ([]byte, error) {
	if err := c.fill(headerLen); err != nil {
		return nil, err
	}
	head := c.buf[c.off : c.off+headerLen]
	length, sum, ok := parseHeader(head)
	if !ok {
		c.resync()
		return nil, nil
	}
	for scanned, want := headerLen, headerLen+int(length); ; {
		have := min(len(c.buf)-c.off, want)
		if i := bytes.IndexByte(c.buf[c.off+scanned:c.off+have], sync0); i >= 0 {
			c.skip(scanned + i)
			return nil, nil
		}
		if have == want {
			body := c.buf[c.off+headerLen : c.off+want]
			if checksum(body) != sum {
				c.resync()
				return nil, nil
			}
			c.off += want
			return body, nil
		}
		scanned = have
		if err := c.fill(have + 1); err != nil {
			return nil, err
		}
	}
}

// resync drops bytes up to the next possible start of a frame.
func (c *Conn) resync() {
	rest := c.buf[c.off+1:]
	if i := bytes.IndexByte(rest, sync0); i >= 0 {
		c.skip(1 + i)
		return
	}
	c.skip(1 + len(rest))
}

func (c *Conn) skip(n int) {
	c.off += n
	c.skipped += uint64(n)
}

// fill reads until at least n unconsumed bytes are buffered. The buffer grows
// with what arrives, not with what a header claims.
func (c *Conn) fill(n int) error {
	for len(c.buf)-c.off < n {
		if c.off > 0 {
			c.buf = c.buf[:copy(c.buf, c.buf[c.off:])]
			c.off = 0
			if cap(c.buf) > 256<<10 && len(c.buf) < 16<<10 {
				c.buf = append(make([]byte, 0, 32<<10), c.buf...)
			}
		}
		if cap(c.buf)-len(c.buf) < 4<<10 {
			c.buf = append(make([]byte, 0, max(32<<10, 2*cap(c.buf))), c.buf...)
		}
		got, err := c.r.Read(c.buf[len(c.buf):cap(c.buf)])
		c.buf = c.buf[:len(c.buf)+got]
		if err != nil && len(c.buf)-c.off < n {
			if err == io.EOF && len(c.buf) > c.off {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// checksum is 32-bit FNV-1a.
func checksum(b []byte) uint32 {
	sum := uint32(2166136261)
	for _, c := range b {
		sum = (sum ^ uint32(c)) * 16777619
	}
	return sum
}

func putHeader(head, body []byte) {
	copy(head, preamble[:])
	binary.BigEndian.PutUint32(head[4:], uint32(len(body)))
	binary.BigEndian.PutUint32(head[8:], checksum(body))
	binary.BigEndian.PutUint32(head[12:], checksum(head[:12]))
}

func parseHeader(head []byte) (length, sum uint32, ok bool) {
	if [4]byte(head) != preamble ||
		binary.BigEndian.Uint32(head[12:]) != checksum(head[:12]) {
		return 0, 0, false
	}
	length = binary.BigEndian.Uint32(head[4:])
	return length, binary.BigEndian.Uint32(head[8:]), length <= MaxFrame
}

// check reports an error unless exactly one field is set.
func (m *Message) check() error {
	set := 0
	for _, present := range [...]bool{
		m.Hello != nil, m.Phase != nil, m.Lines != nil, m.Stats != nil, m.Exit != nil, m.Pong != nil, m.Checked != nil,
		m.Boot != nil, m.Attach != nil, m.Ack != nil, m.Ping != nil, m.Stop != nil, m.Adjust != nil, m.Check != nil,
		m.ExecOpened != nil, m.ExecOutput != nil, m.ExecTaken != nil, m.ExecEnded != nil,
		m.ExecOpen != nil, m.ExecInput != nil, m.ExecResize != nil, m.ExecSignal != nil,
	} {
		if present {
			set++
		}
	}
	if set != 1 {
		return &InvalidMessageError{Reason: fmt.Sprintf("%d messages in one frame, want 1", set)}
	}
	return nil
}
