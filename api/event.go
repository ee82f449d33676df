package api

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"slices"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/store"
)

// EventReader is where events are read from, in the order of their commits.
type EventReader interface {
	// List is up to limit events of a scope, the newest first, from behind the
	// one with that ID on; with what was committed a moment ago.
	List(ctx context.Context, scope events.Scope, after string, limit int) (page []miosa.Event, more bool, err error)
	// Count is how many there are, the newest most at most; upTo how many of
	// them up to and with the one that after names, all if none of them is it.
	Count(ctx context.Context, scope events.Scope, after string, most int) (total, upTo int, err error)
	// Read yields what is stored of a query. An error is yielded last.
	Read(ctx context.Context, q events.Query) iter.Seq2[events.Entry, error]
	// Follow yields what was stored after the mark and then each event as it
	// comes, once and in order, until ctx ends.
	Follow(ctx context.Context, after events.Mark, scope events.Scope) iter.Seq2[events.Entry, error]
	// Last is the mark of the newest stored event.
	Last(ctx context.Context) (events.Mark, error)
	// Place is the mark of a stored event; of none, held false and one with
	// everything of its time and later behind it.
	Place(ctx context.Context, id string) (m events.Mark, held bool, err error)
}

const (
	maxBacklog = 1000 // that a stream begins with
	// countedEvents bounds what is counted for one page, and how far pages have
	// numbers; cursors go on to the end.
	countedEvents = 10_000
)

// eventRequest is a read of events as it was asked for.
type eventRequest struct {
	events.Scope
	// nothing: the parameters contradict each other or the key.
	nothing bool
}

// eventRequest finds what the path names, and reads the parameters.
func (c *call) eventRequest() (eventRequest, error) {
	r := eventRequest{}
	if err := c.eventSubject(&r.Scope); err != nil {
		return r, err
	}
	q := c.r.URL.Query()
	for _, p := range []struct {
		to           *string
		name, prefix string
	}{
		{&r.TenantID, "tenant_id", miosa.PrefixTenant}, {&r.DeploymentID, "deployment_id", miosa.PrefixDeployment},
		{&r.ServiceID, "service_id", miosa.PrefixService}, {&r.InstanceID, "runtime_instance_id", miosa.PrefixInstance},
		{&r.VersionID, "version_id", miosa.PrefixVersion}, {&r.RolloutID, "rollout_id", miosa.PrefixRollout},
		{&r.TaskID, "task_id", miosa.PrefixTask}, {&r.HostID, "host_id", miosa.PrefixHost},
	} {
		if v := q.Get(p.name); v != "" && (p.name != "tenant_id" || r.Operator) {
			r.narrow(p.to, v, miosa.IDPrefix(v) == p.prefix)
		}
	}
	if w := q.Get("external_workspace_id"); w != "" {
		r.narrow(&r.WorkspaceID, w, true)
	}
	if t := q.Get("type"); t != "" {
		r.Types = strings.Split(t, ",")
	}
	return r, nil
}

// narrow restricts a part of the scope. What the path or the key said stays:
// another value finds nothing, as does one that can't be.
func (r *eventRequest) narrow(to *string, v string, possible bool) {
	switch {
	case !possible, *to != "" && *to != v:
		r.nothing = true
	default:
		*to = v
	}
}

// eventSubject is whose timeline the path names, as far as the key sees.
func (c *call) eventSubject(scope *events.Scope) error {
	if c.route.Access == accessAdmin {
		scope.Operator = true
		if c.r.PathValue("id") == "" {
			return nil
		}
		id, err := c.pathID("id", miosa.PrefixHost, "host")
		if err != nil {
			return err
		}
		scope.HostID = id
		_, err = store.Get(c.r.Context(), c.s.store, store.Hosts, store.HostKey(id))
		return c.orRemembered(scope, err)
	}
	scope.TenantID, scope.WorkspaceID = c.tenant.ID, c.key.WorkspaceID
	switch {
	case strings.HasPrefix(c.route.Pattern, "/services/"):
		id, err := c.pathID("id", miosa.PrefixService, "service")
		if err != nil {
			return err
		}
		scope.ServiceID = id
		_, _, err = c.locateID(id, "service")
		return c.orRemembered(scope, err)
	case strings.HasPrefix(c.route.Pattern, "/runtime-instances/"):
		id, err := c.pathID("ri_id", miosa.PrefixInstance, "runtime instance")
		if err != nil {
			return err
		}
		scope.InstanceID = id
		_, _, err = c.locateID(id, "runtime instance")
		return c.orRemembered(scope, err)
	case c.r.PathValue("id") != "":
		dep, err := c.deployment()
		if scope.DeploymentID = dep.ID; err == nil {
			return nil
		}
		// A slug may have gone to another one since.
		if scope.DeploymentID = c.r.PathValue("id"); miosa.IDPrefix(scope.DeploymentID) != miosa.PrefixDeployment {
			return err
		}
		return c.orRemembered(scope, err)
	}
	return nil
}

// orRemembered is err, unless what is not there any more has a timeline still.
func (c *call) orRemembered(scope *events.Scope, err error) error {
	if miosa.CodeOf(err) != miosa.NotFound {
		return err
	}
	found, _, lerr := c.s.events.List(c.r.Context(), *scope, "", 1)
	if lerr != nil || len(found) > 0 {
		return lerr
	}
	return err
}

func (s *Server) listEvents(c *call) (resource.Listing[resource.Event], error) {
	out := resource.Listing[resource.Event]{Data: []resource.Event{}}
	r, err := c.eventRequest()
	if err != nil {
		return out, err
	}
	q := c.r.URL.Query()
	page, size, err := pageOf(q)
	if err != nil {
		return out, err
	}
	after, skip := "", min(page-1, countedEvents)*size
	if cursor := q.Get("cursor"); cursor != "" {
		key, err := parseCursor(cursor)
		if err != nil {
			return out, err
		}
		if after = eventMark(key); after == "" {
			return out, invalidField("cursor", "is not one that this list gave out")
		}
		skip = 0
	}
	out.Page = resource.Page{Page: page, PageSize: size}
	if r.nothing {
		return out, nil
	}
	ctx := c.r.Context()
	var found []miosa.Event
	more := true
	if skip < countedEvents {
		if found, more, err = s.events.List(ctx, r.Scope, after, skip+size); err != nil {
			return out, err
		}
	}
	// A first page that holds all needs no counting.
	total, before := len(found), 0
	if more || after != "" {
		if total, before, err = s.events.Count(ctx, r.Scope, after, countedEvents); err != nil {
			return out, err
		}
	}
	if after != "" {
		out.Page.Page = before/size + 1
	}
	// Some may have come between the two looks.
	out.Page.Total = max(total, min(before+len(found), countedEvents))
	if found = found[min(skip, len(found)):]; more && len(found) > 0 {
		out.Page.NextCursor = new(makeCursor(found[len(found)-1].ID))
	}
	for _, e := range found {
		out.Data = append(out.Data, eventResource(e))
	}
	return out, nil
}

// eventMark is the event that a cursor or a Last-Event-ID names; "" for what
// is neither. Its ID is all that counts: former versions put the number of its
// commit before it, and a colon.
func eventMark(v string) string {
	if former := strings.LastIndexByte(v, ':'); former >= 0 {
		v = v[former+1:]
	}
	if miosa.IDPrefix(v) != miosa.PrefixEvent {
		return ""
	}
	return v
}

// EventJSON is an event as the API shows it.
func EventJSON(e miosa.Event) ([]byte, error) { return json.Marshal(eventResource(e)) }

// streamEvents sends what has happened since Last-Event-ID, or the newest
// `limit` events, and then each as it happens.
func (s *Server) streamEvents(c *call, w http.ResponseWriter) error {
	r, err := c.eventRequest()
	if err != nil {
		return err
	}
	backlog, err := number(c.r.URL.Query(), "limit", defaultPageSize)
	if err != nil {
		return err
	}
	last := eventMark(c.r.Header.Get("Last-Event-ID"))
	return c.stream(w, "event", func(ctx context.Context, give func(parcel) bool) error {
		if r.nothing {
			return nothingComes(ctx)
		}
		return s.followEvents(ctx, r.Scope, last, min(backlog, maxBacklog), give)
	})
}

// followEvents gives the events behind the one named last, or with "" the
// newest ones, then new ones as they come, each once and in order, until ctx
// ends or give says no.
func (s *Server) followEvents(ctx context.Context, scope events.Scope, last string, backlog int, give func(parcel) bool) error {
	var after events.Mark
	var err error
	if last != "" {
		if after, _, err = s.events.Place(ctx, last); err != nil {
			return err
		}
	} else {
		if after, err = s.events.Last(ctx); err != nil {
			return err
		}
		first, err := s.newestEvents(ctx, scope, after, backlog)
		if err != nil {
			return err
		}
		b := parcel{}
		for _, e := range first {
			b.items = append(b.items, item{e.ID, eventResource(e.Event)})
		}
		if len(first) == 0 {
			// Who comes again before the first event missed none: any of the
			// tenant's is a place.
			newest, err := s.newestEvents(ctx, events.Scope{Operator: scope.Operator, TenantID: scope.TenantID, WorkspaceID: scope.WorkspaceID}, after, 1)
			if err != nil {
				return err
			}
			if len(newest) > 0 {
				b.place = newest[0].ID
			}
		}
		if !give(b) {
			return nil
		}
	}
	for e, err := range s.events.Follow(ctx, after, scope) {
		if err != nil {
			return err
		}
		if !give(parcel{items: []item{{e.ID, eventResource(e.Event)}}}) {
			return nil
		}
	}
	return nil
}

// newestEvents are the last of a scope up to a mark, in order.
func (s *Server) newestEvents(ctx context.Context, scope events.Scope, to events.Mark, limit int) (found []events.Entry, err error) {
	if to == 0 {
		return nil, nil
	}
	for e, err := range s.events.Read(ctx, events.Query{Scope: scope, After: to + 1, Backward: true}) {
		if err != nil {
			return nil, err
		}
		if found = append(found, e); len(found) == limit {
			break
		}
	}
	slices.Reverse(found)
	return found, nil
}
