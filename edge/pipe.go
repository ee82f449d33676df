package edge

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pipe is one client's connection to a service that speaks raw TCP: bytes both
// ways, each way until its source ends. The kernel moves them (splice).
type pipe struct {
	session *session
	backend *backend
	client  *net.TCPConn
	app     *net.TCPConn
	started time.Time
	active  atomic.Int64 // since started: when bytes were last seen to move
	broken  atomic.Int32 // why it did not end as both sides wanted; 0: it did, or goes on
	timer   *time.Timer
}

// pipePiece is how many bytes go at most in one call to the kernel: so many have
// to be taken in Config.StallTimeout. pipeLook is how long is waited for some.
const (
	pipePiece = 64 << 10
	pipeLook  = 15 * time.Second
)

// silence is how long nothing has gone on a connection that a router which stops
// does not wait for.
const silence = time.Second

// endedByReset: the client or the app broke the connection off; endedByStall:
// one of them takes nothing.
const (
	endedByReset int32 = 200 + iota
	endedByStall
)

// why is the word for that in the access log.
func (p *pipe) why() string {
	switch p.broken.Load() {
	case 0:
		return ""
	case endedByIdleness:
		return "idle"
	case endedByDrain:
		return "drained"
	case endedByStop:
		return "stopping"
	case endedByStall:
		return "stalled"
	}
	return "reset"
}

func newPipe(s *session, b *backend, client, app *net.TCPConn) *pipe {
	return &pipe{session: s, backend: b, client: client, app: app, started: time.Now()}
}

// run copies until both ways have ended.
func (p *pipe) run() {
	port, b := p.session.port, p.backend
	ps := port.ports
	ps.mu.Lock()
	ps.pipes[p] = struct{}{}
	ps.mu.Unlock()
	b.mu.Lock()
	b.pipes[p] = struct{}{}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.pipes, p)
		b.mu.Unlock()
		ps.mu.Lock()
		delete(ps.pipes, p)
		ps.mu.Unlock()
	}()
	p.timer = time.AfterFunc(time.Hour, func() { p.look() })
	p.timer.Reset(ps.rt.cfg.IdleTimeout)
	defer p.timer.Stop()
	var other sync.WaitGroup
	other.Go(func() { p.copy(p.app, p.client, &p.session.in, &port.stats.in) })
	p.copy(p.client, p.app, &p.session.out, &port.stats.out)
	other.Wait()
	if p.broken.Load() != 0 {
		reset(p.client)
		reset(p.app)
		return
	}
	_ = p.client.Close()
	_ = p.app.Close()
}

// copy moves what comes from src to dst, and the end of it. What the kernel
// moves bytes through it takes only for what is there already: a connection on
// which nothing goes has two sockets and no more.
func (p *pipe) copy(dst, src *net.TCPConn, count *int64, all *atomic.Uint64) {
	cfg := &p.session.port.ports.rt.cfg
	raw, err := src.SyscallConn()
	if err != nil {
		p.interrupt(endedByReset)
		return
	}
	for {
		_ = src.SetReadDeadline(time.Now().Add(min(cfg.IdleTimeout/4, pipeLook)))
		if p.broken.Load() != 0 {
			p.wake()
		}
		there, err := toRead(raw)
		switch {
		case p.broken.Load() != 0:
			return
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			// Neither side has anything from the other any more.
			p.interrupt(endedByReset)
			return
		case there == 0: // the end of what src sends
			if dst.CloseWrite() != nil {
				p.interrupt(endedByReset)
			}
			return
		}
		_ = dst.SetWriteDeadline(time.Now().Add(cfg.StallTimeout))
		if p.broken.Load() != 0 {
			p.wake()
		}
		n, err := dst.ReadFrom(&io.LimitedReader{R: src, N: int64(min(there, pipePiece))})
		if n > 0 {
			*count += n
			all.Add(uint64(n))
			p.active.Store(int64(time.Since(p.started)))
		}
		switch {
		case p.broken.Load() != 0:
			return
		case errors.Is(err, os.ErrDeadlineExceeded): // it did not wait for src
			p.interrupt(endedByStall)
			return
		case err != nil:
			p.interrupt(endedByReset)
			return
		}
	}
}

// toRead waits until something can be read, and is how many bytes can; none at
// the end.
func toRead(raw syscall.RawConn) (n int, err error) {
	var first [1]byte
	if werr := raw.Read(func(fd uintptr) bool {
		if n, _, err = unix.Recvfrom(int(fd), first[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); err == unix.EAGAIN {
			return false
		}
		if err == nil && n > 0 {
			if there, ierr := unix.IoctlGetInt(int(fd), unix.TIOCINQ); ierr == nil {
				n = max(n, there)
			}
		}
		return true
	}); werr != nil {
		return 0, werr
	}
	return n, err
}

// look ends the connection once nothing has gone for long.
func (p *pipe) look() {
	left := time.Duration(p.active.Load()) + p.session.port.ports.rt.cfg.IdleTimeout - time.Since(p.started)
	if left <= 0 {
		p.interrupt(endedByIdleness)
		return
	}
	p.timer.Reset(left)
}

// interrupt ends the connection, whatever goes on; the first reason stays.
func (p *pipe) interrupt(why int32) {
	p.broken.CompareAndSwap(0, why)
	p.wake()
}

// wake makes every pending call return.
func (p *pipe) wake() {
	_ = p.client.SetDeadline(longAgo)
	_ = p.app.SetDeadline(longAgo)
}

// silent reports whether nothing has come from either side for a moment, as the
// kernel has it.
func (p *pipe) silent() bool {
	for _, c := range []*net.TCPConn{p.client, p.app} {
		raw, err := c.SyscallConn()
		if err != nil {
			return true
		}
		since := silence
		if err := raw.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				since = time.Duration(info.Last_data_recv) * time.Millisecond
			}
		}); err != nil {
			return true
		}
		if since < silence {
			return false
		}
	}
	return true
}
