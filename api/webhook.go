package api

import (
	"fmt"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/secret"
	"github.com/miosa/miosa/store"
)

// WebhookSender is what sends events to webhooks.
type WebhookSender interface {
	// Status is how a webhook does; the zero one before it has begun.
	Status(webhookID string) miosa.WebhookStatus
	// Send has a webhook send an event at once. miosa.NotFound: it does not run.
	Send(webhookID, eventID string) error
}

const (
	maxWebhookURL  = 2000
	maxDescription = 200
	maxTypes       = 50
	rotationHours  = 24
	maxOldSecrets  = 4 // that sign beside the present one
)

func webhookRoutes() []*route {
	const signed = "Deliveries are signed after the Standard Webhooks convention: headers webhook-id, webhook-timestamp, webhook-signature. "
	return []*route{
		{Method: get, Pattern: "/webhooks", Access: accessTenant, Operation: "listWebhooks", Summary: "List webhooks", Handle: many((*Server).listWebhooks)},
		{Method: post, Pattern: "/webhooks", Access: accessTenant, Operation: "createWebhook", Summary: "Send events to a receiver", Status: 201, SecretReply: true,
			Notes: signed + "Every event from now on is sent at least once, in order as far as retries allow: 2xx is success; anything else is tried again, ten times " +
				"within a day, Retry-After is honoured; 410 disables the webhook. The secret is in this answer and nowhere else.",
			Handle: one((*Server).createWebhook)},
		{Method: get, Pattern: "/webhooks/{id}", Access: accessTenant, Operation: "getWebhook", Summary: "Get a webhook", Handle: one((*Server).getWebhook)},
		{Method: patch, Pattern: "/webhooks/{id}", Access: accessTenant, Operation: "updateWebhook", Summary: "Change a webhook", Handle: one((*Server).patchWebhook)},
		{Method: del, Pattern: "/webhooks/{id}", Access: accessTenant, Operation: "deleteWebhook", Summary: "Delete a webhook", Handle: one((*Server).deleteWebhook)},
		{Method: post, Pattern: "/webhooks/{id}/test", Access: accessTenant, Operation: "testWebhook", Summary: "Send a test event", Status: 202,
			Notes: "An event of type webhook.tested goes out at once, whatever the webhook's filter.", Handle: one((*Server).testWebhook)},
		{Method: post, Pattern: "/webhooks/{id}/rotate-secret", Access: accessTenant, Operation: "rotateWebhookSecret", Summary: "Replace a webhook's secret", SecretReply: true,
			Notes: "The new one is in this answer and nowhere else. For a while, 24 hours unless previous_hours says otherwise, deliveries carry a signature of the former one too; rotated again meanwhile, of each, at most 4: 429 too_many_secrets. previous_hours 0 ends all former ones at once.", Handle: one((*Server).rotateWebhook)},
		{Method: get, Pattern: "/webhooks/{id}/deliveries", Access: accessTenant, Operation: "listDeliveries", Tag: "webhooks", Summary: "How a webhook's latest deliveries went",
			Notes: "The last 50, newest first.", Handle: many((*Server).listDeliveries)},
		{Method: post, Pattern: "/webhooks/{id}/deliveries/{event_id}/redeliver", Access: accessTenant, Operation: "redeliver", Tag: "webhooks", Summary: "Send an event again",
			Status: 202, Notes: "Any event of the timeline that the webhook may see; with the same webhook-id.", Handle: one((*Server).redeliver)},
	}
}

// webhook is the one the path names, as far as the key sees.
func (c *call) webhook(load func(key string) (miosa.Webhook, error)) (miosa.Webhook, error) {
	const noun = "webhook"
	id, err := c.pathID("id", miosa.PrefixWebhook, noun)
	if err != nil {
		return miosa.Webhook{}, err
	}
	hook, err := load(store.WebhookKey(c.tenant.ID, id))
	if miosa.CodeOf(err) == miosa.NotFound || err == nil && !c.sees(miosa.Attribution{WorkspaceID: hook.WorkspaceID}) {
		return miosa.Webhook{}, absent(noun, id)
	}
	return hook, err
}

// showWebhook answers with the path's webhook as it is now.
func (c *call) showWebhook() (resource.Webhook, error) {
	hook, err := c.readWebhook()
	c.etag = hook.Revision
	return c.s.webhookResource(hook), err
}

func (c *call) readWebhook() (miosa.Webhook, error) {
	return c.webhook(func(key string) (miosa.Webhook, error) {
		return store.Get(c.r.Context(), c.s.store, store.Webhooks, key)
	})
}

func (c *call) txWebhook(tx *store.Tx) (miosa.Webhook, error) {
	hook, err := c.webhook(func(key string) (miosa.Webhook, error) { return store.Load(tx, store.Webhooks, key) })
	if err == nil {
		err = c.match(hook.Revision)
	}
	return hook, err
}

func (s *Server) listWebhooks(c *call) (rows[resource.Webhook], error) {
	q := c.filter()
	found, err := collect(c, store.Webhooks, store.WebhooksOf(c.tenant.ID), func(h miosa.Webhook) bool {
		return c.sees(miosa.Attribution{WorkspaceID: h.WorkspaceID}) && (q.workspace == "" || q.workspace == h.WorkspaceID)
	})
	return newest(found, func(h miosa.Webhook) string { return h.ID }, func(h miosa.Webhook) (resource.Webhook, error) {
		return s.webhookResource(h), nil
	}), err
}

func (s *Server) getWebhook(c *call, _ none) (resource.Webhook, error) {
	return c.showWebhook()
}

func (s *Server) createWebhook(c *call, in resource.WebhookCreate) (resource.WebhookSecret, error) {
	var f faults
	hook := miosa.Webhook{
		TenantID: c.tenant.ID, WorkspaceID: in.ExternalWorkspaceID, URL: in.URL, Description: in.Description,
		DeploymentID: in.DeploymentID, Types: in.Types, OwnerID: c.key.ID, CreatedAt: s.now().UTC(),
	}
	f.external("external_workspace_id", hook.WorkspaceID)
	s.checkWebhook(&f, hook)
	if err := f.err(); err != nil {
		return resource.WebhookSecret{}, err
	}
	if c.key.WorkspaceID != "" {
		if hook.WorkspaceID != "" && hook.WorkspaceID != c.key.WorkspaceID {
			return resource.WebhookSecret{}, &miosa.Error{Code: miosa.Forbidden, Message: "this key makes webhooks of its own external_workspace_id only"}
		}
		hook.WorkspaceID = c.key.WorkspaceID
	}
	hook.UpdatedAt = hook.CreatedAt
	var err error
	if hook.ID, err = s.newID(miosa.PrefixWebhook); err != nil {
		return resource.WebhookSecret{}, err
	}
	if hook.BeginID, err = s.newID(miosa.PrefixEvent); err != nil {
		return resource.WebhookSecret{}, err
	}
	signing, sealed, err := c.newWebhookSecret(hook)
	if err != nil {
		return resource.WebhookSecret{}, err
	}
	hook.Secret = sealed
	err = c.updateRoom(func(tx *store.Tx) error {
		c.made = made{Webhook: hook.ID, Secret: signing}
		if err := c.roomForWebhook(tx); err != nil {
			return err
		}
		if hook.DeploymentID, err = c.webhookDeployment(tx, in.DeploymentID); err != nil {
			return err
		}
		if err := store.Save(tx, store.Webhooks, hook); err != nil {
			return err
		}
		return c.auditWebhook(tx, hook, "created", "a webhook to "+hostOf(hook.URL)+" was made", hook.BeginID)
	})
	if err != nil {
		return resource.WebhookSecret{}, err
	}
	if hook, err = store.Get(c.r.Context(), s.store, store.Webhooks, store.WebhookKey(c.tenant.ID, c.made.Webhook)); err != nil {
		return resource.WebhookSecret{}, err
	}
	c.etag = hook.Revision
	return resource.WebhookSecret{Webhook: s.webhookResource(hook), Secret: c.made.Secret}, nil
}

// newWebhookSecret makes one, as it is shown and as it is kept.
func (c *call) newWebhookSecret(hook miosa.Webhook) (signing string, sealed []byte, err error) {
	if signing, err = secret.NewWebhookSecret(c.s.random); err != nil {
		return "", nil, err
	}
	sealed, err = c.s.secrets.Seal(c.r.Context(), hook.TenantID, miosa.WebhookAAD(hook.ID), []byte(signing))
	return signing, sealed, err
}

func (c *call) auditWebhook(tx *store.Tx, hook miosa.Webhook, verb, message, eventID string) error {
	return c.audit(tx, miosa.Event{
		ID: eventID, WorkspaceID: hook.WorkspaceID, Type: "webhook." + verb, Message: message, Details: map[string]string{"webhook_id": hook.ID},
	})
}

// webhookDeployment is the ID of the one that a webhook is for: only what the
// key sees may be named.
func (c *call) webhookDeployment(tx *store.Tx, ref string) (string, error) {
	if ref == "" {
		return "", nil
	}
	dep, err := c.txDeployment(tx, ref)
	if miosa.CodeOf(err) == miosa.NotFound {
		err = invalidField("deployment_id", "there is no such deployment")
	}
	return dep.ID, err
}

func (s *Server) patchWebhook(c *call, in resource.WebhookPatch) (resource.Webhook, error) {
	err := c.update(func(tx *store.Tx) error {
		hook, err := c.txWebhook(tx)
		if err != nil {
			return err
		}
		c.made.Webhook = hook.ID
		if in.URL != nil {
			hook.URL = *in.URL
		}
		if in.Description != nil {
			hook.Description = *in.Description
		}
		if in.Types != nil {
			hook.Types = *in.Types
		}
		if in.DeploymentID.Set {
			hook.DeploymentID = in.DeploymentID.Value
		}
		var f faults
		s.checkWebhook(&f, hook)
		if err := f.err(); err != nil {
			return err
		}
		if in.DeploymentID.Set {
			if hook.DeploymentID, err = c.webhookDeployment(tx, in.DeploymentID.Value); err != nil {
				return err
			}
		}
		hook.UpdatedAt = s.now().UTC()
		if in.Enabled != nil {
			if hook.Paused = !*in.Enabled; *in.Enabled {
				hook.ResumedAt = hook.UpdatedAt
			}
		}
		if err := store.Save(tx, store.Webhooks, hook); err != nil {
			return err
		}
		return c.auditWebhook(tx, hook, "changed", "the webhook to "+hostOf(hook.URL)+" was changed", "")
	})
	if err != nil {
		return resource.Webhook{}, err
	}
	out, err := c.showWebhook()
	if in.Enabled != nil && *in.Enabled {
		// The sender hears of it in a moment.
		out.Enabled, out.DisabledAt, out.DisabledReason = true, nil, nil
	}
	return out, err
}

func (s *Server) deleteWebhook(c *call, _ none) (resource.Deleted, error) {
	err := c.update(func(tx *store.Tx) error {
		hook, err := c.txWebhook(tx)
		if err != nil {
			return err
		}
		c.made.Webhook = hook.ID
		if err := store.Remove(tx, store.Webhooks, hook); err != nil {
			return err
		}
		return c.auditWebhook(tx, hook, "deleted", "the webhook to "+hostOf(hook.URL)+" was deleted", "")
	})
	c.etag = 0
	return resource.Deleted{ID: c.made.Webhook, Deleted: true}, err
}

func (s *Server) rotateWebhook(c *call, in resource.WebhookRotate) (resource.WebhookSecret, error) {
	var f faults
	f.between("previous_hours", in.PreviousHours, 0, 168)
	if err := f.err(); err != nil {
		return resource.WebhookSecret{}, err
	}
	hours := rotationHours
	if in.PreviousHours != nil {
		hours = *in.PreviousHours
	}
	hook, err := c.readWebhook()
	if err != nil {
		return resource.WebhookSecret{}, err
	}
	signing, sealed, err := c.newWebhookSecret(hook)
	if err != nil {
		return resource.WebhookSecret{}, err
	}
	err = c.update(func(tx *store.Tx) error {
		hook, err := c.txWebhook(tx)
		if err != nil {
			return err
		}
		c.made = made{Webhook: hook.ID, Secret: signing}
		now := s.now().UTC()
		// What was promised to a former secret holds, but for an end at once:
		// whoever asks for that trusts none of them any more.
		old := hook.OldSecrets(now)
		switch {
		case hours == 0:
			hook.PreviousSecret, hook.PreviousUntil, hook.Earlier = nil, time.Time{}, nil
		case len(old) >= maxOldSecrets:
			next := slices.MinFunc(old, func(a, b miosa.OldSecret) int { return a.Until.Compare(b.Until) }).Until
			return &miosa.Error{Code: miosa.Limited, Public: "too_many_secrets", Message: fmt.Sprintf(
				"%d former secrets still sign, as was promised, which is the limit: rotate again after %s, or with previous_hours 0, which ends them all at once",
				len(old), next.UTC().Format(time.RFC3339))}
		default:
			hook.PreviousSecret, hook.PreviousUntil, hook.Earlier = hook.Secret, now.Add(time.Duration(hours)*time.Hour), old
		}
		hook.Secret, hook.UpdatedAt = sealed, now
		if err := store.Save(tx, store.Webhooks, hook); err != nil {
			return err
		}
		return c.auditWebhook(tx, hook, "secret_rotated", "the secret of the webhook to "+hostOf(hook.URL)+" was replaced", "")
	})
	if err != nil {
		return resource.WebhookSecret{}, err
	}
	shown, err := c.showWebhook()
	return resource.WebhookSecret{Webhook: shown, Secret: c.made.Secret}, err
}

func (s *Server) testWebhook(c *call, _ none) (resource.WebhookSent, error) {
	hook, err := c.sendable()
	if err != nil {
		return resource.WebhookSent{}, err
	}
	id, err := s.newID(miosa.PrefixEvent)
	if err != nil {
		return resource.WebhookSent{}, err
	}
	err = c.update(func(tx *store.Tx) error {
		c.made.Event = id
		return c.auditWebhook(tx, hook, "tested", "a test of the webhook to "+hostOf(hook.URL), id)
	})
	c.etag = 0
	if err == nil {
		err = s.webhooks.Send(hook.ID, c.made.Event)
	}
	return resource.WebhookSent{WebhookID: hook.ID, EventID: c.made.Event}, err
}

func (s *Server) redeliver(c *call, _ none) (resource.WebhookSent, error) {
	hook, err := c.sendable()
	if err != nil {
		return resource.WebhookSent{}, err
	}
	id, err := c.pathID("event_id", miosa.PrefixEvent, "event")
	if err != nil {
		return resource.WebhookSent{}, err
	}
	m, held, err := s.events.Place(c.r.Context(), id)
	if err != nil {
		return resource.WebhookSent{}, err
	}
	found := false
	for e, err := range s.events.Read(c.r.Context(), events.Query{Scope: events.Scope{TenantID: hook.TenantID, WorkspaceID: hook.WorkspaceID}, After: m - 1}) {
		if err != nil {
			return resource.WebhookSent{}, err
		}
		found = e.ID == id
		break
	}
	if !held || !found {
		return resource.WebhookSent{}, absent("event", id)
	}
	return resource.WebhookSent{WebhookID: hook.ID, EventID: id}, s.webhooks.Send(hook.ID, id)
}

// sendable is the path's webhook, if it can send something.
func (c *call) sendable() (miosa.Webhook, error) {
	hook, err := c.readWebhook()
	switch {
	case err != nil:
		return hook, err
	case c.s.webhooks == nil:
		return hook, &miosa.Error{Code: miosa.Unavailable, Public: "webhooks_not_sent", Message: "no webhooks are sent from here"}
	case hook.Paused, !c.s.webhooks.Status(hook.ID).DisabledAt.IsZero():
		return hook, conflict("webhook_disabled", "the webhook is disabled: enable it first")
	}
	return hook, nil
}

func (s *Server) listDeliveries(c *call) (rows[resource.Delivery], error) {
	hook, err := c.readWebhook()
	if err != nil || s.webhooks == nil {
		return rows[resource.Delivery]{}, err
	}
	all := s.webhooks.Status(hook.ID).Recent
	slices.Reverse(all)
	order := func(d miosa.Delivery) string {
		return d.AttemptAt.UTC().Format("2006-01-02T15:04:05.000000000") + d.EventID
	}
	slices.SortFunc(all, func(a, b miosa.Delivery) int { return strings.Compare(order(b), order(a)) })
	return newest(all, order, func(d miosa.Delivery) (resource.Delivery, error) {
		out := resource.Delivery{
			EventID: d.EventID, EventType: d.Type, State: string(d.State), Attempts: d.Attempts, Error: str(d.Error),
			LatencyMS: d.Latency.Milliseconds(), LastAttemptAt: d.AttemptAt.UTC(), NextAttemptAt: at(d.NextAt),
		}
		if d.Status != 0 {
			out.Status = &d.Status
		}
		return out, nil
	}), nil
}

var typeBeginning = regexp.MustCompile(`^[a-z][a-z_]*(\.[a-z_]*)?$`)

// checkWebhook checks what its owner may choose.
func (s *Server) checkWebhook(f *faults, hook miosa.Webhook) {
	if problem := s.badTarget(hook.URL); problem != "" {
		f.add("url", "%s", problem)
	}
	if len(hook.Description) > maxDescription || strings.ContainsFunc(hook.Description, func(r rune) bool { return r < ' ' }) {
		f.add("description", "may have at most %d bytes, and no control characters", maxDescription)
	}
	if len(hook.Types) > maxTypes {
		f.add("types", "may have at most %d entries", maxTypes)
	}
	for n, t := range hook.Types {
		if n < maxTypes && (len(t) > 100 || !typeBeginning.MatchString(t)) {
			f.add(fmt.Sprintf("types.%d", n), "is no beginning of an event type: like rollout, rollout. or instance.crashed")
		}
	}
}

// badTarget is what is wrong with a webhook's URL; "": nothing. Whether its name
// leads to an address that may be called is decided at each call.
func (s *Server) badTarget(target string) string {
	u, err := url.Parse(target)
	switch {
	case len(target) > maxWebhookURL:
		return fmt.Sprintf("may have at most %d bytes", maxWebhookURL)
	case err != nil, u.Host == "", u.Hostname() == "", u.Opaque != "", strings.ContainsFunc(target, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return "must be an address like https://example.com/events"
	case badPort(u):
		return noPort
	case u.User != nil:
		return "may hold no user and password: deliveries are signed instead"
	case u.Fragment != "":
		return "may hold no fragment (#…)"
	case u.Scheme == "https":
		return ""
	case u.Scheme != "http":
		return "must begin with https://"
	}
	if a, err := netip.ParseAddr(u.Hostname()); err == nil {
		for _, p := range s.cfg.Targets.Allow {
			if p.Contains(a.Unmap()) {
				return ""
			}
		}
	}
	return "must begin with https://; without TLS only addresses that the operator allows with --allow-target, as numbers"
}

// hostOf is all of a URL that may stand in an event: the rest may be secret.
func hostOf(target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return "somewhere"
	}
	return u.Host
}

func (s *Server) webhookResource(h miosa.Webhook) resource.Webhook {
	var status miosa.WebhookStatus
	if s.webhooks != nil {
		status = s.webhooks.Status(h.ID)
	}
	disabled := !status.DisabledAt.IsZero() && !h.ResumedAt.After(status.DisabledAt)
	out := resource.Webhook{
		ID: h.ID, URL: h.URL, Description: h.Description, Types: append([]string{}, h.Types...), DeploymentID: str(h.DeploymentID),
		ExternalWorkspaceID: str(h.WorkspaceID), Enabled: !h.Paused && !disabled,
		DeliveredAt: at(status.DeliveredAt), FailingSince: at(status.FailingSince),
		CreatedAt: h.CreatedAt.UTC(), UpdatedAt: h.UpdatedAt.UTC(),
	}
	if disabled {
		out.DisabledAt, out.DisabledReason = at(status.DisabledAt), str(status.DisabledReason)
	}
	if s.now().Before(h.PreviousUntil) {
		out.PreviousSecretUntil = at(h.PreviousUntil)
	}
	return out
}
