package api_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miosa/miosa/api"
)

// named is one service of a publish; "jobs worker 2" has a type and replicas.
func named(words string) map[string]any {
	f := append(strings.Fields(words), "", "")
	s := map[string]any{"name": f[0], "run_command": "/app"}
	if f[1] != "" {
		s["type"] = f[1]
	}
	if f[2] != "" {
		s["desired_replicas"] = int(f[2][0] - '0')
	}
	return s
}

// of publishes a version of those services and waits for its end.
func (p platform) of(dep string, command string, services ...string) answer {
	p.t.Helper()
	var all []any
	for _, s := range services {
		n := named(s)
		if command != "" {
			n["run_command"] = command
		}
		all = append(all, n)
	}
	a := p.call("POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{"release_id": p.upload(dep, "x"), "services": all})
	if a.Status == 200 {
		p.settled(dep)
	}
	return a
}

// services are the names of a list, those that requests go to with a star.
func (p platform) services(dep, query string) (names []string, ids map[string]string) {
	p.t.Helper()
	ids = map[string]string{}
	rows, _ := p.want(200, "GET", "/deployments/"+dep+"/services"+query, nil).at("data").([]any)
	for _, row := range rows {
		s := row.(map[string]any)
		name := s["name"].(string)
		ids[name] = s["id"].(string)
		if s["routed"] == true {
			name += "*"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, ids
}

func (p platform) listed(dep, query, want string) map[string]string {
	p.t.Helper()
	names, ids := p.services(dep, query)
	if got := strings.Join(names, " "); got != want {
		p.t.Errorf("services%s: %q, not %q", query, got, want)
	}
	return ids
}

// A service that no live or wanted version names is not in the lists and is not
// changed; what names none means the one that requests go to.
func TestServicesThatLeft(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	first := p.of(dep, "", "other", "web api", "jobs worker")
	ids := p.listed(dep, "", "jobs other web*")
	if first.text("data.version.routed_service_id") != ids["web"] {
		t.Errorf("requests go to: %s", first.Raw)
	}
	// Another of type web is there, and older.
	p.want(200, "POST", "/deployments/"+dep+"/scale", map[string]any{"instances": 2})
	if a := p.want(200, "GET", "/services/"+ids["web"], nil); a.at("data.desired_replicas") != 2.0 {
		t.Errorf("scaled: %s", a.Raw)
	}
	p.want(200, "POST", "/deployments/"+dep+"/resize?wait=true", map[string]any{"size": "medium"})
	p.settled(dep)
	if a := p.want(200, "GET", "/services/"+ids["web"], nil); a.at("data.resources.memory_mb") != 2048.0 {
		t.Errorf("resized: %s", a.Raw)
	}

	// One that fails names nothing.
	if a := p.of(dep, "/app/broken", "never"); a.at("data.promoted") != false {
		t.Fatalf("%d %s", a.Status, a.Raw)
	}
	p.listed(dep, "", "jobs other web*")
	p.of(dep, "", "front")
	p.listed(dep, "", "front*")
	all := p.listed(dep, "?all=true", "front* jobs never other web")
	for _, name := range []string{"web", "never"} {
		svc := "/services/" + all[name]
		if a := p.want(200, "GET", svc, nil); a.text("data.state") != "stopped" || a.at("data.version_id") != nil || a.at("data.routed") != false {
			t.Errorf("one that left: %s", a.Raw)
		}
		if a := p.want(200, "GET", "/why/"+all[name], nil); !strings.Contains(a.text("data.summary"), "no part of the live version") {
			t.Errorf("why: %s", a.Raw)
		}
		p.want(404, "PATCH", svc, map[string]any{"desired_replicas": 3})
		p.want(404, "PATCH", svc, map[string]any{"port": 3000})
		p.want(404, "POST", svc+"/restart", nil)
		for _, ref := range []string{name, all[name]} {
			p.want(404, "POST", "/deployments/"+dep+"/scale", map[string]any{"instances": 3, "service": ref})
			p.want(404, "POST", "/deployments/"+dep+"/resize", map[string]any{"size": "medium", "service": ref})
		}
	}

	// A rollback brings them back, as they were.
	p.want(200, "POST", "/deployments/"+dep+"/rollback", map[string]any{"version_id": first.text("data.version.id")})
	p.settled(dep)
	back := p.listed(dep, "", "jobs other web*")
	if back["web"] != ids["web"] {
		t.Errorf("web was %s and is %s", ids["web"], back["web"])
	}

	// Workers alone: nothing stands for the whole.
	if a := p.of(dep, "", "jobs worker", "mail worker"); a.at("data.version.routed_service_id") != nil || a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Raw)
	}
	p.listed(dep, "", "jobs mail")
	p.want(422, "POST", "/deployments/"+dep+"/scale", map[string]any{"instances": 2})
	if a := p.want(200, "GET", "/why/"+dep, nil); !strings.Contains(a.text("data.summary"), "workers only") {
		t.Errorf("why: %s", a.Raw)
	}
}

// A name is free again for another type when no live version has it; the
// service that had it is still the earlier version's.
func TestNamesThatLeftMayHaveAnotherType(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	p.of(dep, "", "front")
	p.of(dep, "/app/broken", "front", "api worker") // a slip: it failed
	if a := p.of(dep, "", "front", "api api"); a.Status != 200 || a.at("data.promoted") != true {
		t.Fatalf("the name of one that failed: %d %s", a.Status, a.Raw)
	}
	if a := p.of(dep, "", "api worker"); a.Status != 409 || a.code() != "service_type_differs" {
		t.Errorf("the name of a live one: %d %s", a.Status, a.Raw)
	}
	third := p.listed(dep, "", "api front*")
	version := p.want(200, "GET", "/deployments/"+dep, nil).text("data.active_version_id")
	p.of(dep, "", "front")
	p.of(dep, "", "api worker", "front")
	now := p.listed(dep, "", "api front*")
	if now["api"] == third["api"] {
		t.Errorf("one service is an api and a worker: %s", now["api"])
	}
	p.want(200, "POST", "/deployments/"+dep+"/scale", map[string]any{"instances": 4, "service": "api"})
	p.want(200, "POST", "/deployments/"+dep+"/rollback", map[string]any{"version_id": version})
	p.settled(dep)
	if back := p.listed(dep, "", "api front*"); back["api"] != third["api"] {
		t.Errorf("back is %s, not %s", back["api"], third["api"])
	}
	if a := p.want(200, "GET", "/services/"+third["api"], nil); a.text("data.type") != "api" || a.at("data.desired_replicas") != 1.0 {
		t.Errorf("it is not as it was: %s", a.Raw)
	}
}

// Of the plan's instances, services that left take none; a former version that
// needs more than the live one has to fit.
func TestServicesThatLeftTakeNoRoom(t *testing.T) {
	p := start(t, api.Config{})
	p.want(201, "POST", "/admin/plans", map[string]any{"name": "tiny", "max_instances": 6, "max_replicas": 5}, p.bearer(p.Admin))
	p.want(200, "PATCH", "/admin/tenants/"+p.Tenant.ID, map[string]any{"plan": "tiny"}, p.bearer(p.Admin))
	dep := p.deploy("shop")
	var versions []string
	for n := range 4 { // old and new are 6 each time
		a := p.of(dep, "", fmt.Sprintf("web%d web 3", n))
		if a.Status != 200 || a.at("data.promoted") != true {
			t.Fatalf("version %d: %d %s", n, a.Status, a.Raw)
		}
		versions = append(versions, a.text("data.version.id"))
	}
	if a := p.of(dep, "", "more web 4"); a.Status != 402 || !strings.Contains(a.text("message"), "this needs 7") {
		t.Errorf("%d %s", a.Status, a.Raw)
	}
	p.want(200, "POST", "/deployments/"+dep+"/rollback", map[string]any{"version_id": versions[0]})
	p.settled(dep)
	p.want(200, "POST", "/deployments/"+dep+"/scale", map[string]any{"instances": 1})
	other := p.deploy("other")
	if a := p.of(other, "", "web web 4"); a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Raw)
	}
	// With three again there would be seven.
	if a := p.call("POST", "/deployments/"+dep+"/rollback", map[string]any{"version_id": versions[1]}); a.Status != 402 || !strings.Contains(a.text("message"), "there would be 7") {
		t.Errorf("%d %s", a.Status, a.Raw)
	}
	p.want(200, "POST", "/deployments/"+other+"/scale", map[string]any{"instances": 3})
	p.want(200, "POST", "/deployments/"+dep+"/rollback", map[string]any{"version_id": versions[1]})
	p.settled(dep)
	p.want(402, "POST", "/deployments/"+dep+"/scale", map[string]any{"instances": 4})
}
