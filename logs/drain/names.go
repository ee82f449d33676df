package drain

import (
	"context"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/store"
)

const (
	// known bounds how long a name is believed.
	known = time.Minute
	// maxKnown bounds how many are kept.
	maxKnown = 20000
)

// names tells what people call deployments and services.
type names struct {
	records store.Store
	now     func() time.Time

	mu  sync.Mutex // guards ids
	ids map[string]named
}

type named struct {
	name  string
	until time.Time
}

// of names the lines' deployments and services. What is gone, or cannot be
// asked for now, is called by its ID: lines do not wait for a name.
func (n *names) of(ctx context.Context, entries []logs.Entry) []Line {
	lines := make([]Line, len(entries))
	for i, e := range entries {
		o := e.Origin
		lines[i] = Line{Entry: e}
		if i > 0 && o == entries[i-1].Origin {
			lines[i].Deployment, lines[i].Service = lines[i-1].Deployment, lines[i-1].Service
			continue
		}
		lines[i].Deployment = n.lookUp(o.DeploymentID, func() (string, error) {
			d, err := store.Get(ctx, n.records, store.Deployments, store.DeploymentKey(o.TenantID, o.DeploymentID))
			return d.Slug, err
		})
		lines[i].Service = n.lookUp(o.ServiceID, func() (string, error) {
			s, err := store.Get(ctx, n.records, store.Services, store.ServiceKey(o.TenantID, o.DeploymentID, o.ServiceID))
			return s.Name, err
		})
	}
	return lines
}

func (n *names) lookUp(id string, ask func() (string, error)) string {
	if id == "" {
		return ""
	}
	now := n.now()
	n.mu.Lock()
	k, ok := n.ids[id]
	n.mu.Unlock()
	if ok && now.Before(k.until) {
		return k.name
	}
	name, err := ask()
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return id
	}
	if name == "" {
		name = id
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.ids) >= maxKnown {
		clear(n.ids) // looked up again, a minute early
	}
	n.ids[id] = named{name, now.Add(known)}
	return name
}
