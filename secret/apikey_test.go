package secret_test

import (
	"bytes"
	"crypto/rand"
	"regexp"
	"strings"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/secret"
)

func TestAPIKeys(t *testing.T) {
	for role, prefix := range map[miosa.Role]string{miosa.RoleUser: "msk_u_", miosa.RoleAdmin: "msk_a_", miosa.RolePlatform: "msk_p_"} {
		seen := map[string]bool{}
		for range 100 {
			full, hash, err := secret.NewAPIKey(role, rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			if !regexp.MustCompile(`^` + prefix + `[0-9A-Za-z]{40}$`).MatchString(full) {
				t.Errorf("key %s", full)
			}
			if hash != secret.HashAPIKey(full) || len(hash) != 64 || strings.Contains(hash, full) {
				t.Errorf("hash %s", hash)
			}
			if got, ok := secret.APIKeyRole(full); !ok || got != role {
				t.Errorf("%s is of role %q, %v", full, got, ok)
			}
			if seen[full] {
				t.Errorf("%s twice", full)
			}
			seen[full] = true
		}
	}
	body := strings.Repeat("a", 40)
	for _, bad := range []string{"", "msk_", "msk_u_", "msk_x_" + body, "msk_u_" + body[1:], "msk_u_" + body + "a", "msk_u_" + body[1:] + "-", "msk_u_" + body[2:] + "é", " msk_u_" + body} {
		if role, ok := secret.APIKeyRole(bad); ok {
			t.Errorf("%q is of role %s", bad, role)
		}
	}
	if full, _, err := secret.NewAPIKey("root", rand.Reader); err == nil {
		t.Errorf("minted %s", full)
	}
	if full, _, err := secret.NewAPIKey(miosa.RoleUser, bytes.NewReader(make([]byte, 10))); err == nil {
		t.Errorf("minted %s without randomness", full)
	}
}

// Bytes past the last multiple of 62 are drawn again: every character is
// equally likely.
func TestAPIKeysAreFair(t *testing.T) {
	random := make([]byte, 0, 256*40)
	for i := range 256 * 40 {
		random = append(random, byte(i))
	}
	counts := map[rune]int{}
	for r := bytes.NewReader(random); ; {
		full, _, err := secret.NewAPIKey(miosa.RoleUser, r)
		if err != nil {
			break
		}
		for _, c := range strings.TrimPrefix(full, "msk_u_") {
			counts[c]++
		}
	}
	if len(counts) != 62 {
		t.Fatalf("%d characters are used", len(counts))
	}
	low, high := 1<<30, 0
	for _, n := range counts {
		low, high = min(low, n), max(high, n)
	}
	if high-low > high/4 {
		t.Errorf("between %d and %d times", low, high)
	}
}
