package plan_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/plan"
)

// large is a fleet of n instances, all healthy: 20 on a host, four in a service.
func large(n int) (loaded cell.Loaded, first app) {
	put := func(nouns ...any) { loaded.Nouns = append(loaded.Nouns, nouns...) }
	hosts := max(3, n/20)
	for h := range hosts {
		put(host(fmt.Sprintf("h%05d", h), "eu", string(rune('a'+h%3)), miosa.Resources{VCPUs: 32, MemoryMB: 64 << 10, DiskMB: 1 << 20}))
	}
	size := miosa.DefaultResources()
	for env := range n / 4 {
		a := app{tenant: fmt.Sprintf("t%05d", env/10), deployment: fmt.Sprintf("d%06d", env), name: "web", replicas: 4, size: size}
		if env == 0 {
			first = a
		}
		put(a.records()...)
		v := a.version(1)
		for slot := range 4 {
			at := env*4 + slot
			i := miosa.Instance{
				ID: fmt.Sprintf("ri_%07d", at), TenantID: v.TenantID, DeploymentID: v.DeploymentID, EnvironmentID: v.EnvironmentID, ServiceID: a.id("svc"),
				VersionID: v.ID, Slot: slot, Spec: v.Services[0], Proven: true, Goal: miosa.GoalRun, HostID: fmt.Sprintf("host_h%05d", at%hosts), Region: "eu",
				Generation: 1, CreatedAt: epoch,
			}
			put(i, miosa.Observation{
				InstanceID: i.ID, HostID: i.HostID, Generation: 1, Seq: 1, State: miosa.Healthy, Boot: 1, HealthyAt: epoch, Addr: netip.MustParseAddrPort("10.0.0.1:8080"),
			})
		}
	}
	return loaded, first
}

// BenchmarkMake plans in fleets of several sizes: about what a machine takes to
// load one, and what it takes to decide the change.
func BenchmarkMake(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		loaded, first := large(n)
		host, err := plan.LoseHost(loaded, "h00001")
		if err != nil {
			b.Fatal(err)
		}
		zone, err := plan.LoseZone(loaded, "a")
		if err != nil {
			b.Fatal(err)
		}
		for _, c := range []struct {
			name   string
			change plan.Change
		}{{"scale", plan.Scale(first.service(), 40)}, {"lose-host", host}, {"lose-zone", zone}} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				for b.Loop() {
					p, err := plan.Make(epoch.Add(time.Hour), loaded, cell.Config{}, c.change)
					if err != nil || p.Unfinished || len(p.Moves)+len(p.Starts) == 0 {
						b.Fatalf("%d moves, %d start, unfinished %t: %v", len(p.Moves), len(p.Starts), p.Unfinished, err)
					}
				}
			})
		}
	}
}
