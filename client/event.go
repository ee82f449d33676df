package client

import (
	"context"
	"iter"
	"net/url"
	"strconv"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
)

// Events lists what happened to a subject, newest first: to a deployment (by ID
// or slug), a service, an instance or, for the operator's key, on a host; ""
// is the whole tenant.
func (c *Client) Events(ctx context.Context, subject string, options ...Option) iter.Seq2[resource.Event, error] {
	return list[resource.Event](ctx, c, eventsPath(subject), options)
}

func eventsPath(subject string) string {
	id := url.PathEscape(subject)
	switch miosa.IDPrefix(subject) {
	case miosa.PrefixInstance:
		return "/runtime-instances/" + id + "/events"
	case miosa.PrefixService:
		return "/services/" + id + "/events"
	case miosa.PrefixHost:
		return "/admin/hosts/" + id + "/events"
	}
	if subject == "" {
		return "/events"
	}
	return of(subject, "/events")
}

// Follow yields the newest backlog events (at least one) in the order they
// happened, and then each as it happens, until ctx ends. A connection that
// breaks is made again where it broke: no event is left out or comes twice.
func (c *Client) Follow(ctx context.Context, subject string, backlog int, options ...Option) iter.Seq2[resource.Event, error] {
	return func(yield func(resource.Event, error) bool) {
		last := ""
		for failures := 0; ; {
			at := append([]Option{Query("limit", strconv.Itoa(max(backlog, 1)))}, options...)
			more, err := subscribe(ctx, c, eventsPath(subject), &last, at, func() { failures = 0 }, yield)
			if !more || ctx.Err() != nil {
				return
			}
			// Without a place to resume from, what was not seen is not missed.
			failures++
			if !c.resumes(err, last != "") || failures > c.attempts {
				yield(resource.Event{}, err)
				return
			}
			if pause(ctx, failures, err) != nil {
				return
			}
		}
	}
}
