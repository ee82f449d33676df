package miosa_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
)

// Requests go to the service named web, else to the first of type web, else to
// the first other one with a port; never to a worker.
func TestRoutedService(t *testing.T) {
	spec := func(name string, of miosa.ServiceType, port int) miosa.ServiceSpec {
		return miosa.ServiceSpec{ServiceID: "svc_" + name, Name: name, Type: of, Port: port}
	}
	worker, api := spec("jobs", miosa.ServiceWorker, 0), spec("api", miosa.ServiceAPI, 4000)
	front, web := spec("front", miosa.ServiceWeb, 3000), spec("web", miosa.ServiceWeb, 8080)
	site := spec("site", miosa.ServiceStaticWeb, 0)
	site.Kind = miosa.KindStatic
	for _, c := range []struct {
		services []miosa.ServiceSpec
		want     string
	}{
		{nil, ""},
		{[]miosa.ServiceSpec{worker}, ""},
		{[]miosa.ServiceSpec{spec("web", miosa.ServiceWorker, 0)}, ""}, // whatever its name
		{[]miosa.ServiceSpec{spec("web", miosa.ServiceWeb, 0)}, ""},    // nothing to ask
		{[]miosa.ServiceSpec{worker, api}, "svc_api"},
		{[]miosa.ServiceSpec{api, front}, "svc_front"},
		{[]miosa.ServiceSpec{front, spec("other", miosa.ServiceWeb, 80)}, "svc_front"},
		{[]miosa.ServiceSpec{front, web}, "svc_web"},
		{[]miosa.ServiceSpec{front, spec("web", miosa.ServiceAPI, 80)}, "svc_web"},
		{[]miosa.ServiceSpec{api, site}, "svc_site"},
	} {
		if got := miosa.RoutedService(c.services); got != c.want {
			t.Errorf("%v: %q, not %q", c.services, got, c.want)
		}
		// A version from before the choice was written down has the same one; a
		// later one keeps what was chosen, whatever would be chosen today.
		got, ok := miosa.Version{Services: c.services}.Routed()
		if got.ServiceID != c.want || ok != (c.want != "") {
			t.Errorf("of an old version: %q %t, not %q", got.ServiceID, ok, c.want)
		}
		for _, s := range c.services {
			if got, ok := (miosa.Version{Services: c.services, RoutedServiceID: s.ServiceID}).Routed(); !ok || got.ServiceID != s.ServiceID {
				t.Errorf("%s was chosen, and requests go to %q", s.ServiceID, got.ServiceID)
			}
		}
	}
}

// What requests go to has a port and is no worker, and is there whenever one is.
func TestRoutedServiceIsOneThatServes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var services []miosa.ServiceSpec
		for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"web", "front", "api", "jobs"}), 0, 4, rapid.ID).Draw(t, "names") {
			services = append(services, miosa.ServiceSpec{
				ServiceID: "svc_" + name, Name: name, Port: rapid.SampledFrom([]int{0, 80, 65535}).Draw(t, "port"),
				Type: rapid.SampledFrom([]miosa.ServiceType{miosa.ServiceWeb, miosa.ServiceAPI, miosa.ServiceWorker}).Draw(t, "type"),
			})
		}
		serves := func(s miosa.ServiceSpec) bool { return s.Type != miosa.ServiceWorker && s.Port != 0 }
		got, ok := miosa.Version{Services: services}.Routed()
		if ok != slices.ContainsFunc(services, serves) || ok && !serves(got) {
			t.Fatalf("%v: %v %t", services, got, ok)
		}
	})
}

// What a version brings of its services holds for them until it is live, and is
// theirs from then on.
func TestSettled(t *testing.T) {
	was := miosa.Service{ID: "svc_web", Name: "web", DesiredReplicas: 2, Regions: []string{"eu"}, Sticky: miosa.Sticky{Mode: miosa.StickyCookie}, Restart: miosa.RestartPolicy{Mode: miosa.RestartNever}, DrainSeconds: 7, PublicPort: 30001,
		MaxUnavailable: miosa.MaxUnavailable{Count: 1}, StopAfterDisconnect: time.Minute, Labels: map[string]string{"disk": "nvme"}, Apart: true}
	v := miosa.Version{Services: []miosa.ServiceSpec{{ServiceID: "svc_web"}}}
	if got := v.Settled(was); !got.SameSettings(was) {
		t.Errorf("brings nothing, and yet %+v", got)
	}
	v.Services[0].Settings = miosa.ServiceSettings{SetsReplicas: true, SetsRegions: true, Sticky: miosa.Sticky{Mode: miosa.StickyNone}, Restart: miosa.RestartPolicy{Mode: miosa.RestartAlways}}
	got := v.Settled(was)
	if got.DesiredReplicas != 0 || len(got.Regions) != 0 || got.Sticky.Mode != miosa.StickyNone || got.Restart.Mode != miosa.RestartAlways || got.DrainSeconds != 7 || got.PublicPort != 30001 || got.SameSettings(was) {
		t.Errorf("settled: %+v", got)
	}
	for name, set := range map[string]miosa.ServiceSettings{
		"max_unavailable": {SetsMaxUnavailable: true}, "stop_after_disconnect": {SetsStopAfterDisconnect: true},
		"labels": {SetsLabels: true, Labels: map[string]string{"disk": "hdd"}}, "apart": {SetsApart: true},
	} {
		v := miosa.Version{Services: []miosa.ServiceSpec{{ServiceID: "svc_web", Settings: set}}}
		got := v.Settled(was)
		if got.SameSettings(was) || (got.MaxUnavailable == was.MaxUnavailable) == set.SetsMaxUnavailable ||
			(got.StopAfterDisconnect == was.StopAfterDisconnect) == set.SetsStopAfterDisconnect ||
			(got.Labels["disk"] == was.Labels["disk"]) == set.SetsLabels || (got.Apart == was.Apart) == set.SetsApart {
			t.Errorf("%s is brought, and it is %+v", name, got)
		}
	}
	if other := v.Settled(miosa.Service{ID: "svc_jobs", DesiredReplicas: 3}); other.DesiredReplicas != 3 {
		t.Errorf("another service: %+v", other)
	}
	v.PromotedAt = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	if got := v.Settled(was); !got.SameSettings(was) {
		t.Errorf("it was live, and yet %+v", got)
	}
}
