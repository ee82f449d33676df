package agent

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/health"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/wire/cell"
)

// probeBody bounds how much of an answer is read.
const probeBody = 64 << 10

// dialer connects to an app.
type dialer = func(ctx context.Context, proto, addr string) (net.Conn, error)

// prober asks the apps of a host how they are. Each check has a connection of
// its own: what is asked is whether a new client would be served.
type prober struct {
	dial dialer
	http *http.Transport // asks no proxy
	h2c  *http.Transport // the same over HTTP/2, without TLS where the check has none
}

func newProber(dial dialer) prober {
	transport := func(protocols func(*http.Protocols)) *http.Transport {
		p := new(http.Protocols)
		protocols(p)
		return &http.Transport{
			DisableKeepAlives: true, DisableCompression: true,
			DialContext:            dial,
			MaxResponseHeaderBytes: 64 << 10,
			Protocols:              p,
			// The check goes to the instance alone, whose certificate is
			// its own.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
		}
	}
	return prober{
		dial: dial,
		http: transport(func(p *http.Protocols) { p.SetHTTP1(true) }),
		h2c:  transport(func(p *http.Protocols) { p.SetHTTP2(true); p.SetUnencryptedHTTP2(true) }),
	}
}

// subject is what one boot's health checks need to know besides the check.
type subject struct {
	addr   string
	h2c    bool
	public *url.URL          // where users reach it; without a host: not known
	env    map[string]string // what ${NAME} in a header stands for
}

// probe asks the app once, beside the actor, and posts what came of it.
func (x *actor) probe(e lifecycle.Probe) {
	b := x.boot
	addr := x.machine.Observation().Addr
	worker := x.machine.Instance().Spec.Port == 0
	x.a.wg.Go(func() {
		if b == nil || !addr.IsValid() && !worker {
			x.post(lifecycle.Probed{Boot: e.Boot, Result: health.Result{At: time.Now().UTC(), Detail: "the instance has no address yet"}})
			return
		}
		ctx, cancel := context.WithTimeout(b.ctx, e.Check.Timeout)
		defer cancel()
		began := time.Now()
		var detail string
		var err error
		if e.Type == miosa.HealthExec {
			detail, err = b.execute(ctx, e.Check)
		} else {
			var s subject
			if s, err = b.subject(addr.String(), e.Check); err == nil {
				detail, err = x.a.prober.ask(ctx, e.Type, e.Check, s)
			}
		}
		result := health.Result{At: time.Now().UTC(), OK: err == nil, Detail: detail}
		if err != nil {
			result.Detail = refusal(err, e.Check.Timeout)
		}
		x.probed(began, result)
		x.post(lifecycle.Probed{Boot: e.Boot, Result: result})
	})
}

// subject is what a check needs to know of the boot. The boot spec is opened
// once for that, and again each time that a header asks for a variable: no
// secret of it stays in memory.
func (b *boot) subject(addr string, check miosa.HealthCheck) (subject, error) {
	s := subject{addr: addr, h2c: b.in.Spec.Protocol == miosa.ProtocolH2C}
	wants := slices.ContainsFunc(check.Headers, func(h miosa.Header) bool { return strings.Contains(h.Value, "${") })
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.public == nil || wants {
		plain, err := b.x.a.cfg.Opener.Open(b.sealed, []byte(b.x.id))
		if err != nil {
			return s, probeFailure("the boot spec cannot be opened")
		}
		spec, err := cell.DecodeBootSpec(plain)
		if err != nil {
			return s, probeFailure("the boot spec cannot be read")
		}
		if b.public, err = url.Parse(spec.PublicURL); err != nil {
			b.public = &url.URL{}
		}
		if wants {
			s.env = make(map[string]string, len(spec.Env))
			for _, kv := range spec.Env {
				name, value, _ := strings.Cut(kv, "=")
				s.env[name] = value
			}
		}
	}
	s.public = b.public
	return s, nil
}

// probeFailure is a check's failure in words that are its own.
type probeFailure string

func (f probeFailure) Error() string { return string(f) }

// ask carries out one check: what it saw in words, or why it failed.
func (p prober) ask(ctx context.Context, how miosa.HealthType, check miosa.HealthCheck, s subject) (detail string, err error) {
	switch how {
	case miosa.HealthTCP:
		conn, err := p.dial(ctx, "tcp", s.addr)
		if err != nil {
			return "", err
		}
		_ = conn.Close()
		return "accepted a connection", nil
	case miosa.HealthGRPC:
		return p.askGRPC(ctx, check, s)
	case miosa.HealthHTTP:
		return p.askHTTP(ctx, check, s)
	}
	return "", probeFailure(fmt.Sprintf("this host knows no health check of type %q: upgrade it", how))
}

// askHTTP makes the request that a user would make through the router.
func (p prober) askHTTP(ctx context.Context, check miosa.HealthCheck, s subject) (detail string, err error) {
	path := check.Path
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	transport, scheme := p.http, cmp.Or(check.Scheme, "http")
	if s.h2c {
		transport = p.h2c
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+s.addr+path, nil)
	if err != nil {
		return "", probeFailure("the health check path is no valid path")
	}
	req.Header.Set("User-Agent", "miosa-health/1")
	if s.public.Host != "" {
		req.Host = s.public.Host
		req.Header.Set("X-Forwarded-Proto", s.public.Scheme)
		req.Header.Set("X-Forwarded-Host", s.public.Host)
	}
	if check.Host != "" {
		req.Host = check.Host
		req.Header.Set("X-Forwarded-Host", check.Host)
	}
	for _, h := range check.Headers {
		req.Header.Set(h.Name, expand(h.Value, s.env))
	}
	// By itself the transport would dial again, and again, where an app takes
	// connections over HTTP/2 and no requests.
	conn, err := transport.NewClientConn(ctx, scheme, s.addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	resp, err := conn.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, probeBody)); err != nil {
		return "", probeFailure("the answer broke off")
	}
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return fmt.Sprintf("answered %d", code), nil
	case code >= 300 && code < 400:
		return "", probeFailure(fmt.Sprintf("answered %d, a redirect; the health check path itself must answer 2xx", code))
	default:
		return "", probeFailure(fmt.Sprintf("answered %d", code))
	}
}

// expand puts variables' values in the place of ${NAME}; one that does not
// exist is empty.
func expand(value string, env map[string]string) string {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(value, "${")
		name, after, closed := strings.Cut(rest, "}")
		if !found || !closed {
			out.WriteString(value)
			return out.String()
		}
		out.WriteString(before)
		out.WriteString(env[name])
		value = after
	}
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

// refusal says what a check's failure means.
func refusal(err error, timeout time.Duration) string {
	words, own := errors.AsType[probeFailure](err)
	switch {
	case own:
		return string(words)
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
