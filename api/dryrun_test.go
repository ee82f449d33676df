package api_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/store"
)

// hosts are where apitest's instances run, and another one.
func (p platform) hosts(memory ...int) {
	p.t.Helper()
	for n, mb := range memory {
		p.Update(func(tx *store.Tx) error {
			return store.Save(tx, store.Hosts, miosa.Host{
				ID: "host_0000000000000000000000000" + string(rune('1'+n)), Name: []string{"castor", "pollux"}[n], Region: "local", Zone: []string{"east", "west"}[n],
				Capacity: miosa.Resources{VCPUs: 8, MemoryMB: mb, DiskMB: 1 << 20}, Liveness: miosa.Alive, Schedulable: true, Overcommit: 4,
			})
		})
	}
}

func (p platform) running(name string) (dep, release string) {
	p.t.Helper()
	dep = p.deploy(name)
	release = p.upload(dep, "bytes")
	p.publish(dep, release, "/app/server")
	p.settled(dep)
	return dep, release
}

func rowsAt(a answer, path string) []map[string]any {
	var out []map[string]any
	list, _ := a.at(path).([]any)
	for _, v := range list {
		out = append(out, v.(map[string]any))
	}
	return out
}

func TestPlanOfAScale(t *testing.T) {
	p := start(t, api.Config{})
	p.hosts(2048)
	dep, _ := p.running("shop")
	before := p.dump(p.Tenant.ID)
	plan := func(n int) answer {
		return p.want(200, "POST", "/deployments/"+dep+"/plan", map[string]any{"scale": map[string]any{"instances": n}})
	}
	fits := plan(3)
	regions := rowsAt(fits, "data.regions")
	if fits.at("data.ok") != true || len(rowsAt(fits, "data.starts")) != 2 || len(regions) != 1 || regions[0]["region"] != "local" || regions[0]["instances"] != 2.0 {
		t.Errorf("two more fit: %s", fits.Raw)
	}
	short := plan(6)
	none := rowsAt(short, "data.no_room")
	if short.at("data.ok") != false || len(rowsAt(short, "data.starts")) != 3 || len(none) != 2 || !strings.Contains(short.Raw, "1 host without 512 MB of free memory") {
		t.Errorf("three more fit, two do not: %s", short.Raw)
	}
	if s := rowsAt(short, "data.services"); len(s) != 1 || s[0]["wanted"] != 6.0 || s[0]["serving"] != 4.0 || s[0]["falls"] != true {
		t.Errorf("it falls short: %s", short.Raw)
	}
	for _, a := range []answer{fits, short} {
		for _, secret := range []string{"castor", "east", "host_0"} {
			if strings.Contains(a.Raw, secret) {
				t.Errorf("a customer is told of %s: %s", secret, a.Raw)
			}
		}
	}
	if after := p.dump(p.Tenant.ID); !maps.Equal(before, after) {
		t.Error("a dry run changed records")
	}
}

func TestPlanOfAPublish(t *testing.T) {
	p := start(t, api.Config{})
	p.hosts(2048)
	dep, release := p.running("shop")
	before := p.dump(p.Tenant.ID)
	plan := func(publish map[string]any) answer {
		return p.want(200, "POST", "/deployments/"+dep+"/plan", map[string]any{"publish": publish})
	}
	web := func(replicas, memory int) map[string]any {
		return map[string]any{"services": []any{map[string]any{"name": "web", "desired_replicas": replicas, "resources": map[string]any{"memory_mb": memory}}}}
	}
	for name, body := range map[string]map[string]any{
		"no source": web(2, 512), "its release": {"release_id": release}, "an image": {"image": "registry.example/shop:1"},
	} {
		a := plan(body)
		if r := rowsAt(a, "data.rollouts"); a.at("data.ok") != true || len(r) != 1 || r[0]["live"] != true || r[0]["version_number"] != 2.0 {
			t.Errorf("%s: %s", name, a.Raw)
		}
		if ends := rowsAt(a, "data.ends"); len(ends) != 1 || ends[0]["version_number"] != 1.0 {
			t.Errorf("%s: the old one leaves: %s", name, a.Raw)
		}
	}
	a := plan(web(1, 1600))
	if r := rowsAt(a, "data.rollouts"); a.at("data.ok") != false || len(r) != 1 || r[0]["live"] != false || len(rowsAt(a, "data.no_room")) != 1 {
		t.Errorf("old and new do not fit beside each other: %s", a.Raw)
	}
	if s := rowsAt(a, "data.services"); len(s) != 1 || s[0]["serving"] != 1.0 || s[0]["lowest"] != 1.0 {
		t.Errorf("what is live goes on serving: %s", a.Raw)
	}
	if after := p.dump(p.Tenant.ID); !maps.Equal(before, after) {
		t.Error("a dry run changed records")
	}
}

// What is wrong with a change is wrong with its dry run.
func TestPlanIsRefusedAsTheChange(t *testing.T) {
	p := start(t, api.Config{})
	p.hosts(2048)
	dep, release := p.running("shop")
	scale := func(v any) map[string]any { return map[string]any{"scale": map[string]any{"instances": v}} }
	for _, c := range []struct {
		path, key, code string
		status          int
		body            any
	}{
		{"/deployments/shop/plan", p.Key, "validation_failed", 422, map[string]any{}},
		{"/deployments/shop/plan", p.Key, "validation_failed", 422, map[string]any{"scale": map[string]any{"instances": 1}, "publish": map[string]any{}}},
		{"/deployments/shop/plan", p.Key, "validation_failed", 422, map[string]any{"scale": map[string]any{}}},
		{"/deployments/shop/plan", p.Key, "validation_failed", 422, scale(-1)},
		{"/deployments/shop/plan", p.Key, "quota_exceeded", 402, scale(9999)},
		{"/deployments/shop/plan", p.Key, "service_not_found", 404, map[string]any{"scale": map[string]any{"instances": 1, "service": "none"}}},
		{"/deployments/shop/plan", p.Key, "validation_failed", 422, map[string]any{"publish": map[string]any{"port": 70000}}},
		{"/deployments/shop/plan", p.Key, "release_not_found", 404, map[string]any{"publish": map[string]any{"release_id": "rel_00000000000000000000000000"}}},
		{"/deployments/none/plan", p.Key, "deployment_not_found", 404, scale(1)},
		{"/deployments/shop/plan", p.Admin, "forbidden", 403, scale(1)},
		{"/admin/plan", p.Key, "forbidden", 403, map[string]any{"lose_host": "castor"}},
		{"/admin/plan", p.Admin, "validation_failed", 422, map[string]any{}},
		{"/admin/plan", p.Admin, "validation_failed", 422, map[string]any{"lose_host": "castor", "lose_zone": "east"}},
		{"/admin/plan", p.Admin, "validation_failed", 422, scale(2)},
		{"/admin/plan", p.Admin, "validation_failed", 422, map[string]any{"lose_host": "castor", "deployment_id": dep}},
		{"/admin/plan", p.Admin, "validation_failed", 422, map[string]any{"scale": map[string]any{"instances": 2}, "deployment_id": "shop"}},
		{"/admin/plan", p.Admin, "deployment_not_found", 404, map[string]any{"scale": map[string]any{"instances": 2}, "deployment_id": "dep_00000000000000000000000000"}},
		{"/admin/plan", p.Admin, "host_not_found", 404, map[string]any{"lose_host": "pollux"}},
		{"/admin/plan", p.Admin, "zone_not_found", 404, map[string]any{"lose_zone": "west"}},
		{"/admin/plan", p.Admin, "host_not_found", 404, map[string]any{"drain_host": "pollux"}},
	} {
		if a := p.call("POST", c.path, c.body, p.bearer(c.key)); a.Status != c.status || a.code() != c.code {
			t.Errorf("%s %v: %d %s, want %d %s\n%s", c.path, c.body, a.Status, a.code(), c.status, c.code, a.Raw)
		}
	}
	p.want(202, "POST", "/deployments/shop/publish", map[string]any{"release_id": release, "run_command": "/app/held"})
	if a := p.call("POST", "/deployments/shop/plan", map[string]any{"publish": map[string]any{}}); a.Status != 409 || a.code() != "rollout_in_progress" {
		t.Errorf("while another goes on: %d %s", a.Status, a.Raw)
	}
}

// The operator sees all tenants and hosts; a customer what is theirs, and one whose
// key is of a workspace nothing of the others.
func TestPlanOfTheFleet(t *testing.T) {
	p := start(t, api.Config{})
	p.hosts(2048, 1024)
	mine, _ := p.running("shop")
	other := p.AddTenant("rival")
	theirKey := p.bearer(p.AddKey(miosa.RolePlatform, other.ID, ""))
	theirs := p.want(201, "POST", "/deployments", map[string]any{"name": "secret"}, theirKey).text("data.id")
	rel := p.want(201, "POST", "/deployments/"+theirs+"/releases", "bytes", "Content-Type: application/zstd", theirKey).text("data.id")
	p.want(200, "POST", "/deployments/"+theirs+"/publish?wait=true", map[string]any{"release_id": rel, "run_command": "/app/server", "port": 8080}, theirKey)

	lost := p.want(200, "POST", "/admin/plan", map[string]any{"lose_host": "castor"}, p.bearer(p.Admin))
	if moves, services := rowsAt(lost, "data.moves"), rowsAt(lost, "data.services"); len(moves) != 2 || len(services) != 2 || lost.at("data.ok") != false {
		t.Errorf("both have their only instance there: %s", lost.Raw)
	}
	for _, word := range []string{"castor", "pollux", "default/shop web", "rival/secret web", "none at the lowest"} {
		if !strings.Contains(lost.Raw, word) {
			t.Errorf("the operator is not told of %q: %s", word, lost.Raw)
		}
	}
	zone := p.want(200, "POST", "/admin/plan", map[string]any{"lose_zone": "east"}, p.bearer(p.Admin))
	if len(rowsAt(zone, "data.moves")) != 2 || zone.text("data.change") != "lose zone local/east" {
		t.Errorf("the zone is that host: %s", zone.Raw)
	}
	drained := p.want(200, "POST", "/admin/plan", map[string]any{"drain_host": "castor"}, p.bearer(p.Admin))
	if len(rowsAt(drained, "data.moves")) != 2 || drained.at("data.ok") != true {
		t.Errorf("a drain makes before it breaks: %s", drained.Raw)
	}
	scaled := p.want(200, "POST", "/admin/plan", map[string]any{"deployment_id": theirs, "scale": map[string]any{"instances": 3}}, p.bearer(p.Admin))
	if starts := rowsAt(scaled, "data.starts"); len(starts) != 2 || starts[0]["tenant"] != "rival" {
		t.Errorf("the operator tries it for them: %s", scaled.Raw)
	}

	// All of it in the tenant's own plan: nothing.
	full := p.want(200, "POST", "/deployments/"+mine+"/plan", map[string]any{"scale": map[string]any{"instances": 9}})
	for _, secret := range []string{"castor", "pollux", "rival", "secret", theirs, "host_0"} {
		if strings.Contains(full.Raw, secret) {
			t.Errorf("a customer is told of %s: %s", secret, full.Raw)
		}
	}
	if a := p.call("POST", "/deployments/"+theirs+"/plan", map[string]any{"scale": map[string]any{"instances": 1}}); a.Status != 404 {
		t.Errorf("another tenant's deployment: %d %s", a.Status, a.Raw)
	}
	neighbour := p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "workspace-2"))
	if a := p.call("POST", "/deployments/"+mine+"/plan", map[string]any{"scale": map[string]any{"instances": 1}}, neighbour); a.Status != 404 {
		t.Errorf("another workspace's deployment: %d %s", a.Status, a.Raw)
	}
}

// One is made at a time, and who waits too long is told so; the operator does not
// wait for customers.
func TestDryRunsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := api.NewDryRuns()
		leave, err := d.Enter(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if _, err := d.Enter(t.Context(), false); miosa.CodeOf(err) != miosa.Limited || time.Since(begun) != 30*time.Second {
			t.Errorf("while another goes on: %v after %s", err, time.Since(begun))
		}
		done, err := d.Enter(t.Context(), true)
		if err != nil {
			t.Fatalf("the operator's: %v", err)
		}
		done()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := d.Enter(ctx, false); !errors.Is(err, context.Canceled) {
			t.Errorf("who left: %v", err)
		}
		leave()
		if leave, err = d.Enter(t.Context(), false); err != nil {
			t.Fatalf("after it: %v", err)
		}
		leave()
	})
}
