package routing_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/routing"
)

func drawInstance(t *rapid.T, n int) miosa.Instance {
	i := miosa.Instance{
		ID: fmt.Sprintf("ri_%02d", n), ServiceID: rapid.SampledFrom([]string{"svc_web", "svc_web", "svc_web", "svc_job"}).Draw(t, "service"),
		VersionID: rapid.SampledFrom([]string{"ver_1", "ver_2", "ver_3"}).Draw(t, "version"),
		HostID:    rapid.SampledFrom([]string{"", "host_1", "host_1"}).Draw(t, "host"),
		Goal:      rapid.SampledFrom([]miosa.Goal{miosa.GoalRun, miosa.GoalRun, miosa.GoalDrain, miosa.GoalStop}).Draw(t, "goal"),
		Spec:      miosa.ServiceSpec{Port: rapid.SampledFrom([]int{0, 8080, 8080}).Draw(t, "port")},
	}
	i.Observed.State = rapid.SampledFrom([]miosa.InstanceState{"", miosa.Pending, miosa.Starting, miosa.Healthy, miosa.Healthy, miosa.Healthy, miosa.Unhealthy, miosa.Stopping, miosa.Stopped, miosa.Failed}).Draw(t, "state")
	if rapid.IntRange(0, 4).Draw(t, "addressed") > 0 {
		i.Observed.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), 8080)
	}
	return i
}

// Requests go to instances that are healthy and meant to run, of one version,
// the most wanted one that has any in its own service; whatever the order of
// the records. A version that serves no HTTP answers by saying so.
func TestBuild(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []miosa.Instance
		for n := range rapid.IntRange(0, 8).Draw(t, "instances") {
			all = append(all, drawInstance(t, n))
		}
		var versions []routing.Served
		for _, id := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"ver_1", "ver_2", "ver_3"}), 0, 3, rapid.ID[string]).Draw(t, "versions") {
			versions = append(versions, routing.Served{Version: id, Service: miosa.Service{ID: rapid.SampledFrom([]string{"svc_web", "svc_web", "svc_job", ""}).Draw(t, "routed")}})
		}
		site := routing.Site{Hosts: []string{"a.test", "b.test"}, Tenant: "ten", Deployment: "dep", Versions: versions, Instances: all}
		table := routing.Build(7, []routing.Site{site})
		other := site
		other.Instances = rapid.Permutation(all).Draw(t, "order")
		if again := routing.Build(8, []routing.Site{other}); !routing.SameRoutes(table, again) {
			t.Fatalf("%+v in one order, %+v in another", table, again)
		}
		if table.Generation != 7 || len(table.Routes) != 2 || !table.Routes["a.test"].Equal(table.Routes["b.test"]) {
			t.Fatalf("%+v", table)
		}
		check(t, all, versions, table.Routes["a.test"])
	})
}

func check(t *rapid.T, all []miosa.Instance, versions []routing.Served, pool routing.Pool) {
	serving := func(v routing.Served) (ids []string) {
		for _, i := range all {
			if i.VersionID == v.Version && i.ServiceID == v.Service.ID && i.HostID != "" && i.Goal == miosa.GoalRun && i.Observed.State == miosa.Healthy && i.Observed.Addr.IsValid() && i.Spec.Port != 0 {
				ids = append(ids, i.ID)
			}
		}
		return ids
	}
	want, from := routing.Served{}, []string(nil)
	if len(versions) > 0 {
		want = versions[0]
	}
	for _, v := range versions {
		if ids := serving(v); len(ids) > 0 || v.Service.ID == "" {
			want, from = v, ids
			break
		}
	}
	var got []string
	for _, b := range pool.Backends {
		got = append(got, b.InstanceID)
	}
	if pool.VersionID != want.Version || pool.ServiceID != want.Service.ID || !slices.Equal(got, from) {
		t.Fatalf("%s %s by %v, want %s %s by %v", pool.VersionID, pool.ServiceID, got, want.Version, want.Service.ID, from)
	}
	if pool.TenantID != "ten" || pool.DeploymentID != "dep" {
		t.Fatalf("of %s %s", pool.TenantID, pool.DeploymentID)
	}
	if pool.Drain <= 0 {
		t.Fatal("no drain limit")
	}
}

func TestSameRoutes(t *testing.T) {
	build := func(edit func(*routing.Site)) routing.Table {
		i := miosa.Instance{ID: "ri_1", ServiceID: "svc", VersionID: "ver_1", HostID: "host_1", Goal: miosa.GoalRun, Spec: miosa.ServiceSpec{Port: 80}}
		i.Observed = miosa.Observation{State: miosa.Healthy, Addr: netip.MustParseAddrPort("10.0.0.1:80")}
		s := routing.Site{Hosts: []string{"a.test"}, Versions: []routing.Served{{Version: "ver_1", Service: miosa.Service{ID: "svc"}}}, Instances: []miosa.Instance{i}}
		if edit != nil {
			edit(&s)
		}
		return routing.Build(1, []routing.Site{s})
	}
	plain := build(nil)
	if !routing.SameRoutes(plain, build(nil)) {
		t.Error("the same records give different routes")
	}
	for name, edit := range map[string]func(*routing.Site){
		"a host name more":      func(s *routing.Site) { s.Hosts = append(s.Hosts, "b.test") },
		"another host name":     func(s *routing.Site) { s.Hosts = []string{"b.test"} },
		"stickiness":            func(s *routing.Site) { s.Versions[0].Service.Sticky.Mode = miosa.StickyCookie },
		"the drain limit":       func(s *routing.Site) { s.Versions[0].Service.DrainSeconds = 5 },
		"the protocol":          func(s *routing.Site) { s.Versions[0].Spec.Protocol = miosa.ProtocolH2C },
		"the response timeout":  func(s *routing.Site) { s.Versions[0].Spec.ResponseTimeout = time.Second },
		"an address":            func(s *routing.Site) { s.Instances[0].Observed.Addr = netip.MustParseAddrPort("10.0.0.2:80") },
		"an instance that left": func(s *routing.Site) { s.Instances[0].Goal = miosa.GoalDrain },
	} {
		if routing.SameRoutes(plain, build(edit)) {
			t.Errorf("%s changes nothing", name)
		}
	}
}
