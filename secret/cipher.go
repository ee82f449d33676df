package secret

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// keySize is the size of all symmetric keys, in bytes.
const keySize = chacha20poly1305.KeySize

// hidden holds key material inside structs. fmt prints unexported fields
// without asking any method, some pointers followed; of a function it prints
// the address.
type hidden[T any] func() T

func hide[T any](v T) hidden[T] { return func() T { return v } }

// ErrOpen says that a box does not open: it was changed, or belongs to
// another key or another place. It does not say which.
var ErrOpen = errors.New("the box does not open: it was changed, or belongs elsewhere")

// seal encrypts with XChaCha20-Poly1305 under a random nonce of 24 bytes:
// header, nonce, ciphertext. The header is authenticated too.
func seal(key, header, plaintext, aad []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	box := make([]byte, len(header)+aead.NonceSize(), len(header)+aead.NonceSize()+len(plaintext)+aead.Overhead())
	copy(box, header)
	nonce := box[len(header):]
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return aead.Seal(box, nonce, plaintext, bind(string(header), string(aad))), nil
}

// open is seal's other half; headerSize bytes were looked at by the caller.
func open(key, box []byte, headerSize int, aad []byte) ([]byte, error) {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	if len(box) < headerSize+aead.NonceSize()+aead.Overhead() {
		return nil, ErrOpen
	}
	header, nonce, ciphertext := box[:headerSize], box[headerSize:headerSize+aead.NonceSize()], box[headerSize+aead.NonceSize():]
	plaintext, err := aead.Open(nil, nonce, ciphertext, bind(string(header), string(aad)))
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// bind joins parts so that no two lists of parts give the same bytes.
func bind(parts ...string) []byte {
	var b []byte
	for _, p := range parts {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	return b
}
