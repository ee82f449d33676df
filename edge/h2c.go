package edge

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// h2c is a connection to a backend over HTTP/2 without TLS. The backend holds
// a bounded number of them: net/http's own pool dials for as long as an app
// takes connections and no calls.
type h2c struct {
	cc    *http.ClientConn
	wire  *h2cConn
	calls int // that have a place on it; guarded by backend.mu
}

// h2cMost is how many connections over HTTP/2 a backend may have. Calls that
// find no place on them wait for one.
const h2cMost = 64

// opening is a connection that is being opened, one at a time for all the calls
// that wait for it. backend.mu guards what follows done.
type opening struct {
	cancel context.CancelFunc
	done   chan struct{}

	waiting int
	over    bool
	err     error
	conn    *h2c
	place   bool // one on it is kept for whoever comes first
}

// dialError is a connection that was not to be had: nothing was sent.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

var (
	errNotH2C  = errors.New("the app does not speak h2c")
	errNoCalls = errors.New("the app takes connections, and no calls on them")
)

// What is said in the app's own log.
const (
	speaksNoH2C = "the app does not speak HTTP/2 without TLS (h2c), as its service says it does: have it do so, or publish it with protocol http1"
	speaksH2C   = "the app speaks HTTP/2 where HTTP/1.1 was spoken to it: publish it with protocol h2c, as gRPC servers need"
	allowsNone  = "the app's HTTP/2 server allows no requests at once (SETTINGS_MAX_CONCURRENT_STREAMS is 0): have it allow some"
)

type wireKey struct{}

// newH2C is what speaks HTTP/2 on the connections to all backends. It is given
// each, and neither dials nor repeats anything by itself.
func newH2C(cfg *Config) *http.Transport {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Transport{
		Protocols: protocols,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return ctx.Value(wireKey{}).(net.Conn), nil
		},
		DisableCompression:     true,
		IdleConnTimeout:        cfg.RestTimeout,
		MaxResponseHeaderBytes: maxHead,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: receiveWindow,
			WriteByteTimeout:          cfg.StallTimeout,
			// No pings: servers of gRPC end a connection on which they come
			// more often than every few minutes. See h2c.watch.
		},
	}
}

// receiveWindow is what an app may send of one answer before its client has
// taken it.
const receiveWindow = 256 << 10

// place finds a call a place on a connection, or has one opened. It waits until
// there is one, or ctx is done. The caller sends one request there, or releases
// the place, and says over at last.
func (b *backend) place(ctx context.Context, rt *Router) (*h2c, error) {
	defer b.wakeOne() // where there was one, there may be another
	var o *opening
	for {
		b.mu.Lock()
		c, err := b.takePlace(o)
		if err == nil {
			err = ctx.Err()
		}
		var spent []*h2c
		switch {
		case c != nil || err != nil:
			b.leave(o)
		case o == nil || o.over:
			spent = b.spent()
			if b.opening == nil && len(b.h2) < h2cMost {
				b.open(rt)
			}
			if o = b.opening; o != nil {
				o.waiting++
			}
		}
		b.mu.Unlock()
		for _, s := range spent {
			_ = s.cc.Close()
		}
		if c != nil {
			return c, nil
		}
		if err != nil {
			return nil, err
		}
		var opened chan struct{}
		if o != nil {
			opened = o.done
		}
		select {
		case <-opened:
		case <-b.freed:
		case <-ctx.Done():
		}
	}
}

// takePlace is a place on what was opened, or on what is there, or the reason
// why nothing could be opened. The caller holds mu.
func (b *backend) takePlace(o *opening) (*h2c, error) {
	switch {
	case o == nil || !o.over:
	case o.err != nil:
		return nil, o.err
	case o.place:
		o.place = false
		return o.conn, nil
	}
	return b.reserve(), nil
}

// leave is for a call that waits no longer for what is being opened. The caller
// holds mu.
func (b *backend) leave(o *opening) {
	if o == nil {
		return
	}
	o.waiting--
	if o.waiting > 0 {
		return
	}
	if !o.over { // nobody wants it any more
		o.cancel()
		b.opening = nil
	} else if o.place {
		o.place = false
		o.conn.calls--
		o.conn.cc.Release()
	}
}

// reserve is a place on a connection that is there, if one is free. The caller
// holds mu.
func (b *backend) reserve() *h2c {
	for _, c := range b.h2 {
		if c.cc.Reserve() == nil {
			c.calls++
			return c
		}
	}
	return nil
}

// spent are the connections that have no call and take none any more, which the
// caller closes without mu, which it holds. They are forgotten, as those are
// that are closed.
func (b *backend) spent() (out []*h2c) {
	b.h2 = slices.DeleteFunc(b.h2, func(c *h2c) bool {
		if c.cc.Err() != nil {
			return true
		}
		if c.calls == 0 && c.cc.Available() == 0 {
			out = append(out, c)
			return true
		}
		return false
	})
	return out
}

// wakeOne lets one of the calls that wait look whether there is a place.
func (b *backend) wakeOne() {
	select {
	case b.freed <- struct{}{}:
	default:
	}
}

// finish gives a call's place back.
func (b *backend) finish(c *h2c) {
	b.mu.Lock()
	c.calls--
	last := c.calls == 0 && b.retired.Load()
	b.mu.Unlock()
	if last {
		_ = c.cc.Close()
	}
	b.wakeOne()
}

// open begins to open a connection, for as long as somebody waits for it. The
// caller holds mu.
func (b *backend) open(rt *Router) {
	ctx, cancel := context.WithCancel(context.Background())
	o := &opening{cancel: cancel, done: make(chan struct{})}
	b.opening = o
	go func() {
		defer cancel()
		c, err := b.dialH2C(ctx, rt)
		b.mu.Lock()
		if b.opening == o {
			b.opening = nil
		}
		o.over, o.conn, o.err = true, c, err
		unwanted := err == nil && o.waiting == 0
		if err == nil && !unwanted {
			o.place, c.calls = true, 1
			b.h2 = append(b.h2, c)
		}
		b.mu.Unlock()
		close(o.done)
		if unwanted {
			_ = c.cc.Close()
		}
		b.wakeOne()
	}()
}

// dialH2C opens a connection on which there is a place for a call, and reserves
// that. What an app allows it says before it is asked.
func (b *backend) dialH2C(ctx context.Context, rt *Router) (*h2c, error) {
	conn, err := b.connect(ctx, rt.cfg.DialTimeout)
	if err != nil {
		if ctx.Err() == nil && !ownShortage(err) {
			b.dialFailed(time.Now())
		}
		return nil, &dialError{err}
	}
	wire := &h2cConn{Conn: conn, backend: b, ready: make(chan struct{})}
	if sc, ok := conn.(syscall.Conn); ok {
		wire.raw, _ = sc.SyscallConn()
	}
	cc, err := rt.h2c.NewClientConn(context.WithValue(ctx, wireKey{}, wire), "http", b.Address.String())
	if err == nil {
		cc.SetStateHook(func(*http.ClientConn) { b.wakeOne() })
		select {
		case <-wire.ready:
			if err = cc.Reserve(); err == nil {
				b.dialWorked()
				c := &h2c{cc: cc, wire: wire}
				time.AfterFunc(watchEvery, c.watch)
				return c, nil
			}
		case <-ctx.Done():
		}
		_ = cc.Close()
	}
	_ = conn.Close()
	switch {
	case ctx.Err() != nil:
		return nil, &dialError{ctx.Err()}
	case wire.wrong.Load() || b.doubted():
		return nil, errNotH2C
	case wire.none.Load():
		b.sayOnce(allowsNone)
	}
	if err == nil {
		err = errNoCalls
	}
	b.dialFailed(time.Now()) // nothing was sent: it is as if it had
	return nil, &dialError{err}
}

// A connection on which nothing has come for vanished, not even the kernel's
// own word that something arrived, leads to a VM that is gone. The kernel finds
// that out by itself where nothing was sent meanwhile (see backend.connect), and
// what many calls share always has something on its way.
const (
	vanished   = 8 * time.Second
	watchEvery = time.Second
)

// watch ends the connection once its other end is gone.
func (c *h2c) watch() {
	switch {
	case c.cc.Err() != nil:
	case c.wire.silence() >= vanished:
		_ = c.cc.Close()
	default:
		time.AfterFunc(watchEvery, c.watch)
	}
}

// h2cConn is the wire of such a connection. Up to the end of the first frame it
// is open whether HTTP/2 is spoken there, and whether calls are taken.
type h2cConn struct {
	net.Conn
	backend *backend
	raw     syscall.RawConn // nil where the connection has none
	ready   chan struct{}   // closed once that is known

	// Of the one that reads.
	head    [frameHead]byte // of the first frame
	got     int
	payload int              // what is still to come of that
	setting [settingLen]byte // of its settings, the one that comes
	part    int

	known  atomic.Bool // ready is closed
	spoken atomic.Bool // HTTP/2 is
	wrong  atomic.Bool // something else is
	none   atomic.Bool // no call is allowed
	failed atomic.Bool // it ended before any of that was known
}

const (
	frameHead  = 9 // how long the head of a frame is
	settingLen = 6
)

// muteMost is how many connections in a row an app may close without a word
// before it is taken to speak something else.
const muteMost = 3

// isSettings reports whether b may begin the SETTINGS frame with which every
// HTTP/2 server begins.
func isSettings(b []byte) bool {
	const settings = 4
	for i, c := range b {
		switch {
		case i == 0 && c != 0, // longer than any
			i == 3 && c != settings, i == 4 && c != 0, // not one, or an answer to one
			i > 4 && c != 0: // of a stream
			return false
		}
	}
	return true
}

func (c *h2cConn) Read(p []byte) (int, error) {
	if c.spoken.Load() && c.payload == 0 {
		c.tell() // net/http has heeded the frame: it asks for what follows
		return c.Conn.Read(p)
	}
	n, err := c.Conn.Read(p)
	if !c.take(p[:n]) {
		n, err = 0, errNotH2C
	}
	return n, c.judge(err)
}

// Close comes also from net/http, once it takes the connection for closed.
func (c *h2cConn) Close() error {
	c.tell()
	return c.Conn.Close()
}

// take looks at what comes up to the end of the first frame. It reports false
// for what is none of HTTP/2's.
func (c *h2cConn) take(p []byte) bool {
	n := copy(c.head[c.got:], p)
	c.got += n
	switch {
	case !isSettings(c.head[:c.got]):
		c.wrong.Store(true)
		c.failed.Store(true)
		c.backend.doubt()
		return false
	case c.got == frameHead && !c.spoken.Load():
		c.payload = int(c.head[1])<<8 | int(c.head[2])
		c.spoken.Store(true)
		c.backend.heard(true)
	}
	for _, octet := range p[n:] {
		if c.payload == 0 {
			break
		}
		c.payload--
		c.setting[c.part] = octet
		if c.part++; c.part < settingLen {
			continue
		}
		c.part = 0
		const maxConcurrentStreams = 3
		if s := c.setting; s[0] == 0 && s[1] == maxConcurrentStreams {
			c.none.Store(s[2]|s[3]|s[4]|s[5] == 0)
		}
	}
	return true
}

// tell lets who opened the connection look at it.
func (c *h2cConn) tell() {
	if !c.known.Load() && !c.known.Swap(true) {
		close(c.ready)
	}
}

func (c *h2cConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, c.judge(err)
}

// judge counts a connection that ended before anything was said on it.
func (c *h2cConn) judge(err error) error {
	if err == nil || c.spoken.Load() || errors.Is(err, net.ErrClosed) || c.failed.Swap(true) {
		return err
	}
	if c.backend.heard(false) {
		c.wrong.Store(true)
		return errNotH2C
	}
	return err
}

// silence is for how long nothing has come from the other end, as the kernel
// has it: zero where that cannot be told.
func (c *h2cConn) silence() (d time.Duration) {
	if c.raw == nil {
		return 0
	}
	_ = c.raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			d = time.Duration(min(info.Last_ack_recv, info.Last_data_recv)) * time.Millisecond
		}
	})
	return d
}

// heard notes whether a connection was spoken on before it was closed. It
// reports whether one too many was not.
func (b *backend) heard(spoken bool) bool {
	b.mu.Lock()
	if b.mute++; spoken {
		b.mute, b.noH2C = 0, false
	}
	mute := b.mute >= muteMost
	b.mu.Unlock()
	if mute {
		b.doubt()
	}
	return mute
}

// doubt has it that the app speaks something else, until it is heard to speak
// HTTP/2.
func (b *backend) doubt() {
	b.mu.Lock()
	b.noH2C = true
	b.mu.Unlock()
	b.sayOnce(speaksNoH2C)
}

// doubted reports whether the app is taken to speak something else.
func (b *backend) doubted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.noH2C
}
