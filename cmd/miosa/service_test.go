package main

import (
	"net/http"
	"strings"
	"testing"
)

// Which service requests go to is each version's own: one whose services have
// other names, well, ill or slow, takes nothing from the one that is live.
func TestServicesOfOtherNames(t *testing.T) {
	j := begin(t)
	dep, err := j.Create(j.ctx, "named")
	if err != nil {
		t.Fatal(err)
	}
	rel, err := j.Upload(j.ctx, dep, j.app)
	if err != nil {
		t.Fatal(err)
	}
	publish := func(name, mode string, live bool) (version string) {
		t.Helper()
		b := body(rel, mode, map[string]any{"grace_period_seconds": 60})
		b["services"].([]map[string]any)[0]["name"] = name
		p, err := j.Publish(j.ctx, dep, b)
		if err != nil {
			t.Fatal(err)
		}
		if p.Promoted != live {
			t.Fatalf("service %s, %s: promoted %t, version %s: %s", name, mode, p.Promoted, p.Version.State, p.Version.ErrorMessage)
		}
		return p.Version.ID
	}
	serves := func(mode string) {
		t.Helper()
		if code, text, err := j.get("named", "/"); err != nil || code != http.StatusOK || !strings.HasPrefix(text, mode+" ") {
			t.Errorf("it answers %d %q %v, not as %s", code, text, err, mode)
		}
	}
	listed := func(want ...string) {
		t.Helper()
		var services []struct {
			Name string `json:"name"`
		}
		if err := j.Call(j.ctx, http.MethodGet, "/deployments/"+dep+"/services", nil, &services); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range services {
			names = append(names, s.Name)
		}
		if strings.Join(names, " ") != strings.Join(want, " ") {
			t.Errorf("its services are %q, not %q", names, want)
		}
	}

	first := publish("front", "serve", true)
	serves("serve")
	var stops []func() (int64, []string)
	for range 4 {
		stops = append(stops, j.traffic("named"))
	}
	publish("web", "exit 3", false) // it crashes
	serves("serve")
	listed("front")
	publish("web", "late 5s", true) // slow, but healthy in the end
	serves("late")
	listed("web")
	publish("site", "serve", true) // the one that requests go to has another name
	serves("serve")
	listed("site")
	if err := j.Call(j.ctx, http.MethodPost, "/deployments/"+dep+"/rollback", map[string]any{"version_id": first}, nil); err != nil {
		t.Fatal(err)
	}
	serves("serve")
	listed("front")
	var sent int64
	for _, stop := range stops {
		n, failures := stop()
		sent += n
		if n == 0 || len(failures) > 0 {
			t.Errorf("%d of %d requests failed: %v", len(failures), n, failures)
		}
	}
	t.Logf("%d requests answered meanwhile", sent)

	// Nothing listens where there are workers only: the router says so.
	b := body(rel, "serve", nil)
	s := b["services"].([]map[string]any)[0]
	s["name"], s["type"] = "jobs", "worker"
	delete(s, "port")
	delete(s, "health_check")
	if p, err := j.Publish(j.ctx, dep, b); err != nil || !p.Promoted {
		t.Fatalf("workers alone: promoted %t, %q, %v", p.Promoted, p.Version.ErrorMessage, err)
	}
	if code, text, err := j.get("named", "/"); err != nil || code != http.StatusNotFound || !strings.Contains(text, "no_http") {
		t.Errorf("workers alone: %d %q %v", code, text, err)
	}
	listed("jobs")
	if err := j.Call(j.ctx, http.MethodPost, "/deployments/"+dep+"/rollback", map[string]any{"version_id": first}, nil); err != nil {
		t.Fatal(err)
	}
	serves("serve")
}
