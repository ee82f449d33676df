package store_test

import (
	"path/filepath"
	"testing"

	"github.com/miosa/miosa/secret"
	"github.com/miosa/miosa/store"
)

func TestDataKeysLieInTheStore(t *testing.T) {
	s := newStore()
	keeper, err := secret.OpenFileKeeper(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := secret.NewBox(keeper, store.DataKeys{Store: s}).Seal(t.Context(), ten, "env/KEY", []byte("value"))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := secret.NewBox(keeper, store.DataKeys{Store: s}).Open(t.Context(), ten, "env/KEY", sealed)
	if err != nil || string(plain) != "value" {
		t.Errorf("%q, %v", plain, err)
	}
	if len(raw(t, s, store.DataKeyKey(ten))) == 0 {
		t.Error("there is no data key under its key")
	}
	if ok, err := (store.DataKeys{Store: s}).PutDataKey(t.Context(), ten, []byte("other"), 0); ok || err != nil {
		t.Errorf("a data key was replaced: %v, %v", ok, err)
	}
}
