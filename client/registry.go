package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"github.com/miosa/miosa/api/resource"
)

// Registries lists the logins to registries, newest first; never their secrets.
func (c *Client) Registries(ctx context.Context, options ...Option) iter.Seq2[resource.Registry, error] {
	return list[resource.Registry](ctx, c, "/registries", options)
}

// SetRegistry logs in to a registry, in place of a former login if there is one.
func (c *Client) SetRegistry(ctx context.Context, in resource.RegistrySet, options ...Option) (resource.Registry, error) {
	return do[resource.Registry](ctx, c, http.MethodPost, "/registries", in, options...)
}

// DeleteRegistry forgets a login, by its registry's host or its ID.
func (c *Client) DeleteRegistry(ctx context.Context, host string, options ...Option) (resource.Deleted, error) {
	return do[resource.Deleted](ctx, c, http.MethodDelete, "/registries/"+url.PathEscape(host), nil, options...)
}
