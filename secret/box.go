package secret

import (
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
)

// KeyStore keeps the tenants' wrapped data keys.
type KeyStore interface {
	// DataKey is a tenant's wrapped key and its revision; nil and 0 when
	// there is none yet.
	DataKey(ctx context.Context, tenant string) (wrapped []byte, revision int64, err error)
	// PutDataKey stores one if the present one still has that revision (0:
	// there is none); ok is false when somebody else was faster.
	PutDataKey(ctx context.Context, tenant string, wrapped []byte, revision int64) (ok bool, err error)
}

// Box seals values under a data key of their tenant, which is made at the
// first need. Its methods may be called from several goroutines.
type Box struct {
	keeper Keeper
	keys   KeyStore

	mu     sync.Mutex // guards opened
	opened map[string]hidden[[]byte]
}

// Platform stands for the platform itself where a tenant's ID is asked for: its
// data key is made, kept and wrapped anew as theirs are.
const Platform = "platform"

const (
	boxVersion = 1
	// maxOpened bounds the data keys in memory.
	maxOpened = 1 << 16
	// tries bounds how often somebody else may be faster.
	tries = 10
)

// NewBox makes a Box; nothing is read before it is needed.
func NewBox(keeper Keeper, keys KeyStore) *Box {
	return &Box{keeper: keeper, keys: keys, opened: map[string]hidden[[]byte]{}}
}

// Seal encrypts for a tenant. aad says what the plaintext is for and where it
// belongs; the same is needed to open it.
func (b *Box) Seal(ctx context.Context, tenantID, aad string, plaintext []byte) ([]byte, error) {
	key, err := b.dataKey(ctx, tenantID, true)
	if err != nil {
		return nil, err
	}
	return seal(key, []byte{boxVersion}, plaintext, bind(tenantID, aad))
}

// Open decrypts what Seal made with the same tenant and aad; otherwise, or
// when it was changed, the error is ErrOpen.
func (b *Box) Open(ctx context.Context, tenantID, aad string, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 || sealed[0] != boxVersion {
		return nil, ErrOpen
	}
	key, err := b.dataKey(ctx, tenantID, false)
	if err != nil {
		return nil, err
	}
	return open(key, sealed, 1, bind(tenantID, aad))
}

// Derive makes 32 bytes of the platform's data key for a purpose of its own: the
// same ones for whoever has the keeper and the records, on any machine and for
// good. They say nothing of the key nor of those of another purpose.
func (b *Box) Derive(ctx context.Context, purpose string) ([]byte, error) {
	key, err := b.dataKey(ctx, Platform, true)
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, key, nil, "miosa platform key v1: "+purpose, keySize)
}

// Check reports why what is sealed for a tenant could not be opened, nil for a
// tenant without a data key.
func (b *Box) Check(ctx context.Context, tenantID string) error {
	wrapped, revision, err := b.keys.DataKey(ctx, tenantID)
	if err != nil || revision == 0 {
		return err
	}
	_, _, err = b.unwrap(ctx, tenantID, wrapped)
	return err
}

// Rewrap wraps a tenant's data key under the keeper's present key, if a
// former one wrapped it; values stay as they are. It does nothing for a
// tenant without a data key.
func (b *Box) Rewrap(ctx context.Context, tenantID string) error {
	for range tries {
		wrapped, revision, err := b.keys.DataKey(ctx, tenantID)
		if err != nil || revision == 0 {
			return err
		}
		key, stale, err := b.unwrap(ctx, tenantID, wrapped)
		if err != nil || !stale {
			return err
		}
		ok, err := b.wrap(ctx, tenantID, key, revision)
		if err != nil || ok {
			return err
		}
	}
	return fmt.Errorf("data key of %s: others keep changing it", tenantID)
}

// dataKey is the tenant's key, from memory if it was used before.
func (b *Box) dataKey(ctx context.Context, tenantID string, create bool) ([]byte, error) {
	if tenantID == "" {
		return nil, errors.New("data key: no tenant")
	}
	b.mu.Lock()
	known := b.opened[tenantID]
	b.mu.Unlock()
	if known != nil {
		return known(), nil
	}
	for range tries {
		wrapped, revision, err := b.keys.DataKey(ctx, tenantID)
		if err != nil {
			return nil, fmt.Errorf("data key of %s: %w", tenantID, err)
		}
		if revision != 0 {
			key, _, err := b.unwrap(ctx, tenantID, wrapped)
			if err != nil {
				return nil, err
			}
			b.remember(tenantID, key)
			return key, nil
		}
		if !create {
			return nil, ErrOpen // nothing was ever sealed for the tenant
		}
		key := make([]byte, keySize)
		if _, err := rand.Read(key); err != nil {
			return nil, fmt.Errorf("data key of %s: %w", tenantID, err)
		}
		// Read it back in any case: what is stored counts.
		if _, err := b.wrap(ctx, tenantID, key, 0); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("data key of %s: others keep changing it", tenantID)
}

func (b *Box) remember(tenantID string, key []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.opened) >= maxOpened {
		clear(b.opened)
	}
	b.opened[tenantID] = hide(key)
}

func (b *Box) wrap(ctx context.Context, tenantID string, key []byte, revision int64) (bool, error) {
	wrapped, err := b.keeper.Wrap(ctx, key, wrapContext(tenantID))
	if err != nil {
		return false, fmt.Errorf("data key of %s: %w", tenantID, err)
	}
	ok, err := b.keys.PutDataKey(ctx, tenantID, wrapped, revision)
	if err != nil {
		return false, fmt.Errorf("data key of %s: %w", tenantID, err)
	}
	return ok, nil
}

func (b *Box) unwrap(ctx context.Context, tenantID string, wrapped []byte) ([]byte, bool, error) {
	key, stale, err := b.keeper.Unwrap(ctx, wrapped, wrapContext(tenantID))
	if err == nil && len(key) != keySize {
		err = fmt.Errorf("%d bytes, a key has %d", len(key), keySize)
	}
	if err != nil {
		return nil, false, fmt.Errorf("data key of %s: %w", tenantID, err)
	}
	return key, stale, nil
}

func wrapContext(tenantID string) string { return "miosa tenant data key/" + tenantID }

// String does not show the keys; nor does any way of printing it.
func (b *Box) String() string { return "secret box" }

// Format writes the same, whatever the verb.
func (b *Box) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, b.String()) }
