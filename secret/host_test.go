package secret_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/miosa/miosa/secret"
)

func hostKey(t *testing.T, name string) secret.HostKey {
	t.Helper()
	k, err := secret.OpenHostKey(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestHostBoxes(t *testing.T) {
	mine, other := hostKey(t, "mine"), hostKey(t, "other")
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		aad := rapid.SliceOf(rapid.Byte()).Draw(t, "aad")
		sealed, err := secret.SealTo(mine.Public(), plain, aad)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := secret.SealTo(mine.Public(), plain, aad); bytes.Equal(again, sealed) {
			t.Fatal("sealed twice the same")
		}
		if got, err := mine.Open(sealed, aad); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("got %x, %v", got, err)
		}
		if _, err := other.Open(sealed, aad); !errors.Is(err, secret.ErrOpen) {
			t.Fatalf("another host: %v", err)
		}
		if _, err := mine.Open(sealed, append(slices.Clone(aad), 0)); !errors.Is(err, secret.ErrOpen) {
			t.Fatalf("another aad: %v", err)
		}
		i := rapid.IntRange(0, len(sealed)-1).Draw(t, "at")
		bad := slices.Clone(sealed)
		if i == 32 {
			// The top bit of an X25519 key counts for nothing in the curve;
			// HPKE takes it into the key schedule.
			bad[i] ^= 0x80
		} else {
			bad[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		}
		if _, err := mine.Open(bad, aad); !errors.Is(err, secret.ErrOpen) {
			t.Fatalf("changed at %d: %v", i, err)
		}
		if _, err := mine.Open(sealed[:i], aad); !errors.Is(err, secret.ErrOpen) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	})
}

func TestTheHostKeyStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "host")
	first, err := secret.OpenHostKey(path)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := secret.SealTo(first.Public(), []byte("spec"), []byte("ri_1"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := secret.OpenHostKey(path)
	if err != nil || !bytes.Equal(again.Public(), first.Public()) {
		t.Fatal(again, err)
	}
	if got, err := again.Open(sealed, []byte("ri_1")); err != nil || string(got) != "spec" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestSealingToANonsensicalKey(t *testing.T) {
	for name, key := range map[string][]byte{"none": nil, "short": make([]byte, 31), "long": make([]byte, 33), "zero": make([]byte, 32)} {
		if _, err := secret.SealTo(key, []byte("spec"), nil); err == nil {
			t.Errorf("%s: sealed", name)
		}
	}
}

// What is derived is of the key and the purpose, and always the same.
func TestDerive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "host.key")
	seen := map[string]string{}
	for _, c := range []struct{ name, path, purpose string }{
		{"one", path, "gates"}, {"again", path, "gates"}, {"another purpose", path, "doors"}, {"another key", path + ".2", "gates"},
	} {
		key, err := secret.OpenHostKey(c.path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := key.Derive(c.purpose)
		if err != nil || len(got) != 32 {
			t.Fatalf("%s: %d bytes, %v", c.name, len(got), err)
		}
		if was, ok := seen[string(got)]; ok != (c.name == "again") {
			t.Errorf("%s: as %q", c.name, was)
		}
		seen[string(got)] = c.name
	}
}
