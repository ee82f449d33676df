package store

import (
	"context"
	"errors"
)

// DataKeys keeps the tenants' wrapped data keys in a store: a
// secret.KeyStore.
type DataKeys struct{ Store Store }

// DataKey is a tenant's wrapped key and its revision; nil and 0 when there is
// none yet.
func (d DataKeys) DataKey(ctx context.Context, tenant string) (wrapped []byte, revision int64, err error) {
	e, err := d.Store.Get(ctx, DataKeyKey(tenant))
	return e.Value, e.Revision, err
}

// PutDataKey stores a wrapped key if the present one still has that revision
// (0: there is none); ok is false when somebody else was faster.
func (d DataKeys) PutDataKey(ctx context.Context, tenant string, wrapped []byte, revision int64) (ok bool, err error) {
	key := DataKeyKey(tenant)
	_, err = d.Store.Commit(ctx, Txn{
		If:  []Condition{{Key: key, Revision: revision}},
		Put: []Put{{Key: key, Value: wrapped}},
	})
	if errors.Is(err, ErrConflict) {
		return false, nil
	}
	return err == nil, err
}
