package drain

import (
	"context"

	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/store"
)

// names tells what people call deployments and services.
type names struct{ view *records.View }

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
		d, err := records.Get(ctx, n.view, store.Deployments, store.DeploymentKey(o.TenantID, o.DeploymentID))
		lines[i].Deployment = name(d.Slug, err, o.DeploymentID)
		if o.ServiceID != "" {
			s, err := records.Get(ctx, n.view, store.Services, store.ServiceKey(o.TenantID, o.DeploymentID, o.ServiceID))
			lines[i].Service = name(s.Name, err, o.ServiceID)
		}
	}
	return lines
}

func name(name string, err error, id string) string {
	if err != nil || name == "" {
		return id
	}
	return name
}
