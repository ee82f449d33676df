package registry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/outbound"
	"github.com/miosa/miosa/ration"
)

// Config is how registries are spoken to.
type Config struct {
	Guard  outbound.Guard // where references, redirects and token servers may lead
	Roots  *x509.CertPool // that certificates are signed by; nil: the system's
	Memory *ration.Pool   // what manifests are read with; nil: as much of its own
	// Bytes bounds an image's layers, packed; 0: artifact.DefaultLimits.
	Bytes int64
	// Tries is how often in a row the same request is sent without a byte of
	// success; 0: 5. Pause is the time before the second, doubled each time up to
	// half a minute; 0: 1 s.
	Tries int
	Pause time.Duration
	// Silence is how long a body may bring nothing; 0: 1 minute.
	Silence time.Duration
	// LeastRate is what layers come with at least, all that are on their way together,
	// in bytes a second; 0: 64 KiB. It is measured over RateOver of waiting for them;
	// 0: 2 minutes. What is slower is tried once more, and then given up.
	LeastRate int64
	RateOver  time.Duration
	// Document is how long a manifest or config may take, all tries together but
	// for the pauses between them; 0: 2 minutes.
	Document time.Duration
}

// Login is what a registry knows who asks by.
type Login struct {
	User, Secret string // both "": nobody in particular
	CA           string // certificates that it is trusted by besides the system's, PEM; "": none
}

const (
	longestPause  = 30 * time.Second
	maxRedirects  = 10
	maxDocument   = 4 << 20 // bytes of a manifest or config: an image has at most two in memory
	maxTotalTries = 100     // of one layer, however far each comes
	// documents is what reading one takes at most: its bytes several times over, and
	// 64 Ki values.
	documents = 32 << 20
)

var (
	errSilent    = errors.New("nothing came for too long")
	errSlow      = errors.New("a document took too long")
	errTrickle   = errors.New("layers come too slowly")
	errRedirects = errors.New("too many redirects")
)

// Source is one repository, as one login sees it. It is safe for concurrent use.
type Source struct {
	cfg   Config
	ref   Reference
	login Login
	base  *guarded
	after sync.Map // Retry-After of the last refusal, by host
	pace  pace     // of layers

	// idle are clients that have introduced themselves. One request at a time has
	// each: what go-containerregistry keeps of a token server's answer is not made for
	// more.
	mu   sync.Mutex
	idle []*http.Client // guarded by mu
}

// Open makes a source; nothing is sent yet.
func Open(cfg Config, ref Reference, login Login) (*Source, error) {
	cfg.Bytes = cmp.Or(cfg.Bytes, artifact.DefaultLimits().Bytes)
	cfg.Tries, cfg.Pause, cfg.Silence = cmp.Or(cfg.Tries, 5), cmp.Or(cfg.Pause, time.Second), cmp.Or(cfg.Silence, time.Minute)
	cfg.Document = cmp.Or(cfg.Document, 2*time.Minute)
	cfg.LeastRate, cfg.RateOver = cmp.Or(cfg.LeastRate, 64<<10), cmp.Or(cfg.RateOver, 2*time.Minute)
	if cfg.Memory == nil {
		cfg.Memory = artifact.NewMemory()
	}
	roots := cfg.Roots
	if login.CA != "" {
		if roots != nil {
			roots = roots.Clone()
		} else if system, err := x509.SystemCertPool(); err == nil {
			roots = system
		} else {
			roots = x509.NewCertPool()
		}
		if !roots.AppendCertsFromPEM([]byte(login.CA)) {
			return nil, invalid(CodeTrust, "the certificate authority kept for %s is no certificate", ref.Host)
		}
	}
	s := &Source{cfg: cfg, ref: ref, login: login, pace: pace{rate: cfg.LeastRate, over: cfg.RateOver}}
	plain := outbound.Guard{Allow: cfg.Guard.Allow, Only: true, Cell: cfg.Guard.Cell}
	s.base = &guarded{
		secure: cfg.Guard.ClientTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}).Transport,
		plain:  plain.Client().Transport, allowPlain: ref.Plain, after: &s.after,
	}
	return s, nil
}

// Close lets go of connections.
func (s *Source) Close() {
	for _, t := range []http.RoundTripper{s.base.secure, s.base.plain} {
		if t, ok := t.(*http.Transport); ok {
			t.CloseIdleConnections()
		}
	}
}

// guarded sends what may be sent: without TLS nothing, unless the reference asks
// for that.
type guarded struct {
	secure, plain http.RoundTripper
	allowPlain    bool
	after         *sync.Map
}

func (g *guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	by := g.secure
	if r.URL.Scheme != "https" {
		if by = g.plain; r.URL.Scheme != "http" || !g.allowPlain {
			if r.Body != nil {
				_ = r.Body.Close()
			}
			return nil, errPlain
		}
	}
	resp, err := by.RoundTrip(r)
	if err == nil && resp.StatusCode >= 400 {
		if d := parseAfter(resp.Header.Get("Retry-After"), time.Now()); d > 0 {
			g.after.Store(r.URL.Host, d)
		}
	}
	return resp, err
}

// client is one that nobody else has, until it is given back.
func (s *Source) client(ctx context.Context) (*http.Client, error) {
	s.mu.Lock()
	if n := len(s.idle); n > 0 {
		c := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		return c, nil
	}
	s.mu.Unlock()
	return s.connect(ctx)
}

func (s *Source) giveBack(c *http.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = append(s.idle, c)
}

// connect introduces itself to the registry.
func (s *Source) connect(ctx context.Context) (*http.Client, error) {
	who := authn.Anonymous
	if s.login.User != "" {
		who = authn.FromConfig(authn.AuthConfig{Username: s.login.User, Password: s.login.Secret})
	}
	inner, cancel := context.WithTimeout(ctx, s.cfg.Silence)
	defer cancel()
	by, err := transport.NewWithContext(inner, s.ref.repository.Registry, who, s.base, []string{s.ref.repository.Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: by, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return errRedirects
		}
		return nil
	}}, nil
}

// get asks for something of the repository from a byte on. The body ends when
// nothing comes for too long.
func (s *Source) get(ctx context.Context, path, accept string, from int64) (*http.Response, error) {
	client, err := s.client(ctx)
	if err != nil {
		return nil, err
	}
	scheme := "https"
	if s.ref.Plain {
		scheme = "http" // or what the handshake found
	}
	ctx, cancel := context.WithCancelCause(ctx)
	url := fmt.Sprintf("%s://%s/v2/%s/%s", scheme, s.ref.repository.RegistryStr(), s.ref.Repository, path)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		s.giveBack(client)
		cancel(nil)
		return nil, err
	}
	r.Header.Set("Accept-Encoding", "identity") // the digest is of the bytes as they are kept
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	if from > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	body := &watched{ctx: ctx, cancel: cancel, silence: s.cfg.Silence}
	body.timer = time.AfterFunc(s.cfg.Silence, func() { cancel(errSilent) })
	resp, err := client.Do(r)
	s.giveBack(client)
	if err != nil {
		body.end()
		if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
			err = cause
		}
		return nil, err
	}
	body.ReadCloser = resp.Body
	resp.Body = body
	// What is said of a failure has no longer than the answer itself.
	body.bounded = resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent
	if err := transport.CheckError(resp, http.StatusOK, http.StatusPartialContent); err != nil {
		_ = resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// watched is a body that may not be silent for long.
type watched struct {
	io.ReadCloser
	ctx     context.Context // of the one request
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	silence time.Duration
	bounded bool // silence is for all of it
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if n > 0 && !w.bounded {
		w.timer.Reset(w.silence)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		if cause := context.Cause(w.ctx); errors.Is(cause, errSilent) {
			err = cause
		}
	}
	return n, err
}

func (w *watched) end() {
	w.timer.Stop()
	w.cancel(nil)
}

func (w *watched) Close() error {
	err := w.ReadCloser.Close()
	w.end()
	return err
}

// again calls fn until it succeeds, fails for good, or has failed too often in
// a row. fn says whether it came further, which begins the count anew.
func (s *Source) again(ctx context.Context, what string, fn func() (further bool, err error)) error {
	pause, failed := s.cfg.Pause, 0
	for total := 1; ; total++ {
		further, err := fn()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if further {
			pause, failed = s.cfg.Pause, 0
		}
		failed++
		err = s.explain(err, what)
		f, ok := errors.AsType[*failure](err)
		switch {
		case !ok:
			return err
		case !f.again, f.after > longestAfter:
			return f.refusal
		case failed >= s.cfg.Tries, total >= maxTotalTries:
			if !f.quiet {
				f.Message = fmt.Sprintf("%s (tried %d times)", f.Message, total)
			}
			return f.refusal
		}
		select {
		case <-time.After(max(pause, f.after)):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause = min(2*pause, longestPause)
	}
}

// document reads a manifest or config whole and checks its digest; "": none is
// known.
func (s *Source) document(ctx context.Context, path, accept, digest, what string) (raw []byte, mediaType string, err error) {
	left := s.cfg.Document
	err = s.again(ctx, what, func() (bool, error) {
		began := time.Now()
		inner, cancel := context.WithTimeoutCause(ctx, left, errSlow)
		defer cancel()
		var header http.Header
		var err error
		raw, header, err = s.documentOnce(inner, path, accept, what)
		left -= time.Since(began)
		if err != nil {
			if cause := context.Cause(inner); errors.Is(cause, errSlow) {
				err = cause
			}
			return false, err
		}
		mediaType, _, _ = strings.Cut(header.Get("Content-Type"), ";")
		sum := digestOf(raw)
		if digest == "" {
			// The tag's digest is what the registry says it is; where it says
			// something else than the bytes do, one of them is not the image's.
			digest = strings.TrimSpace(header.Get("Docker-Content-Digest"))
			if checkDigest(digest) != nil || schema1(mediaType, raw) {
				digest = sum
			}
		}
		if sum != digest {
			return false, invalid(CodeDigest, "%s gave bytes for %s that have the digest %s, not %s: they were changed on the way, or the registry is damaged", s.ref.Host, what, sum, digest)
		}
		return false, nil
	})
	return raw, strings.TrimSpace(mediaType), err
}

func (s *Source) documentOnce(ctx context.Context, path, accept, what string) ([]byte, http.Header, error) {
	resp, err := s.get(ctx, path, accept, 0)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.ContentLength > maxDocument {
		return nil, nil, documentTooLarge(what)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	if err != nil {
		return nil, nil, err
	}
	if len(raw) > maxDocument {
		return nil, nil, documentTooLarge(what)
	}
	return raw, resp.Header, nil
}

func documentTooLarge(what string) error {
	e := miosa.Errorf(miosa.TooLarge, "%s is described in more than %d bytes, which is the limit", what, maxDocument)
	e.Public = CodeTooLarge
	return e
}

func digestOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}
