package client

import (
	"context"
	"iter"
	"net/http"
	"net/url"

	"github.com/miosa/miosa/api/resource"
)

func webhookPath(id, rest string) string { return "/webhooks/" + url.PathEscape(id) + rest }

// Webhooks lists webhooks, newest first.
func (c *Client) Webhooks(ctx context.Context, options ...Option) iter.Seq2[resource.Webhook, error] {
	return list[resource.Webhook](ctx, c, "/webhooks", options)
}

// CreateWebhook makes one. The answer alone has its secret.
func (c *Client) CreateWebhook(ctx context.Context, in resource.WebhookCreate, options ...Option) (resource.WebhookSecret, error) {
	return do[resource.WebhookSecret](ctx, c, http.MethodPost, "/webhooks", in, options...)
}

// UpdateWebhook changes one.
func (c *Client) UpdateWebhook(ctx context.Context, id string, in resource.WebhookPatch, options ...Option) (resource.Webhook, error) {
	return do[resource.Webhook](ctx, c, http.MethodPatch, webhookPath(id, ""), in, options...)
}

// DeleteWebhook deletes one.
func (c *Client) DeleteWebhook(ctx context.Context, id string, options ...Option) (resource.Deleted, error) {
	return do[resource.Deleted](ctx, c, http.MethodDelete, webhookPath(id, ""), nil, options...)
}

// TestWebhook has it send a test event.
func (c *Client) TestWebhook(ctx context.Context, id string, options ...Option) (resource.WebhookSent, error) {
	return do[resource.WebhookSent](ctx, c, http.MethodPost, webhookPath(id, "/test"), nil, options...)
}

// RotateWebhookSecret replaces its secret. The answer alone has the new one.
func (c *Client) RotateWebhookSecret(ctx context.Context, id string, in resource.WebhookRotate, options ...Option) (resource.WebhookSecret, error) {
	return do[resource.WebhookSecret](ctx, c, http.MethodPost, webhookPath(id, "/rotate-secret"), in, options...)
}

// Deliveries lists how its latest deliveries went, newest first.
func (c *Client) Deliveries(ctx context.Context, id string, options ...Option) iter.Seq2[resource.Delivery, error] {
	return list[resource.Delivery](ctx, c, webhookPath(id, "/deliveries"), options)
}

// Redeliver has it send an event again.
func (c *Client) Redeliver(ctx context.Context, id, event string, options ...Option) (resource.WebhookSent, error) {
	return do[resource.WebhookSent](ctx, c, http.MethodPost, webhookPath(id, "/deliveries/"+url.PathEscape(event)+"/redeliver"), nil, options...)
}
