package client

import (
	"context"
	"errors"
	"iter"
	"strconv"

	"github.com/miosa/miosa/api/resource"
)

// Events lists what happened to a deployment ("": to the whole tenant),
// newest first.
func (c *Client) Events(ctx context.Context, deployment string, options ...Option) iter.Seq2[resource.Event, error] {
	return list[resource.Event](ctx, c, eventsPath(deployment), options)
}

func eventsPath(deployment string) string {
	if deployment == "" {
		return "/events"
	}
	return of(deployment, "/events")
}

// Follow yields the newest backlog events (at least one) in the order they
// happened, and then each as it happens, until ctx ends. A connection that
// breaks is made again where it broke: no event is left out or comes twice.
func (c *Client) Follow(ctx context.Context, deployment string, backlog int, options ...Option) iter.Seq2[resource.Event, error] {
	return func(yield func(resource.Event, error) bool) {
		last := ""
		for failures := 0; ; {
			at := append([]Option{Query("limit", strconv.Itoa(max(backlog, 1)))}, options...)
			more, err := subscribe(ctx, c, eventsPath(deployment), &last, at, func() { failures = 0 }, yield)
			if !more || ctx.Err() != nil {
				return
			}
			// Without a place to resume from, what was not seen is not missed.
			failures++
			if e, ok := errors.AsType[*Error](err); ok && !again(e) || failures > c.attempts {
				yield(resource.Event{}, err)
				return
			}
			if pause(ctx, failures, err) != nil {
				return
			}
		}
	}
}
