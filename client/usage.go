package client

import (
	"context"
	"io"
	"iter"
	"net/http"

	"github.com/miosa/miosa/api/resource"
)

// UsageSummary is what the tenant used in the present month so far; in another
// period with Query("month", "2026-11"), or Query("since", …) and
// Query("until", …).
func (c *Client) UsageSummary(ctx context.Context, options ...Option) (resource.UsageSummary, error) {
	return get[resource.UsageSummary](ctx, c, "/usage/summary", options...)
}

// Usage lists what was used, by deployment unless Query("group_by", …) says
// otherwise.
func (c *Client) Usage(ctx context.Context, options ...Option) iter.Seq2[resource.UsageGroup, error] {
	return list[resource.UsageGroup](ctx, c, "/usage", options)
}

// AllUsage is Usage of all tenants, for an admin key.
func (c *Client) AllUsage(ctx context.Context, options ...Option) iter.Seq2[resource.UsageGroup, error] {
	return list[resource.UsageGroup](ctx, c, "/admin/usage", options)
}

// UsageTable writes what was used as CSV (RFC 4180).
func (c *Client) UsageTable(ctx context.Context, to io.Writer, options ...Option) error {
	r, err := c.request(http.MethodGet, "/usage.csv", nil, options)
	if err != nil {
		return err
	}
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(to, resp.Body)
	return err
}
