package client

import (
	"context"
	"net/url"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
)

// Metrics are the figures of an instance, a service or a deployment over the
// last hour, or as Query("since", …), Query("until", …) and Query("step", …)
// say; with Query("by", "instance") those of each instance too.
func (c *Client) Metrics(ctx context.Context, subject string, options ...Option) (resource.Metrics, error) {
	return get[resource.Metrics](ctx, c, metricsPath(subject), options...)
}

// metricsPath is where the figures of a subject are: an instance's or a
// service's ID, or a deployment's ID or slug.
func metricsPath(subject string) string {
	switch miosa.IDPrefix(subject) {
	case miosa.PrefixInstance:
		return "/runtime-instances/" + url.PathEscape(subject) + "/metrics"
	case miosa.PrefixService:
		return "/services/" + url.PathEscape(subject) + "/metrics"
	}
	return of(subject, "/metrics")
}
