package api_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/store"
)

// live is a deployment with a version that is live.
func (p platform) live(name string) (dep string, published answer) {
	p.t.Helper()
	dep = p.deploy(name)
	published = p.publish(dep, p.upload(dep, "bytes of "+name), "/app/server")
	p.settled(dep)
	return dep, published
}

func TestTasks(t *testing.T) {
	p := start(t, api.Config{})
	dep, published := p.live("shop")
	version := published.text("data.version.id")

	done := p.want(200, "POST", "/deployments/"+dep+"/tasks?wait=true", map[string]any{
		"argv": []string{"/app/migrate", "it's", "a b"}, "time_limit_seconds": 60, "retries": 2, "size": "small", "metadata": map[string]any{"why": "release"},
	})
	for path, want := range map[string]any{
		"data.state": "succeeded", "data.exit_code": 0.0, "data.command": `/app/migrate 'it'\''s' 'a b'`, "data.version_id": version, "data.retries": 2.0,
		"data.time_limit_seconds": 60.0, "data.metadata.why": "release", "data.service_id": nil, "data.attempt": 1.0,
	} {
		if got := done.at(path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	if done.at("data.resources.memory_mb") == published.at("data.services") {
		t.Error("no size of its own")
	}

	failed := p.want(200, "POST", "/deployments/shop/tasks?wait=true", map[string]any{"command": "/app/broken"})
	if failed.text("data.state") != "failed" || failed.at("data.exit_code") != 1.0 {
		t.Errorf("one that fails: %s", failed.Raw)
	}

	held := p.want(201, "POST", "/deployments/"+dep+"/tasks", map[string]any{"command": "/app/held"})
	id := held.text("data.id")
	if a := p.want(200, "GET", "/tasks/"+id, nil, "Prefer: wait=1"); a.at("data.finished_at") != nil {
		t.Errorf("one that runs on: %s", a.Raw)
	}
	p.want(412, "POST", "/tasks/"+id+"/stop", nil, `If-Match: "1"`)
	stopped := p.want(200, "POST", "/tasks/"+id+"/stop?wait=true", nil)
	if stopped.text("data.state") != "stopped" || stopped.at("data.exit_code") != nil {
		t.Errorf("one that is stopped: %s", stopped.Raw)
	}
	again := p.want(200, "POST", "/tasks/"+id+"/stop", nil)
	if again.Header.Get("ETag") != stopped.Header.Get("ETag") {
		t.Error("a second stop changed what had ended")
	}

	for query, want := range map[string]int{"": 3, "?state=failed": 1, "?environment=production": 3, "?environment=staging": 0, "?version_id=" + version: 3, "?version_id=ver_none": 0} {
		if all, _ := p.want(200, "GET", "/deployments/"+dep+"/tasks"+query, nil).at("data").([]any); len(all) != want {
			t.Errorf("%d tasks with %q, want %d", len(all), query, want)
		}
	}
	mine, _ := p.want(200, "GET", "/events?task_id="+id, nil).at("data").([]any)
	for _, e := range mine {
		if e.(map[string]any)["task_id"] != id {
			t.Errorf("of another task: %v", e)
		}
	}
	if len(mine) != 2 {
		t.Errorf("%d events of the task, want 2", len(mine))
	}
	kinds := map[string]int{}
	for _, e := range p.want(200, "GET", "/deployments/"+dep+"/events?type=task&page_size=100", nil).at("data").([]any) {
		kinds[e.(map[string]any)["type"].(string)]++
	}
	if kinds["task.created"] != 3 || kinds["task.stop_requested"] != 1 {
		t.Errorf("events %v", kinds)
	}
}

func TestTasksThatAreRefused(t *testing.T) {
	p := start(t, api.Config{})
	dep, published := p.live("shop")
	other, elsewhere := p.live("other")
	staging := p.want(200, "POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{
		"release_id": published.text("data.release.id"), "run_command": "/app/server", "port": 8080, "environment": "staging",
	}).text("data.version.id")
	broken := p.publish(dep, published.text("data.release.id"), "/app/broken").text("data.version.id")
	empty := p.deploy("empty")
	for name, c := range map[string]struct {
		dep    string
		body   any
		status int
		code   string
	}{
		"no command":            {dep, map[string]any{}, 422, "validation_failed"},
		"blank":                 {dep, map[string]any{"command": "  "}, 422, "validation_failed"},
		"both":                  {dep, map[string]any{"command": "a", "argv": []string{"a"}}, 422, "validation_failed"},
		"no program":            {dep, map[string]any{"argv": []string{""}}, 422, "validation_failed"},
		"limit":                 {dep, map[string]any{"command": "a", "time_limit_seconds": 0}, 422, "validation_failed"},
		"long limit":            {dep, map[string]any{"command": "a", "time_limit_seconds": 86401}, 422, "validation_failed"},
		"retries":               {dep, map[string]any{"command": "a", "retries": 11}, 422, "validation_failed"},
		"size":                  {dep, map[string]any{"command": "a", "size": "vast"}, 422, "validation_failed"},
		"resources":             {dep, map[string]any{"command": "a", "resources": map[string]any{"memory_mb": 1}}, 422, "validation_failed"},
		"beyond the plan":       {dep, map[string]any{"command": "a", "resources": map[string]any{"vcpus": 64}}, 402, "quota_exceeded"},
		"service":               {dep, map[string]any{"command": "a", "service": "none"}, 404, "service_not_found"},
		"environment":           {dep, map[string]any{"command": "a", "environment": "none"}, 404, "environment_not_found"},
		"version":               {dep, map[string]any{"command": "a", "version_id": "ver_none"}, 404, "version_not_found"},
		"another's version":     {dep, map[string]any{"command": "a", "version_id": elsewhere.text("data.version.id")}, 404, "version_not_found"},
		"another environment's": {dep, map[string]any{"command": "a", "version_id": staging}, 422, "validation_failed"},
		"never healthy":         {dep, map[string]any{"command": "a", "version_id": broken}, 409, "version_not_ready"},
		"nothing published":     {empty, map[string]any{"command": "a"}, 409, "nothing_published"},
		"no deployment":         {"dep_00000000000000000000000000", map[string]any{"command": "a"}, 404, "deployment_not_found"},
	} {
		if a := p.call("POST", "/deployments/"+c.dep+"/tasks", c.body); a.Status != c.status || a.code() != c.code {
			t.Errorf("%s: %d %s, want %d %s", name, a.Status, a.Raw, c.status, c.code)
		}
	}
	if all, _ := p.want(200, "GET", "/deployments/"+dep+"/tasks", nil).at("data").([]any); len(all) != 0 {
		t.Errorf("%d tasks were made", len(all))
	}
	p.want(404, "GET", "/tasks/task_00000000000000000000000000", nil)
	_ = other
}

func TestOneTaskAKey(t *testing.T) {
	p := start(t, api.Config{})
	dep, _ := p.live("shop")
	first := p.want(201, "POST", "/deployments/"+dep+"/tasks", map[string]any{"command": "/app/held"}, "Idempotency-Key: k").text("data.id")
	if again := p.want(201, "POST", "/deployments/"+dep+"/tasks", map[string]any{"command": "/app/held"}, "Idempotency-Key: k").text("data.id"); again != first {
		t.Errorf("the same request made %s and %s", first, again)
	}
	p.want(422, "POST", "/deployments/"+dep+"/tasks", map[string]any{"command": "/app/other"}, "Idempotency-Key: k")
}

func TestAPlanHasRoomForSoManyTasks(t *testing.T) {
	p := start(t, api.Config{})
	dep, _ := p.live("shop")
	p.want(200, "PATCH", "/admin/plans/default", map[string]any{"max_tasks": 3}, p.bearer(p.Admin))
	var ids []string
	for range 3 {
		ids = append(ids, p.want(201, "POST", "/deployments/"+dep+"/tasks", map[string]any{"command": "/app/held"}).text("data.id"))
	}
	if a := p.call("POST", "/deployments/"+dep+"/tasks", map[string]any{"command": "/app/held"}); a.Status != 402 {
		t.Errorf("a fourth of three: %d %s", a.Status, a.Raw)
	}
	p.want(200, "POST", "/tasks/"+ids[0]+"/stop?wait=true", nil)
	p.want(201, "POST", "/deployments/"+dep+"/tasks", map[string]any{"command": "/app/held"})
}

// What a task runs as is none of its service's replicas.
func TestAttemptsAreNoReplicas(t *testing.T) {
	p := start(t, api.Config{})
	dep, published := p.live("shop")
	service := published.at("data.services").([]any)[0].(map[string]any)["id"].(string)
	attempt := apitest.ID(t, miosa.PrefixInstance)
	task := apitest.ID(t, miosa.PrefixTask)
	p.Update(func(tx *store.Tx) error {
		v, err := store.Load(tx, store.Versions, store.VersionKey(p.Tenant.ID, dep, published.text("data.version.id")))
		if err != nil {
			return err
		}
		spec, _ := (&miosa.Task{Command: "/app/migrate"}).Spec(v)
		return store.Save(tx, store.Instances, miosa.Instance{
			ID: attempt, TenantID: p.Tenant.ID, DeploymentID: dep, EnvironmentID: v.EnvironmentID, VersionID: v.ID, TaskID: task, Attempt: 1, Spec: spec, Goal: miosa.GoalRun,
		})
	})
	for query, want := range map[string]int{"": 1, "?tasks=true": 2, "?task_id=" + task: 1, "?service_id=" + service: 1} {
		for _, path := range []string{"/deployments/" + dep + "/runtime-instances", "/runtime-instances"} {
			if all, _ := p.want(200, "GET", path+query, nil).at("data").([]any); len(all) != want {
				t.Errorf("%d instances at %s%s, want %d", len(all), path, query, want)
			}
		}
	}
	if a := p.want(200, "GET", "/runtime-instances/"+attempt, nil); a.text("data.task_id") != task || a.text("data.service_id") != service {
		t.Errorf("the attempt is %s", a.Raw)
	}
	for _, verb := range []string{"restart", "stop"} {
		if a := p.call("POST", fmt.Sprintf("/runtime-instances/%s/%s", attempt, verb), nil); a.Status != 409 || a.code() != "instance_of_task" {
			t.Errorf("%s an attempt: %d %s", verb, a.Status, a.Raw)
		}
	}
	if a := p.want(200, "GET", "/why/shop", nil); strings.Contains(fmt.Sprint(a.at("data.reasons")), attempt) {
		t.Errorf("the attempt troubles its deployment: %s", a.Raw)
	}
}
