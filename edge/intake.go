package edge

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// intake is a streaming body on its way to a backend that speaks HTTP/2, read
// from the client by a goroutine of its own: a call may end while its client
// says nothing. A call that a backend refuses, as one does that is about to
// leave, is made again elsewhere: for that the first wholeBody bytes are kept
// until there is an answer.
type intake struct {
	x     *exchange
	stall time.Duration // the client has to send something in this time; 0: it may be silent
	call  atomic.Pointer[call]
	read  atomic.Bool // all of it came from the client
	done  chan struct{}
	names []string // of the trailers that the client announced; x.r.Trailer is run's alone once it reads

	mu      sync.Mutex // guards what follows, and is never held for long
	wake    sync.Cond
	started bool        // the client is read from
	buffer  *[]byte     // pooled, under kept
	kept    []byte      // what was read from base on
	base    int64       // 0: the body can be read again
	current *reading    // the attempt's that reads it
	settled bool        // there will be no other attempt
	err     error       // io.EOF: all of the body came
	trailer http.Header // what followed it, as the app is to see it
	cut     bool        // the call is over, whatever the client sends
	ended   bool        // nobody wants the rest
	drain   bool        // it is thrown away for a while
	until   time.Time
}

var (
	errBodyOver    = errors.New("nobody wants the rest of the body")
	errNotKept     = errors.New("the begin of the body was not kept")
	errAttemptOver = errors.New("the body is another attempt's")
)

func newIntake(x *exchange) *intake {
	in := &intake{x: x, done: make(chan struct{})}
	in.wake.L = &in.mu
	// In HTTP/2 a call may be silent for as long as it likes; a body of a known
	// length, or a whole connection's, is not held up.
	if x.r.ProtoMajor < 2 || x.r.ContentLength >= 0 {
		in.stall = x.rt.cfg.StallTimeout
	}
	for name := range x.r.Trailer {
		if trailerAllowed(name) {
			in.names = append(in.names, name)
		}
	}
	return in
}

// began reports whether bytes of the body may have reached a backend.
func (in *intake) began() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.started
}

// failed is why the client's body broke off, nil if it did not.
func (in *intake) failed() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if errors.Is(in.err, io.EOF) {
		return nil
	}
	return in.err
}

// again is the body from its begin, for one more attempt, which alone gets it
// from here on.
func (in *intake) again() (*reading, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.base > 0 {
		return nil, errNotKept
	}
	in.current = &reading{in: in}
	if len(in.names) > 0 {
		in.current.trailer = make(http.Header, len(in.names))
		for _, name := range in.names {
			in.current.trailer[name] = nil
		}
	}
	in.wake.Broadcast()
	return in.current, nil
}

// settle ends the keeping: the call has its answer.
func (in *intake) settle() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.settled = true
}

// interrupt has the transport see that the call is over: while it waits for
// the body it looks at nothing else.
func (in *intake) interrupt() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.cut = true
	in.wake.Broadcast()
}

// total is how much was read. The caller holds mu.
func (in *intake) total() int64 { return in.base + int64(len(in.kept)) }

// end sees the body out after the answer: nobody reads from the client any
// more when it returns. With drain, what is left is read and thrown away for a
// while, so that a client that writes all of it before it reads finds the
// answer.
func (in *intake) end(drain bool) {
	rc := http.NewResponseController(in.x.w)
	if drain && !in.read.Load() {
		_ = rc.Flush() // the client has its answer meanwhile
	}
	in.mu.Lock()
	in.ended, in.drain = true, drain
	in.until = longAgo
	if drain {
		in.until = time.Now().Add(drainTime)
	}
	if !in.read.Load() {
		_ = rc.SetReadDeadline(in.until)
	}
	started := in.started
	in.started = true
	in.wake.Broadcast()
	in.mu.Unlock()
	if started {
		<-in.done
	} else if drain && !in.x.body.expects { // who waits for 100 (Continue) sends nothing
		in.discard()
	}
	if !in.read.Load() {
		// net/http would read on for what it takes for little.
		_ = rc.SetReadDeadline(longAgo)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.kept = nil; in.buffer != nil {
		buffers.Put(in.buffer)
		in.buffer = nil
	}
}

// discard reads what is left and throws it away.
func (in *intake) discard() {
	n, err := io.CopyN(io.Discard, in.x.r.Body, drainBytes)
	in.x.bytesIn.Add(n)
	if errors.Is(err, io.EOF) {
		in.read.Store(true)
	}
}

// run reads from the client whenever the present attempt has taken all that
// came.
func (in *intake) run() {
	defer close(in.done)
	for {
		space, ended := in.space()
		if ended {
			if in.drain && in.err == nil {
				in.discard()
			}
			return
		}
		n, err := in.x.r.Body.Read(space)
		if !in.took(n, err) {
			return
		}
	}
}

// space waits until more is wanted, and is where to put it.
func (in *intake) space() (space []byte, ended bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for !in.ended && in.current.at < in.total() {
		in.wake.Wait()
	}
	if in.ended {
		return nil, true
	}
	if in.settled || len(in.kept) == cap(in.kept) {
		in.base, in.kept = in.total(), in.kept[:0]
	}
	if now := time.Now(); in.stall > 0 && in.until.Sub(now) < in.stall/2 {
		in.until = now.Add(in.stall)
		_ = http.NewResponseController(in.x.w).SetReadDeadline(in.until)
	}
	return in.kept[len(in.kept):cap(in.kept)], false
}

// took takes what came. It reports whether there is more.
func (in *intake) took(n int, err error) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	defer in.wake.Broadcast()
	x := in.x
	x.bytesIn.Add(int64(n))
	if n > 0 {
		in.call.Load().moved()
	}
	in.kept = in.kept[:len(in.kept)+n]
	if in.err = err; err == nil {
		return true
	}
	if !errors.Is(err, io.EOF) {
		return false
	}
	in.trailer = make(http.Header, len(x.r.Trailer))
	for name, values := range x.r.Trailer { // more may have come than were announced
		if values = slices.DeleteFunc(slices.Clone(values), func(v string) bool { return !validValue(v) }); len(values) > 0 && trailerAllowed(name) {
			in.trailer[name] = values
		}
	}
	if in.stall > 0 && !in.ended {
		// Else the deadline would strike while the answer is awaited.
		_ = http.NewResponseController(x.w).SetReadDeadline(time.Time{})
	}
	in.read.Store(true)
	in.call.Load().bodyCame()
	return false
}

// reading is the body as one attempt reads it.
type reading struct {
	in      *intake
	at      int64
	closed  bool
	trailer http.Header // this attempt's own, filled at the end of the body; nil: none was announced
}

// Close ends a Read that waits.
func (r *reading) Close() error {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	r.closed = true
	r.in.wake.Broadcast()
	return nil
}

func (r *reading) Read(p []byte) (int, error) {
	in := r.in
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.started {
		in.started = true
		in.buffer = buffers.Get().(*[]byte)
		in.kept = (*in.buffer)[:0]
		go in.run()
	}
	for {
		switch {
		case in.ended || in.cut:
			return 0, errBodyOver
		case r.closed || in.current != r:
			return 0, errAttemptOver
		case r.at < in.base:
			return 0, errNotKept
		case r.at < in.total():
			n := copy(p, in.kept[r.at-in.base:])
			r.at += int64(n)
			in.wake.Broadcast()
			return n, nil
		case in.err != nil:
			if errors.Is(in.err, io.EOF) && r.trailer != nil {
				maps.Copy(r.trailer, in.trailer)
			}
			return 0, in.err
		}
		in.wake.Wait()
	}
}
