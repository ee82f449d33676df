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

// boots makes the boot specs of one commit: cell.BootOf says what those are. What
// they have in common is read and opened once.
type boots struct {
	c        *Control
	facts    cell.Facts
	releases map[string]miosa.Release
	vars     map[string]map[string]string // by version ID
}

func (c *Control) boots(f cell.Facts) *boots {
	return &boots{c: c, facts: f, releases: map[string]miosa.Release{}, vars: map[string]map[string]string{}}
}

// of seals what an instance boots with to its host. Its release is read here, since
// the machine keeps none.
func (b *boots) of(ctx context.Context, i miosa.Instance) ([]byte, error) {
	release, err := b.release(ctx, i)
	if err != nil {
		return nil, fmt.Errorf("boot spec of %s: %w", i.ID, err)
	}
	vars, err := b.open(ctx, i)
	if err != nil {
		return nil, err
	}
	public := b.c.cfg.PublicURL(b.facts.Tenant, b.facts.Deployment, b.facts.Environment)
	boot := cell.BootOf(i, b.facts, release.Config, vars, b.c.cfg.Bindings, public)
	plain, err := wire.BootSpec{
		Command: boot.Command, Argv: boot.Argv, Env: boot.Env, User: boot.User, WorkDir: boot.WorkDir, StopSignal: boot.StopSignal, PublicURL: boot.PublicURL,
	}.Encode()
	if err != nil {
		return nil, err
	}
	sealed, err := b.c.sealTo(b.facts.Hosts[i.HostID].PublicKey, plain, []byte(i.ID))
	if err != nil {
		return nil, fmt.Errorf("seal boot spec of %s: %w", i.ID, err)
	}
	return sealed, nil
}

func (b *boots) release(ctx context.Context, i miosa.Instance) (miosa.Release, error) {
	if release, ok := b.releases[i.Spec.ReleaseID]; ok {
		return release, nil
	}
	release, err := store.Get(ctx, b.c.store, store.Releases, store.ReleaseKey(i.TenantID, i.DeploymentID, i.Spec.ReleaseID))
	if err == nil {
		b.releases[i.Spec.ReleaseID] = release
	}
	return release, err
}

// open decrypts the variables of an instance's version.
func (b *boots) open(ctx context.Context, i miosa.Instance) (map[string]string, error) {
	if vars, ok := b.vars[i.VersionID]; ok {
		return vars, nil
	}
	vars := map[string]string{}
	for _, v := range b.facts.Versions[i.VersionID].Vars {
		if miosa.PlatformVar(v.Key) { // it would not be used
			continue
		}
		plain, err := b.c.vault.Open(ctx, i.TenantID, miosa.VarAAD(i.EnvironmentID, v.Key), v.Sealed)
		if err != nil {
			return nil, fmt.Errorf("open variable %s of %s: %w", v.Key, i.EnvironmentID, err)
		}
		vars[v.Key] = string(plain)
	}
	b.vars[i.VersionID] = vars
	return vars, nil
}
