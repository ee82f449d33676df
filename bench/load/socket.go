package load

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // the WebSocket handshake is defined by it
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// socket keeps one WebSocket open, opening it anew whenever the service
// closes it the clean way.
type socket struct {
	cfg  Config
	nth  int
	out  *Report
	conn net.Conn
	br   *bufio.Reader
	mu   sync.Mutex // guards writes to conn
}

func newSocket(cfg Config, nth int, out *Report) *socket {
	return &socket{cfg: cfg, nth: nth, out: out}
}

// Opcodes and close codes (RFC 6455).
const (
	opText  = 1
	opClose = 8
	opPing  = 9
	opPong  = 10

	closeNormal  = 1000
	closeGoing   = 1001
	closeRestart = 1012
)

func (s *socket) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := s.enter(ctx); err != nil {
			if ctx.Err() == nil {
				s.out.WSRefused++
				s.out.sample(time.Now(), kindOf(err), "websocket not let in: "+err.Error())
			}
			continue
		}
		s.out.WSOpened++
		s.hold(ctx)
		_ = s.conn.Close()
	}
}

// enter opens the socket, trying again for as long as the patience lasts.
func (s *socket) enter(ctx context.Context) error {
	until := time.Now().Add(s.cfg.WSHandshake)
	for {
		err := s.open(ctx)
		if err == nil || ctx.Err() != nil || time.Now().After(until) {
			return err
		}
		pause := time.NewTimer(50 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
}

func (s *socket) open(ctx context.Context) error {
	d := net.Dialer{Timeout: s.cfg.Timeout}
	conn, err := d.DialContext(ctx, "tcp", s.cfg.Addr)
	if err != nil {
		return err
	}
	var nonce [16]byte
	_, _ = rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	_ = conn.SetDeadline(time.Now().Add(s.cfg.Timeout))
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", s.cfg.WSPath, s.cfg.Host, key)
	br := bufio.NewReader(conn)
	var res *http.Response
	if err == nil {
		res, err = http.ReadResponse(br, &http.Request{Method: http.MethodGet})
	}
	if err == nil && res.StatusCode != http.StatusSwitchingProtocols {
		err = &statusError{res.StatusCode, "to the handshake"}
	}
	if err == nil {
		sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // as above
		if res.Header.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]) {
			err = errors.New("wrong answer to the handshake")
		}
	}
	if err != nil {
		_ = conn.Close()
		return err
	}
	_ = conn.SetDeadline(time.Time{})
	s.conn, s.br = conn, br
	return nil
}

// hold exchanges messages until the service closes, or the run ends.
func (s *socket) hold(ctx context.Context) {
	ended := make(chan struct{})
	var writer sync.WaitGroup
	stopping := false // read after writer is done
	writer.Go(func() {
		tick := time.NewTicker(s.cfg.WSInterval)
		defer tick.Stop()
		for n := 0; ; n++ {
			if err := s.send(opText, fmt.Appendf(nil, "message %d of %d", n, s.nth)); err != nil {
				return // the reader sees why
			}
			select {
			case <-tick.C:
			case <-ended:
				return
			case <-ctx.Done():
				stopping = true
				_ = s.send(opClose, binary.BigEndian.AppendUint16(nil, closeNormal))
				_ = s.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
				return
			}
		}
	})
	code, err := s.read(ctx)
	close(ended)
	writer.Wait()
	switch {
	case code == closeGoing || code == closeRestart:
		s.out.WSClosed++
	case stopping && (code == closeNormal || code == 1005):
		s.out.WSEnded++
	case err != nil:
		s.out.WSAborted++
		s.out.sample(time.Now(), kindOf(err), "websocket aborted: "+err.Error())
	default:
		s.out.WSAborted++
		s.out.sample(time.Now(), Other, fmt.Sprintf("websocket closed with %d", code))
	}
}

// read reads until a close frame, which it answers, and returns its code
// (1005: none given).
func (s *socket) read(ctx context.Context) (code uint16, err error) {
	for {
		if s.cfg.WSEcho && ctx.Err() == nil {
			if err := s.conn.SetReadDeadline(time.Now().Add(s.cfg.WSInterval + s.cfg.Timeout)); err != nil {
				return 0, err
			}
			if ctx.Err() != nil { // the end has set a shorter one
				_ = s.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
			}
		}
		op, payload, err := s.frame()
		if err != nil {
			return 0, err
		}
		switch op {
		case opPing:
			if err := s.send(opPong, payload); err != nil {
				return 0, err
			}
		case opPong:
		case opClose:
			_ = s.send(opClose, payload)
			if len(payload) < 2 {
				return 1005, nil
			}
			return binary.BigEndian.Uint16(payload), nil
		default:
			s.out.WSMessages++
		}
	}
}

func (s *socket) frame() (op byte, payload []byte, err error) {
	var head [8]byte
	if _, err = io.ReadFull(s.br, head[:2]); err != nil {
		return 0, nil, err
	}
	op, size := head[0]&15, uint64(head[1]&0x7f)
	switch size {
	case 126:
		if _, err = io.ReadFull(s.br, head[:2]); err != nil {
			return 0, nil, err
		}
		size = uint64(binary.BigEndian.Uint16(head[:2]))
	case 127:
		if _, err = io.ReadFull(s.br, head[:8]); err != nil {
			return 0, nil, err
		}
		size = binary.BigEndian.Uint64(head[:8])
	}
	if size > 1<<20 {
		return 0, nil, fmt.Errorf("frame of %d bytes", size)
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(s.br, payload)
	return op, payload, err
}

// send sends one frame of at most 125 bytes, masked with zeros.
func (s *socket) send(op byte, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	frame := append([]byte{0x80 | op, 0x80 | byte(min(len(payload), 125)), 0, 0, 0, 0}, payload[:min(len(payload), 125)]...)
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.cfg.Timeout))
	_, err := s.conn.Write(frame)
	return err
}
