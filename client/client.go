// Package client talks to a platform's public API. Calls are typed, errors
// carry the API's code and request ID, and what may be repeated safely is:
// every mutation has an idempotency key, so that one whose answer was lost is
// not done twice.
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miosa/miosa/api/resource"
)

// Config says where the API is and who asks.
type Config struct {
	URL string // "http://127.0.0.1:7070"; the path /api/v1 is added
	Key string // msk_…
	// Renew is asked for the key anew when the API refuses it: a platform's own
	// are minted at every start. nil: the key stays.
	Renew     func() (string, error)
	HTTP      *http.Client // nil: one without an overall timeout, as publishes are waited for
	UserAgent string       // "" : "miosa-go"
	// Attempts bounds how often a request is sent, the first included; 0: 5,
	// which waits up to about 4 s in between.
	Attempts int
	// Silence is how long a stream may bring nothing, not even a heartbeat
	// (they come every 15 s), before it counts as broken; 0: 60 s.
	Silence time.Duration
}

// Client is safe for concurrent use.
type Client struct {
	base     string
	key      atomic.Pointer[string]
	renew    func() (string, error)
	http     *http.Client
	agent    string
	attempts int
	silence  time.Duration
	broken   error // of every call
}

// New checks the configuration; it connects to nothing.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("the API's URL %q is not http://… or https://…", cfg.URL)
	}
	if cfg.Key == "" {
		return nil, errors.New("an API key is needed")
	}
	c := &Client{
		base:  strings.TrimSuffix(strings.TrimSuffix(cfg.URL, "/"), "/api/v1") + "/api/v1",
		renew: cfg.Renew, http: cfg.HTTP, agent: cfg.UserAgent, attempts: cfg.Attempts, silence: cfg.Silence,
	}
	c.key.Store(&cfg.Key)
	if c.http == nil {
		c.http = &http.Client{Transport: &http.Transport{
			DialContext: dial, Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 4, IdleConnTimeout: 30 * time.Second, ForceAttemptHTTP2: true,
			ExpectContinueTimeout: 2 * time.Second, // see Upload
		}}
	}
	if c.agent == "" {
		c.agent = "miosa-go"
	}
	if c.attempts == 0 {
		c.attempts = 5
	}
	if c.silence == 0 {
		c.silence = time.Minute
	}
	return c, nil
}

// Broken is a client all of whose calls return err: for one that could not be
// made, where that is to be said no sooner than it is needed.
func Broken(err error) *Client { return &Client{broken: err} }

// Error is an answer of the API that is not a success.
type Error struct {
	Status     int
	Code       string // "deployment_not_found", "name_taken" …
	Message    string // for people
	RequestID  string
	Fields     []resource.ProblemField
	RetryAfter time.Duration // 0: the API did not say
}

func (e *Error) Error() string { return e.Message }

// Code is the API's code of an error, "" when the API did not answer.
func Code(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// Status is the HTTP status of an error, 0 when the API did not answer.
func Status(err error) int {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status
	}
	return 0
}

// Option changes one call.
type Option func(*request)

type request struct {
	method string
	path   string
	query  url.Values
	header http.Header
	// body makes the body anew for each attempt; nil: none. open may be set
	// instead of raw for what is too large for memory.
	raw  []byte
	open func() (io.ReadCloser, int64, error)
	// spent reports whether the body cannot be made anew; nil: it always can.
	spent func() bool
}

// Wait asks to answer only when the rollout that the call begins is decided.
func Wait() Option { return func(r *request) { r.query.Set("wait", "true") } }

// WaitFor is Wait with a limit, in whole seconds; then the call answers with
// how far it has come.
func WaitFor(d time.Duration) Option {
	return func(r *request) { r.header.Set("Prefer", "wait="+strconv.Itoa(int(d/time.Second))) }
}

// Async asks for an answer at once where the call would wait.
func Async() Option { return func(r *request) { r.header.Set("Prefer", "respond-async") } }

// IfMatch has the call fail with 412 unless the object still has the ETag.
func IfMatch(etag string) Option { return func(r *request) { r.header.Set("If-Match", etag) } }

// IdempotencyKey replaces the random one: the same key within 24 hours gets
// the first answer again.
func IdempotencyKey(key string) Option {
	return func(r *request) { r.header.Set("Idempotency-Key", key) }
}

// Query sets a query parameter, e.g. a filter of a list.
func Query(name, value string) Option {
	return func(r *request) {
		if value != "" {
			r.query.Set(name, value)
		}
	}
}

func (c *Client) request(method, path string, body any, options []Option) (*request, error) {
	if c.broken != nil {
		return nil, c.broken
	}
	r := &request{method: method, path: path, query: url.Values{}, header: http.Header{}}
	if body != nil {
		if err := onlyText(body); err != nil {
			return nil, err
		}
		raw, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("write request: %w", err)
		}
		r.raw = raw
		r.header.Set("Content-Type", "application/json")
	}
	if method != http.MethodGet {
		r.header.Set("Idempotency-Key", randomKey())
	}
	for _, o := range options {
		o(r)
	}
	return r, nil
}

func randomKey() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// call sends a request, again where that is safe and may help, and reads the
// answer's data into out (nil: it is dropped).
func (c *Client) call(ctx context.Context, method, path string, body, out any, options ...Option) error {
	r, err := c.request(method, path, body, options)
	if err != nil {
		return err
	}
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	return c.read(resp, out)
}

// read reads a success. All that the API answers with stands in an envelope.
func (c *Client) read(resp *http.Response, out any) error {
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read answer of %s %s: %w", resp.Request.Method, resp.Request.URL.Path, err)
	}
	var envelope struct {
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(raw, &envelope) != nil || envelope.Data == nil {
		return &notAPIError{base: c.origin(), answer: described(resp)}
	}
	if err := json.Unmarshal(raw, out); err != nil {
		return fmt.Errorf("read answer of %s %s: %w", resp.Request.Method, resp.Request.URL.Path, err)
	}
	return nil
}

func (c *Client) origin() string { return strings.TrimSuffix(c.base, "/api/v1") }

// send returns a success, its body open.
func (c *Client) send(ctx context.Context, r *request) (resp *http.Response, err error) {
	err = c.try(ctx, r.spent, func(key string) (err error) {
		resp, err = c.once(ctx, r, key) //nolint:bodyclose // the caller's
		return err
	})
	return resp, err
}

// try does something with the key, again where that may help, until it is spent; nil:
// it never is.
func (c *Client) try(ctx context.Context, spent func() bool, do func(key string) error) error {
	for attempt := 1; ; attempt++ {
		key := *c.key.Load()
		err := do(key)
		if err == nil || spent != nil && spent() {
			return err
		}
		if Status(err) == http.StatusUnauthorized && c.renewed(key) {
			attempt--
			continue
		}
		if attempt >= c.attempts || ctx.Err() != nil || !again(err) {
			return err
		}
		if err := pause(ctx, attempt, err); err != nil {
			return err
		}
	}
}

// renewed reports whether there is another key than the one that was refused.
func (c *Client) renewed(refused string) bool {
	if c.renew == nil {
		return false
	}
	key, err := c.renew()
	if err != nil || key == "" || key == refused {
		return false
	}
	c.key.Store(&key)
	return true
}

// resumes reports whether a stream that broke is worth another try. One that
// was open may find its key refused for a moment: until a platform that was
// started again has said which one is next.
func (c *Client) resumes(err error, wasOpen bool) bool {
	if c.broken != nil {
		return false
	}
	if NotAPI(err) {
		return wasOpen // something may stand in its place while it starts again
	}
	e, ok := errors.AsType[*Error](err)
	return !ok || again(e) || e.Status == http.StatusUnauthorized && wasOpen && c.renew != nil
}

// again reports whether the same request may do better. All mutations have
// an idempotency key, so that a lost answer is no reason not to.
func again(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		_, local := errors.AsType[*localError](err)
		return !local && !NotAPI(err)
	}
	switch e.Status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
		return true
	}
	return e.Code == "idempotency_in_progress"
}

// localError is trouble on our side of the wire: a file that can't be read.
type localError struct{ error }

func (e *localError) Unwrap() error { return e.error }

// pause grows from 100 ms, doubled each time, half of it random.
func pause(ctx context.Context, attempt int, cause error) error {
	d := 100 * time.Millisecond << (attempt - 1)
	if n, err := rand.Int(rand.Reader, big.NewInt(int64(d/2))); err == nil {
		d = d/2 + time.Duration(n.Int64())
	}
	if e, ok := errors.AsType[*Error](cause); ok && e.RetryAfter > d {
		d = e.RetryAfter
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func (c *Client) once(ctx context.Context, r *request, key string) (*http.Response, error) {
	var body io.ReadCloser
	var length int64
	switch {
	case r.open != nil:
		var err error
		if body, length, err = r.open(); err != nil {
			return nil, &localError{err}
		}
	case r.raw != nil:
		body, length = io.NopCloser(bytes.NewReader(r.raw)), int64(len(r.raw))
	}
	target := c.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, body)
	if err != nil {
		return nil, &localError{fmt.Errorf("%s %s: %w", r.method, r.path, err)}
	}
	req.ContentLength = length
	maps.Copy(req.Header, r.header)
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("User-Agent", c.agent)
	if req.Header.Get("Accept") == "" {
		req.Header.Set("Accept", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, &connectionError{base: c.origin(), err: err}
	}
	if resp.StatusCode/100 == 2 {
		if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media == "text/html" {
			resp.Body.Close()
			return nil, &notAPIError{base: c.origin(), answer: described(resp)}
		}
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, c.problem(resp)
}

// notAPIError is an answer of something else than the API.
type notAPIError struct {
	base   string
	answer string // what came
	router bool   // it is a router's own
}

func (e *notAPIError) Error() string {
	if e.router {
		return fmt.Sprintf("%s is the router, where apps are served, not the API: api_url must be the other address that \"miosa up\" prints", e.base)
	}
	return fmt.Sprintf("what answers at %s is not MIOSA's API (it answered %s): api_url must be the API's address, which \"miosa up\" prints", e.base, e.answer)
}

// NotAPI reports whether something else than the API answered.
func NotAPI(err error) bool {
	_, ok := errors.AsType[*notAPIError](err)
	return ok
}

// described is an answer in short.
func described(resp *http.Response) string {
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		return resp.Status
	}
	return resp.Status + ", " + media
}

// connectionError is a request that got no answer.
type connectionError struct {
	base string
	err  error
}

func (e *connectionError) Error() string {
	cause := e.err
	if u, ok := errors.AsType[*url.Error](cause); ok {
		cause = u.Err
	}
	return fmt.Sprintf("no answer from %s: %v", e.base, cause)
}

func (e *connectionError) Unwrap() error { return e.err }

// Unreachable reports whether the API did not answer at all.
func Unreachable(err error) bool {
	_, ok := errors.AsType[*connectionError](err)
	return ok
}

// maxProblem bounds what is read of an error's body.
const maxProblem = 64 << 10

func (c *Client) problem(resp *http.Response) error {
	e := &Error{Status: resp.StatusCode, RequestID: resp.Header.Get("X-Request-ID")}
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	var p resource.Problem
	if json.Unmarshal(raw, &p) == nil && p.Error.Code != "" {
		if p.Error.Code == "unknown_host" || p.Error.Code == "bad_host" {
			return &notAPIError{base: c.origin(), router: true} // the router's codes, see edge/page.go
		}
		e.Code, e.Message, e.Fields = p.Error.Code, p.Error.Message, p.Error.Details.Fields
	} else {
		// Not the API's own words: a proxy's before it, perhaps, that has no
		// answer for the moment.
		switch resp.StatusCode {
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests, http.StatusInternalServerError:
		default:
			return &notAPIError{base: c.origin(), answer: described(resp)}
		}
		e.Message = fmt.Sprintf("the API answered %s", resp.Status)
	}
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		e.RetryAfter = time.Duration(n) * time.Second
	}
	return e
}
