package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"github.com/miosa/miosa/api/resource"
)

// The operator's calls need an admin key.

// Tenants lists all tenants, newest first.
func (c *Client) Tenants(ctx context.Context, options ...Option) iter.Seq2[resource.Tenant, error] {
	return list[resource.Tenant](ctx, c, "/admin/tenants", options)
}

// CreateTenant makes one.
func (c *Client) CreateTenant(ctx context.Context, in resource.TenantCreate, options ...Option) (resource.Tenant, error) {
	return do[resource.Tenant](ctx, c, http.MethodPost, "/admin/tenants", in, options...)
}

// UpdateTenant changes one.
func (c *Client) UpdateTenant(ctx context.Context, id string, in resource.TenantPatch, options ...Option) (resource.Tenant, error) {
	return do[resource.Tenant](ctx, c, http.MethodPatch, "/admin/tenants/"+url.PathEscape(id), in, options...)
}

// Plans lists the plans.
func (c *Client) Plans(ctx context.Context, options ...Option) iter.Seq2[resource.Plan, error] {
	return list[resource.Plan](ctx, c, "/admin/plans", options)
}

// CreatePlan makes one.
func (c *Client) CreatePlan(ctx context.Context, in resource.PlanPut, options ...Option) (resource.Plan, error) {
	return do[resource.Plan](ctx, c, http.MethodPost, "/admin/plans", in, options...)
}

// UpdatePlan changes one.
func (c *Client) UpdatePlan(ctx context.Context, name string, in resource.PlanPut, options ...Option) (resource.Plan, error) {
	return do[resource.Plan](ctx, c, http.MethodPatch, "/admin/plans/"+url.PathEscape(name), in, options...)
}

// APIKeys lists the keys, without their secrets.
func (c *Client) APIKeys(ctx context.Context, options ...Option) iter.Seq2[resource.APIKey, error] {
	return list[resource.APIKey](ctx, c, "/admin/api-keys", options)
}

// CreateAPIKey mints one: its secret is in the answer and nowhere else.
func (c *Client) CreateAPIKey(ctx context.Context, in resource.APIKeyCreate, options ...Option) (resource.APIKeyMinted, error) {
	return do[resource.APIKeyMinted](ctx, c, http.MethodPost, "/admin/api-keys", in, options...)
}

// RevokeAPIKey ends one at once.
func (c *Client) RevokeAPIKey(ctx context.Context, id string, options ...Option) (resource.APIKey, error) {
	return do[resource.APIKey](ctx, c, http.MethodDelete, "/admin/api-keys/"+url.PathEscape(id), nil, options...)
}

// Hosts lists the fleet.
func (c *Client) Hosts(ctx context.Context, options ...Option) iter.Seq2[resource.Host, error] {
	return list[resource.Host](ctx, c, "/admin/hosts", options)
}
