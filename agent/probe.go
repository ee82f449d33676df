package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/miosa/miosa/health"
	"github.com/miosa/miosa/lifecycle"
)

// probeBody bounds how much of an answer is read.
const probeBody = 64 << 10

// probeClient makes one connection a probe, with dial, follows nothing and asks
// no proxy.
func probeClient(dial func(ctx context.Context, proto, addr string) (net.Conn, error)) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true, DisableCompression: true,
			DialContext:            dial,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// probe asks the app once, beside the actor, and posts what came of it.
func (x *actor) probe(e lifecycle.Probe) {
	b := x.boot
	addr := x.machine.Observation().Addr
	if b == nil || !addr.IsValid() {
		x.a.wg.Go(func() {
			x.post(lifecycle.Probed{Boot: e.Boot, Result: health.Result{At: time.Now().UTC(), Detail: "the instance has no address yet"}})
		})
		return
	}
	ctx := b.ctx
	x.a.wg.Go(func() {
		began := time.Now()
		result := ask(ctx, x.a.probes, "http://"+addr.String(), e.Check.Path, e.Check.Timeout)
		x.probed(began, result)
		x.post(lifecycle.Probed{Boot: e.Boot, Result: result})
	})
}

// probed counts one health check that was carried out.
func (x *actor) probed(began time.Time, result health.Result) {
	if !result.OK {
		x.a.counters.probeFailures.Inc()
		return
	}
	took := time.Since(began)
	x.a.counters.probeSeconds.Observe(took.Seconds())
	x.figures.probed(time.Now(), took)
}

func ask(ctx context.Context, client *http.Client, base, path string, timeout time.Duration) health.Result {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil)
	if err != nil {
		return health.Result{At: time.Now().UTC(), Detail: "the health check path is no valid path"}
	}
	req.Header.Set("User-Agent", "miosa-health/1")
	resp, err := client.Do(req)
	now := time.Now().UTC()
	if err != nil {
		return health.Result{At: now, Detail: refusal(err, timeout)}
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, probeBody)); err != nil {
		return health.Result{At: now, Detail: "the answer broke off"}
	}
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return health.Result{At: now, OK: true, Detail: fmt.Sprintf("answered %d", code)}
	case code >= 300 && code < 400:
		return health.Result{At: now, Detail: fmt.Sprintf("answered %d, a redirect; the health check path itself must answer 2xx", code)}
	default:
		return health.Result{At: now, Detail: fmt.Sprintf("answered %d", code)}
	}
}

func refusal(err error, timeout time.Duration) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer within " + timeout.String()
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection was closed before an answer"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "the instance cannot be reached"
	case errors.Is(err, context.Canceled):
		return "called off"
	}
	return "no valid HTTP answer"
}
