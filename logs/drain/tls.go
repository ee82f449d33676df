package drain

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// syslogReceiver takes RFC 5424 over TLS. Syslog has no answers. What it does
// have is the end of a connection: a receiver that is sent close_notify has to
// reply in kind (RFC 5425, 4.4), once it has read all that came before. So each
// batch has a connection of its own, and counts as delivered when the receiver
// closed it too, and every byte was acknowledged. There is no end of TCP from
// our side before: a receiver may take it for a reason to stop reading. What
// then gets lost inside the receiver, or in something between that swallows
// bytes and passes on the receiver's goodbye, no sender of syslog can know.
type syslogReceiver struct {
	dialer *net.Dialer
	config *tls.Config
	addr   string
	token  string
	// polite: it was seen to reply to close_notify. From then on the bare end of
	// a connection is no proof: something in between may have cut it.
	polite bool
}

const (
	// closeTime bounds the wait for the receiver to close its side. One that
	// leaves it open is believed when its machine has acknowledged every byte.
	closeTime = 10 * time.Second
	// ackPause is how often the acknowledged bytes are asked for.
	ackPause = 10 * time.Millisecond
)

func (r *syslogReceiver) close() {}

func (r *syslogReceiver) send(ctx context.Context, lines []Line) answer {
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	if err := r.deliver(ctx, syslog(lines, r.token)); err != nil {
		return failed(ctx, err)
	}
	return answer{verdict: taken}
}

func (r *syslogReceiver) deliver(ctx context.Context, frames []byte) error {
	plain, err := r.dialer.DialContext(ctx, "tcp", r.addr)
	if err != nil {
		return err
	}
	defer plain.Close()
	stop := context.AfterFunc(ctx, func() { _ = plain.SetDeadline(time.Now()) })
	defer stop()
	config := r.config.Clone()
	if config.ServerName, _, err = net.SplitHostPort(r.addr); err != nil {
		return err
	}
	conn := tls.Client(plain, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return err
	}
	if _, err := conn.Write(frames); err != nil {
		return err
	}
	if err := conn.CloseWrite(); err != nil {
		return err
	}
	tcp, ok := plain.(*net.TCPConn)
	if !ok {
		return errors.New("not a TCP connection")
	}
	// A deadline of its own only if it is the earlier one.
	if d, ok := ctx.Deadline(); ok && time.Until(d) > closeTime {
		if err := plain.SetReadDeadline(time.Now().Add(closeTime)); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, io.LimitReader(conn, maxAnswer))
	switch {
	case err == nil:
		r.polite = true
	case ctx.Err() != nil, r.polite:
		return err
	case errors.Is(err, io.ErrUnexpectedEOF), isTimeout(err):
		// It closes without the alert that it owes, or not at all.
	default:
		return err
	}
	return acknowledged(ctx, tcp)
}

// acknowledged waits until the receiver's machine has every byte. One that
// closed before they came answers with a reset: that is the error here.
func acknowledged(ctx context.Context, conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	tick := time.NewTicker(ackPause)
	defer tick.Stop()
	for {
		left, broken := 0, 0
		var errLeft, errBroken error
		err := raw.Control(func(fd uintptr) {
			left, errLeft = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ)
			broken, errBroken = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		})
		if err = errors.Join(err, errLeft, errBroken); err != nil {
			return err
		}
		if broken != 0 {
			return &net.OpError{Op: "write", Net: "tcp", Err: unix.Errno(broken)}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
