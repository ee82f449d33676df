package secret

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"fmt"
)

// A sealed host box is this version and then HPKE's (RFC 9180): X25519,
// HKDF-SHA256, ChaCha20-Poly1305, base mode.
const hostBoxVersion = 1

// hpkeInfo ties the boxes to their use.
const hpkeInfo = "miosa host box v1"

// publicKeySize is an X25519 public key's, and HPKE's encapsulated key's.
const publicKeySize = 32

// HostKey opens what was sealed to one host. It never leaves the host.
type HostKey struct{ key hidden[*ecdh.PrivateKey] }

// OpenHostKey reads the private key in a file of mode 0600, which it makes if
// it is not there.
func OpenHostKey(path string) (HostKey, error) {
	raw, err := openKeyFile(path)
	if err != nil {
		return HostKey{}, err
	}
	key, err := ecdh.X25519().NewPrivateKey(raw)
	if err != nil {
		return HostKey{}, fmt.Errorf("host key %s: %w", path, err)
	}
	return HostKey{hide(key)}, nil
}

// Public is what others seal to: 32 bytes.
func (k HostKey) Public() []byte { return k.key().PublicKey().Bytes() }

// SealTo encrypts for the host of a public key; nobody else opens it, the
// sealer neither. aad is needed again to open it.
func SealTo(publicKey, plaintext, aad []byte) ([]byte, error) {
	public, err := ecdh.X25519().NewPublicKey(publicKey)
	if err != nil {
		return nil, fmt.Errorf("seal to host: %w", err)
	}
	recipient, err := hpke.NewDHKEMPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("seal to host: %w", err)
	}
	encapsulated, sender, err := hpke.NewSender(recipient, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte(hpkeInfo))
	if err != nil {
		return nil, fmt.Errorf("seal to host: %w", err)
	}
	ciphertext, err := sender.Seal(aad, plaintext)
	if err != nil {
		return nil, fmt.Errorf("seal to host: %w", err)
	}
	box := append([]byte{hostBoxVersion}, encapsulated...)
	return append(box, ciphertext...), nil
}

// Open decrypts what SealTo made for this host with the same aad; otherwise,
// or when it was changed, the error is ErrOpen.
func (k HostKey) Open(sealed, aad []byte) ([]byte, error) {
	if len(sealed) < 1+publicKeySize || sealed[0] != hostBoxVersion {
		return nil, ErrOpen
	}
	private, err := hpke.NewDHKEMPrivateKey(k.key())
	if err != nil {
		return nil, fmt.Errorf("open host box: %w", err)
	}
	recipient, err := hpke.NewRecipient(sealed[1:1+publicKeySize], private, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte(hpkeInfo))
	if err != nil {
		return nil, ErrOpen
	}
	plaintext, err := recipient.Open(aad, sealed[1+publicKeySize:])
	if err != nil {
		return nil, ErrOpen
	}
	return plaintext, nil
}

// Derive makes 32 bytes of the key for a purpose: always the same ones, that
// say nothing of the key nor of those of another purpose.
func (k HostKey) Derive(purpose string) ([]byte, error) {
	return hkdf.Key(sha256.New, k.key().Bytes(), nil, "miosa host key v1: "+purpose, 32)
}

// Format shows the public key only, whatever the verb.
func (k HostKey) Format(f fmt.State, _ rune) {
	if k.key == nil {
		_, _ = fmt.Fprint(f, "no host key")
		return
	}
	_, _ = fmt.Fprintf(f, "host key %x", k.Public())
}
