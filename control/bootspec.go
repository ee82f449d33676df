package control

import (
	"context"
	"fmt"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/store"
	wire "github.com/miosa/miosa/wire/cell"
)

// Vault opens what the API sealed. secret.Box is the real one.
type Vault interface {
	Open(ctx context.Context, tenantID, aad string, sealed []byte) ([]byte, error)
}

// SealTo encrypts a boot spec for one host.
type SealTo func(publicKey, plaintext, aad []byte) ([]byte, error)

// bootSpec seals what an instance boots with to its host: cell.BootOf says what
// that is. Its release is read here, since the machine keeps none.
func (c *Control) bootSpec(ctx context.Context, i miosa.Instance, f cell.Facts) ([]byte, error) {
	release, err := store.Get(ctx, c.store, store.Releases, store.ReleaseKey(i.TenantID, i.DeploymentID, i.Spec.ReleaseID))
	if err != nil {
		return nil, fmt.Errorf("boot spec of %s: %w", i.ID, err)
	}
	vars := map[string]string{}
	for _, v := range f.Versions[i.VersionID].Vars {
		if miosa.PlatformVar(v.Key) { // it would not be used
			continue
		}
		plain, err := c.vault.Open(ctx, i.TenantID, miosa.VarAAD(i.EnvironmentID, v.Key), v.Sealed)
		if err != nil {
			return nil, fmt.Errorf("open variable %s of %s: %w", v.Key, i.EnvironmentID, err)
		}
		vars[v.Key] = string(plain)
	}
	public := c.cfg.PublicURL(f.Tenant, f.Deployment, f.Environment)
	b := cell.BootOf(i, f, release.Config, vars, c.cfg.Bindings, public)
	plain, err := wire.BootSpec{
		Command: b.Command, Argv: b.Argv, Env: b.Env, User: b.User, WorkDir: b.WorkDir, StopSignal: b.StopSignal, PublicURL: b.PublicURL,
	}.Encode()
	if err != nil {
		return nil, err
	}
	sealed, err := c.sealTo(f.Hosts[i.HostID].PublicKey, plain, []byte(i.ID))
	if err != nil {
		return nil, fmt.Errorf("seal boot spec of %s: %w", i.ID, err)
	}
	return sealed, nil
}
