package control

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

type noVault struct{}

func (noVault) Open(context.Context, string, string, []byte) ([]byte, error) {
	return nil, errors.New("nothing is sealed")
}

// A control plane that another has taken over from writes nothing any more, and
// ends when it sees that.
func TestWhoIsSucceededWritesNothing(t *testing.T) {
	s := memory.New(time.Now)
	begin := func() (*Control, <-chan error) {
		c, err := New(Options{
			Config:    cell.Config{Hosts: func(miosa.Tenant, miosa.Deployment, miosa.Environment) []string { return nil }},
			PublicURL: func(miosa.Tenant, miosa.Deployment, miosa.Environment) string { return "" },
		}, s, noVault{}, func(_, plaintext, _ []byte) ([]byte, error) { return plaintext, nil }, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- c.Run(t.Context()) }()
		if err := c.ask(t.Context(), func(*cell.Machine) {}); err != nil { // it has the records: its term has begun
			t.Fatal(err)
		}
		return c, ended
	}
	save := func(c *Control, id string) cell.HostSaved {
		return c.saveHost(t.Context(), cell.SaveHost{Host: miosa.Host{ID: id, Liveness: miosa.Alive}})
	}
	first, ended := begin()
	if done := save(first, "host_1"); done.Err != nil || done.Conflict {
		t.Fatalf("alone: %+v", done)
	}
	second, _ := begin()
	if done := save(first, "host_2"); !done.Conflict {
		t.Errorf("succeeded, it wrote: %+v", done)
	}
	if done := first.commit(t.Context(), cell.Commit{Tenant: "ten_1", Environment: "env_1", Put: []any{miosa.Environment{ID: "env_1", TenantID: "ten_1", DeploymentID: "dep_1"}}}); !done.Conflict {
		t.Errorf("succeeded, it decided about an environment: %+v", done)
	}
	if err := <-ended; !errors.Is(err, ErrSucceeded) {
		t.Errorf("it ended with %v", err)
	}
	if done := save(second, "host_2"); done.Err != nil || done.Conflict {
		t.Errorf("the one that decides: %+v", done)
	}
	if _, err := store.Get(t.Context(), s, store.Environments, store.EnvironmentKey("ten_1", "dep_1", "env_1")); miosa.CodeOf(err) != miosa.NotFound {
		t.Errorf("of the one before: %v", err)
	}
}
