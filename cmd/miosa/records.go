package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/client"
	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/secret"
	"github.com/miosa/miosa/store"
)

// keyPair are the keys minted at this start.
type keyPair struct{ platform, admin string }

const defaultTenant = "default"

// firstRecords makes the default plan and tenant if they are not there, ends
// the keys of former starts and mints new ones.
func (p *platform) firstRecords(ctx context.Context) (keyPair, error) {
	now := time.Now().UTC()
	var tenantID string
	if _, err := store.Update(ctx, p.store, func(tx *store.Tx) error {
		plan := miosa.DefaultPlan()
		if _, err := store.Load(tx, store.Plans, store.PlanKey(plan.Name)); miosa.CodeOf(err) == miosa.NotFound {
			plan.CreatedAt, plan.UpdatedAt = now, now
			if err := store.Save(tx, store.Plans, plan); err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
		id, err := tx.Index(store.TenantSlugKey(defaultTenant))
		if err != nil || id != "" {
			tenantID = id
			return err
		}
		if tenantID, err = miosa.NewID(miosa.PrefixTenant, now, rand.Reader); err != nil {
			return err
		}
		tx.SetIndex(store.TenantSlugKey(defaultTenant), tenantID, 0)
		return store.Save(tx, store.Tenants, miosa.Tenant{
			ID: tenantID, Name: "Default", Slug: defaultTenant, Plan: plan.Name, CreatedAt: now, UpdatedAt: now,
		})
	}); err != nil {
		return keyPair{}, fmt.Errorf("make the default tenant: %w", err)
	}
	var old []miosa.APIKey
	for k, err := range store.List(ctx, p.store, store.APIKeys, store.APIKeysPrefix(), store.ScanOptions{}) {
		if err != nil {
			return keyPair{}, fmt.Errorf("list the API keys: %w", err)
		}
		if k.Ephemeral {
			old = append(old, k)
		}
	}
	keys := keyPair{}
	_, err := store.Update(ctx, p.store, func(tx *store.Tx) (err error) {
		for _, k := range old {
			if err := store.Remove(tx, store.APIKeys, k); err != nil {
				return err
			}
		}
		if keys.platform, err = mint(tx, miosa.RolePlatform, tenantID, now); err != nil {
			return err
		}
		keys.admin, err = mint(tx, miosa.RoleAdmin, "", now)
		return err
	})
	if err != nil {
		return keyPair{}, fmt.Errorf("mint the API keys: %w", err)
	}
	return keys, nil
}

func mint(tx *store.Tx, role miosa.Role, tenant string, now time.Time) (string, error) {
	full, hash, err := secret.NewAPIKey(role, rand.Reader)
	if err != nil {
		return "", err
	}
	id, err := miosa.NewID(miosa.PrefixKey, now, rand.Reader)
	if err != nil {
		return "", err
	}
	return full, store.Save(tx, store.APIKeys, miosa.APIKey{
		ID: id, Hash: hash, Hint: full[:10], Name: "miosa up", Role: role, TenantID: tenant, Ephemeral: true, CreatedAt: now,
	})
}

// announce writes the context file, by rename, and says where things are.
func (p *platform) announce(keys keyPair, apiAddr, httpAddr net.Addr, out io.Writer, took time.Duration) error {
	path := p.data.path("context.json")
	b, err := json.MarshalIndent(map[string]string{
		"api_url": "http://" + apiAddr.String(), "api_key": keys.platform, "admin_key": keys.admin,
		"http_url": "http://" + httpAddr.String(),
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := disk.Replace(path, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the context file: %w", err)
	}
	if err := client.RememberContext(path); err != nil {
		p.log.Warn("the other commands will need --context", "context", path, "err", err)
	}
	fmt.Fprintf(out, "MIOSA is up (%s, %s).\n\n  API      http://%s/api/v1   reference: http://%s/api/v1/reference\n  Apps     http://<deployment>.%s.%s:%d\n  Context  %s\n\nCtrl-C stops the instances and ends; the deployments stay.\n",
		p.driver.Name(), took.Round(10*time.Millisecond), apiAddr, apiAddr, defaultTenant, p.cfg.domain, p.public.port, path)
	return nil
}
