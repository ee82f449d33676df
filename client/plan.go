package client

import (
	"context"
	"net/http"

	"github.com/miosa/miosa/api/resource"
)

// Plan says what a publish or a scale would lead to: a dry run.
func (c *Client) Plan(ctx context.Context, deployment string, in resource.DeploymentChange, options ...Option) (resource.DryRun, error) {
	return do[resource.DryRun](ctx, c, http.MethodPost, of(deployment, "/plan"), in, options...)
}

// PlanFleet says what a change would lead to in the whole fleet: a dry run, of
// which the operator's key sees all.
func (c *Client) PlanFleet(ctx context.Context, in resource.FleetChange, options ...Option) (resource.DryRun, error) {
	return do[resource.DryRun](ctx, c, http.MethodPost, "/admin/plan", in, options...)
}
