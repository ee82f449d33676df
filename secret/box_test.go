package secret_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/miosa/miosa/secret"
)

// keyStore is a KeyStore in memory.
type keyStore struct {
	mu      sync.Mutex // guards the rest
	wrapped map[string][]byte
	at      map[string]int64
	puts    int
	err     error
}

func newKeyStore() *keyStore {
	return &keyStore{wrapped: map[string][]byte{}, at: map[string]int64{}}
}

func (k *keyStore) DataKey(_ context.Context, tenant string) ([]byte, int64, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.wrapped[tenant], k.at[tenant], k.err
}

func (k *keyStore) PutDataKey(_ context.Context, tenant string, wrapped []byte, revision int64) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.at[tenant] != revision {
		return false, k.err
	}
	k.puts++
	k.wrapped[tenant], k.at[tenant] = wrapped, int64(k.puts)
	return true, k.err
}

func keeper(t testing.TB, path string, former ...string) *secret.FileKeeper {
	t.Helper()
	k, err := secret.OpenFileKeeper(path, former...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func seal(t require, b *secret.Box, tenant, aad, plain string) []byte {
	t.Helper()
	sealed, err := b.Seal(context.Background(), tenant, aad, []byte(plain))
	if err != nil {
		t.Fatalf("seal: %v", err)
	}
	return sealed
}

type require interface {
	Helper()
	Fatalf(format string, args ...any)
}

func TestBoxesOpenOnlyWhereTheyBelong(t *testing.T) {
	b := secret.NewBox(keeper(t, filepath.Join(t.TempDir(), "key")), newKeyStore())
	sealed := seal(t, b, "ten_a", "env_1/KEY", "value")
	seal(t, b, "ten_b", "env_1/KEY", "value")
	if plain, err := b.Open(t.Context(), "ten_a", "env_1/KEY", sealed); err != nil || string(plain) != "value" {
		t.Errorf("%q, %v", plain, err)
	}
	for _, c := range []struct{ name, tenant, aad string }{
		{"other tenant", "ten_b", "env_1/KEY"},
		{"tenant without a key", "ten_c", "env_1/KEY"},
		{"other environment", "ten_a", "env_2/KEY"},
		{"other variable", "ten_a", "env_1/KEX"},
		{"no aad", "ten_a", ""},
		{"the same bytes cut elsewhere", "ten_", "aenv_1/KEY"},
	} {
		if plain, err := b.Open(t.Context(), c.tenant, c.aad, sealed); !errors.Is(err, secret.ErrOpen) {
			t.Errorf("%s: %q, %v", c.name, plain, err)
		}
	}
	if _, err := b.Seal(t.Context(), "", "x", nil); err == nil {
		t.Error("sealed for nobody")
	}
}

func TestAChangedBoxDoesNotOpen(t *testing.T) {
	b := secret.NewBox(keeper(t, filepath.Join(t.TempDir(), "key")), newKeyStore())
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.SliceOf(rapid.Byte()).Draw(t, "plain")
		aad := rapid.String().Draw(t, "aad")
		sealed, err := b.Seal(context.Background(), "ten_a", aad, plain)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := b.Seal(context.Background(), "ten_a", aad, plain); bytes.Equal(sealed, again) {
			t.Fatal("sealed twice the same")
		}
		if len(plain) > 8 && bytes.Contains(sealed, plain) {
			t.Fatal("the plaintext shows")
		}
		got, err := b.Open(context.Background(), "ten_a", aad, sealed)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("got %x, %v", got, err)
		}
		bad := slices.Clone(sealed)
		switch i := rapid.IntRange(0, len(bad)-1).Draw(t, "at"); rapid.IntRange(0, 2).Draw(t, "how") {
		case 0:
			bad[i] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		case 1:
			bad = bad[:i]
		case 2:
			bad = append(bad, 0)
		}
		if _, err := b.Open(context.Background(), "ten_a", aad, bad); !errors.Is(err, secret.ErrOpen) {
			t.Fatalf("a changed box: %v", err)
		}
	})
}

func TestOneDataKeyPerTenant(t *testing.T) {
	path, keys := filepath.Join(t.TempDir(), "key"), newKeyStore()
	// Several control planes seal for the first time, all at once.
	var wg sync.WaitGroup
	sealed := make([][]byte, 16)
	boxes := make([]*secret.Box, 4)
	for i := range boxes {
		boxes[i] = secret.NewBox(keeper(t, path), keys)
	}
	for i := range sealed {
		wg.Go(func() {
			var err error
			if sealed[i], err = boxes[i%len(boxes)].Seal(t.Context(), "ten_a", "x", []byte("value")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if keys.puts != 1 {
		t.Errorf("%d data keys were stored", keys.puts)
	}
	fresh := secret.NewBox(keeper(t, path), keys)
	for i := range sealed {
		if plain, err := fresh.Open(t.Context(), "ten_a", "x", sealed[i]); err != nil || string(plain) != "value" {
			t.Errorf("%d: %q, %v", i, plain, err)
		}
	}
	// Moved to another tenant, a wrapped key does not unwrap.
	keys.wrapped["ten_b"], keys.at["ten_b"] = keys.wrapped["ten_a"], 99
	if _, err := fresh.Seal(t.Context(), "ten_b", "x", []byte("value")); err == nil {
		t.Error("another tenant's data key was used")
	}
}

func TestTheStoresErrorsComeThrough(t *testing.T) {
	keys := newKeyStore()
	keys.err = errors.New("down")
	b := secret.NewBox(keeper(t, filepath.Join(t.TempDir(), "key")), keys)
	if _, err := b.Seal(t.Context(), "ten_a", "x", nil); !errors.Is(err, keys.err) {
		t.Errorf("seal: %v", err)
	}
	if _, err := b.Open(t.Context(), "ten_a", "x", []byte{1, 2}); !errors.Is(err, keys.err) {
		t.Errorf("open: %v", err)
	}
	keys.err = nil
	seal(t, b, "ten_a", "x", "value") // the failure was not remembered
}

func TestTheKeeperChangesItsKey(t *testing.T) {
	dir, keys := t.TempDir(), newKeyStore()
	present, former := filepath.Join(dir, "key"), filepath.Join(dir, "former")
	sealed := seal(t, secret.NewBox(keeper(t, present), keys), "ten_a", "x", "value")
	if err := os.Rename(present, former); err != nil {
		t.Fatal(err)
	}

	without := secret.NewBox(keeper(t, present), keys) // a new key, the former one forgotten
	if _, err := without.Open(t.Context(), "ten_a", "x", sealed); err == nil {
		t.Fatal("opened without the key")
	}
	if err := without.Rewrap(t.Context(), "ten_a"); err == nil {
		t.Error("wrapped anew without the key")
	}

	both := secret.NewBox(keeper(t, present, former), keys)
	if plain, err := both.Open(t.Context(), "ten_a", "x", sealed); err != nil || string(plain) != "value" {
		t.Errorf("%q, %v", plain, err)
	}
	for range 2 { // the second time there is nothing to do
		if err := both.Rewrap(t.Context(), "ten_a"); err != nil {
			t.Error(err)
		}
	}
	if err := both.Rewrap(t.Context(), "ten_none"); err != nil {
		t.Error(err)
	}
	if keys.puts != 2 {
		t.Errorf("the data key was stored %d times", keys.puts)
	}

	if plain, err := secret.NewBox(keeper(t, present), keys).Open(t.Context(), "ten_a", "x", sealed); err != nil || string(plain) != "value" {
		t.Errorf("%q, %v", plain, err)
	}
}

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Mkdir(filepath.Join(dir, "directory"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"others read": write("a", 32, 0o604), "the group reads": write("b", 32, 0o640), "others write": write("c", 32, 0o602),
		"short": write("d", 31, 0o600), "long": write("e", 33, 0o600), "empty": write("f", 0, 0o600),
		"directory": filepath.Join(dir, "directory"), "under a file": filepath.Join(dir, "a", "key"),
	} {
		if _, err := secret.OpenFileKeeper(path); err == nil {
			t.Errorf("%s: accepted as the keeper's", name)
		}
		if _, err := secret.OpenHostKey(path); err == nil {
			t.Errorf("%s: accepted as the host's", name)
		}
	}
	if _, err := secret.OpenFileKeeper(write("g", 32, 0o400), filepath.Join(dir, "none")); err == nil {
		t.Error("a former key that is not there was made up")
	}

	path := filepath.Join(dir, "new", "key")
	var wg sync.WaitGroup
	ids := make([]string, 8)
	for i := range ids { // all at once: one key
		wg.Go(func() { ids[i] = fmt.Sprint(keeper(t, path)) })
	}
	wg.Wait()
	if slices.Sort(ids); ids[0] != ids[len(ids)-1] {
		t.Errorf("several keys: %v", ids)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	left, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestKeysDoNotShow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	host, err := secret.OpenHostKey(path)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	k := keeper(t, path)
	box := secret.NewBox(k, newKeyStore())
	seal(t, box, "ten_a", "x", "value")
	type holder struct {
		k    *secret.FileKeeper
		box  *secret.Box
		host secret.HostKey
	}
	for _, x := range []any{k, host, &host, box, holder{k, box, host}, &holder{k, box, host}, []any{k, box, host}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
			printed := fmt.Sprintf(verb, x)
			for _, form := range []string{"%x", "%d", "%s", "%#v"} {
				if key := strings.Trim(fmt.Sprintf(form, raw[:8]), "[]"); strings.Contains(printed, key) {
					t.Errorf("%s of %T shows the key: %s", verb, x, printed)
				}
			}
		}
	}
}

// What is derived for the platform is the same for everybody who has its keeper
// and its records, also under another key of the keeper, and for nobody else.
func TestThePlatformsOwnKeys(t *testing.T) {
	dir, keys := t.TempDir(), newKeyStore()
	present, former := filepath.Join(dir, "key"), filepath.Join(dir, "former")
	derive := func(b *secret.Box, purpose string) string {
		t.Helper()
		key, err := b.Derive(t.Context(), purpose)
		if err != nil || len(key) != 32 {
			t.Fatalf("%d bytes, %v", len(key), err)
		}
		return string(key)
	}
	first := derive(secret.NewBox(keeper(t, present), keys), "cookies")
	again := secret.NewBox(keeper(t, present), keys)
	if derive(again, "cookies") != first {
		t.Error("another process has another key")
	}
	if derive(again, "something else") == first {
		t.Error("two purposes have one key")
	}
	if derive(secret.NewBox(keeper(t, present), newKeyStore()), "cookies") == first {
		t.Error("other records have the same key")
	}
	if bytes.Contains(keys.wrapped[secret.Platform], []byte(first)) {
		t.Error("the records show it")
	}
	if err := os.Rename(present, former); err != nil {
		t.Fatal(err)
	}
	if _, err := secret.NewBox(keeper(t, present), keys).Derive(t.Context(), "cookies"); err == nil {
		t.Error("derived without the keeper's key")
	}
	if err := secret.NewBox(keeper(t, present, former), keys).Rewrap(t.Context(), secret.Platform); err != nil {
		t.Fatal(err)
	}
	if derive(secret.NewBox(keeper(t, present), keys), "cookies") != first {
		t.Error("the keeper's new key changed it")
	}
}
