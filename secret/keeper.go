package secret

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Keeper holds the key that wraps all others: in a file, or in a key
// management service.
type Keeper interface {
	// Wrap encrypts a data key; context must be the same to unwrap it.
	Wrap(ctx context.Context, dataKey []byte, context string) ([]byte, error)
	// Unwrap is the other way round. stale says that a former key wrapped it:
	// it should be wrapped anew.
	Unwrap(ctx context.Context, wrapped []byte, context string) (dataKey []byte, stale bool, err error)
}

// A wrapped key is this version, the wrapping key's ID, nonce, ciphertext.
const (
	wrapVersion = 1
	keyIDSize   = 8
	wrapHeader  = 1 + keyIDSize
)

// FileKeeper is a Keeper whose key lies in a file.
type FileKeeper struct {
	keys []fileKey // the present one first
}

type fileKey struct {
	id  []byte
	key hidden[[]byte]
}

// OpenFileKeeper uses the key of 32 bytes in a file, which it makes if it is
// not there: mode 0600, and refused when others may read it. To change the
// key, move the file, open with its new place as former, and call Box.Rewrap
// for every tenant and for Platform; then the former one can go.
func OpenFileKeeper(path string, former ...string) (*FileKeeper, error) {
	k := &FileKeeper{}
	key, err := openKeyFile(path)
	if err != nil {
		return nil, err
	}
	k.add(key)
	for _, path := range former {
		if key, err = readKeyFile(path); err != nil {
			return nil, err
		}
		k.add(key)
	}
	return k, nil
}

func (k *FileKeeper) add(key []byte) {
	sum := sha256.Sum256(append([]byte("miosa keeper key id\x00"), key...))
	k.keys = append(k.keys, fileKey{id: sum[:keyIDSize], key: hide(key)})
}

// Wrap encrypts a data key under the present key.
func (k *FileKeeper) Wrap(_ context.Context, dataKey []byte, context string) ([]byte, error) {
	present := k.keys[0]
	return seal(present.key(), append([]byte{wrapVersion}, present.id...), dataKey, []byte(context))
}

// Unwrap decrypts a data key that the present or a former key wrapped.
func (k *FileKeeper) Unwrap(_ context.Context, wrapped []byte, context string) (dataKey []byte, stale bool, err error) {
	if len(wrapped) < wrapHeader || wrapped[0] != wrapVersion {
		return nil, false, errors.New("unwrap: not a wrapped key of a version this binary knows")
	}
	id := wrapped[1:wrapHeader]
	for i, key := range k.keys {
		if bytes.Equal(key.id, id) {
			dataKey, err = open(key.key(), wrapped, wrapHeader, []byte(context))
			return dataKey, i > 0, err
		}
	}
	return nil, false, fmt.Errorf("unwrap: wrapped by key %x, which this keeper does not have", id)
}

// String names the keeper, not its keys.
func (k *FileKeeper) String() string { return fmt.Sprintf("file keeper, key %x", k.keys[0].id) }

// Format writes the same, whatever the verb.
func (k *FileKeeper) Format(f fmt.State, _ rune) { _, _ = fmt.Fprint(f, k.String()) }
