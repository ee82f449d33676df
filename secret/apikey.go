package secret

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/miosa/miosa"
)

const (
	base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	// apiKeyLength characters of base62 are 238 bits of randomness.
	apiKeyLength = 40
)

// rolePrefixes begin the keys of each role.
var rolePrefixes = [...]struct {
	role   miosa.Role
	prefix string
}{
	{miosa.RoleUser, "msk_u_"},
	{miosa.RoleAdmin, "msk_a_"},
	{miosa.RolePlatform, "msk_p_"},
}

// NewAPIKey mints a key for a role. The full key is shown to its owner once;
// only its hash is stored. It fails for an unknown role, or when random does.
func NewAPIKey(role miosa.Role, random io.Reader) (full, hash string, err error) {
	for _, r := range rolePrefixes {
		if r.role != role {
			continue
		}
		secret, err := randomBase62(apiKeyLength, random)
		if err != nil {
			return "", "", fmt.Errorf("mint an API key: %w", err)
		}
		full = r.prefix + secret
		return full, HashAPIKey(full), nil
	}
	return "", "", fmt.Errorf("mint an API key: no role %q", role)
}

// HashAPIKey is what a key is stored and found by: hex SHA-256 of all of it.
// With that much randomness in it a slow hash would protect nothing.
func HashAPIKey(full string) string {
	sum := sha256.Sum256([]byte(full))
	return hex.EncodeToString(sum[:])
}

// APIKeyRole tells the role by a key's form alone; ok is false for what can
// be no key, which saves looking it up.
func APIKeyRole(full string) (role miosa.Role, ok bool) {
	for _, r := range rolePrefixes {
		secret, found := strings.CutPrefix(full, r.prefix)
		if !found || len(secret) != apiKeyLength {
			continue
		}
		for i := range len(secret) {
			if strings.IndexByte(base62, secret[i]) < 0 {
				return "", false
			}
		}
		return r.role, true
	}
	return "", false
}

// randomBase62 draws n characters, each equally likely.
func randomBase62(n int, random io.Reader) (string, error) {
	const fair = 256 / len(base62) * len(base62) // bytes from here on would favour the first characters
	out := make([]byte, 0, n)
	buf := make([]byte, n)
	for len(out) < n {
		if _, err := io.ReadFull(random, buf); err != nil {
			return "", err
		}
		for _, b := range buf {
			if int(b) < fair && len(out) < n {
				out = append(out, base62[int(b)%len(base62)])
			}
		}
	}
	return string(out), nil
}
