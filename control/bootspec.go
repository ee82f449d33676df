package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/wire/cell"
)

// Vault opens what the API sealed. secret.Box is the real one.
type Vault interface {
	Open(ctx context.Context, tenantID, aad string, sealed []byte) ([]byte, error)
}

// SealTo encrypts a boot spec for one host.
type SealTo func(publicKey, plaintext, aad []byte) ([]byte, error)

// Binding is a variable that the operator gives every instance. In Template
// {tenant}, {deployment}, {environment} and {service} stand for their slugs
// and names, {tenant_id} and {deployment_id} for their IDs.
type Binding struct{ Key, Template string }

// ParseBinding reads KEY=template.
func ParseBinding(s string) (Binding, error) {
	key, template, ok := strings.Cut(s, "=")
	if ok && miosa.PlatformVar(key) {
		return Binding{}, miosa.Errorf(miosa.Invalid, "binding %s: PORT and MIOSA_* are set by the platform itself", key)
	}
	if !ok || !miosa.ValidVarName(key) {
		return Binding{}, miosa.Errorf(miosa.Invalid, "%q is no binding: write KEY=template, e.g. AUTH_URL=https://auth.example/{tenant}/{deployment}", s)
	}
	rest := template
	for {
		_, after, open := strings.Cut(rest, "{")
		if !open {
			return Binding{Key: key, Template: template}, nil
		}
		name, tail, closed := strings.Cut(after, "}")
		if !closed || !slices.Contains([]string{"tenant", "tenant_id", "deployment", "deployment_id", "environment", "service"}, name) {
			return Binding{}, miosa.Errorf(miosa.Invalid, "binding %s: {%s} is none of {tenant} {tenant_id} {deployment} {deployment_id} {environment} {service}", key, name)
		}
		rest = tail
	}
}

// stopSignal is the number of the signal that asks an app to end: the service's,
// else the image's, if that is one; 0: SIGTERM.
func stopSignal(service, image string) int {
	name, ok := service, service != ""
	if !ok {
		name, _ = miosa.ParseSignal(image)
	}
	n, _ := miosa.SignalNumber(name)
	return n
}

// bootSpec puts together what an instance boots with. Later ones win: the
// image's own environment, the operator's bindings, the customer's variables,
// PORT and MIOSA_*.
func (c *Control) bootSpec(ctx context.Context, i miosa.Instance) ([]byte, error) {
	get := func(key string) (miosa.Version, error) { return store.Get(ctx, c.store, store.Versions, key) }
	version, err := get(store.VersionKey(i.TenantID, i.DeploymentID, i.VersionID))
	if err != nil {
		return nil, fmt.Errorf("boot spec of %s: %w", i.ID, err)
	}
	tenant, err := store.Get(ctx, c.store, store.Tenants, store.TenantKey(i.TenantID))
	if err != nil {
		return nil, fmt.Errorf("boot spec of %s: %w", i.ID, err)
	}
	dep, err := store.Get(ctx, c.store, store.Deployments, store.DeploymentKey(i.TenantID, i.DeploymentID))
	if err != nil {
		return nil, fmt.Errorf("boot spec of %s: %w", i.ID, err)
	}
	env, err := store.Get(ctx, c.store, store.Environments, store.EnvironmentKey(i.TenantID, i.DeploymentID, i.EnvironmentID))
	if err != nil {
		return nil, fmt.Errorf("boot spec of %s: %w", i.ID, err)
	}
	release, err := store.Get(ctx, c.store, store.Releases, store.ReleaseKey(i.TenantID, i.DeploymentID, i.Spec.ReleaseID))
	if err != nil {
		return nil, fmt.Errorf("boot spec of %s: %w", i.ID, err)
	}
	vars := map[string]string{}
	for _, kv := range release.Config.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			vars[k] = v
		}
	}
	replacer := strings.NewReplacer("{tenant}", tenant.Slug, "{tenant_id}", tenant.ID, "{deployment}", dep.Slug,
		"{deployment_id}", dep.ID, "{environment}", env.Name, "{service}", i.Spec.Name)
	for _, b := range c.cfg.Bindings {
		vars[b.Key] = replacer.Replace(b.Template)
	}
	for _, v := range version.Vars {
		if miosa.PlatformVar(v.Key) { // set before that was refused
			continue
		}
		plain, err := c.vault.Open(ctx, i.TenantID, miosa.VarAAD(i.EnvironmentID, v.Key), v.Sealed)
		if err != nil {
			return nil, fmt.Errorf("open variable %s of %s: %w", v.Key, i.EnvironmentID, err)
		}
		vars[v.Key] = string(plain)
	}
	if i.Spec.Port != 0 {
		vars["PORT"] = strconv.Itoa(i.Spec.Port)
	}
	vars["MIOSA_DEPLOYMENT_ID"], vars["MIOSA_SERVICE_ID"] = i.DeploymentID, i.ServiceID
	vars["MIOSA_RUNTIME_INSTANCE_ID"], vars["MIOSA_VERSION_ID"] = i.ID, i.VersionID
	vars["MIOSA_ENVIRONMENT"], vars["MIOSA_REGION"] = env.Name, i.Region
	public := c.cfg.PublicURL(tenant, dep, env)
	vars["MIOSA_PUBLIC_URL"] = public

	spec := cell.BootSpec{
		Command: i.Spec.Command, User: release.Config.User, WorkDir: release.Config.WorkingDir,
		StopSignal: stopSignal(i.Spec.StopSignal, release.Config.StopSignal), PublicURL: public,
	}
	if spec.Command == "" {
		spec.Argv = append(slices.Clone(release.Config.Entrypoint), release.Config.Cmd...)
	}
	for k, v := range vars {
		spec.Env = append(spec.Env, k+"="+v)
	}
	slices.SortFunc(spec.Env, cmp.Compare[string])
	plain, err := spec.Encode()
	if err != nil {
		return nil, err
	}
	host, err := store.Get(ctx, c.store, store.Hosts, store.HostKey(i.HostID))
	if err != nil {
		return nil, fmt.Errorf("boot spec of %s: %w", i.ID, err)
	}
	sealed, err := c.sealTo(host.PublicKey, plain, []byte(i.ID))
	if err != nil {
		return nil, fmt.Errorf("seal boot spec of %s: %w", i.ID, err)
	}
	return sealed, nil
}
