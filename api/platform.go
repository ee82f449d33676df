package api

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
)

func (s *Server) listRegions(*call) (rows[resource.Region], error) {
	r := rowsOf(s.cfg.Regions, true, func(r miosa.Region) string { return r.Slug }, func(r miosa.Region) (resource.Region, error) {
		return resource.Region{ID: r.ID, Name: r.Name, Slug: r.Slug, Country: r.Country, City: r.City, Available: r.Available}, nil
	})
	r.whole = true
	return r, nil
}

func (s *Server) listSizes(*call) (rows[resource.Size], error) {
	sizes := miosa.Sizes()
	// Smallest first: their order, not their names', is what a cursor follows.
	order := map[string]string{}
	for n, size := range sizes {
		order[size.Slug] = string(rune('a' + n))
	}
	r := rowsOf(sizes, true, func(z miosa.Size) string { return order[z.Slug] }, func(z miosa.Size) (resource.Size, error) {
		return resource.Size{
			Slug: z.Slug, Name: z.Name, VCPUs: z.Resources.VCPUs, MemoryMB: z.Resources.MemoryMB, DiskGB: z.Resources.DiskMB >> 10,
		}, nil
	})
	r.whole = true
	return r, nil
}

func (s *Server) currentTenant(c *call, _ none) (resource.Tenant, error) {
	c.etag = c.tenant.Revision
	return tenantResource(c.tenant), nil
}

// plain serves what needs no key and has no envelope; nil: nothing is there.
func (s *Server) plain(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := r.Context().Value(requestIDKey{}).(string)
		switch {
		case h == nil:
			s.fail(w, r, id, unknownPath())
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			s.fail(w, r, id, &miosa.Error{Code: errMethod, Message: "this path takes GET, HEAD"})
		default:
			h(w, r)
		}
	})
}

func (s *Server) document(media string, body func() []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", media)
		w.Header().Set("Cache-Control", "no-cache")
		_, _ = w.Write(body())
	}
}

// healthz: the process answers.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	writeHealth(w, http.StatusOK, "ok")
}

// readyz: the platform can do its work.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	_, err := s.store.Revision(ctx)
	if err == nil && s.ready != nil {
		err = s.ready(ctx)
	}
	if err != nil {
		s.log.Warn("not ready", "err", err)
		writeHealth(w, http.StatusServiceUnavailable, "unavailable")
		return
	}
	writeHealth(w, http.StatusOK, "ok")
}

func writeHealth(w http.ResponseWriter, status int, word string) {
	raw, err := json.Marshal(resource.Health{Status: word})
	if err != nil { // one string: cannot be
		raw = []byte(`{}`)
	}
	writeJSON(w, status, raw)
}
