package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"
	"strconv"

	"github.com/miosa/miosa/api/resource"
)

func get[T any](ctx context.Context, c *Client, path string, options ...Option) (T, error) {
	return do[T](ctx, c, http.MethodGet, path, nil, options...)
}

func do[T any](ctx context.Context, c *Client, method, path string, body any, options ...Option) (T, error) {
	var out resource.Object[T]
	err := c.call(ctx, method, path, body, &out, options...)
	return out.Data, err
}

// list yields every item of a list, page by page.
func list[T any](ctx context.Context, c *Client, path string, options []Option) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		cursor := ""
		for {
			var page resource.Listing[T]
			at := append([]Option{Query("limit", strconv.Itoa(pageSize)), Query("cursor", cursor)}, options...)
			if err := c.call(ctx, http.MethodGet, path, nil, &page, at...); err != nil {
				var none T
				yield(none, err)
				return
			}
			for _, v := range page.Data {
				if !yield(v, nil) {
					return
				}
			}
			if page.Page.NextCursor == nil {
				return
			}
			cursor = *page.Page.NextCursor
		}
	}
}

const pageSize = 100

// Collect gathers a list into a slice, never nil.
func Collect[T any](seq iter.Seq2[T, error]) ([]T, error) {
	all := []T{}
	for v, err := range seq {
		if err != nil {
			return all, err
		}
		all = append(all, v)
	}
	return all, nil
}

func of(deployment, rest string) string {
	return "/deployments/" + url.PathEscape(deployment) + rest
}

// Deployments lists the tenant's deployments, newest first.
func (c *Client) Deployments(ctx context.Context, options ...Option) iter.Seq2[resource.Deployment, error] {
	return list[resource.Deployment](ctx, c, "/deployments", options)
}

// Deployment gets one by ID or slug.
func (c *Client) Deployment(ctx context.Context, id string) (resource.Deployment, error) {
	return get[resource.Deployment](ctx, c, of(id, ""))
}

// CreateDeployment makes one; its code is name_taken when the name is.
func (c *Client) CreateDeployment(ctx context.Context, in resource.DeploymentCreate, options ...Option) (resource.Deployment, error) {
	return do[resource.Deployment](ctx, c, http.MethodPost, "/deployments", in, options...)
}

// UpdateDeployment changes one.
func (c *Client) UpdateDeployment(ctx context.Context, id string, in resource.DeploymentPatch, options ...Option) (resource.Deployment, error) {
	return do[resource.Deployment](ctx, c, http.MethodPatch, of(id, ""), in, options...)
}

// DeleteDeployment deletes one with everything in it.
func (c *Client) DeleteDeployment(ctx context.Context, id string, options ...Option) (resource.Deleted, error) {
	return do[resource.Deleted](ctx, c, http.MethodDelete, of(id, ""), nil, options...)
}

// Publish makes a release a new version; with Wait it answers when that is
// decided, good or bad: see Published.Promoted and Version.State.
func (c *Client) Publish(ctx context.Context, deployment string, in resource.Publish, options ...Option) (resource.Published, error) {
	return do[resource.Published](ctx, c, http.MethodPost, of(deployment, "/publish"), in, options...)
}

// Rollback makes an earlier version live again; it answers after the flip.
func (c *Client) Rollback(ctx context.Context, deployment string, in resource.Rollback, options ...Option) (resource.Promoted, error) {
	return do[resource.Promoted](ctx, c, http.MethodPost, of(deployment, "/rollback"), in, options...)
}

// Promote makes a version live; it answers after the flip.
func (c *Client) Promote(ctx context.Context, deployment, version string, in resource.Promote, options ...Option) (resource.Promoted, error) {
	return do[resource.Promoted](ctx, c, http.MethodPost, of(deployment, "/versions/"+url.PathEscape(version)+"/promote"), in, options...)
}

// Scale sets the number of instances of a service.
func (c *Client) Scale(ctx context.Context, deployment string, in resource.Scale, options ...Option) (resource.Deployment, error) {
	return do[resource.Deployment](ctx, c, http.MethodPost, of(deployment, "/scale"), in, options...)
}

// Resize sets the size of a service's instances.
func (c *Client) Resize(ctx context.Context, deployment string, in resource.Resize, options ...Option) (resource.Deployment, error) {
	return do[resource.Deployment](ctx, c, http.MethodPost, of(deployment, "/resize"), in, options...)
}

// Versions lists a deployment's versions, newest first.
func (c *Client) Versions(ctx context.Context, deployment string, options ...Option) iter.Seq2[resource.Version, error] {
	return list[resource.Version](ctx, c, of(deployment, "/versions"), options)
}

// Version gets one.
func (c *Client) Version(ctx context.Context, deployment, version string) (resource.Version, error) {
	return get[resource.Version](ctx, c, of(deployment, "/versions/"+url.PathEscape(version)))
}

// Releases lists a deployment's releases, newest first.
func (c *Client) Releases(ctx context.Context, deployment string, options ...Option) iter.Seq2[resource.Release, error] {
	return list[resource.Release](ctx, c, of(deployment, "/releases"), options)
}

// Rollouts lists a deployment's rollouts, newest first.
func (c *Client) Rollouts(ctx context.Context, deployment string, options ...Option) iter.Seq2[resource.Rollout, error] {
	return list[resource.Rollout](ctx, c, of(deployment, "/rollouts"), options)
}

// Rollout gets one; with Wait it answers when that is decided.
func (c *Client) Rollout(ctx context.Context, id string, options ...Option) (resource.Rollout, error) {
	return get[resource.Rollout](ctx, c, "/rollouts/"+url.PathEscape(id), options...)
}

// Services lists a deployment's services; Query("environment", …) narrows it.
func (c *Client) Services(ctx context.Context, deployment string, options ...Option) iter.Seq2[resource.Service, error] {
	return list[resource.Service](ctx, c, of(deployment, "/services"), options)
}

// Service gets one.
func (c *Client) Service(ctx context.Context, id string) (resource.Service, error) {
	return get[resource.Service](ctx, c, "/services/"+url.PathEscape(id))
}

// UpdateService changes one; what a version freezes is rolled out.
func (c *Client) UpdateService(ctx context.Context, id string, in resource.ServicePatch, options ...Option) (resource.Service, error) {
	return do[resource.Service](ctx, c, http.MethodPatch, "/services/"+url.PathEscape(id), in, options...)
}

// RestartService replaces all its instances, make before break.
func (c *Client) RestartService(ctx context.Context, id string, options ...Option) (resource.Service, error) {
	return do[resource.Service](ctx, c, http.MethodPost, "/services/"+url.PathEscape(id)+"/restart", nil, options...)
}

// Instances lists a deployment's runtime instances, newest first, or with ""
// the whole tenant's; those that ended only with Query("all", "true").
func (c *Client) Instances(ctx context.Context, deployment string, options ...Option) iter.Seq2[resource.Instance, error] {
	if deployment == "" {
		return list[resource.Instance](ctx, c, "/runtime-instances", options)
	}
	return list[resource.Instance](ctx, c, of(deployment, "/runtime-instances"), options)
}

// Instance gets one.
func (c *Client) Instance(ctx context.Context, id string) (resource.Instance, error) {
	return get[resource.Instance](ctx, c, "/runtime-instances/"+url.PathEscape(id))
}

// RestartInstance replaces one instance, make before break.
func (c *Client) RestartInstance(ctx context.Context, id string, options ...Option) (resource.Instance, error) {
	return do[resource.Instance](ctx, c, http.MethodPost, "/runtime-instances/"+url.PathEscape(id)+"/restart", nil, options...)
}

// StopInstance stops one instance gracefully.
func (c *Client) StopInstance(ctx context.Context, id string, options ...Option) (resource.Instance, error) {
	return do[resource.Instance](ctx, c, http.MethodPost, "/runtime-instances/"+url.PathEscape(id)+"/stop", nil, options...)
}

// Environments lists a deployment's environments.
func (c *Client) Environments(ctx context.Context, deployment string, options ...Option) iter.Seq2[resource.Environment, error] {
	return list[resource.Environment](ctx, c, of(deployment, "/environments"), options)
}

// CreateEnvironment makes one.
func (c *Client) CreateEnvironment(ctx context.Context, deployment, name string, options ...Option) (resource.Environment, error) {
	return do[resource.Environment](ctx, c, http.MethodPost, of(deployment, "/environments"), resource.EnvironmentCreate{Name: name}, options...)
}

// Vars lists an environment's variables ("": production): previews, never values.
func (c *Client) Vars(ctx context.Context, deployment, environment string) iter.Seq2[resource.Var, error] {
	return list[resource.Var](ctx, c, of(deployment, "/env"), []Option{Query("environment", environment)})
}

// SetVars sets and, by nil, deletes variables; it returns all of them.
func (c *Client) SetVars(ctx context.Context, deployment string, in resource.VarsMerge, options ...Option) ([]resource.Var, error) {
	var out resource.Listing[resource.Var]
	err := c.call(ctx, http.MethodPost, of(deployment, "/env"), in, &out, options...)
	return out.Data, err
}

// Explain says in words why something is as it is: a deployment by ID or
// slug, a version, service, rollout or instance by ID.
func (c *Client) Explain(ctx context.Context, subject string) (resource.Explanation, error) {
	return get[resource.Explanation](ctx, c, "/why/"+url.PathEscape(subject))
}

// Tenant is the one that the key belongs to.
func (c *Client) Tenant(ctx context.Context) (resource.Tenant, error) {
	return get[resource.Tenant](ctx, c, "/platform/tenants/current")
}

// Sizes lists the sizes of instances, smallest first.
func (c *Client) Sizes(ctx context.Context) iter.Seq2[resource.Size, error] {
	return list[resource.Size](ctx, c, "/compute/sizes", nil)
}

// Regions lists the regions.
func (c *Client) Regions(ctx context.Context) iter.Seq2[resource.Region, error] {
	return list[resource.Region](ctx, c, "/compute/regions", nil)
}
