package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"github.com/miosa/miosa/api/resource"
)

func drain(id, rest string) string { return "/log-drains/" + url.PathEscape(id) + rest }

// LogDrains lists the tenant's log drains, newest first.
func (c *Client) LogDrains(ctx context.Context, options ...Option) iter.Seq2[resource.LogDrain, error] {
	return list[resource.LogDrain](ctx, c, "/log-drains", options)
}

// LogDrain gets one, and how its delivery goes.
func (c *Client) LogDrain(ctx context.Context, id string) (resource.LogDrain, error) {
	return get[resource.LogDrain](ctx, c, drain(id, ""))
}

// CreateLogDrain makes one: it forwards what is written from then on.
func (c *Client) CreateLogDrain(ctx context.Context, in resource.LogDrainCreate, options ...Option) (resource.LogDrain, error) {
	return do[resource.LogDrain](ctx, c, http.MethodPost, "/log-drains", in, options...)
}

// UpdateLogDrain changes, pauses or resumes one.
func (c *Client) UpdateLogDrain(ctx context.Context, id string, in resource.LogDrainPatch, options ...Option) (resource.LogDrain, error) {
	return do[resource.LogDrain](ctx, c, http.MethodPatch, drain(id, ""), in, options...)
}

// DeleteLogDrain ends one.
func (c *Client) DeleteLogDrain(ctx context.Context, id string, options ...Option) (resource.Deleted, error) {
	return do[resource.Deleted](ctx, c, http.MethodDelete, drain(id, ""), nil, options...)
}

// TestLogDrain sends one marked test line, and returns what the receiver said.
func (c *Client) TestLogDrain(ctx context.Context, id string, options ...Option) (resource.LogDrainTest, error) {
	return do[resource.LogDrainTest](ctx, c, http.MethodPost, drain(id, "/test"), nil, options...)
}
