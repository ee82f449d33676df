package edge

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// accessLog gathers lines and writes them in batches. A request never waits
// for it: while the writer is slow and the batch full, lines are dropped,
// counted, and the log says how many.
type accessLog struct {
	out  io.Writer
	log  *slog.Logger
	wake chan struct{}

	mu      sync.Mutex // guards the three below
	batch   []byte
	spare   []byte
	dropped uint64

	lost atomic.Uint64 // lines dropped since the start
}

// How long lines may gather, and how much of them. 4 MiB are about 10,000.
const (
	logDelay    = 200 * time.Millisecond
	logBatch    = 64 << 10
	logBatchMax = 4 << 20
)

func newAccessLog(out io.Writer, log *slog.Logger) *accessLog {
	return &accessLog{out: out, log: log, wake: make(chan struct{}, 1)}
}

// logged is what has a line in the access log: a request, or a connection to a
// service that speaks raw TCP.
type logged interface {
	appendLog(line []byte, took time.Duration) []byte
}

// add puts the line of what is over in.
func (l *accessLog) add(x logged, took time.Duration) {
	l.mu.Lock()
	if len(l.batch) >= logBatchMax {
		l.dropped++
		l.mu.Unlock()
		l.lost.Add(1)
		return
	}
	before := len(l.batch)
	l.batch = x.appendLog(l.batch, took)
	full := before < logBatch && len(l.batch) >= logBatch
	l.mu.Unlock()
	if full {
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// run writes until ctx is done, and then what is left.
func (l *accessLog) run(ctx context.Context) {
	tick := time.NewTicker(logDelay)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			l.flush()
			return
		case <-tick.C:
		case <-l.wake:
		}
		l.flush()
	}
}

func (l *accessLog) flush() {
	l.mu.Lock()
	batch, dropped := l.batch, l.dropped
	l.batch, l.spare, l.dropped = l.spare[:0], nil, 0
	l.mu.Unlock()
	if dropped > 0 {
		l.log.Warn("access log lines dropped", "lines", dropped)
		batch = fmt.Appendf(batch, `{"time":%q,"dropped":%d}`+"\n", time.Now().UTC().Format(time.RFC3339Nano), dropped)
	}
	if len(batch) > 0 {
		if _, err := l.out.Write(batch); err != nil {
			l.log.Warn("access log not written", "err", err, "bytes", len(batch))
		}
	}
	if cap(batch) <= logBatchMax*2 {
		l.mu.Lock()
		l.spare = batch[:0]
		l.mu.Unlock()
	}
}

// How much of what a client sends goes into the log.
const (
	logPathMax  = 1024
	logAgentMax = 256
	logWordMax  = 64
)

// appendLog appends the request's line. The query is left out: tokens travel
// there.
func (x *exchange) appendLog(b []byte, took time.Duration) []byte {
	b = append(b, `{"time":"`...)
	b = x.started.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z07:00")
	b = append(b, `","request_id":`...)
	b = appendJSONString(b, x.id, logPathMax)
	b = append(b, `,"client":"`...)
	b = x.client.AppendTo(b)
	b = append(b, `","proto":`...)
	b = appendJSONString(b, x.r.Proto, logWordMax)
	b = append(b, `,"method":`...)
	b = appendJSONString(b, x.r.Method, logWordMax)
	b = append(b, `,"host":`...)
	b = appendJSONString(b, x.host, logPathMax)
	b = append(b, `,"path":`...)
	b = appendJSONString(b, x.r.URL.Path, logPathMax)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(x.status), 10)
	b = append(b, `,"bytes_in":`...)
	b = strconv.AppendInt(b, x.bytesIn.Load(), 10)
	b = append(b, `,"bytes_out":`...)
	b = strconv.AppendInt(b, x.bytesOut, 10)
	b = append(b, `,"duration_us":`...)
	b = strconv.AppendInt(b, took.Microseconds(), 10)
	if x.firstByte != 0 {
		b = append(b, `,"first_byte_us":`...)
		b = strconv.AppendInt(b, x.firstByte.Microseconds(), 10)
	}
	if x.retries > 0 {
		b = append(b, `,"retries":`...)
		b = strconv.AppendInt(b, int64(x.retries), 10)
	}
	b = x.appendLogBackend(b)
	if x.upgraded {
		b = append(b, `,"upgraded":true`...)
	}
	if x.failed != "" {
		b = append(b, `,"error":`...)
		b = appendJSONString(b, x.failed, logWordMax)
	}
	if ua := x.r.UserAgent(); ua != "" {
		b = append(b, `,"user_agent":`...)
		b = appendJSONString(b, ua, logAgentMax)
	}
	return append(b, "}\n"...)
}

// appendLogBackend appends whose the request was, and who answered.
func (x *exchange) appendLogBackend(b []byte) []byte {
	if x.pool != nil {
		b = append(b, `,"tenant":`...)
		b = appendJSONString(b, x.pool.TenantID, logWordMax)
		b = append(b, `,"deployment":`...)
		b = appendJSONString(b, x.pool.DeploymentID, logWordMax)
		b = append(b, `,"version":`...)
		b = appendJSONString(b, x.pool.VersionID, logWordMax)
	}
	if x.instance != "" {
		b = append(b, `,"instance":`...)
		b = appendJSONString(b, x.instance, logWordMax)
	}
	return b
}

// appendLog appends the line of a connection to a service that speaks raw TCP.
func (s *session) appendLog(b []byte, took time.Duration) []byte {
	b = append(b, `{"time":"`...)
	b = s.started.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z07:00")
	b = append(b, `","client":"`...)
	b = s.client.AppendTo(b)
	b = append(b, `","proto":"tcp","port":`...)
	b = strconv.AppendInt(b, int64(s.port.number), 10)
	b = append(b, `,"bytes_in":`...)
	b = strconv.AppendInt(b, s.in, 10)
	b = append(b, `,"bytes_out":`...)
	b = strconv.AppendInt(b, s.out, 10)
	b = append(b, `,"duration_us":`...)
	b = strconv.AppendInt(b, took.Microseconds(), 10)
	if s.retries > 0 {
		b = append(b, `,"retries":`...)
		b = strconv.AppendInt(b, int64(s.retries), 10)
	}
	b = s.appendLogBackend(b)
	if s.failed != "" {
		b = append(b, `,"error":`...)
		b = appendJSONString(b, s.failed, logWordMax)
	}
	return append(b, "}\n"...)
}

// appendJSONString appends at most limit bytes of s as a JSON string.
func appendJSONString(b []byte, s string, limit int) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	if len(s) > limit {
		s = s[:limit]
	}
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			if r, size := utf8.DecodeRuneInString(s[i:]); r != utf8.RuneError || size > 1 {
				i += size
				continue
			}
		}
		b = append(b, s[start:i]...)
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c >= utf8.RuneSelf: // not UTF-8, or cut in the middle
			b = append(b, `\ufffd`...)
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}
