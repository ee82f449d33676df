package api_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/store"
)

func TestPublishToRollback(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("Hello World!")
	shown := p.want(200, "GET", "/deployments/hello-world", nil)
	if got, want := shown.text("data.public_url"), "http://hello-world.default.localhost:7080"; got != want {
		t.Errorf("public_url %q, want %q", got, want)
	}
	if shown.text("data.state") != "pending" || shown.text("data.deployment_product") != "miosa_deploy" {
		t.Errorf("a new deployment: %s", shown.Raw)
	}
	release := p.upload(dep, "one")
	first := p.publish(dep, release, "/app/server")
	if first.at("data.promoted") != true || first.text("data.version.state") != "ready" || first.at("data.version.version_number") != 1.0 {
		t.Fatalf("first publish: %s", first.Raw)
	}
	if first.text("data.deployment.state") != "running" || first.text("data.deployment.active_version_id") != first.text("data.version.id") {
		t.Errorf("the deployment after it: %s", first.Raw)
	}

	second := p.publish(dep, p.upload(dep, "two"), "")
	if second.text("data.version.runtime_command") != "/app/server" || second.at("data.version.runtime_port") != 8080.0 {
		t.Errorf("the second publish forgets what the first said: %s", second.Raw)
	}

	bad := p.publish(dep, p.upload(dep, "three"), "/app/broken")
	if bad.at("data.promoted") != false || bad.text("data.version.state") != "failed" || bad.text("data.version.error_message") == "" {
		t.Errorf("a version that never becomes healthy: %s", bad.Raw)
	}
	if bad.text("data.deployment.active_version_id") != second.text("data.version.id") || bad.text("data.deployment.state") != "running" {
		t.Errorf("what was live is not live any more: %s", bad.Raw)
	}
	if a := p.want(409, "POST", "/deployments/"+dep+"/rollback", map[string]any{"version_id": bad.text("data.version.id")}); a.code() != "version_not_ready" {
		t.Errorf("rollback to a failed version: %s", a.Raw)
	}

	back := p.want(200, "POST", "/deployments/"+dep+"/rollback", nil)
	if back.text("data.active_version_id") != first.text("data.version.id") {
		t.Errorf("an empty rollback goes to %s, want the version before", back.text("data.active_version_id"))
	}
	again := p.want(200, "POST", "/deployments/"+dep+"/versions/"+second.text("data.version.id")+"/promote", map[string]any{}, "Prefer: wait=60")
	if again.text("data.active_version_id") != second.text("data.version.id") {
		t.Errorf("promote: %s", again.Raw)
	}
	p.want(200, "POST", "/deployments/"+dep+"/rollback", map[string]any{"release_id": second.text("data.release.id")})
	p.settled(dep)
	if same := p.want(200, "POST", "/deployments/"+dep+"/rollback", map[string]any{"version_id": second.text("data.version.id")}); same.at("data.rollout") != nil {
		t.Errorf("rolling back to what is live begins a rollout: %s", same.Raw)
	}
}

func TestRollbackCancelsALivePublish(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	release := p.upload(dep, "one")
	good := p.publish(dep, release, "/app/server")
	p.settled(dep)
	held := p.want(202, "POST", "/deployments/"+dep+"/publish", map[string]any{"release_id": release, "run_command": "/app/held"})
	if a := p.want(409, "POST", "/deployments/"+dep+"/publish", map[string]any{"release_id": release}); a.code() != "rollout_in_progress" {
		t.Errorf("second publish: %s", a.Raw)
	}
	// Another environment is no obstacle.
	p.want(200, "POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{"release_id": release, "run_command": "/x", "environment": "staging"})
	back := p.want(200, "POST", "/deployments/"+dep+"/rollback", map[string]any{})
	if back.text("data.active_version_id") != good.text("data.version.id") {
		t.Errorf("back at %s, want what was live", back.text("data.active_version_id"))
	}
	ended := p.want(200, "GET", "/rollouts/"+held.text("data.rollout.id")+"?wait=true", nil)
	if ended.text("data.step") != "cancelled" {
		t.Errorf("the publish is %s, want cancelled", ended.text("data.step"))
	}
	if v := p.want(200, "GET", "/deployments/"+dep+"/versions/"+held.text("data.version.id"), nil); v.text("data.state") != "failed" {
		t.Errorf("its version is %s", v.text("data.state"))
	}
}

// Where nothing is live, back is to nothing: the publish that goes on is called
// off, in its environment alone, and what is live elsewhere stays.
func TestRollbackCallsOffAFirstPublish(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	release := p.upload(dep, "one")
	if a := p.want(409, "POST", "/deployments/"+dep+"/rollback", map[string]any{}); a.code() != "nothing_to_roll_back_to" {
		t.Errorf("nothing was published: %s", a.Raw)
	}
	p.publish(dep, release, "/app/server")
	p.settled(dep)
	held := p.want(202, "POST", "/deployments/"+dep+"/publish", map[string]any{"release_id": release, "run_command": "/app/held", "environment": "staging"})
	back := p.want(200, "POST", "/deployments/"+dep+"/rollback", map[string]any{"environment": "staging"})
	if back.text("data.rollout.id") != held.text("data.rollout.id") || back.text("data.rollout.step") != "cancelled" {
		t.Errorf("the publish is not cancelled: %s", back.Raw)
	}
	if v := p.want(200, "GET", "/deployments/"+dep+"/versions/"+held.text("data.version.id"), nil); v.text("data.state") != "failed" {
		t.Errorf("its version is %s", v.text("data.state"))
	}
	if why := p.want(200, "GET", "/why/"+held.text("data.rollout.id"), nil); strings.Contains(why.Raw, "took its place") {
		t.Errorf("nothing took its place: %s", why.Raw)
	}
	if a := p.want(409, "POST", "/deployments/"+dep+"/rollback", map[string]any{"environment": "staging"}); a.code() != "nothing_to_roll_back_to" {
		t.Errorf("nothing goes on any more: %s", a.Raw)
	}
	if a := p.want(200, "GET", "/deployments/"+dep, nil); a.at("data.active_version_id") == nil {
		t.Errorf("production is not live any more: %s", a.Raw)
	}
	// The next one is no longer held up.
	p.want(200, "POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{"release_id": release, "run_command": "/app/server", "environment": "staging"})
}

func TestPublishWithoutPromote(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("canary")
	a := p.want(200, "POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{
		"release_id": p.upload(dep, "x"), "run_command": "/app/server", "promote": false,
	})
	if a.at("data.promoted") != false || a.text("data.version.state") != "ready" || a.at("data.deployment.active_version_id") != nil {
		t.Errorf("promote false: %s", a.Raw)
	}
}

func TestWaitThatEndsBefore(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("slow")
	a := p.want(202, "POST", "/deployments/"+dep+"/publish", map[string]any{"release_id": p.upload(dep, "x"), "run_command": "/app/held"}, "Prefer: wait=1")
	if a.text("data.rollout.step") != "starting" || a.at("data.promoted") != false {
		t.Errorf("a wait that ends before the publish: %s", a.Raw)
	}
	p.Control.Release()
	p.settled(dep)
}

func TestPublishSources(t *testing.T) {
	p := start(t, api.Config{})
	dep, other := p.deploy("one"), p.deploy("two")
	rel := p.want(201, "POST", "/deployments/"+dep+"/releases", "bytes", "Content-Type: application/zstd")
	if a := p.want(200, "POST", "/deployments/"+dep+"/releases", "bytes", "Content-Type: application/zstd"); a.text("data.id") != rel.text("data.id") {
		t.Errorf("the same bytes twice are two releases")
	}
	id, sha := rel.text("data.id"), rel.text("data.sha256")
	for _, c := range []struct {
		name   string
		dep    string
		body   map[string]any
		status int
		code   string
	}{
		{"no source", dep, map[string]any{}, 422, "validation_failed"},
		{"two sources", dep, map[string]any{"release_id": id, "artifact_sha256": sha}, 422, "validation_failed"},
		{"an image where none are pulled", dep, map[string]any{"image": "nginx"}, 503, "images_not_pulled"},
		{"an image and a release", dep, map[string]any{"image": "nginx", "release_id": id}, 422, "validation_failed"},
		{"an image of no reference", dep, map[string]any{"image": "Not An Image"}, 422, "validation_failed"},
		{"an image of another platform", dep, map[string]any{"image": map[string]any{"reference": "nginx", "platform": "linux/arm64"}}, 422, "validation_failed"},
		{"an image that is a number", dep, map[string]any{"image": 7}, 422, "validation_failed"},
		{"a sandbox", dep, map[string]any{"source_sandbox_id": "sbx_1"}, 422, "source_not_supported"},
		{"another deployment's release", other, map[string]any{"release_id": id, "run_command": "/x"}, 404, "release_not_found"},
		{"an unknown digest", dep, map[string]any{"artifact_sha256": strings.Repeat("0", 64)}, 404, "release_not_found"},
		{"a malformed digest", dep, map[string]any{"artifact_sha256": "xyz"}, 422, "validation_failed"},
		{"no such release", dep, map[string]any{"release_id": "rel_00000000000000000000000000"}, 404, "release_not_found"},
		{"no release's id", dep, map[string]any{"release_id": "../../x"}, 404, "release_not_found"},
		{"no such environment", dep, map[string]any{"release_id": id, "run_command": "/x", "environment": "nowhere"}, 404, "environment_not_found"},
		{"a path as environment", dep, map[string]any{"release_id": id, "run_command": "/x", "environment": "../x"}, 404, "environment_not_found"},
		{"no command", dep, map[string]any{"release_id": id}, 422, "validation_failed"},
		{"port 0", dep, map[string]any{"release_id": id, "run_command": "/x", "port": 0}, 422, "validation_failed"},
		{"port 70000", dep, map[string]any{"release_id": id, "run_command": "/x", "port": 70000}, 422, "validation_failed"},
		{"health path without slash", dep, map[string]any{"release_id": id, "run_command": "/x", "health_check_path": "healthz"}, 422, "validation_failed"},
		{"static", dep, map[string]any{"release_id": id, "run_command": "/x", "kind": "static"}, 422, "kind_not_supported"},
		{"a service named badly", dep, map[string]any{"release_id": id, "services": []any{map[string]any{"name": "Web!"}}}, 422, "validation_failed"},
		{"the same service twice", dep, map[string]any{"release_id": id, "services": []any{map[string]any{"name": "a", "run_command": "/x"}, map[string]any{"name": "a", "run_command": "/x"}}}, 422, "validation_failed"},
		{"too much memory", dep, map[string]any{"release_id": id, "services": []any{map[string]any{"name": "a", "run_command": "/x", "resources": map[string]any{"memory_mb": 1 << 20}}}}, 402, "quota_exceeded"},
		{"too many replicas", dep, map[string]any{"release_id": id, "services": []any{map[string]any{"name": "a", "run_command": "/x", "desired_replicas": 51}}}, 402, "quota_exceeded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := p.want(c.status, "POST", "/deployments/"+c.dep+"/publish", c.body)
			if a.code() != c.code {
				t.Errorf("code %q, want %q: %s", a.code(), c.code, a.Raw)
			}
		})
	}
	if a := p.want(200, "GET", "/deployments/"+dep+"/versions", nil); a.at("page.total") != 0.0 {
		t.Errorf("a refused publish leaves a version behind: %s", a.Raw)
	}
	if a := p.want(200, "GET", "/deployments/"+dep+"/services", nil); a.at("page.total") != 0.0 {
		t.Errorf("a refused publish leaves a service behind: %s", a.Raw)
	}
	p.want(200, "POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{"source_sandbox_id": id, "run_command": "/x"})
	p.settled(dep)
	p.want(200, "POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{"artifact_sha256": strings.ToUpper(sha)})
}

func TestServicesOfOneVersion(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	a := p.want(200, "POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{
		"release_id": p.upload(dep, "x"),
		"services": []any{
			map[string]any{"name": "web", "run_command": "/web", "port": 3000, "desired_replicas": 2},
			map[string]any{"name": "jobs", "type": "worker", "run_command": "/jobs", "resources": map[string]any{"memory_mb": 1024}},
		},
	})
	services, _ := a.at("data.services").([]any)
	if len(services) != 2 {
		t.Fatalf("services: %s", a.Raw)
	}
	p.settled(dep)
	jobs := p.want(200, "GET", "/services/"+services[1].(map[string]any)["id"].(string), nil)
	if jobs.text("data.type") != "worker" || jobs.at("data.port") != nil || jobs.at("data.resources.memory_mb") != 1024.0 {
		t.Errorf("worker: %s", jobs.Raw)
	}
	if a := p.want(422, "PATCH", "/services/"+jobs.text("data.id"), map[string]any{"port": 80}); a.code() != "validation_failed" {
		t.Errorf("a port for a worker: %s", a.Raw)
	}
	// A publish that names no services is of all of them.
	next := p.want(200, "POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{"release_id": p.upload(dep, "y"), "port": 4000})
	p.settled(dep)
	list, _ := next.at("data.version.services").([]any)
	if len(list) != 2 || next.at("data.version.runtime_port") != 4000.0 {
		t.Errorf("the next version: %s", next.Raw)
	}
	if a := p.want(409, "POST", "/deployments/"+dep+"/publish", map[string]any{
		"release_id": p.upload(dep, "x"), "services": []any{map[string]any{"name": "jobs", "type": "web"}},
	}); a.code() != "service_type_differs" {
		t.Errorf("another type: %s", a.Raw)
	}
}

func TestServiceChanges(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	if a := p.want(409, "POST", "/deployments/"+dep+"/scale", map[string]any{"instances": 2}); a.code() != "nothing_published" {
		t.Errorf("scale of nothing: %s", a.Raw)
	}
	first := p.publish(dep, p.upload(dep, "x"), "/app/server")
	p.settled(dep)
	services, _ := first.at("data.services").([]any)
	svc := services[0].(map[string]any)["id"].(string)

	versions := func() any { return p.want(200, "GET", "/deployments/"+dep+"/versions", nil).at("page.total") }
	p.want(200, "POST", "/deployments/"+dep+"/scale", map[string]any{"instances": 3})
	patched := p.want(200, "PATCH", "/services/"+svc, map[string]any{
		"sticky": map[string]any{"mode": "cookie"}, "restart": map[string]any{"policy": "on_failure", "max_age_seconds": 3600}, "regions": []string{"local"},
	})
	if patched.at("data.desired_replicas") != 3.0 || patched.text("data.sticky.mode") != "cookie" || patched.at("data.restart.max_age_seconds") != 3600.0 {
		t.Errorf("patched: %s", patched.Raw)
	}
	if versions() != 1.0 {
		t.Errorf("changing the service's own fields makes a version")
	}

	frozen := p.want(200, "PATCH", "/services/"+svc+"?wait=true", map[string]any{
		"port": 9090, "health_check": map[string]any{"path": "/up", "interval_seconds": 10},
		"resources": map[string]any{"vcpus": 2, "egress_mbps": nil},
	})
	if versions() != 2.0 || frozen.at("data.port") != 9090.0 || frozen.text("data.health_check.path") != "/up" || frozen.at("data.resources.vcpus") != 2.0 {
		t.Errorf("a frozen field: %s", frozen.Raw)
	}
	p.settled(dep)
	p.want(200, "POST", "/deployments/"+dep+"/resize?wait=true", map[string]any{"size": "medium"})
	p.settled(dep)
	if a := p.want(200, "GET", "/services/"+svc, nil); a.at("data.resources.memory_mb") != 2048.0 {
		t.Errorf("resized: %s", a.Raw)
	}
	p.want(200, "POST", "/deployments/"+dep+"/env", map[string]any{"env": map[string]any{"A": "1"}})
	p.want(200, "POST", "/services/"+svc+"/restart?wait=true", nil)
	p.settled(dep)
	if versions() != 4.0 {
		t.Errorf("%v versions, want 4", versions())
	}
	for body, status := range map[string]int{
		`{"desired_replicas": -1}`: 422, `{"desired_replicas": 51}`: 402, `{"regions": ["mars"]}`: 422, `{"sticky": {"mode": "magnet"}}`: 422,
		`{"sticky": {"mode": "header"}}`: 422, `{"restart": {"policy": "maybe"}}`: 422, `{"restart": {"max_age_seconds": 5}}`: 422,
		`{"health_check": {"interval_seconds": 0}}`: 422, `{"resources": {"vcpus": 64}}`: 402, `{"resources": {"gpu": 1}}`: 402,
	} {
		if a := p.call("PATCH", "/services/"+svc, body); a.Status != status {
			t.Errorf("PATCH %s: %d, want %d: %s", body, a.Status, status, a.Raw)
		}
	}
	p.want(422, "POST", "/deployments/"+dep+"/resize", map[string]any{"size": "huge"})
	p.want(422, "POST", "/deployments/"+dep+"/scale", map[string]any{})
	p.want(404, "POST", "/deployments/"+dep+"/scale", map[string]any{"instances": 1, "service": "nobody"})
}

func TestInstances(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	p.publish(dep, p.upload(dep, "x"), "/app/server")
	p.settled(dep)
	p.publish(dep, p.upload(dep, "y"), "")
	p.settled(dep)
	for path, n := range map[string]float64{
		"/runtime-instances": 1, "/runtime-instances?all=true": 2, "/runtime-instances?state=stopped": 1,
		"/runtime-instances?host_id=host_00000000000000000000000009": 0, "/deployments/" + dep + "/runtime-instances": 1,
	} {
		if a := p.want(200, "GET", path, nil); a.at("page.total") != n {
			t.Errorf("%s: %v instances, want %v", path, a.at("page.total"), n)
		}
	}
	list, _ := p.want(200, "GET", "/runtime-instances", nil).at("data").([]any)
	id := list[0].(map[string]any)["id"].(string)
	p.want(202, "POST", "/runtime-instances/"+id+"/restart", nil)
	i, err := store.Get(t.Context(), p.Store, store.Instances, store.InstanceKey(p.Tenant.ID, dep, id))
	if err != nil || !i.ReplaceAsked || i.Generation != 1 {
		t.Errorf("after a restart: %+v, %v", i, err)
	}
	if a := p.want(202, "POST", "/runtime-instances/"+id+"/stop", nil); a.text("data.state") != "stopping" || a.text("data.desired_state") != "stopped" {
		t.Errorf("after a stop: %s", a.Raw)
	}
	i, err = store.Get(t.Context(), p.Store, store.Instances, store.InstanceKey(p.Tenant.ID, dep, id))
	if err != nil || i.Goal != miosa.GoalDrain || i.Generation != 2 || i.GoalReason != "stopped by request" {
		t.Errorf("after a stop: %+v, %v", i, err)
	}
	p.want(202, "POST", "/runtime-instances/"+id+"/stop", nil)
	p.want(409, "POST", "/runtime-instances/"+id+"/restart", nil)
}

// Why an instance stays on a host that does not answer stands among its reasons.
func TestWhyAnInstanceIsNotReplaced(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	p.publish(dep, p.upload(dep, "x"), "/app/server")
	p.settled(dep)
	list, _ := p.want(200, "GET", "/runtime-instances", nil).at("data").([]any)
	id := list[0].(map[string]any)["id"].(string)
	p.Update(func(tx *store.Tx) error {
		i, err := store.Load(tx, store.Instances, store.InstanceKey(p.Tenant.ID, dep, id))
		if err != nil {
			return err
		}
		i.Reasons = []string{"it must never run twice"}
		return store.Save(tx, store.Instances, i)
	})
	if a := p.want(200, "GET", "/runtime-instances/"+id, nil); a.text("data.state") != "healthy" || fmt.Sprint(a.at("data.reasons")) != "[it must never run twice]" {
		t.Error(a.Raw)
	}
}

// What the platform itself is to blame for is told as such.
func TestWhyOfAFaultOfThePlatforms(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	p.publish(dep, p.upload(dep, "x"), "/app/server")
	p.settled(dep)
	list, _ := p.want(200, "GET", "/runtime-instances", nil).at("data").([]any)
	id := list[0].(map[string]any)["id"].(string)
	const what, whose = "the host could not connect the instance to its network", "that is the platform's fault"
	for _, state := range []miosa.InstanceState{miosa.Pending, miosa.Starting, miosa.Failed} {
		p.Update(func(tx *store.Tx) error {
			o, err := store.Load(tx, store.Observations, store.ObservationKey(p.Tenant.ID, dep, id))
			if err != nil {
				return err
			}
			o.State, o.Failure = state, miosa.Failure{Kind: miosa.FailureHost, Message: what}
			return store.Save(tx, store.Observations, o)
		})
		if a := p.want(200, "GET", "/why/"+id, nil); !strings.Contains(a.Raw, what) || !strings.Contains(a.Raw, whose) {
			t.Errorf("%s: %s", state, a.Raw)
		}
		if a := p.want(200, "GET", "/runtime-instances/"+id, nil); !strings.Contains(a.Raw, what) {
			t.Errorf("%s: %s", state, a.Raw)
		}
		if a := p.want(200, "GET", "/why/"+dep, nil); !strings.Contains(a.Raw, what) {
			t.Errorf("%s: %s", state, a.Raw)
		}
	}
}

func TestPromoteToAnotherEnvironment(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	p.want(200, "POST", "/deployments/"+dep+"/env", map[string]any{"env": map[string]any{"WHERE": "production"}})
	p.want(200, "POST", "/deployments/"+dep+"/env", map[string]any{"env": map[string]any{"WHERE": "staging"}, "environment": "staging"})
	staged := p.want(200, "POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{
		"release_id": p.upload(dep, "x"), "run_command": "/app/server", "environment": "staging",
	})
	p.Control.Release()
	a := p.want(200, "POST", "/deployments/"+dep+"/versions/"+staged.text("data.version.id")+"/promote", map[string]any{"environment": "production"})
	live := a.text("data.active_version_id")
	if live == "" || live == staged.text("data.version.id") {
		t.Fatalf("promoted: %s", a.Raw)
	}
	v, err := store.Get(t.Context(), p.Store, store.Versions, store.VersionKey(p.Tenant.ID, dep, live))
	if err != nil {
		t.Fatal(err)
	}
	if v.Number != 2 || len(v.Vars) != 1 || !strings.Contains(string(v.Vars[0].Sealed), v.EnvironmentID) {
		t.Errorf("it took the other environment's variables along: %+v", v)
	}
}

func TestGoneReleases(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("old")
	first := p.publish(dep, p.upload(dep, "x"), "/app/server")
	p.settled(dep)
	p.publish(dep, p.upload(dep, "y"), "")
	p.settled(dep)
	key := store.VersionKey(p.Tenant.ID, dep, first.text("data.version.id"))
	p.Update(func(tx *store.Tx) error {
		v, err := store.Load(tx, store.Versions, key)
		if err != nil {
			return err
		}
		v.State = miosa.VersionArchived
		return store.Save(tx, store.Versions, v)
	})
	if a := p.want(410, "POST", "/deployments/"+dep+"/rollback", nil); a.code() != "version_archived" {
		t.Errorf("rollback to an archived version: %s", a.Raw)
	}
	rel := first.text("data.release.id")
	p.Update(func(tx *store.Tx) error {
		r, err := store.Load(tx, store.Releases, store.ReleaseKey(p.Tenant.ID, dep, rel))
		if err != nil {
			return err
		}
		r.State = miosa.ReleaseArchived
		return store.Save(tx, store.Releases, r)
	})
	for _, path := range []string{"/publish", "/rollback"} {
		if a := p.want(410, "POST", "/deployments/"+dep+path, map[string]any{"release_id": rel}); a.code() != "release_archived" {
			t.Errorf("%s of a collected release: %s", path, a.Raw)
		}
	}
	if a := p.want(200, "POST", "/deployments/"+dep+"/releases", "x", "Content-Type: application/zstd"); a.text("data.id") != rel || a.text("data.state") != "ready" {
		t.Errorf("uploaded again: %s", a.Raw)
	}
}

// How much may be logged is the service's own, changes no version, and stays
// within the plan.
func TestLogLimits(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	first := p.publish(dep, p.upload(dep, "x"), "/app/server")
	p.settled(dep)
	services, _ := first.at("data.services").([]any)
	svc := services[0].(map[string]any)["id"].(string)
	for _, c := range []struct {
		body   string
		status int
		want   string // the limit then
	}{
		{`{}`, 200, `"logs":{"lines_per_second":null,"burst":null,"unlimited":false}`},
		{`{"logs": {"lines_per_second": 20000}}`, 200, `"logs":{"lines_per_second":20000,"burst":null,"unlimited":false}`},
		{`{"logs": {"burst": 500000}}`, 200, `"logs":{"lines_per_second":20000,"burst":500000,"unlimited":false}`},
		{`{"logs": {"burst": 500001}}`, 402, ""},
		{`{"logs": {"lines_per_second": 50001}}`, 402, ""},
		{`{"logs": {"unlimited": true}}`, 402, ""},
		{`{"logs": {"lines_per_second": 0}}`, 422, ""},
		{`{"logs": {"lines_per_second": -1}}`, 422, ""},
		{`{"logs": {"burst": 0}}`, 422, ""},
		{`{"logs": {"lines_per_second": "many"}}`, 422, ""},
		{`{"logs": {"unlimited": true, "burst": 5}}`, 422, ""},
		{`{"desired_replicas": 2}`, 200, `"logs":{"lines_per_second":20000,"burst":500000,"unlimited":false}`},
		{`{"logs": {"lines_per_second": null}}`, 200, `"logs":{"lines_per_second":null,"burst":500000,"unlimited":false}`},
	} {
		a := p.call("PATCH", "/services/"+svc, c.body)
		if a.Status != c.status || !strings.Contains(a.Raw, c.want) {
			t.Errorf("%s: %d, want %d %s\n%s", c.body, a.Status, c.status, c.want, a.Raw)
		}
	}
	admin := p.bearer(p.Admin)
	p.want(422, "PATCH", "/admin/plans/default", `{"max_log_rate": -2}`, admin)
	if a := p.want(200, "PATCH", "/admin/plans/default", `{"max_log_rate": -1}`, admin); a.at("data.max_log_rate") != -1.0 {
		t.Errorf("%s", a.Raw)
	}
	if a := p.want(200, "PATCH", "/services/"+svc, `{"logs": {"unlimited": true}}`); !strings.Contains(a.Raw, `"logs":{"lines_per_second":null,"burst":null,"unlimited":true}`) {
		t.Errorf("%s", a.Raw)
	}
	if a := p.want(200, "PATCH", "/services/"+svc, `{"logs": {"lines_per_second": 7}}`); !strings.Contains(a.Raw, `"logs":{"lines_per_second":7,"burst":null,"unlimited":false}`) {
		t.Errorf("%s", a.Raw)
	}
	if a := p.want(200, "GET", "/deployments/"+dep+"/versions", nil); a.at("page.total") != 1.0 {
		t.Errorf("it made a version: %s", a.Raw)
	}
	p.want(200, "PATCH", "/admin/plans/default", `{"max_log_rate": 0}`, admin)
	p.want(402, "PATCH", "/services/"+svc, `{"logs": {"lines_per_second": 50001}}`)
}

// A caller's trace is kept with the rollout that it asks for, if it is one.
func TestTraceparentIsKept(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	for n, c := range []struct{ header, want string }{
		{"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
		{"00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", ""},
		{"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ""},
		{strings.Repeat("0", 5000), ""},
	} {
		a := p.want(202, "POST", "/deployments/"+dep+"/publish", map[string]any{"release_id": p.upload(dep, "x"), "run_command": "/app/server"}, "Traceparent: "+c.header)
		p.settled(dep)
		var kept []string
		for r, err := range store.List(t.Context(), p.Store, store.Rollouts, store.RolloutsOf(a.text("data.deployment.tenant_id"), dep), store.ScanOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			kept = append(kept, r.Traceparent)
		}
		if len(kept) != n+1 || kept[n] != c.want {
			t.Errorf("%.60q: kept %q", c.header, kept)
		}
	}
}

// Until when one that starts may become healthy depends on what is waited for:
// its boot, its health check, or that it has run for a while.
func TestWhyOfAnInstanceThatStarts(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	p.want(200, "POST", "/deployments/"+dep+"/publish?wait=true", map[string]any{"release_id": p.upload(dep, "x"), "services": []any{
		map[string]any{"name": "web", "run_command": "/app/server"},
		map[string]any{"name": "jobs", "type": "worker", "run_command": "/app/jobs", "health_check": map[string]any{"stable_seconds": 45}},
	}})
	p.settled(dep)
	list, _ := p.want(200, "GET", "/runtime-instances", nil).at("data").([]any)
	began := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		runs      bool
		web, jobs string
	}{
		{false, "It boots until 2026-01-01T12:05:00Z at the latest.", "It counts as healthy once its process has run for 45s."},
		{true, "It has until 2026-01-01T12:01:03Z to become healthy.", "It counts as healthy once its process has run for 45s."},
	} {
		for _, entry := range list {
			i, _ := entry.(map[string]any)
			id, _ := i["id"].(string)
			p.Update(func(tx *store.Tx) error {
				o, err := store.Load(tx, store.Observations, store.ObservationKey(p.Tenant.ID, dep, id))
				if err != nil {
					return err
				}
				o.State, o.StartedAt, o.Phases = miosa.Starting, began, nil
				if c.runs {
					o.Phases = []miosa.Phase{{Name: "app_started", At: began.Add(3 * time.Second)}}
				}
				return store.Save(tx, store.Observations, o)
			})
			want := map[any]string{"web": c.web, "jobs": c.jobs}[i["service_name"]]
			if a := p.want(200, "GET", "/why/"+id, nil); a.text("data.next_step") != want {
				t.Errorf("%s: %q, want %q", i["service_name"], a.text("data.next_step"), want)
			}
		}
	}
}
