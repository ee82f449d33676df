package control_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/control"
)

// What was placed by a commit that is not answered yet counts: another
// environment decided meanwhile is not promised the same room.
func TestRoomIsPromisedOnce(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	size := miosa.Resources{VCPUs: 1, MemoryMB: 512, DiskMB: 1024}
	nouns := []any{
		miosa.Tenant{ID: tenant, Slug: "t"},
		miosa.Host{ID: hostID, Liveness: miosa.Alive, Schedulable: true, Capacity: size},
	}
	var services []miosa.Service
	for n := range 2 {
		id := func(prefix string) string { return fmt.Sprint(prefix, "_", n) }
		services = append(services, miosa.Service{ID: id("svc"), TenantID: tenant, DeploymentID: id("dep"), EnvironmentID: id("env"), Name: "web"})
		nouns = append(nouns,
			miosa.Deployment{ID: id("dep"), TenantID: tenant, State: miosa.DeploymentStopped},
			miosa.Environment{ID: id("env"), TenantID: tenant, DeploymentID: id("dep"), ActiveVersionID: id("ver")},
			miosa.Version{
				ID: id("ver"), TenantID: tenant, DeploymentID: id("dep"), EnvironmentID: id("env"), State: miosa.VersionReady,
				Services: []miosa.ServiceSpec{{ServiceID: id("svc"), Name: "web", Port: 80, Resources: size}},
			}, services[n])
	}
	m := control.NewMachine(control.Config{Hosts: func(miosa.Tenant, miosa.Deployment, miosa.Environment) []string { return nil }})
	m.Handle(now, control.Loaded{Revision: 1, Nouns: nouns})
	var hosts []string
	for n := range services {
		services[n].DesiredReplicas = 1
		for _, effect := range m.Handle(now, control.Changed{Revision: int64(n + 2), Put: []any{services[n]}}) {
			if c, ok := effect.(control.Commit); ok {
				for _, i := range c.Create {
					hosts = append(hosts, i.HostID)
					if i.HostID == "" && len(i.Reasons) == 0 {
						t.Error("no host, and no reason")
					}
				}
			}
		}
	}
	if len(hosts) != 2 || hosts[0] != hostID || hosts[1] != "" {
		t.Errorf("placed on %q; want the first on the host and the second nowhere", hosts)
	}
}
