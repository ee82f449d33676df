package api

import (
	"fmt"
	"net/http"
	"reflect"
	"strings"

	"github.com/miosa/miosa/api/resource"
)

// access says whose keys a route is for.
type access int

const (
	accessOpen   access = iota // no key
	accessTenant               // a user's or platform key: its own tenant
	accessAdmin                // the operator's key
)

// route is one operation of the API: what the mux, the OpenAPI document, the
// reference page and the tests that walk all routes are made from.
type route struct {
	Method    string
	Pattern   string // below BasePath, as ServeMux has it
	Access    access
	Operation string // operationId
	Tag       string
	Summary   string
	Notes     string // more, for the document
	Status    int    // of success; 0: 200
	Also      []int  // further successes
	Query     []param
	Upload    bool // the body is an artefact, not JSON
	// SecretReply: the answer holds a credential, so that a response kept for
	// an idempotency key is kept encrypted.
	SecretReply bool
	// Dry: it changes nothing, so that no answer is kept for an idempotency key.
	Dry    bool
	Handle handler
	// Stream serves the same thing as server-sent events, to who asks for it.
	Stream func(s *Server, c *call, w http.ResponseWriter) error
	// WebSocket serves it over one, to who asks for that.
	WebSocket func(s *Server, c *call, w http.ResponseWriter) error
	// Text serves it as plain text, to who asks for that.
	Text func(s *Server, c *call, w http.ResponseWriter) error
	// CSV serves it as a table, to who asks for that; always, when the pattern
	// ends with .csv.
	CSV func(s *Server, c *call, w http.ResponseWriter) error
}

// param is a query parameter of a route.
type param struct{ Name, Doc string }

func (r *route) status() int {
	if r.Status == 0 {
		return http.StatusOK
	}
	return r.Status
}

// table reports whether the route serves nothing but CSV.
func (r *route) table() bool { return strings.HasSuffix(r.Pattern, ".csv") }

func (r *route) mutates() bool { return r.Method != http.MethodGet }

// handler is a typed function with its types kept for the document.
type handler struct {
	in, out reflect.Type
	list    bool
	own     bool // a list with parameters of its own
	stretch bool // a list that nobody counts: cursors only
	bare    bool // the answer is out itself, without an envelope
	run     func(s *Server, c *call, body []byte) (any, error)
}

// none is the body of a route that takes none.
type none struct{}

// one is a route from one body to one resource.
func one[In, Out any](fn func(s *Server, c *call, in In) (Out, error)) handler {
	in := reflect.TypeFor[In]()
	return handler{
		in: in, out: reflect.TypeFor[Out](),
		run: func(s *Server, c *call, body []byte) (any, error) {
			var v In
			if in != reflect.TypeFor[none]() {
				if err := s.decode(c.r.Context(), body, &v); err != nil {
					return nil, err
				}
			}
			out, err := fn(s, c, v)
			if err != nil {
				return nil, err
			}
			return resource.Object[Out]{Data: out}, nil
		},
	}
}

// bare is a route to something that brings its own envelope.
func bare[Out any](fn func(s *Server, c *call) (Out, error)) handler {
	return handler{
		in: reflect.TypeFor[none](), out: reflect.TypeFor[Out](), bare: true,
		run: func(s *Server, c *call, _ []byte) (any, error) { return fn(s, c) },
	}
}

// many is a route to a list.
func many[Out any](fn func(s *Server, c *call) (rows[Out], error)) handler {
	return handler{
		in: reflect.TypeFor[none](), out: reflect.TypeFor[Out](), list: true,
		run: func(s *Server, c *call, _ []byte) (any, error) {
			all, err := fn(s, c)
			if err != nil {
				return nil, err
			}
			return paginate(c, all)
		},
	}
}

// listing is a route to a list that brings its own page, and parameters of its own.
func listing[Out any](fn func(s *Server, c *call) (resource.Listing[Out], error)) handler {
	return handler{
		in: reflect.TypeFor[none](), out: reflect.TypeFor[Out](), list: true, own: true,
		run: func(s *Server, c *call, _ []byte) (any, error) { return fn(s, c) },
	}
}

// stretch is a route to a part of a list that is too long to count.
func stretch[Out any](fn func(s *Server, c *call) (resource.Stretch[Out], error)) handler {
	return handler{
		in: reflect.TypeFor[none](), out: reflect.TypeFor[Out](), list: true, own: true, stretch: true,
		run: func(s *Server, c *call, _ []byte) (any, error) { return fn(s, c) },
	}
}

// manyFrom is a route from a body to a list.
func manyFrom[In, Out any](fn func(s *Server, c *call, in In) (rows[Out], error)) handler {
	return handler{
		in: reflect.TypeFor[In](), out: reflect.TypeFor[Out](), list: true,
		run: func(s *Server, c *call, body []byte) (any, error) {
			var in In
			if err := s.decode(c.r.Context(), body, &in); err != nil {
				return nil, err
			}
			all, err := fn(s, c, in)
			if err != nil {
				return nil, err
			}
			return paginate(c, all)
		},
	}
}

// register puts the routes on the mux: one entry a path, which picks by
// method, so that a wrong method is answered like everything else.
func (s *Server) register(all []*route) error {
	paths := map[string]map[string]*route{}
	for _, r := range all {
		path := BasePath + r.Pattern
		if paths[path] == nil {
			paths[path] = map[string]*route{}
		}
		if paths[path][r.Method] != nil {
			return fmt.Errorf("api: %s %s is listed twice", r.Method, r.Pattern)
		}
		paths[path][r.Method] = r
	}
	for path, methods := range paths {
		s.mux.Handle(path, s.dispatch(methods))
	}
	for path, h := range map[string]http.HandlerFunc{
		"/healthz":                 s.healthz,
		"/readyz":                  s.readyz,
		BasePath + "/openapi.json": s.document("application/json", func() []byte { return s.openapi }),
		BasePath + "/reference":    s.document("text/html; charset=utf-8", func() []byte { return s.reference }),
	} {
		s.mux.Handle(path, s.plain(h))
	}
	s.mux.Handle("/", s.plain(nil))
	return nil
}

// tag is the first segment of the pattern unless the route names one.
func (r *route) tag() string {
	if r.Tag != "" {
		return r.Tag
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(r.Pattern, "/"), "/")
	return first
}
