package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miosa/miosa"
)

// call is one request on its way through the API.
type call struct {
	s      *Server
	r      *http.Request
	w      http.ResponseWriter // for streams and read deadlines; answers go through reply
	route  *route
	id     string // request ID
	key    miosa.APIKey
	tenant miosa.Tenant // none for an admin key

	credential string // the API key itself
	retry      *retry // nil without an idempotency key
	made       made

	status int   // of success
	etag   int64 // revision of the object answered with; 0: none
}

// reply is a finished answer.
type reply struct {
	Status int    `json:"status"`
	ETag   string `json:"etag,omitempty"`
	Body   []byte `json:"body"`
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x, r := begin(w, r)
	s.serve(x, r)
	x.end(r)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
	id, err := s.requestID(r)
	if err != nil {
		s.log.Error("mint request id", "err", err)
		writeProblem(w, http.StatusInternalServerError, problemOf(err, ""))
		return
	}
	h.Set("X-Request-ID", id)
	defer s.recover(w, r, id)
	r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
	// The mux would redirect, in its own words, to a cleaned path.
	if p := r.URL.Path; p == "" || p[0] != '/' || path.Clean(p) != p {
		s.fail(w, r, id, unknownPath())
		return
	}
	s.mux.ServeHTTP(w, r)
}

type requestIDKey struct{}

func unknownPath() error { return notFound("route_not_found", "there is nothing at this path") }

// requestID is the caller's own if it is sane: 1–128 letters, digits, dots,
// dashes, underscores and colons.
func (s *Server) requestID(r *http.Request) (string, error) {
	id := r.Header.Get("X-Request-ID")
	if id == "" || len(id) > 128 {
		return s.newID(miosa.PrefixRequest)
	}
	for i := range len(id) {
		c := id[i]
		if !alphanumeric(rune(c)) && strings.IndexByte("._-:", c) < 0 {
			return s.newID(miosa.PrefixRequest)
		}
	}
	return id, nil
}

func alphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// recover turns a panic into a 500 that says nothing of it.
func (s *Server) recover(w http.ResponseWriter, r *http.Request, id string) {
	p := recover()
	if p == nil {
		return
	}
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p)
	}
	s.log.Error("request panicked", "request", id, "method", r.Method, "path", r.URL.Path,
		"panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	err := fmt.Errorf("panic: %v", p)
	writeProblem(w, http.StatusInternalServerError, problemOf(err, id))
}

// fail answers with an error and logs what is our own fault.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, id string, err error) {
	status, body := problem(err, id)
	if status >= 500 && !isContext(err) {
		s.log.Error("request failed", "request", id, "method", r.Method, "path", r.URL.Path, "status", status, "err", err)
	}
	writeProblem(w, status, body)
}

// dispatch picks the route of a path by method.
func (s *Server) dispatch(methods map[string]*route) http.Handler {
	allowed := slices.Sorted(maps.Keys(methods))
	if methods[http.MethodGet] != nil {
		allowed = append(allowed, http.MethodHead)
	}
	allow := strings.Join(allowed, ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet // net/http leaves the body out
		}
		id, _ := r.Context().Value(requestIDKey{}).(string)
		route := methods[method]
		if route == nil {
			w.Header().Set("Allow", allow)
			s.fail(w, r, id, &miosa.Error{Code: errMethod, Message: "this path takes " + allow})
			return
		}
		c := &call{s: s, r: r, w: w, route: route, id: id, status: route.status()}
		if err := c.serve(); err != nil {
			s.fail(w, r, id, err)
		}
	})
}

// serve runs the route. An error is answered by the caller.
func (c *call) serve() error {
	ctx := c.r.Context()
	if c.route.Access != accessOpen {
		var err error
		if c.key, c.credential, err = c.s.authenticate(ctx, c.r); err != nil {
			return err
		}
		if c.tenant, err = c.s.admit(ctx, c.route, c.key); err != nil {
			return err
		}
	}
	if c.route.WebSocket != nil && wantsWebSocket(c.r) {
		return c.route.WebSocket(c.s, c, c.w)
	}
	if c.route.Stream != nil && wantsStream(c.r) {
		return c.route.Stream(c.s, c, c.w)
	}
	if c.route.Text != nil && wantsText(c.r) {
		return c.route.Text(c.s, c, c.w)
	}
	if c.route.CSV != nil && (c.route.table() || wantsCSV(c.r)) {
		return c.route.CSV(c.s, c, c.w)
	}
	if c.route.mutates() {
		if err := onlyTextIn(c.r.URL.Query()); err != nil {
			return err
		}
	}
	var body []byte
	if c.route.mutates() && !c.route.Upload {
		var err error
		if body, err = readBody(c.w, c.r); err != nil {
			return err
		}
	}
	key := c.r.Header.Get("Idempotency-Key")
	if !c.route.mutates() || c.route.Dry || key == "" {
		answer, err := c.run(body)
		if err != nil {
			return err
		}
		c.write(answer)
		return nil
	}
	answer, err := c.once(key, body)
	if err != nil {
		return err
	}
	c.write(answer)
	return nil
}

// run calls the handler and renders what it returns.
func (c *call) run(body []byte) (reply, error) {
	v, err := c.route.Handle.run(c.s, c, body)
	if err != nil {
		return reply{}, err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return reply{}, fmt.Errorf("render answer: %w", err)
	}
	answer := reply{Status: c.status, Body: raw}
	if c.etag != 0 {
		answer.ETag = etag(c.etag)
	}
	return answer, nil
}

func (c *call) write(answer reply) {
	if answer.ETag != "" {
		c.w.Header().Set("ETag", answer.ETag)
	}
	writeJSON(c.w, answer.Status, answer.Body)
}

func etag(revision int64) string { return `"` + strconv.FormatInt(revision, 10) + `"` }

// ifMatch is the header, all its lines as one list; without a tag: not given.
func (c *call) ifMatch() (list string, given bool) {
	list = strings.Join(c.r.Header.Values("If-Match"), ",")
	return list, strings.Trim(list, ", \t") != ""
}

// match honours If-Match: the object that is about to be changed must have
// one of the revisions that the caller knows.
func (c *call) match(revision int64) error {
	header, given := c.ifMatch()
	if !given {
		return nil
	}
	for tag := range strings.SplitSeq(header, ",") {
		tag = strings.TrimSpace(tag)
		// A weak tag never matches (RFC 9110, 13.1.1), but proxies weaken
		// strong ones when they compress; the revision is exact either way.
		if tag == "*" || strings.TrimPrefix(tag, "W/") == etag(revision) {
			return nil
		}
	}
	return &miosa.Error{
		Code: miosa.Precondition, Public: "precondition_failed",
		Message: "it was changed since you read it (If-Match does not hold): read it again and repeat",
	}
}

// pathID reads an ID from the path. A malformed one can't be there.
func (c *call) pathID(name, prefix, noun string) (string, error) {
	id := c.r.PathValue(name)
	if miosa.IDPrefix(id) != prefix {
		return "", absent(noun, id)
	}
	return id, nil
}

// absent is the 404 of a noun; the same for what is not there and for what
// is somebody else's.
func absent(noun, id string) error {
	if len(id) > 100 {
		id = id[:100] + "…"
	}
	return notFound(strings.ReplaceAll(noun, " ", "_")+"_not_found", fmt.Sprintf("no %s %q", noun, id))
}

// wantsStream reports whether the caller asks for server-sent events.
func wantsStream(r *http.Request) bool {
	return strings.Contains(strings.Join(r.Header.Values("Accept"), ","), "text/event-stream") || isTrue(r.URL.Query().Get("follow"))
}

func isTrue(v string) bool { return v == "true" || v == "1" }

// patience is how long the caller waits for a rollout: 0 when it doesn't.
func (c *call) patience(wanted bool) (time.Duration, error) {
	wait := c.s.cfg.MaxWait
	switch v := c.r.URL.Query().Get("wait"); v {
	case "":
	case "true", "1":
		wanted = true
	case "false", "0":
		wanted = false
	default:
		return 0, invalidField("wait", "must be true or false")
	}
	for _, header := range c.r.Header.Values("Prefer") {
		for preference := range strings.SplitSeq(header, ",") {
			name, value, _ := strings.Cut(strings.TrimSpace(preference), "=")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "respond-async":
				wanted = false
			case "wait":
				// A malformed preference is ignored (RFC 7240).
				if n, err := strconv.Atoi(strings.Trim(value, `" `)); err == nil && n >= 0 {
					wanted = n > 0
					wait = min(time.Duration(min(n, 86400))*time.Second, c.s.cfg.MaxWait)
				}
			}
		}
	}
	if !wanted {
		return 0, nil
	}
	return wait, nil
}

// query is the caller's value of a query parameter, or what stands for none.
func query(q url.Values, name, absent string) string {
	if v := q.Get(name); v != "" {
		return v
	}
	return absent
}
