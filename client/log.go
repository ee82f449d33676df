package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
)

// logsPath is where the logs of a subject are: an instance's or a service's
// ID, or a deployment's ID or slug.
func logsPath(subject string) string {
	switch miosa.IDPrefix(subject) {
	case miosa.PrefixInstance:
		return "/runtime-instances/" + url.PathEscape(subject) + "/logs"
	case miosa.PrefixService:
		return "/services/" + url.PathEscape(subject) + "/logs"
	}
	return of(subject, "/logs")
}

// LogPage reads one page of the logs of an instance, a service or a
// deployment, in time order: the newest lines, unless Query("direction",
// "forward") asks for the oldest. Query("cursor", next_cursor) goes on.
func (c *Client) LogPage(ctx context.Context, subject string, options ...Option) (resource.Stretch[resource.LogLine], error) {
	var page resource.Stretch[resource.LogLine]
	err := c.call(ctx, http.MethodGet, logsPath(subject), nil, &page, options...)
	return page, err
}

// InstanceLogs reads an instance's last lines (at most 1000) as one text.
func (c *Client) InstanceLogs(ctx context.Context, deployment, instance string, options ...Option) (resource.InstanceLogs, error) {
	return get[resource.InstanceLogs](ctx, c, of(deployment, "/runtime-instances/"+url.PathEscape(instance)+"/logs"), options...)
}

// FollowLogs yields the last lines (Query("limit", …), or all from
// Query("since", …) on), and then each as it comes, until ctx ends. A
// connection that breaks is made again where it broke: no line is left out or
// comes twice. lost, which may be nil, is told of each break, and called with
// nil when the server is heard again.
func (c *Client) FollowLogs(ctx context.Context, subject string, lost func(error), options ...Option) iter.Seq2[resource.LogLine, error] {
	if lost == nil {
		lost = func(error) {}
	}
	return func(yield func(resource.LogLine, error) bool) {
		last := ""
		for failures := 0; ; {
			broken := failures > 0
			more, err := subscribe(ctx, c, logsPath(subject), &last, options, func() {
				if broken {
					broken = false
					lost(nil)
				}
				failures = 0
			}, yield)
			if !more || ctx.Err() != nil {
				return
			}
			failures++
			if last == "" && Unreachable(err) {
				yield(resource.LogLine{}, err) // it never was there
				return
			}
			if !c.resumes(err, last != "") || failures > c.attempts {
				yield(resource.LogLine{}, err)
				return
			}
			lost(err)
			if pause(ctx, failures, err) != nil {
				return
			}
		}
	}
}
