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
