// Package load sends a service HTTP requests and holds WebSockets open to it,
// and counts exactly what went wrong: it is what "0 failed of 123,456" rests
// on.
package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miosa/miosa"
)

// Config says what load to make. Addr and Host are required.
type Config struct {
	Addr string // host:port to connect to
	Host string // the Host header
	Path string // of the requests; "/" if empty

	Workers     int           // closed loops, each with a keep-alive connection; 8 if 0
	MinRequests int64         // Run goes on past ctx until that many were made; 0: until ctx is done
	Made        *atomic.Int64 // counts the requests made so far, for who wants to know; may be nil
	Timeout     time.Duration // of one request, or of one WebSocket message's echo; 30 s if 0
	PostEvery   int           // every n-th request is a POST whose body the app may ignore; 0: none

	WebSockets  int           // held open all the time
	WSPath      string        // "/ws" if empty
	WSInterval  time.Duration // between two messages; 1 s if 0
	WSEcho      bool          // every message must be answered by at least one before Timeout
	WSHandshake time.Duration // patience for getting (back) in; 10 s if 0
}

// Kind is why a request failed.
type Kind string

// The kinds of failure.
const (
	Status  Kind = "status"  // other than 2xx: also the 404 of a route that is gone
	Refused Kind = "refused" // connection refused
	Reset   Kind = "reset"   // connection reset, or closed before an answer
	Timeout Kind = "timeout"
	Short   Kind = "short_body" // the body ended before its announced length
	Other   Kind = "other"
)

// Sample is one failure, for the reader of a report.
type Sample struct {
	At   time.Time
	Kind Kind
	What string
}

// maxSamples is how many failures are kept in words.
const maxSamples = 20

// Run makes the load until ctx is done, and at least MinRequests requests
// unless hardly any gets through. It fails only for a wrong Config; what the
// service does wrong is in the report.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if cfg.Addr == "" || cfg.Host == "" {
		return Report{}, miosa.Errorf(miosa.Invalid, "load needs an address and a host name")
	}
	cfg.setDefaults()
	began := time.Now()
	// Requests outlive ctx: one that was cut off by our own end would count
	// as neither done nor failed.
	hold := context.WithoutCancel(ctx)
	var tally tally
	tally.min = cfg.MinRequests
	results := make([]Report, cfg.Workers+cfg.WebSockets)
	var workers, sockets sync.WaitGroup
	for i := range cfg.Workers {
		workers.Go(func() { newWorker(cfg, &results[i]).run(ctx, hold, &tally) })
	}
	socketsCtx, endSockets := context.WithCancel(hold)
	defer endSockets()
	for i := range cfg.WebSockets {
		sockets.Go(func() { newSocket(cfg, i, &results[cfg.Workers+i]).run(socketsCtx) })
	}
	if cfg.Workers == 0 {
		<-ctx.Done()
	}
	workers.Wait()
	endSockets()
	sockets.Wait()
	var total Report
	for _, r := range results {
		total.add(r)
	}
	total.Took = time.Since(began)
	return total, nil
}

func (c *Config) setDefaults() {
	if c.Path == "" {
		c.Path = "/"
	}
	if c.WSPath == "" {
		c.WSPath = "/ws"
	}
	if c.Workers == 0 && c.WebSockets == 0 {
		c.Workers = 8
	}
	if c.Timeout <= 0 {
		c.Timeout = 30 * time.Second
	}
	if c.WSInterval <= 0 {
		c.WSInterval = time.Second
	}
	if c.WSHandshake <= 0 {
		c.WSHandshake = 10 * time.Second
	}
}

// tally counts over all workers, to know when there were enough requests.
type tally struct {
	mu     sync.Mutex // guards the rest
	min    int64
	tried  int64
	worked int64
}

// more reports whether another request is wanted.
func (t *tally) more(ctx context.Context) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if ctx.Err() != nil && t.tried >= t.min {
		return false
	}
	// Nothing but failures: the service is gone, and the number would never
	// say more than it does.
	if ctx.Err() != nil && t.tried >= 100 && t.worked == 0 {
		return false
	}
	t.tried++
	return true
}

func (t *tally) done() {
	t.mu.Lock()
	t.worked++
	t.mu.Unlock()
}

// worker is one closed loop over one connection. It speaks HTTP/1.1 by itself
// rather than through http.Client, which repeats requests silently: here each
// failure has to show.
type worker struct {
	cfg  Config
	out  *Report
	conn net.Conn
	br   *bufio.Reader
	used bool // the connection has brought an answer
}

func newWorker(cfg Config, out *Report) *worker { return &worker{cfg: cfg, out: out} }

func (w *worker) run(ctx, hold context.Context, tally *tally) {
	defer w.hangUp()
	for n := 1; tally.more(ctx); n++ {
		began, during := time.Now(), ctx.Err() == nil
		method, body := http.MethodGet, ""
		if w.cfg.PostEvery > 0 && n%w.cfg.PostEvery == 0 {
			method, body = http.MethodPost, "n="+strconv.Itoa(n)
		}
		version, err := w.request(hold, method, body)
		w.out.Requests++
		if w.cfg.Made != nil {
			w.cfg.Made.Add(1)
		}
		if during {
			w.out.During++
		}
		w.out.Latency.Add(time.Since(began))
		if err != nil {
			w.hangUp()
			w.out.fail(began, err)
			// A refusing service is not to be asked in a spin.
			time.Sleep(time.Duration(5+rand.IntN(20)) * time.Millisecond)
			continue
		}
		tally.done()
		if version != "" {
			w.out.saw(version)
		}
	}
}

func (w *worker) hangUp() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn, w.used = nil, false
	}
}

// statusError is an answer that counts as a failure.
type statusError struct {
	status int
	body   string
}

func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.body) }

// errShort is a body that was shorter than it should have been.
var errShort = errors.New("short body")

// request makes one request. A kept connection that the service closed
// between two requests, before a byte of the answer, is opened anew, as every
// HTTP client does; but for GET only, as every HTTP client does.
func (w *worker) request(ctx context.Context, method, body string) (version string, err error) {
	for {
		reused := w.conn != nil && w.used
		if w.conn == nil {
			d := net.Dialer{Timeout: w.cfg.Timeout}
			if w.conn, err = d.DialContext(ctx, "tcp", w.cfg.Addr); err != nil {
				return "", err
			}
			w.br = bufio.NewReader(w.conn)
		}
		if err := w.conn.SetDeadline(time.Now().Add(w.cfg.Timeout)); err != nil {
			return "", err
		}
		var head strings.Builder
		fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: load\r\n", method, w.cfg.Path, w.cfg.Host)
		if method == http.MethodPost {
			fmt.Fprintf(&head, "Content-Type: text/plain\r\nContent-Length: %d\r\n", len(body))
		}
		head.WriteString("\r\n" + body)
		_, err := io.WriteString(w.conn, head.String())
		if err == nil {
			_, err = w.br.Peek(1)
		}
		if err != nil {
			if reused && method == http.MethodGet && kindOf(err) != Timeout {
				w.hangUp()
				w.out.Reopened++
				continue
			}
			return "", err
		}
		return w.answer(method)
	}
}

func (w *worker) answer(method string) (version string, err error) {
	res, err := http.ReadResponse(w.br, &http.Request{Method: method})
	if err != nil {
		// Half a line reads as a malformed one: what counts is the cut.
		if _, cut := w.br.Peek(1); cut != nil {
			err = fmt.Errorf("%w in the answer's head: %w", cut, err)
		}
		return "", err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = fmt.Errorf("%w after %d bytes of %d", errShort, len(body), res.ContentLength)
		}
		return "", err
	}
	if res.StatusCode < 200 || res.StatusCode >= 300 {
		if res.Close {
			w.hangUp()
		}
		return "", &statusError{res.StatusCode, string(body[:min(len(body), 200)])}
	}
	w.used = true
	if res.Close {
		w.hangUp()
	}
	if version = res.Header.Get("X-App-Version"); version == "" {
		version = versionIn(body)
	}
	return version, nil
}

// versionIn finds a "version" field in a JSON object, without minding the rest.
func versionIn(body []byte) string {
	_, rest, ok := strings.Cut(string(body[:min(len(body), 4096)]), `"version"`)
	if !ok {
		return ""
	}
	rest, ok = strings.CutPrefix(strings.TrimLeft(rest, " \t\r\n"), ":")
	if !ok {
		return ""
	}
	rest = strings.TrimLeft(rest, " \t\r\n")
	if quoted, ok := strings.CutPrefix(rest, `"`); ok {
		version, _, _ := strings.Cut(quoted, `"`)
		return version
	}
	if i := strings.IndexAny(rest, ",}\r\n "); i >= 0 {
		return rest[:i]
	}
	return ""
}

// kindOf sorts an error into the kinds of failure.
func kindOf(err error) Kind {
	var timeout interface{ Timeout() bool }
	var status *statusError
	switch {
	case errors.As(err, &status):
		return Status
	case errors.Is(err, errShort):
		return Short
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Reset
	case errors.As(err, &timeout) && timeout.Timeout():
		return Timeout
	}
	return Other
}
