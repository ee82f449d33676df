package api_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/miosa/miosa/api"
)

// TestPublishSaysTheWholeService: what is no part of a version may be said with
// it, and reset takes everything back that is not said.
func TestPublishSaysTheWholeService(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	release := p.upload(dep, "one")
	publish := func(status int, more map[string]any, service map[string]any) answer {
		t.Helper()
		body := map[string]any{"release_id": release}
		maps.Copy(body, more)
		service["name"], service["run_command"] = "web", "/app/server"
		body["services"] = []any{service}
		a := p.want(status, "POST", "/deployments/"+dep+"/publish?wait=true", body)
		if status == 200 {
			p.settled(dep)
		}
		return a
	}
	first := publish(200, nil, map[string]any{
		"desired_replicas": 2, "sticky": map[string]any{"mode": "cookie"}, "restart": map[string]any{"policy": "never", "max_age_seconds": 3600},
		"port": 9000, "stop_grace_seconds": 60, "health_check": map[string]any{"interval_seconds": 9},
	})
	for at, want := range map[string]any{
		"sticky.mode": "cookie", "restart.policy": "never", "restart.max_age_seconds": 3600.0, "port": 9000.0, "stop_grace_seconds": 60.0, "health_check.interval_seconds": 9.0,
	} {
		if got := serviceAt(first, at); got != want {
			t.Errorf("%s is %v, want %v", at, got, want)
		}
	}
	same := publish(200, nil, map[string]any{})
	if serviceAt(same, "port") != 9000.0 || serviceAt(same, "restart.policy") != "never" {
		t.Errorf("what is not said does not stay: %s", same.Raw)
	}
	reset := publish(200, map[string]any{"reset": true}, map[string]any{"restart": map[string]any{"max_age_seconds": 60}})
	for at, want := range map[string]any{
		"sticky.mode": "none", "restart.policy": "always", "restart.max_age_seconds": 60.0, "port": 8080.0, "stop_grace_seconds": 10.0, "health_check.interval_seconds": 5.0,
		"desired_replicas": 2.0, // scaled, and so it stays
	} {
		if got := serviceAt(reset, at); got != want {
			t.Errorf("after a reset %s is %v, want %v", at, got, want)
		}
	}
	bad := publish(422, nil, map[string]any{
		"regions": []any{"nowhere"}, "sticky": map[string]any{"mode": "header"}, "restart": map[string]any{"policy": "perhaps"},
	})
	for _, field := range []string{"services[0].regions[0]", "services[0].sticky.name", "services[0].restart.policy"} {
		if !strings.Contains(bad.Raw, field) {
			t.Errorf("no word of %s: %s", field, bad.Raw)
		}
	}
}

// TestDisruptionAndPlacement come with a publish, in the moment in which it is
// live, or with a change, which has the last word; what is not said stays.
func TestDisruptionAndPlacement(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	release := p.upload(dep, "one")
	publish := func(status int, more map[string]any, command string, service map[string]any) answer {
		t.Helper()
		body := map[string]any{"release_id": release}
		maps.Copy(body, more)
		service["name"], service["run_command"] = "web", command
		body["services"] = []any{service}
		return p.want(status, "POST", "/deployments/"+dep+"/publish?wait=true", body)
	}
	id := ""
	is := func(when, want string) {
		t.Helper()
		a := p.want(200, "GET", "/services/"+id, nil)
		got := fmt.Sprintf("%v %v %v %v", a.at("data.disruption.max_unavailable"), a.at("data.stop_after_disconnect_seconds"), a.at("data.placement.labels"), a.at("data.placement.apart"))
		if got != want {
			t.Errorf("%s: it is %s, want %s", when, got, want)
		}
	}
	publish(200, nil, "/app/server", map[string]any{})
	p.settled(dep)
	_, ids := p.services(dep, "")
	id = ids["web"]
	is("at first", "0 0 map[] false")
	said := func() map[string]any {
		return map[string]any{
			"disruption": map[string]any{"max_unavailable": "25%"}, "stop_after_disconnect_seconds": 60,
			"placement": map[string]any{"labels": map[string]any{"disk": "nvme", "a/b": "c"}, "apart": true},
		}
	}
	publish(200, nil, "/app/broken", said())
	p.settled(dep)
	is("after a publish that failed", "0 0 map[] false")
	publish(200, nil, "/app/server", said())
	p.settled(dep)
	is("published", "25% 60 map[a/b:c disk:nvme] true")
	publish(200, nil, "/app/server", map[string]any{})
	p.settled(dep)
	is("published without a word of it", "25% 60 map[a/b:c disk:nvme] true")
	p.want(200, "PATCH", "/services/"+id, map[string]any{"disruption": map[string]any{"max_unavailable": 2}, "placement": map[string]any{"apart": false}})
	is("changed by a number, and in part", "2 60 map[a/b:c disk:nvme] false")
	p.want(200, "PATCH", "/services/"+id, map[string]any{"stop_after_disconnect_seconds": 0, "placement": map[string]any{"labels": map[string]any{}}, "disruption": map[string]any{}})
	is("taken back", "2 0 map[] false")

	held := said()
	held["name"], held["run_command"] = "web", "/app/held"
	p.want(202, "POST", "/deployments/"+dep+"/publish", map[string]any{"release_id": release, "services": []any{held}})
	p.want(200, "PATCH", "/services/"+id, map[string]any{"disruption": map[string]any{"max_unavailable": "1"}, "placement": map[string]any{"labels": map[string]any{"disk": "hdd"}}})
	is("changed while a version is rolled out", "1 0 map[disk:hdd] false")
	p.Control.Release()
	p.settled(dep)
	is("when that is live", "1 60 map[disk:hdd] true")
	publish(200, map[string]any{"reset": true}, "/app/server", map[string]any{})
	p.settled(dep)
	is("after a reset", "0 0 map[] false")

	many := map[string]any{}
	for n := range 21 {
		many[fmt.Sprint("k", n)] = "v"
	}
	for _, c := range []struct {
		field, says string
		service     map[string]any
	}{
		{"disruption.max_unavailable", `must be a number of instances, 0–10000, or a percentage like \"25%\", 0%–100%; not \"101%\"`, map[string]any{"disruption": map[string]any{"max_unavailable": "101%"}}},
		{"disruption.max_unavailable", `not \"1.5\"`, map[string]any{"disruption": map[string]any{"max_unavailable": 1.5}}},
		{"disruption.max_unavailable", `not \"10001\"`, map[string]any{"disruption": map[string]any{"max_unavailable": 10001}}},
		{"disruption.max_unavailable", "must be a number or a string", map[string]any{"disruption": map[string]any{"max_unavailable": true}}},
		{"stop_after_disconnect_seconds", "must be 0 (never) or 10–86400 seconds, not 9", map[string]any{"stop_after_disconnect_seconds": 9}},
		{"stop_after_disconnect_seconds", "not 86401", map[string]any{"stop_after_disconnect_seconds": 86401}},
		{"placement.labels", "may be at most 20", map[string]any{"placement": map[string]any{"labels": many}}},
		{"placement.labels", `the key \"-a\" must be 1–63 letters`, map[string]any{"placement": map[string]any{"labels": map[string]any{"-a": "b"}}}},
		{"placement.labels.disk", "must be 1–63 letters", map[string]any{"placement": map[string]any{"labels": map[string]any{"disk": ""}}}},
	} {
		bad := publish(422, nil, "/app/server", maps.Clone(c.service))
		changed := p.want(422, "PATCH", "/services/"+id, c.service)
		if !strings.Contains(bad.Raw, "services[0]."+c.field) || !strings.Contains(bad.Raw, c.says) || !strings.Contains(changed.Raw, c.says) {
			t.Errorf("of %s and %q, it says\n%s\n%s", c.field, c.says, bad.Raw, changed.Raw)
		}
	}
}

// TestPublishSetsVariables with the version that is made of them, and no secret.
func TestPublishSetsVariables(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	release := p.upload(dep, "one")
	p.want(200, "POST", "/deployments/"+dep+"/env", map[string]any{"env": map[string]any{"TOKEN": "0123456789abcdef"}, "is_secret": true})
	body := map[string]any{"release_id": release, "run_command": "/app/server", "variables": map[string]any{"LEVEL": "debug", "TOKEN": "mine"}}
	if a := p.want(422, "POST", "/deployments/"+dep+"/publish?wait=true", body); !strings.Contains(a.Raw, "variables.TOKEN") {
		t.Errorf("a secret would be overwritten: %s", a.Raw)
	}
	if a := p.want(200, "GET", "/deployments/"+dep+"/env", nil); strings.Contains(a.Raw, "LEVEL") {
		t.Errorf("a refused publish set a variable: %s", a.Raw)
	}
	body["variables"] = map[string]any{"LEVEL": "a long value", "PORT OF CALL": "x"}
	if a := p.want(422, "POST", "/deployments/"+dep+"/publish?wait=true", body); !strings.Contains(a.Raw, "variables.PORT OF CALL") {
		t.Errorf("a wrong name: %s", a.Raw)
	}
	body["variables"] = map[string]any{"LEVEL": "a long value"}
	p.want(200, "POST", "/deployments/"+dep+"/publish?wait=true", body)
	p.settled(dep)
	if a := p.want(200, "GET", "/deployments/"+dep+"/env", nil); !strings.Contains(a.Raw, `"key":"LEVEL"`) || !strings.Contains(a.Raw, "TOKEN") {
		t.Errorf("variables after the publish: %s", a.Raw)
	}
}

// serviceAt is what the first service of a publish's answer has there.
func serviceAt(a answer, path string) any {
	list, _ := a.at("data.services").([]any)
	if len(list) == 0 {
		return nil
	}
	at := list[0]
	for name := range strings.SplitSeq(path, ".") {
		table, _ := at.(map[string]any)
		at = table[name]
	}
	return at
}

// A worker has no port to be asked on: a health check that would is refused with
// the service's name, in a publish and in a change.
func TestWorkersAreNotAskedOnAPort(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	release := p.upload(dep, "one")
	publish := func(status int, worker map[string]any) answer {
		t.Helper()
		all := map[string]any{"name": "jobs", "type": "worker", "run_command": "/app/jobs"}
		maps.Copy(all, worker)
		web := map[string]any{"name": "web", "run_command": "/app/server"}
		a := p.want(status, "POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{"release_id": release, "services": []any{web, all}})
		if status == 200 {
			p.settled(dep)
		}
		return a
	}
	check := func(kind string) map[string]any {
		return map[string]any{"health_check": map[string]any{"type": kind, "command": "/app/check"}}
	}
	publish(200, check("exec"))
	_, ids := p.services(dep, "")
	for _, kind := range []string{"http", "tcp", "grpc"} {
		a := publish(422, check(kind))
		if !strings.Contains(a.Raw, "services[1].health_check.type") || !strings.Contains(a.Raw, "service jobs is a worker") {
			t.Errorf("%s: %s", kind, a.Raw)
		}
		a = p.want(422, "PATCH", "/services/"+ids["jobs"], check(kind))
		if !strings.Contains(a.Raw, `"health_check.type"`) || !strings.Contains(a.Raw, "service jobs is a worker") {
			t.Errorf("%s: %s", kind, a.Raw)
		}
	}
	if a := publish(422, map[string]any{"protocol": "tcp"}); !strings.Contains(a.Raw, "services[1].protocol") || !strings.Contains(a.Raw, "service jobs is a worker") {
		t.Error(a.Raw)
	}
	publish(200, check("none"))
	p.want(200, "PATCH", "/services/"+ids["jobs"], check("exec"))
	p.settled(dep)
}

// A path is for a request: given alone it makes the check one, whatever it was.
func TestAPathMakesTheHealthCheckARequest(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	release := p.upload(dep, "one")
	is := func(want string) {
		t.Helper()
		p.settled(dep)
		_, ids := p.services(dep, "")
		a := p.want(200, "GET", "/services/"+ids["web"], nil)
		if got := fmt.Sprint(a.at("data.health_check.type"), a.at("data.health_check.path")); got != want {
			t.Errorf("it is %s, want %s", got, want)
		}
	}
	publish := func(more map[string]any) {
		t.Helper()
		body := map[string]any{"release_id": release, "run_command": "/app/server"}
		maps.Copy(body, more)
		p.want(200, "POST", "/deployments/"+dep+"/publish?wait=true", body)
	}
	web := func(check map[string]any) map[string]any {
		return map[string]any{"services": []any{map[string]any{"name": "web", "run_command": "/app/server", "health_check": check}}}
	}
	publish(web(map[string]any{"type": "exec", "command": "/app/check"}))
	is("exec/")
	publish(map[string]any{"health_check_path": "/a"})
	is("http/a")
	publish(web(map[string]any{"type": "tcp"}))
	is("tcp/a")
	_, ids := p.services(dep, "")
	p.want(200, "PATCH", "/services/"+ids["web"], map[string]any{"health_check": map[string]any{"path": "/b"}})
	is("http/b")
	publish(web(map[string]any{"type": "grpc"}))
	p.settled(dep)
	p.want(200, "PATCH", "/services/"+ids["web"], map[string]any{"health_check": map[string]any{"path": "/shop.Orders"}})
	is("grpc/shop.Orders")
}

// A deployment's own run command is for publishes that take over what there was.
func TestResetIgnoresTheDeploymentsCommand(t *testing.T) {
	p := start(t, api.Config{})
	a := p.want(201, "POST", "/deployments", map[string]any{"name": "shop", "run_command": "/app/old"})
	dep := a.text("data.id")
	release := p.upload(dep, "one")
	publish := func(status int, reset bool) answer {
		t.Helper()
		return p.want(status, "POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{"release_id": release, "reset": reset, "services": []any{map[string]any{"name": "web"}}})
	}
	if got := publish(200, false); serviceAt(got, "run_command") != "/app/old" {
		t.Error(got.Raw)
	}
	p.settled(dep)
	if got := publish(422, true); !strings.Contains(got.Raw, "run_command is needed for service web") {
		t.Error(got.Raw)
	}
}

// TestAPublishChangesNothingBeforeItIsLive: how many instances there are, and
// what else is no part of a version, comes with the version that brings it, in
// the moment in which it goes live for the first time.
func TestAPublishChangesNothingBeforeItIsLive(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	release := p.upload(dep, "one")
	publish := func(more map[string]any, command string, service map[string]any) answer {
		t.Helper()
		body := map[string]any{"release_id": release}
		maps.Copy(body, more)
		service["name"], service["run_command"] = "web", command
		body["services"] = []any{service}
		a := p.want(200, "POST", "/deployments/"+dep+"/publish?wait=true", body)
		p.settled(dep)
		return a
	}
	is := func(when, want string) {
		t.Helper()
		_, ids := p.services(dep, "?environment=production")
		a := p.want(200, "GET", "/services/"+ids["web"], nil)
		got := fmt.Sprintf("%v %v %v %v", a.at("data.desired_replicas"), a.at("data.regions"), a.at("data.sticky.mode"), a.at("data.restart.policy"))
		if got != want {
			t.Errorf("%s: it is %s, want %s", when, got, want)
		}
	}
	all := func(n int) map[string]any {
		return map[string]any{"desired_replicas": n, "regions": []any{"local"}, "sticky": map[string]any{"mode": "cookie"}, "restart": map[string]any{"policy": "never"}}
	}
	publish(nil, "/app/server", map[string]any{"desired_replicas": 2})
	is("at first", "2 [] none always")
	publish(nil, "/app/broken", all(4))
	is("after a publish that failed", "2 [] none always")
	publish(map[string]any{"reset": true}, "/app/broken", map[string]any{"desired_replicas": 0})
	is("after another that failed", "2 [] none always")
	proven := publish(map[string]any{"promote": false}, "/app/server", all(3)).text("data.version.id")
	is("after one that is only proven", "2 [] none always")
	if n := p.want(200, "GET", "/deployments/"+dep+"/runtime-instances", nil).at("page.total"); n != 3.0 {
		t.Errorf("it was proven with %v instances", n)
	}
	p.want(200, "POST", "/deployments/"+dep+"/versions/"+proven+"/promote", map[string]any{})
	p.settled(dep)
	is("when that is promoted", "3 [local] cookie never")
	_, ids := p.services(dep, "")
	p.want(200, "PATCH", "/services/"+ids["web"], map[string]any{"desired_replicas": 5})
	p.want(200, "POST", "/deployments/"+dep+"/rollback", map[string]any{})
	p.settled(dep)
	is("rolled back", "5 [local] cookie never")
	p.want(200, "POST", "/deployments/"+dep+"/versions/"+proven+"/promote", map[string]any{})
	p.settled(dep)
	is("promoted again", "5 [local] cookie never")
	// A new version of the same does not bring them once more.
	p.want(202, "POST", "/services/"+ids["web"]+"/restart", nil)
	p.settled(dep)
	is("restarted", "5 [local] cookie never")
	p.want(200, "PATCH", "/services/"+ids["web"], map[string]any{"desired_replicas": 1, "stop_grace_seconds": 20})
	p.settled(dep)
	is("changed", "1 [local] cookie never")
	publish(nil, "/app/server", map[string]any{})
	is("published without a word of it", "1 [local] cookie never")

	// In another environment a version has what is said there.
	publish(map[string]any{"environment": "staging"}, "/app/server", map[string]any{"desired_replicas": 4})
	staged, _ := p.want(200, "GET", "/deployments/"+dep+"/versions", nil).at("data").([]any)
	newest, _ := staged[0].(map[string]any)
	p.want(200, "POST", "/deployments/"+dep+"/versions/"+fmt.Sprint(newest["id"])+"/promote", map[string]any{"environment": "production"})
	p.settled(dep)
	is("promoted from staging", "1 [local] cookie never")
}

// Who changes a service while a version is rolled out has the last word.
func TestAChangeDuringAPublishStays(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	release := p.upload(dep, "one")
	p.publish(dep, release, "/app/server")
	p.settled(dep)
	_, ids := p.services(dep, "")
	p.want(202, "POST", "/deployments/"+dep+"/publish", map[string]any{"release_id": release, "services": []any{map[string]any{
		"name": "web", "run_command": "/app/held", "desired_replicas": 3, "sticky": map[string]any{"mode": "cookie"},
	}}})
	a := p.want(200, "PATCH", "/services/"+ids["web"], map[string]any{"desired_replicas": 2})
	if a.at("data.desired_replicas") != 2.0 || a.text("data.sticky.mode") != "none" {
		t.Errorf("before it is live: %s", a.Raw)
	}
	p.Control.Release()
	p.settled(dep)
	a = p.want(200, "GET", "/services/"+ids["web"], nil)
	if a.at("data.desired_replicas") != 2.0 || a.text("data.sticky.mode") != "cookie" {
		t.Errorf("when it is live: %s", a.Raw)
	}
}

// What a publish brings counts against the plan before it is live: two of them
// at once may not bring more than there is room for.
func TestWhatIsComingTakesRoom(t *testing.T) {
	p := start(t, api.Config{})
	p.want(201, "POST", "/admin/plans", map[string]any{"name": "small", "max_deployments": 2, "max_instances": 8, "max_replicas": 8}, p.bearer(p.Admin))
	p.want(200, "PATCH", "/admin/tenants/"+p.Tenant.ID, map[string]any{"plan": "small"}, p.bearer(p.Admin))
	one, two := p.deploy("one"), p.deploy("two")
	publish := func(dep, command string, n int) answer {
		t.Helper()
		return p.call("POST", "/deployments/"+dep+"/publish", map[string]any{"release_id": p.upload(dep, "x"), "services": []any{
			map[string]any{"name": "web", "run_command": command, "desired_replicas": n},
		}})
	}
	for _, dep := range []string{one, two} {
		if a := publish(dep, "/app/server", 1); a.Status != 202 {
			t.Fatal(a.Raw)
		}
		p.settled(dep)
	}
	if a := publish(one, "/app/held", 3); a.Status != 202 {
		t.Fatal(a.Raw)
	}
	if a := publish(two, "/app/server", 3); a.Status != 402 || a.code() != "quota_exceeded" {
		t.Errorf("three come to one, four are there with two's, and three more are let in: %s", a.Raw)
	}
	if a := publish(two, "/app/server", 2); a.Status != 202 {
		t.Errorf("there is room for two: %s", a.Raw)
	}
}
