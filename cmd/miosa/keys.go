package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/secret"
	"github.com/miosa/miosa/store"
)

// stickyPurpose is what the routers' sticky key is derived for: they all have the
// same, at every start.
const stickyPurpose = "cookies of sticky sessions"

// openKeys opens the keys of the data directory, and makes them where nothing
// needs the ones that are not there. It refuses keys that do not open what the
// records hold: a platform without them would say that it is up, and nothing
// could be published.
func (p *platform) openKeys(ctx context.Context) (*secret.Box, secret.HostKey, error) {
	none := secret.HostKey{}
	master, hostFile := p.data.path("keys", "master.key"), p.data.path("keys", "host.key")
	tenants, err := p.sealedTenants(ctx)
	if err != nil {
		return nil, none, err
	}
	host, err := store.Get(ctx, p.store, store.Hosts, store.HostKey(p.data.hostID))
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return nil, none, fmt.Errorf("read the host's record: %w", err)
	}
	// Both are looked for before either is made.
	if len(tenants) > 0 && absent(master) {
		return nil, none, keyError(nil, master, "is missing, and variables and secrets in %s are sealed with it", p.data.dir)
	}
	if len(host.PublicKey) > 0 && absent(hostFile) {
		return nil, none, keyError(nil, hostFile, "is missing, and what the instances in %s boot with is sealed to it", p.data.dir)
	}
	keeper, err := secret.OpenFileKeeper(master)
	if err != nil {
		return nil, none, keyError(err, master, "cannot be used (%v)", err)
	}
	hostKey, err := secret.OpenHostKey(hostFile)
	if err != nil {
		return nil, none, keyError(err, hostFile, "cannot be used (%v)", err)
	}
	vault := secret.NewBox(keeper, store.DataKeys{Store: p.store})
	for _, tenant := range tenants {
		if err := vault.Check(ctx, tenant); err != nil {
			return nil, none, keyError(err, master, "is another platform's: it does not open what is sealed in %s (%v)", p.data.dir, err)
		}
	}
	if err := p.ownDataKey(ctx, vault); err != nil {
		return nil, none, err
	}
	if len(host.PublicKey) > 0 && !bytes.Equal(host.PublicKey, hostKey.Public()) {
		return nil, none, keyError(nil, hostFile, "is another platform's: what the instances in %s boot with is sealed to the key %x, and this is %x", p.data.dir, host.PublicKey, hostKey.Public())
	}
	return vault, hostKey, nil
}

// ownDataKey drops the platform's own data key where the master key that wrapped
// it is gone, which matters to no tenant: those are checked before. All that is
// made of it is the routers' sticky key, so that sticky sessions move, once.
func (p *platform) ownDataKey(ctx context.Context, vault *secret.Box) error {
	_, revision, err := store.DataKeys{Store: p.store}.DataKey(ctx, secret.Platform)
	if err != nil {
		return fmt.Errorf("read the platform's data key: %w", err)
	}
	unfit := vault.Check(ctx, secret.Platform)
	if revision == 0 || unfit == nil {
		return nil
	}
	p.log.Warn("the platform's own data key is made anew: clients with a sticky session may get another instance", "err", unfit)
	key := store.DataKeyKey(secret.Platform)
	if _, err := p.store.Commit(ctx, store.Txn{If: []store.Condition{{Key: key, Revision: revision}}, Delete: []string{key}}); err != nil {
		return fmt.Errorf("drop the platform's data key: %w", err)
	}
	return nil
}

// sealedTenants are those that have a data key.
func (p *platform) sealedTenants(ctx context.Context) ([]string, error) {
	var ids []string
	for t, err := range store.List(ctx, p.store, store.Tenants, store.TenantsPrefix(), store.ScanOptions{}) {
		if err != nil {
			return nil, fmt.Errorf("list the tenants: %w", err)
		}
		_, revision, err := store.DataKeys{Store: p.store}.DataKey(ctx, t.ID)
		if err != nil {
			return nil, fmt.Errorf("read the data key of %s: %w", t.ID, err)
		}
		if revision != 0 {
			ids = append(ids, t.ID)
		}
	}
	return ids, nil
}

func absent(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// keyError names a key and what to do.
func keyError(cause error, path, format string, args ...any) error {
	return &miosa.Error{Code: miosa.Conflict, Err: cause, Message: fmt.Sprintf(
		"not started: the key %s %s. Put this platform's own key back from its backup (install -m 600 BACKUP %s) and start again. Nothing was changed; without the key what it sealed cannot be read by anybody.",
		path, fmt.Sprintf(format, args...), path)}
}
