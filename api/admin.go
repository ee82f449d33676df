package api

import (
	"fmt"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/secret"
	"github.com/miosa/miosa/store"
)

func (s *Server) listTenants(c *call) (rows[resource.Tenant], error) {
	found, err := collect(c, store.Tenants, store.TenantsPrefix(), nil)
	return newest(found, func(t miosa.Tenant) string { return t.ID }, func(t miosa.Tenant) (resource.Tenant, error) {
		return tenantResource(t), nil
	}), err
}

func (s *Server) getTenant(c *call, _ none) (resource.Tenant, error) {
	id, err := c.pathID("id", miosa.PrefixTenant, "tenant")
	if err != nil {
		return resource.Tenant{}, err
	}
	return c.showTenant(id)
}

func (c *call) showTenant(id string) (resource.Tenant, error) {
	t, err := store.Get(c.r.Context(), c.s.store, store.Tenants, store.TenantKey(id))
	c.etag = t.Revision
	return tenantResource(t), err
}

func (s *Server) createTenant(c *call, in resource.TenantCreate) (resource.Tenant, error) {
	var f faults
	t := miosa.Tenant{Name: f.name("name", in.Name), Slug: in.Slug, Plan: in.Plan}
	if t.Slug == "" {
		t.Slug = slugOf(t.Name)
	}
	f.label("slug", t.Slug, maxSlug)
	if t.Plan == "" {
		t.Plan = miosa.DefaultPlan().Name
	}
	f.label("plan", t.Plan, maxSlug)
	if err := f.err(); err != nil {
		return resource.Tenant{}, err
	}
	var err error
	if t.ID, err = s.newID(miosa.PrefixTenant); err != nil {
		return resource.Tenant{}, err
	}
	t.CreatedAt = s.now().UTC()
	t.UpdatedAt = t.CreatedAt
	err = c.update(func(tx *store.Tx) error {
		c.made.Tenant = t.ID
		if err := txPlanExists(tx, t.Plan); err != nil {
			return err
		}
		_, ok, err := tx.Claim(store.TenantSlugKey(t.Slug), t.ID)
		if err != nil {
			return err
		}
		if !ok {
			return conflict("name_taken", fmt.Sprintf("there is a tenant with the slug %q already", t.Slug))
		}
		if err := store.Save(tx, store.Tenants, t); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{TenantID: t.ID, Type: "tenant.created", Message: fmt.Sprintf("tenant %s was made", t.Name)})
	})
	if err != nil {
		return resource.Tenant{}, err
	}
	return c.showTenant(c.made.Tenant)
}

// txPlanExists: the default plan is there even where it was never written.
func txPlanExists(tx *store.Tx, name string) error {
	_, err := store.Load(tx, store.Plans, store.PlanKey(name))
	if miosa.CodeOf(err) == miosa.NotFound {
		if name == miosa.DefaultPlan().Name {
			return nil
		}
		return invalidField("plan", fmt.Sprintf("there is no plan %q", name))
	}
	return err
}

func (s *Server) patchTenant(c *call, in resource.TenantPatch) (resource.Tenant, error) {
	id, err := c.pathID("id", miosa.PrefixTenant, "tenant")
	if err != nil {
		return resource.Tenant{}, err
	}
	var f faults
	if in.Name != nil {
		*in.Name = f.name("name", *in.Name)
	}
	if in.Plan != nil {
		f.label("plan", *in.Plan, maxSlug)
	}
	if err := f.err(); err != nil {
		return resource.Tenant{}, err
	}
	err = c.update(func(tx *store.Tx) error {
		t, err := store.Load(tx, store.Tenants, store.TenantKey(id))
		if err != nil {
			return err
		}
		c.made.Tenant = id
		if err := c.match(t.Revision); err != nil {
			return err
		}
		if in.Name != nil {
			t.Name = *in.Name
		}
		if in.Plan != nil {
			if err := txPlanExists(tx, *in.Plan); err != nil {
				return err
			}
			t.Plan = *in.Plan
		}
		t.UpdatedAt = s.now().UTC()
		if err := store.Save(tx, store.Tenants, t); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{TenantID: t.ID, Type: "tenant.changed", Message: fmt.Sprintf("tenant %s was changed: plan %s", t.Name, t.Plan)})
	})
	if err != nil {
		return resource.Tenant{}, err
	}
	return c.showTenant(c.made.Tenant)
}

func (s *Server) listPlans(c *call) (rows[resource.Plan], error) {
	found, err := store.Collect(store.List(c.r.Context(), s.store, store.Plans, store.PlansPrefix(), store.ScanOptions{}))
	return rowsOf(found, true, func(p miosa.Plan) string { return p.Name }, func(p miosa.Plan) (resource.Plan, error) {
		return planResource(p), nil
	}), err
}

func (s *Server) getPlan(c *call, _ none) (resource.Plan, error) {
	name := c.r.PathValue("name")
	if !validLabel(name, maxSlug) {
		return resource.Plan{}, absent("plan", name)
	}
	return c.showPlan(name)
}

func (c *call) showPlan(name string) (resource.Plan, error) {
	p, err := store.Get(c.r.Context(), c.s.store, store.Plans, store.PlanKey(name))
	if miosa.CodeOf(err) == miosa.NotFound && name == miosa.DefaultPlan().Name {
		return planResource(miosa.DefaultPlan()), nil
	}
	c.etag = p.Revision
	return planResource(p), err
}

func (s *Server) createPlan(c *call, in resource.PlanPut) (resource.Plan, error) {
	return c.writePlan(in.Name, in, false)
}

func (s *Server) patchPlan(c *call, in resource.PlanPut) (resource.Plan, error) {
	return c.writePlan(c.r.PathValue("name"), in, true)
}

func (c *call) writePlan(name string, in resource.PlanPut, exists bool) (resource.Plan, error) {
	var f faults
	f.label("name", name, maxSlug)
	limits := []struct {
		name string
		v    *int
		of   func(*miosa.Plan) *int
	}{
		{"event_days", in.EventDays, func(p *miosa.Plan) *int { return &p.EventDays }},
		{"log_days", in.LogDays, func(p *miosa.Plan) *int { return &p.LogDays }},
		{"max_replicas", in.MaxReplicas, func(p *miosa.Plan) *int { return &p.MaxReplicas }},
		{"max_instances", in.MaxInstances, func(p *miosa.Plan) *int { return &p.MaxInstances }},
		{"max_vcpus", in.MaxVCPUs, func(p *miosa.Plan) *int { return &p.MaxVCPUs }},
		{"max_memory_mb", in.MaxMemoryMB, func(p *miosa.Plan) *int { return &p.MaxMemoryMB }},
		{"max_disk_mb", in.MaxDiskMB, func(p *miosa.Plan) *int { return &p.MaxDiskMB }},
		{"max_deployments", in.MaxDeployments, func(p *miosa.Plan) *int { return &p.MaxDeployments }},
	}
	f.between("event_days", in.EventDays, 0, 3650)
	for _, l := range limits {
		most := 1 << 30
		if l.name == "log_days" {
			most = c.s.cfg.MaxLogDays
		}
		f.between(l.name, l.v, 0, most)
	}
	open := []struct {
		name string
		v    *int
		of   func(*miosa.Plan) *int
	}{
		{"max_log_rate", in.MaxLogRate, func(p *miosa.Plan) *int { return &p.MaxLogRate }},
		{"max_environments", in.MaxEnvironments, func(p *miosa.Plan) *int { return &p.MaxEnvironments }},
		{"max_services", in.MaxServices, func(p *miosa.Plan) *int { return &p.MaxServices }},
		{"max_webhooks", in.MaxWebhooks, func(p *miosa.Plan) *int { return &p.MaxWebhooks }},
		{"max_registries", in.MaxRegistries, func(p *miosa.Plan) *int { return &p.MaxRegistries }},
		{"max_log_drains", in.MaxLogDrains, func(p *miosa.Plan) *int { return &p.MaxLogDrains }},
		{"max_api_keys", in.MaxAPIKeys, func(p *miosa.Plan) *int { return &p.MaxAPIKeys }},
		{"max_releases", in.MaxReleases, func(p *miosa.Plan) *int { return &p.MaxReleases }},
		{"max_storage_mb", in.MaxStorageMB, func(p *miosa.Plan) *int { return &p.MaxStorageMB }},
		{"max_public_ports", in.MaxPublicPorts, func(p *miosa.Plan) *int { return &p.MaxPublicPorts }},
		{"max_tasks", in.MaxTasks, func(p *miosa.Plan) *int { return &p.MaxTasks }},
		{"max_exec_sessions", in.MaxExecSessions, func(p *miosa.Plan) *int { return &p.MaxExecSessions }},
		{"max_exec_minutes", in.MaxExecMinutes, func(p *miosa.Plan) *int { return &p.MaxExecMinutes }},
		{"max_exec_idle_minutes", in.MaxExecIdleMinutes, func(p *miosa.Plan) *int { return &p.MaxExecIdleMinutes }},
		{"max_log_storage_mb", in.MaxLogStorageMB, func(p *miosa.Plan) *int { return &p.MaxLogStorageMB }},
	}
	for _, l := range open {
		f.between(l.name, l.v, -1, 1<<30)
	}
	if err := f.err(); err != nil {
		if exists && !validLabel(name, maxSlug) {
			err = absent("plan", name)
		}
		return resource.Plan{}, err
	}
	err := c.update(func(tx *store.Tx) error {
		c.made.Plan = name
		p, err := store.Load(tx, store.Plans, store.PlanKey(name))
		now := c.s.now().UTC()
		event := "plan.changed"
		switch {
		case miosa.CodeOf(err) == miosa.NotFound && (!exists || name == miosa.DefaultPlan().Name):
			p = miosa.DefaultPlan()
			p.Name, p.CreatedAt = name, now
			event = "plan.created"
		case err != nil:
			return err
		case !exists:
			return conflict("name_taken", fmt.Sprintf("there is a plan %q already", name))
		default:
			if err := c.match(p.Revision); err != nil {
				return err
			}
		}
		if in.GPU != nil {
			p.GPU = *in.GPU
		}
		for _, l := range append(limits, open...) {
			if l.v != nil {
				*l.of(&p) = *l.v
			}
		}
		p.UpdatedAt = now
		if err := store.Save(tx, store.Plans, p); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{Type: event, Message: fmt.Sprintf("plan %s was written", name)})
	})
	if err != nil {
		return resource.Plan{}, err
	}
	return c.showPlan(c.made.Plan)
}

func (s *Server) listAPIKeys(c *call) (rows[resource.APIKey], error) {
	q := c.r.URL.Query()
	tenant, all := q.Get("tenant_id"), isTrue(q.Get("all"))
	found, err := collect(c, store.APIKeys, store.APIKeysPrefix(), func(k miosa.APIKey) bool {
		return (tenant == "" || k.TenantID == tenant) && (all || k.RevokedAt.IsZero())
	})
	// The store has them by hash.
	sortByID(found)
	return newest(found, func(k miosa.APIKey) string { return k.ID }, func(k miosa.APIKey) (resource.APIKey, error) {
		return apiKeyResource(k), nil
	}), err
}

func (s *Server) createAPIKey(c *call, in resource.APIKeyCreate) (resource.APIKeyMinted, error) {
	var f faults
	f.oneOf("role", in.Role, "user", "platform", "admin")
	if in.Name != "" {
		in.Name = f.name("name", in.Name)
	}
	f.external("external_workspace_id", in.ExternalWorkspaceID)
	switch {
	case in.Role == "admin" && (in.TenantID != "" || in.ExternalWorkspaceID != ""):
		f.add("tenant_id", "an admin key belongs to no tenant and no workspace")
	case in.Role != "admin" && in.TenantID == "":
		f.add("tenant_id", "is needed")
	case in.Role != "admin" && miosa.IDPrefix(in.TenantID) != miosa.PrefixTenant:
		f.add("tenant_id", "is no tenant's ID")
	}
	if err := f.err(); err != nil {
		return resource.APIKeyMinted{}, err
	}
	full, hash, err := secret.NewAPIKey(miosa.Role(in.Role), s.random)
	if err != nil {
		return resource.APIKeyMinted{}, err
	}
	key := miosa.APIKey{
		Hash: hash, Hint: full[:10], Name: in.Name, Role: miosa.Role(in.Role), TenantID: in.TenantID,
		WorkspaceID: in.ExternalWorkspaceID, CreatedAt: s.now().UTC(),
	}
	if key.ID, err = s.newID(miosa.PrefixKey); err != nil {
		return resource.APIKeyMinted{}, err
	}
	err = c.update(func(tx *store.Tx) error {
		c.made = made{Key: key.ID, Secret: full}
		if key.TenantID != "" {
			tenant, err := store.Load(tx, store.Tenants, store.TenantKey(key.TenantID))
			if miosa.CodeOf(err) == miosa.NotFound {
				return invalidField("tenant_id", "there is no such tenant")
			}
			if err != nil {
				return err
			}
			if err := c.roomForKey(tx, tenant); err != nil {
				return err
			}
			tx.SetIndex(store.APIKeyOfKey(tenant.ID, key.ID), key.Hash, 0)
		}
		if err := store.Save(tx, store.APIKeys, key); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{TenantID: key.TenantID, Type: "api_key.created", Message: fmt.Sprintf("a %s key (%s…) was made", key.Role, key.Hint)})
	})
	if err != nil {
		return resource.APIKeyMinted{}, err
	}
	shown, err := c.showKey(c.made.Key)
	return resource.APIKeyMinted{APIKey: shown, Key: c.made.Secret}, err
}

func (s *Server) getAPIKey(c *call, _ none) (resource.APIKey, error) {
	id, err := c.pathID("id", miosa.PrefixKey, "api key")
	if err != nil {
		return resource.APIKey{}, err
	}
	return c.showKey(id)
}

func (c *call) showKey(id string) (resource.APIKey, error) {
	at, err := c.locateKey(id)
	if err != nil {
		return resource.APIKey{}, err
	}
	key, err := store.Get(c.r.Context(), c.s.store, store.APIKeys, at.Key)
	c.etag = key.Revision
	return apiKeyResource(key), err
}

func (c *call) locateKey(id string) (store.Location, error) {
	at, err := store.Locate(c.r.Context(), c.s.store, id)
	if miosa.CodeOf(err) == miosa.NotFound {
		err = absent("api key", id)
	}
	return at, err
}

// revokeAPIKey ends a key at once; its record stays, for the audit trail.
func (s *Server) revokeAPIKey(c *call, _ none) (resource.APIKey, error) {
	id, err := c.pathID("id", miosa.PrefixKey, "api key")
	if err != nil {
		return resource.APIKey{}, err
	}
	at, err := c.locateKey(id)
	if err != nil {
		return resource.APIKey{}, err
	}
	err = c.update(func(tx *store.Tx) error {
		key, err := store.Load(tx, store.APIKeys, at.Key)
		if err != nil {
			return err
		}
		c.made.Key = id
		if err := c.match(key.Revision); err != nil {
			return err
		}
		if !key.RevokedAt.IsZero() {
			return nil
		}
		key.RevokedAt = s.now().UTC()
		if key.TenantID != "" {
			tx.DropIndex(store.APIKeyOfKey(key.TenantID, key.ID))
		}
		if err := store.Save(tx, store.APIKeys, key); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{TenantID: key.TenantID, Type: "api_key.revoked", Message: fmt.Sprintf("the key %s… was revoked", key.Hint)})
	})
	if err != nil {
		return resource.APIKey{}, err
	}
	return c.showKey(c.made.Key)
}
