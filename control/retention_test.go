package control

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact/local"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// overtaken is a store in which something happens right after all records were
// read.
type overtaken struct {
	store.Store
	then func()
}

func (s overtaken) Scan(ctx context.Context, prefix string, opts store.ScanOptions) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		for e, err := range s.Store.Scan(ctx, prefix, opts) {
			if !yield(e, err) {
				return
			}
		}
		if prefix == records.Prefix {
			s.then()
		}
	}
}

type noImages struct{}

func (noImages) Evict(func(string) bool, int64) (int64, error) { return 0, nil }

// A release that nothing used when the sweep began, and that comes into use
// before it is archived, stays, and so do its bytes.
func TestSweepLeavesWhatCameIntoUse(t *testing.T) {
	ids := struct{ tenant, deployment, environment, release string }{"ten_1", "dep_1", "env_1", "rel_1"}
	for name, tt := range map[string]struct {
		meanwhile func(tx *store.Tx) error
		kept      bool
	}{
		"nothing happens": {func(*store.Tx) error { return nil }, false},
		"a publish is under way": {func(tx *store.Tx) error {
			tx.SetIndex(store.LiveKey(ids.tenant, ids.environment), "rol_1", 0)
			return nil
		}, true},
		"a publish is over": {func(tx *store.Tx) error {
			return store.Save(tx, store.Versions, miosa.Version{
				ID: "ver_1", TenantID: ids.tenant, DeploymentID: ids.deployment, EnvironmentID: ids.environment, State: miosa.VersionReady,
				Services: []miosa.ServiceSpec{{ServiceID: "svc_1", Name: "web", ReleaseID: ids.release}},
			})
		}, true},
		"a publish is under way in an environment made meanwhile": {func(tx *store.Tx) error {
			tx.SetIndex(store.LiveKey(ids.tenant, "env_2"), "rol_1", 0)
			return store.Save(tx, store.Environments, miosa.Environment{ID: "env_2", TenantID: ids.tenant, DeploymentID: ids.deployment})
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			blobs, err := local.New(local.Config{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			defer blobs.Close()
			w, err := blobs.Create(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte("an app")); err != nil {
				t.Fatal(err)
			}
			blob, err := w.Commit()
			if err != nil {
				t.Fatal(err)
			}
			now := time.Now().Add(2 * cell.KeepUnused)
			s := memory.New(time.Now)
			release := miosa.Release{
				ID: ids.release, TenantID: ids.tenant, DeploymentID: ids.deployment, State: miosa.ReleaseReady, SHA256: blob.SHA256, CreatedAt: now.Add(-2 * cell.KeepUnused),
			}
			update := func(fn func(tx *store.Tx) error) {
				if _, err := store.Update(t.Context(), s, fn); err != nil {
					t.Fatal(err)
				}
			}
			update(func(tx *store.Tx) error {
				return errors.Join(
					store.Save(tx, store.Environments, miosa.Environment{ID: ids.environment, TenantID: ids.tenant, DeploymentID: ids.deployment}),
					store.Save(tx, store.Releases, release),
				)
			})
			r := Retention{
				Store: overtaken{s, sync.OnceFunc(func() { update(tt.meanwhile) })}, Blobs: blobs, Images: noImages{}, Log: slog.New(slog.DiscardHandler),
			}
			if err := r.Sweep(t.Context(), now); err != nil {
				t.Fatal(err)
			}
			after, err := store.Get(t.Context(), s, store.Releases, store.ReleaseKey(ids.tenant, ids.deployment, ids.release))
			if err != nil {
				t.Fatal(err)
			}
			_, gone := blobs.Stat(t.Context(), blob.SHA256)
			if (after.State == miosa.ReleaseReady) != tt.kept || (gone == nil) != tt.kept {
				t.Errorf("the release is %s, its bytes: %v; to be kept: %t", after.State, gone, tt.kept)
			}
		})
	}
}
