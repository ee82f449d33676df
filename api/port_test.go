package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/store"
)

// speaking publishes services that speak what is said, "db tcp".
func (p platform) speaking(dep string, services ...string) answer {
	p.t.Helper()
	var all []any
	for _, s := range services {
		name, protocol, _ := strings.Cut(s, " ")
		n := map[string]any{"name": name, "run_command": "/app", "type": "api"}
		if protocol != "" {
			n["protocol"] = protocol
		}
		all = append(all, n)
	}
	a := p.call("POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{"release_id": p.upload(dep, "x"), "services": all})
	if a.Status == 200 {
		p.settled(dep)
	}
	return a
}

// portOf is a service's port and where it is reached.
func (p platform) portOf(dep, name string) (port int, url string) {
	p.t.Helper()
	_, ids := p.services(dep, "?all=true")
	a := p.want(200, "GET", "/services/"+ids[name], nil)
	if n, ok := a.at("data.public_port").(float64); ok {
		port = int(n)
	}
	url, _ = a.at("data.public_url").(string)
	return port, url
}

// A service that speaks raw TCP has a port of the router's, of its own, over all
// its versions, until its deployment is gone.
func TestPublicPorts(t *testing.T) {
	p := start(t, api.Config{PublicPorts: store.PortRange{First: 30000, Last: 30002}})
	dep := p.deploy("shop")
	first := p.speaking(dep, "web", "db tcp", "cache tcp")
	if first.Status != 200 {
		t.Fatal(first.Raw)
	}
	db, url := p.portOf(dep, "db")
	cache, _ := p.portOf(dep, "cache")
	if db < 30000 || db > 30002 || cache < 30000 || cache > 30002 || db == cache || url != fmt.Sprintf("tcp://shop.default.localhost:%d", db) {
		t.Fatalf("db %d at %s, cache %d", db, url, cache)
	}
	if got, url := p.portOf(dep, "web"); got != 0 || url != "" {
		t.Errorf("web: %d %s", got, url)
	}
	p.listed(dep, "", "cache db web*")
	if a := p.want(200, "GET", "/deployments/"+dep+"/services", nil); !strings.Contains(a.Raw, `"type":"tcp"`) {
		t.Errorf("the health check of one is no connection: %s", a.Raw)
	}
	stays := func(when string) {
		t.Helper()
		if got, _ := p.portOf(dep, "db"); got != db {
			t.Errorf("%s: %d, was %d", when, got, db)
		}
	}
	p.speaking(dep, "web", "db")
	stays("published anew, saying nothing")
	p.speaking(dep, "web")
	stays("left out")
	if _, url := p.portOf(dep, "db"); url != "" {
		t.Errorf("one that left is reached at %s", url)
	}
	p.want(200, "POST", "/deployments/"+dep+"/rollback", map[string]any{"version_id": first.text("data.version.id")})
	p.settled(dep)
	stays("rolled back to")

	// Another one's is another; then there is none left, and it is said so.
	other := p.deploy("other")
	if a := p.speaking(other, "db tcp"); a.Status != 200 || a.at("data.version.routed_service_id") != nil {
		t.Fatal(a.Raw)
	}
	if got, _ := p.portOf(other, "db"); got == db || got == cache || got == 0 {
		t.Errorf("two have %d", got)
	}
	if a := p.speaking(other, "db tcp", "more tcp"); a.Status != 503 || !strings.Contains(a.Raw, "all 3 ports") {
		t.Errorf("%d %s", a.Status, a.Raw)
	}
	if a := p.want(200, "GET", "/why/"+other, nil); !strings.Contains(a.text("data.summary"), "raw TCP on a port of its own") {
		t.Errorf("why: %s", a.Raw)
	}
	// One that begins to speak it gets its port then.
	third := p.deploy("third")
	p.speaking(third, "web")
	_, ids := p.services(third, "")
	if a := p.call("PATCH", "/services/"+ids["web"], map[string]any{"protocol": "tcp"}); a.Status != 503 {
		t.Errorf("%d %s", a.Status, a.Raw)
	}
	if a := p.of(third, "", "jobs worker"); a.Status != 200 {
		t.Fatal(a.Raw)
	}
	if a := p.call("POST", "/deployments/"+third+"/publish", map[string]any{"release_id": p.upload(third, "x"), "services": []any{
		map[string]any{"name": "jobs", "type": "worker", "run_command": "/app", "protocol": "tcp"},
	}}); a.Status != 422 || !strings.Contains(a.Raw, "worker") {
		t.Errorf("%d %s", a.Status, a.Raw)
	}
}

// The plan bounds them, and without a range there are none.
func TestPublicPortsAreBounded(t *testing.T) {
	p := start(t, api.Config{})
	if a := p.speaking(p.deploy("shop"), "db tcp"); a.Status != 422 || !strings.Contains(a.Raw, "--tcp-ports") {
		t.Errorf("%d %s", a.Status, a.Raw)
	}
	p = start(t, api.Config{PublicPorts: store.PortRange{First: 30000, Last: 30999}})
	p.want(201, "POST", "/admin/plans", map[string]any{"name": "small", "max_public_ports": 1}, p.bearer(p.Admin))
	p.want(200, "PATCH", "/admin/tenants/"+p.Tenant.ID, map[string]any{"plan": "small"}, p.bearer(p.Admin))
	if a := p.speaking(p.deploy("two"), "db tcp", "cache tcp"); a.Status == 200 || !strings.Contains(a.Raw, "allows 1 services of protocol tcp") {
		t.Errorf("%d %s", a.Status, a.Raw)
	}
	if a := p.speaking(p.deploy("one"), "db tcp"); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Raw)
	}
}
