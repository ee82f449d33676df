package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/store"
)

// eventFilter picks events: those of one deployment, or all that the key may see.
type eventFilter struct {
	prefix     string
	deployment string          // "" : the whole tenant
	deps       map[string]bool // with a restricted key: the deployments it sees
	kinds      []string        // prefixes of Type
	subject    map[string]string
}

func (c *call) eventFilter() (eventFilter, error) {
	q := c.r.URL.Query()
	f := eventFilter{subject: map[string]string{}}
	for _, name := range []string{"service_id", "runtime_instance_id", "version_id", "rollout_id"} {
		if v := q.Get(name); v != "" {
			f.subject[name] = v
		}
	}
	if t := q.Get("type"); t != "" {
		f.kinds = strings.Split(t, ",")
	}
	if c.r.PathValue("id") != "" {
		dep, err := c.deployment()
		f.prefix, f.deployment = store.EventsOf(dep.TenantID, dep.ID), dep.ID
		return f, err
	}
	f.prefix = store.EventsOf(c.tenant.ID, "")
	if c.key.WorkspaceID != "" {
		deps, err := c.deployments()
		if err != nil {
			return f, err
		}
		f.deps = map[string]bool{}
		for id := range deps {
			f.deps[id] = true
		}
	}
	return f, nil
}

func (f eventFilter) passes(e miosa.Event) bool {
	if f.deps != nil && !f.deps[e.DeploymentID] {
		return false
	}
	for name, v := range f.subject {
		is := map[string]string{
			"service_id": e.ServiceID, "runtime_instance_id": e.InstanceID, "version_id": e.VersionID, "rollout_id": e.RolloutID,
		}[name]
		if is != v {
			return false
		}
	}
	return f.kinds == nil || slices.ContainsFunc(f.kinds, func(kind string) bool { return strings.HasPrefix(e.Type, kind) })
}

func (s *Server) listEvents(c *call) (rows[resource.Event], error) {
	f, err := c.eventFilter()
	if err != nil {
		return rows[resource.Event]{}, err
	}
	found, err := collect(c, store.Events, f.prefix, f.passes)
	slices.SortFunc(found, func(a, b miosa.Event) int { return inOrder(b, a) })
	return newest(found, func(e miosa.Event) string { return fmt.Sprintf("%020d:%s", e.Revision, e.ID) }, func(e miosa.Event) (resource.Event, error) {
		return eventResource(e), nil
	}), err
}

// mark is a place in the stream of events: they are ordered by the revision
// that wrote them, and by ID within one.
type mark struct {
	revision int64
	id       string
}

// inOrder is the order of the stream. IDs alone don't give it: several writers
// have several clocks.
func inOrder(a, b miosa.Event) int {
	return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.ID, b.ID))
}

func (m mark) String() string { return strconv.FormatInt(m.revision, 10) + ":" + m.id }

func (m mark) before(e miosa.Event) bool {
	return e.Revision > m.revision || e.Revision == m.revision && e.ID > m.id
}

func parseMark(v string) (mark, bool) {
	revision, id, _ := strings.Cut(v, ":")
	n, err := strconv.ParseInt(revision, 10, 64)
	return mark{n, id}, err == nil && n >= 0
}

// streamEvents sends what has happened since Last-Event-ID, or the newest
// `limit` events, and then each as it happens.
func (s *Server) streamEvents(c *call, w http.ResponseWriter) error {
	f, err := c.eventFilter()
	if err != nil {
		return err
	}
	backlog, err := number(c.r.URL.Query(), "limit", defaultPageSize)
	if err != nil {
		return err
	}
	out, err := startStream(w)
	if err != nil {
		return err
	}
	last, resumed := parseMark(c.r.Header.Get("Last-Event-ID"))
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	batches := make(chan []miosa.Event)
	done := make(chan error, 1)
	go func() {
		done <- s.follow(ctx, f, last, resumed, backlog, func(events []miosa.Event) bool {
			select {
			case batches <- events:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}()
	beat := time.NewTicker(s.cfg.Heartbeat)
	defer beat.Stop()
	for {
		select {
		case events := <-batches:
			for _, e := range events {
				if err := out.send("event", mark{e.Revision, e.ID}.String(), eventResource(e)); err != nil {
					return nil // the client left
				}
			}
			if err := out.flush(); err != nil {
				return nil
			}
		case <-beat.C:
			if err := out.comment("heartbeat"); err != nil {
				return nil
			}
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				s.log.Error("event stream ended", "request", c.id, "err", err)
			}
			return nil
		}
	}
}

// follow gives the events behind a mark, then new ones as they are written,
// each once and in the order of the store, until ctx ends or give says no.
func (s *Server) follow(ctx context.Context, f eventFilter, last mark, resumed bool, backlog int, give func([]miosa.Event) bool) error {
	for {
		revision, err := s.store.Revision(ctx)
		if err != nil {
			return err
		}
		// What the list finds may be newer than the revision, never older:
		// the mark keeps the watch from giving it twice.
		var found []miosa.Event
		for e, err := range store.List(ctx, s.store, store.Events, f.prefix, store.ScanOptions{}) {
			if err != nil {
				return err
			}
			if (!resumed || last.before(e)) && f.passes(e) {
				found = append(found, e)
			}
		}
		slices.SortFunc(found, inOrder)
		if !resumed {
			found = found[max(0, len(found)-backlog):]
		}
		resumed = true
		if last.revision < revision {
			last = mark{revision: revision, id: "~"} // behind everything of it
		}
		if n := len(found); n > 0 {
			if !give(found) {
				return nil
			}
			if m := (mark{found[n-1].Revision, found[n-1].ID}); m.revision > last.revision {
				last = m
			}
		}
		err = s.watchEvents(ctx, f, revision, &last, give)
		if !errors.Is(err, store.ErrCompacted) {
			return err
		}
	}
}

func (s *Server) watchEvents(ctx context.Context, f eventFilter, after int64, last *mark, give func([]miosa.Event) bool) error {
	for batch, err := range s.store.Watch(ctx, f.prefix, after) {
		if err != nil {
			return err
		}
		var fresh []miosa.Event
		for _, change := range batch.Changes {
			if change.Deleted {
				continue
			}
			noun, err := store.Decode(change.Entry)
			if err != nil {
				return err
			}
			if e, ok := noun.(miosa.Event); ok && last.before(e) && f.passes(e) {
				fresh = append(fresh, e)
			}
		}
		slices.SortFunc(fresh, inOrder)
		if n := len(fresh); n > 0 {
			if !give(fresh) {
				return nil
			}
			*last = mark{fresh[n-1].Revision, fresh[n-1].ID}
		}
	}
	return nil
}

// stream writes server-sent events.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func startStream(w http.ResponseWriter) (*stream, error) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	s := &stream{w: w, control: http.NewResponseController(w)}
	// The headers go at once: the client knows that it is connected.
	return s, s.flush()
}

// streamIdle is how long a client may take no byte before it is given up.
const streamIdle = 60 * time.Second

func (s *stream) send(event, id string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(streamIdle))
	_, err = fmt.Fprintf(s.w, "id: %s\nevent: %s\ndata: %s\n\n", id, event, raw)
	return err
}

// place tells where the stream is without an event: what is resumed from.
func (s *stream) place(id string) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(streamIdle))
	if _, err := fmt.Fprintf(s.w, "id: %s\n\n", id); err != nil {
		return err
	}
	return s.flush()
}

func (s *stream) comment(text string) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(streamIdle))
	if _, err := fmt.Fprintf(s.w, ": %s\n\n", text); err != nil {
		return err
	}
	return s.flush()
}

func (s *stream) flush() error {
	if err := s.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}
