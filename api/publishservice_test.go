package api_test

import (
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
