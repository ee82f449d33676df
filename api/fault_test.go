package api_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

func TestBadBodies(t *testing.T) {
	p := start(t, api.Config{})
	for _, c := range []struct {
		name, body string
		status     int
		code       string
		fields     string // names, by commas
	}{
		{"cut off", `{"name": "x`, 400, "malformed_json", ""},
		{"not JSON", `name=x`, 400, "malformed_json", ""},
		{"two values", `{"name":"x"} {"name":"y"}`, 400, "malformed_json", ""},
		{"a list", `["x"]`, 400, "malformed_json", ""},
		{"null", `null`, 400, "malformed_json", ""},
		{"deep", strings.Repeat("[", 20000), 400, "malformed_json", ""},
		{"10 MB", `{"name":"` + strings.Repeat("x", 10<<20) + `"}`, 413, "body_too_large", ""},
		{"wrong types", `{"name": 5, "auto_deploy": "yes", "metadata": [], "external_user_id": {}}`, 422, "validation_failed", "name,auto_deploy,metadata,external_user_id"},
		{"wrong case and type", `{"NAME": 5}`, 422, "validation_failed", "name"},
		{"no name", `{}`, 422, "validation_failed", "name"},
		{"empty", ``, 422, "validation_failed", "name"},
		{"blank name", `{"name": "  "}`, 422, "validation_failed", "name"},
		{"long name", `{"name": "` + strings.Repeat("x", 101) + `"}`, 422, "validation_failed", "name"},
		{"line break in name", `{"name": "a\nb"}`, 422, "validation_failed", "name"},
		{"NUL in name", `{"name": "a\u0000b"}`, 422, "validation_failed", "name"},
		{"text direction in name", `{"name": "a\u202eb"}`, 422, "validation_failed", "name"},
		{"name of signs", `{"name": "!!!"}`, 422, "validation_failed", "name"},
		{"source", `{"name": "x", "source_type": "repo"}`, 422, "source_not_supported", "source_type"},
		{"unknown source", `{"name": "x", "source_type": "ftp"}`, 422, "validation_failed", "source_type"},
		{"database", `{"name": "x", "database": true}`, 422, "validation_failed", "database"},
		{"huge metadata", `{"name": "x", "metadata": {"a": "` + strings.Repeat("x", 20000) + `"}}`, 422, "validation_failed", "metadata"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := p.want(c.status, "POST", "/deployments", c.body)
			if a.code() != c.code {
				t.Errorf("code %q, want %q", a.code(), c.code)
			}
			var names []string
			fields, _ := a.at("error.details.fields").([]any)
			for _, f := range fields {
				names = append(names, f.(map[string]any)["field"].(string))
			}
			for want := range strings.SplitSeq(c.fields, ",") {
				if want != "" && !strings.Contains(strings.ToLower(strings.Join(names, ",")), want) {
					t.Errorf("fields %v do not name %s", names, want)
				}
			}
		})
	}
	if a := p.want(415, "POST", "/deployments", `name=x`, "Content-Type: application/x-www-form-urlencoded"); a.code() != "unsupported_media_type" {
		t.Errorf("a form: %s", a.Raw)
	}
	if a := p.want(200, "GET", "/deployments", nil); a.at("page.total") != 0.0 {
		t.Errorf("a refused body left a deployment behind: %s", a.Raw)
	}
	p.want(201, "POST", "/deployments", `{"name": "x", "unknown": {"a": [1]}, "database": false}`)
	p.want(201, "POST", "/deployments", `{"name": "日本語"}`, "Content-Type: application/json; charset=utf-8")
}

func TestUnknownThings(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("x")
	for _, path := range []string{
		"/deployments/dep_00000000000000000000000000", "/deployments/nobody", "/deployments/a%2Fb", "/deployments/..%2f..%2fx", "/deployments/%00",
		"/deployments/" + strings.Repeat("a", 5000), "/services/svc_00000000000000000000000000", "/services/" + dep, "/runtime-instances/x",
		"/deployments/" + dep + "/versions/ver_00000000000000000000000000", "/deployments/" + dep + "/versions/" + dep, "/rollouts/rol_x",
		"/deployments/" + dep + "/releases/..%2F..", "/why/nobody", "/nowhere", "/deployments/", "/deployments//x",
	} {
		a := p.want(404, "GET", path, nil)
		if !strings.HasSuffix(a.code(), "not_found") || a.text("error.request_id") == "" {
			t.Errorf("GET %.60s: %s", path, a.Raw)
		}
	}
	a := p.want(405, "PUT", "/deployments", nil)
	if a.Header.Get("Allow") != "GET, POST, HEAD" || a.code() != "method_not_allowed" {
		t.Errorf("405: Allow %q: %s", a.Header.Get("Allow"), a.Raw)
	}
	p.want(404, "DELETE", "/deployments/"+dep+"/env/NOTHING", nil)
	p.want(404, "DELETE", "/deployments/"+dep+"/env/a%2Fb", nil)
	p.want(200, "HEAD", "/deployments", nil)
	p.want(200, "GET", "/healthz", nil, "Authorization: none")
	p.want(200, "GET", "/readyz", nil, "Authorization: none")
}

func TestNamesAndDeletion(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("My App")
	if a := p.want(409, "POST", "/deployments", map[string]any{"name": "my  app!"}); a.code() != "name_taken" {
		t.Errorf("the same slug: %s", a.Raw)
	}
	other := p.AddTenant("other")
	p.want(201, "POST", "/deployments", map[string]any{"name": "My App"}, p.bearer(p.AddKey(miosa.RoleUser, other.ID, "")))
	if a := p.want(200, "PATCH", "/deployments/my-app", map[string]any{"name": "New name"}); a.text("data.slug") != "my-app" || a.text("data.name") != "New name" {
		t.Errorf("renamed: %s", a.Raw)
	}
	gone := p.want(200, "DELETE", "/deployments/my-app", nil)
	if gone.text("data.id") != dep || gone.at("data.deleted") != true {
		t.Errorf("deleted: %s", gone.Raw)
	}
	p.want(404, "GET", "/deployments/"+dep, nil)
	p.want(404, "GET", "/deployments/my-app", nil)
	p.want(404, "DELETE", "/deployments/"+dep, nil)
	p.want(404, "POST", "/deployments/"+dep+"/publish", map[string]any{"release_id": "rel_00000000000000000000000000"})
	if again := p.deploy("My App"); again == dep {
		t.Error("the name is not free again")
	}
}

func TestIfMatch(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("x")
	tag := p.want(200, "GET", "/deployments/x", nil).Header.Get("ETag")
	next := p.want(200, "PATCH", "/deployments/x", map[string]any{"run_command": "/a"}, "If-Match: "+tag).Header.Get("ETag")
	if next == tag || next == "" {
		t.Fatalf("ETag %q after %q", next, tag)
	}
	for _, m := range []struct {
		method, path string
		body         any
	}{
		{"PATCH", "/deployments/x", map[string]any{"run_command": "/b"}}, {"DELETE", "/deployments/x", nil},
		{"POST", "/deployments/x/publish", map[string]any{"release_id": "rel_00000000000000000000000000"}},
		{"POST", "/deployments/x/rollback", map[string]any{}},
	} {
		if a := p.want(412, m.method, m.path, m.body, "If-Match: "+tag); a.code() != "precondition_failed" {
			t.Errorf("%s %s: %s", m.method, m.path, a.Raw)
		}
	}
	p.want(200, "PATCH", "/deployments/x", map[string]any{"run_command": "/c"}, `If-Match: "1", `+next)
	p.want(200, "PATCH", "/deployments/x", map[string]any{"run_command": "/d"}, "If-Match: *")
	published := p.publish(dep, p.upload(dep, "x"), "/app")
	p.settled(dep)
	if now := p.want(200, "GET", "/deployments/x", nil).Header.Get("ETag"); now == next {
		t.Error("the active version changed and the ETag did not")
	}
	services, _ := published.at("data.services").([]any)
	svc := "/services/" + services[0].(map[string]any)["id"].(string)
	tag = p.want(200, "GET", svc, nil).Header.Get("ETag")
	p.want(200, "PATCH", svc, map[string]any{"desired_replicas": 2}, "If-Match: "+tag)
	p.want(412, "PATCH", svc, map[string]any{"desired_replicas": 3}, "If-Match: "+tag)
}

func TestIdempotency(t *testing.T) {
	p := start(t, api.Config{})
	first := p.want(201, "POST", "/deployments", map[string]any{"name": "once"}, "Idempotency-Key: k1")
	again := p.want(201, "POST", "/deployments", map[string]any{"name": "once"}, "Idempotency-Key: k1")
	if first.Raw != again.Raw || again.Header.Get("ETag") != first.Header.Get("ETag") || again.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("the second answer differs:\n%s%s", first.Raw, again.Raw)
	}
	if a := p.want(422, "POST", "/deployments", map[string]any{"name": "other"}, "Idempotency-Key: k1"); a.code() != "idempotency_key_reused" {
		t.Errorf("another body: %s", a.Raw)
	}
	// Refusals are repeated too.
	p.want(409, "POST", "/deployments", map[string]any{"name": "once"}, "Idempotency-Key: k2")
	p.want(200, "DELETE", "/deployments/once", nil)
	if a := p.want(409, "POST", "/deployments", map[string]any{"name": "once"}, "Idempotency-Key: k2"); a.code() != "name_taken" {
		t.Errorf("a refusal repeated: %s", a.Raw)
	}
	// Another tenant's keys are its own; so are another route's.
	p.want(201, "POST", "/deployments", map[string]any{"name": "once"}, "Idempotency-Key: k1", p.bearer(p.AddKey(miosa.RoleUser, p.AddTenant("other").ID, "")))
	p.want(201, "POST", "/projects/p/deployments", map[string]any{"name": "second"}, "Idempotency-Key: k1")
	// A body that could not be read was never a request.
	p.want(400, "POST", "/deployments", "{", "Idempotency-Key: k3")
	p.want(201, "POST", "/deployments", map[string]any{"name": "third"}, "Idempotency-Key: k3")
	p.want(422, "POST", "/deployments", map[string]any{"name": "fourth"}, "Idempotency-Key: "+strings.Repeat("k", 256))
	p.want(201, "POST", "/deployments", map[string]any{"name": "fourth"}, "Idempotency-Key: "+strings.Repeat("k", 255))
}

func TestTheSameKeyTwiceAtOnce(t *testing.T) {
	p := start(t, api.Config{})
	const n = 8
	answers := make([]answer, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			answers[i] = p.call("POST", "/deployments", map[string]any{"name": "race"}, "Idempotency-Key: k")
		})
	}
	all.Wait()
	for _, a := range answers {
		if a.Status != 201 || a.Raw != answers[0].Raw {
			t.Errorf("%d %s", a.Status, a.Raw)
		}
	}
	if a := p.want(200, "GET", "/deployments", nil); a.at("page.total") != 1.0 {
		t.Errorf("%v deployments were made", a.at("page.total"))
	}
}

// TestAMintedKeyIsNotStored: neither as a record nor in what is kept for its
// idempotency key; and yet the same caller gets it again.
func TestAMintedKeyIsNotStored(t *testing.T) {
	p := start(t, api.Config{})
	body := map[string]any{"role": "user", "tenant_id": p.Tenant.ID}
	first := p.want(201, "POST", "/admin/api-keys", body, "Idempotency-Key: k", p.bearer(p.Admin))
	key := first.text("data.key")
	for e, err := range p.Store.Scan(t.Context(), store.AllRecords, store.ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(e.Value), key) || strings.Contains(string(e.Value), base64.StdEncoding.EncodeToString([]byte(key))) {
			t.Errorf("%s holds the key", e.Key)
		}
	}
	if again := p.want(201, "POST", "/admin/api-keys", body, "Idempotency-Key: k", p.bearer(p.Admin)); again.text("data.key") != key {
		t.Error("the same caller does not get it again")
	}
	second := p.AddKey(miosa.RoleAdmin, "", "")
	if other := p.want(201, "POST", "/admin/api-keys", body, "Idempotency-Key: k", p.bearer(second)); other.text("data.key") == key {
		t.Error("another caller gets it")
	}
	p.want(200, "GET", "/deployments", nil, p.bearer(key))
	p.want(200, "DELETE", "/admin/api-keys/"+first.text("data.id"), nil, p.bearer(p.Admin))
	p.want(401, "GET", "/deployments", nil, p.bearer(key))
	if strings.Contains(p.Log.String(), key) {
		t.Error("the key was logged")
	}
}

func TestPages(t *testing.T) {
	p := start(t, api.Config{})
	want := []string{}
	for n := range 25 {
		want = append([]string{p.deploy(fmt.Sprintf("app %02d", n))}, want...)
	}
	ids := func(a answer) (out []string) {
		list, _ := a.at("data").([]any)
		for _, v := range list {
			out = append(out, v.(map[string]any)["id"].(string))
		}
		return out
	}
	first := p.want(200, "GET", "/deployments", nil)
	if len(ids(first)) != 20 || first.at("page.total") != 25.0 || first.at("page.page") != 1.0 {
		t.Errorf("the first page: %v", first.at("page"))
	}
	all := map[string]bool{}
	cursor := ""
	for range 10 {
		a := p.want(200, "GET", "/deployments?limit=4&cursor="+cursor, nil)
		for _, id := range ids(a) {
			if all[id] {
				t.Errorf("%s comes twice", id)
			}
			all[id] = true
		}
		if cursor = a.text("page.next_cursor"); cursor == "" {
			break
		}
	}
	if len(all) != 25 {
		t.Errorf("the cursor led to %d of 25", len(all))
	}
	if a := p.want(200, "GET", "/deployments?page=3&page_size=10", nil); len(ids(a)) != 5 || a.at("page.next_cursor") != nil {
		t.Errorf("page 3 of 10 each: %d items", len(ids(a)))
	}
	if a := p.want(200, "GET", "/deployments?page=9223372036854775807&page_size=1000", nil); len(ids(a)) != 0 || a.at("page.page_size") != 100.0 {
		t.Errorf("far behind the end: %v", a.at("page"))
	}
	for _, q := range []string{"page=0", "page=x", "page_size=-1", "limit=1.5", "cursor=%21", "cursor=eA"} {
		p.want(422, "GET", "/deployments?"+q, nil)
	}
	p.want(200, "GET", "/deployments?whatever=1", nil)
}

func TestAttribution(t *testing.T) {
	p := start(t, api.Config{})
	body := func(name, workspace string) map[string]any {
		return map[string]any{"name": name, "external_workspace_id": workspace, "external_user_id": "u1", "external_project_id": "x1", "project_id": "p1", "metadata": map[string]any{"a": 1}}
	}
	a := p.want(201, "POST", "/deployments", body("one", "w1"))
	if a.text("data.external_workspace_id") != "w1" || a.text("data.external_project_id") != "x1" || a.at("data.metadata.a") != 1.0 {
		t.Errorf("attribution: %s", a.Raw)
	}
	p.want(201, "POST", "/deployments", body("two", "w2"))
	dep := a.text("data.id")
	v := p.publish(dep, p.upload(dep, "x"), "/app")
	if v.text("data.version.external_workspace_id") != "w1" {
		t.Errorf("a version without its own has its deployment's: %s", v.Raw)
	}
	p.settled(dep)
	for q, n := range map[string]float64{
		"external_workspace_id=w1": 1, "external_workspace_id=w3": 0, "external_user_id=u1": 2, "external_project_id=x1": 2, "project_id=p1": 2,
		"project_id=p1&external_workspace_id=w2": 1, "state=running": 1, "state=pending": 1, "state=running,pending": 2,
	} {
		if a := p.want(200, "GET", "/deployments?"+q, nil); a.at("page.total") != n {
			t.Errorf("?%s: %v, want %v", q, a.at("page.total"), n)
		}
	}
	if a := p.want(200, "GET", "/runtime-instances?external_workspace_id=w1", nil); a.at("page.total") != 1.0 {
		t.Errorf("instances of a workspace: %v", a.at("page.total"))
	}
	// A key restricted to a workspace sees that one alone, and writes into it.
	scoped := p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "w2"))
	if a := p.want(200, "GET", "/deployments", nil, scoped); a.at("page.total") != 1.0 {
		t.Errorf("a restricted key lists %v", a.at("page.total"))
	}
	if a := p.want(201, "POST", "/deployments", map[string]any{"name": "three"}, scoped); a.text("data.external_workspace_id") != "w2" {
		t.Errorf("made with a restricted key: %s", a.Raw)
	}
	if a := p.want(403, "POST", "/deployments", body("four", "w1"), scoped); a.code() != "other_workspace" {
		t.Errorf("into another workspace: %s", a.Raw)
	}
	p.want(403, "PATCH", "/deployments/two", map[string]any{"external_workspace_id": "w1"}, scoped)
}

func TestVariables(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("x")
	path := "/deployments/" + dep + "/env"
	env := map[string]any{"env": map[string]any{"B": "short", "A": "a rather long value", "c.d-e_1": "1"}}
	a := p.want(200, "POST", path, env)
	if strings.Contains(a.Raw, "rather") || strings.Contains(a.Raw, "short") || a.at("page.total") != 3.0 {
		t.Errorf("the list shows values: %s", a.Raw)
	}
	p.want(200, "POST", path, map[string]any{"env": map[string]any{"A": "secret value, quite long"}, "is_secret": true})
	list, _ := p.want(200, "GET", path, nil).at("data").([]any)
	if v := list[0].(map[string]any); v["key"] != "A" || v["is_secret"] != true || strings.Contains(v["preview"].(string), "s") {
		t.Errorf("a secret: %v", v)
	}
	p.want(200, "POST", path, map[string]any{"env": map[string]any{"B": nil}})
	p.want(200, "DELETE", path+"/c.d-e_1", nil)
	for key, reason := range map[string]string{"PORT": "the port of the service", "MIOSA_REGION": "begin with MIOSA_"} {
		if a := p.want(422, "POST", path, map[string]any{"env": map[string]any{key: "1"}}); !strings.Contains(a.Raw, "env."+key) || !strings.Contains(a.Raw, reason) {
			t.Errorf("%s is refused with %s", key, a.Raw)
		}
		p.want(200, "POST", path, map[string]any{"env": map[string]any{key: nil}})
	}
	p.want(404, "DELETE", path+"/PORT", nil) // one from before it was refused can be deleted
	if a := p.want(200, "GET", path, nil); a.at("page.total") != 1.0 {
		t.Errorf("after deleting two: %s", a.Raw)
	}
	if a := p.want(200, "GET", path+"?environment=staging", nil); a.at("page.total") != 0.0 {
		t.Errorf("staging has them too: %s", a.Raw)
	}
	for name, body := range map[string]any{
		"name": map[string]any{"env": map[string]any{"1A": "x"}}, "sign": map[string]any{"env": map[string]any{"A B": "x"}}, "dot": map[string]any{"env": map[string]any{"..": "x"}}, "equals": map[string]any{"env": map[string]any{"A=B": "x"}},
		"longest": map[string]any{"env": map[string]any{strings.Repeat("A", 257): "x"}}, "port": map[string]any{"env": map[string]any{"PORT": "1", "OK": "x"}}, "platform": map[string]any{"env": map[string]any{"MIOSA_X": "x"}}, "empty": map[string]any{"env": map[string]any{"": "x"}},
		"type": map[string]any{"env": map[string]any{"A": 5}}, "none": map[string]any{}, "long": map[string]any{"env": map[string]any{"A": strings.Repeat("x", 65<<10)}},
		"nul": map[string]any{"env": map[string]any{"A": "a\x00b"}},
	} {
		if a := p.call("POST", path, body); a.Status != 422 {
			t.Errorf("%s: %d %s", name, a.Status, a.Raw)
		}
	}
	v, err := store.Get(t.Context(), p.Store, store.Deployments, store.DeploymentKey(p.Tenant.ID, dep))
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range p.Store.Scan(t.Context(), store.AllTenants+v.TenantID+"/", store.ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(e.Value), "secret value") || strings.Contains(string(e.Value), "rather") {
			t.Errorf("%s holds a value in the clear", e.Key)
		}
	}
	// One by one they are counted together.
	for n := range 9 {
		a := p.call("POST", path, map[string]any{"env": map[string]any{fmt.Sprintf("BIG%d", n): strings.Repeat("x", 60<<10)}})
		if n == 8 && a.Status != 422 {
			t.Errorf("540 KB of variables: %d", a.Status)
		}
	}
}

func TestUploads(t *testing.T) {
	p := start(t, api.Config{})
	path := "/deployments/" + p.deploy("x") + "/releases"
	right := "Content-Digest: sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:" // of "hello"
	p.want(201, "POST", path, "hello", "Content-Type: application/zstd", right, "X-Note: a")
	p.want(200, "POST", path, "hello", "Content-Type: application/zstd", "Digest: sha-256=LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=")
	p.want(200, "POST", path, "hello", "Content-Type: application/zstd", "Content-Digest: md5=:AAAA:, sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:")
	p.want(200, "POST", path, "hello", "Content-Type: application/zstd", right, "Digest: sha-256=LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=")
	for _, c := range []struct {
		status int
		code   string
		query  string
		header []string
	}{
		{422, "digest_mismatch", "", []string{"Content-Digest: sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"}},
		{422, "digest_malformed", "", []string{"Content-Digest: sha-256=:xyz:"}},
		{422, "digest_malformed", "", []string{"Content-Digest: nonsense"}},
		{422, "digest_mismatch", "", []string{right, "Digest: sha-256=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}},
		{422, "digest_malformed", "", []string{right, "Digest: sha-256=xyz"}},
		{422, "digest_mismatch", "", []string{right + ", sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"}},
		{415, "unsupported_media_type", "", []string{"Content-Type: text/html"}},
		{422, "validation_failed", "?kind=exe", nil},
		{409, "release_kind_differs", "?kind=oci", nil},
	} {
		a := p.want(c.status, "POST", path+c.query, "hello", append([]string{"Content-Type: application/zstd"}, c.header...)...)
		if a.code() != c.code {
			t.Errorf("%v%s: %s", c.header, c.query, a.Raw)
		}
	}
	p.Uploads.Fail(&miosa.Error{Code: miosa.NoSpace, Message: "the platform's disk is full", Err: errors.New("write /var/lib/secret/path: ENOSPC")})
	if a := p.want(507, "POST", path, "more", "Content-Type: application/zstd"); strings.Contains(a.Raw, "/var/lib") {
		t.Errorf("a cause is shown: %s", a.Raw)
	}
	p.Uploads.Fail(nil)

	// The connection is cut in the middle.
	before := p.Uploads.Received()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(p.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /api/v1%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/zstd\r\nContent-Length: 1000\r\n\r\nonly this", path, p.Key)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("cut off: %d", resp.StatusCode)
		}
	}
	conn.Close()
	if p.Uploads.Received() != before {
		t.Error("half an upload was taken in")
	}
	if a := p.want(200, "GET", path, nil); a.at("page.total") != 1.0 {
		t.Errorf("%v releases", a.at("page.total"))
	}
}

// A tenant's uploads under way are counted, whatever becomes of them.
func TestUploadsAtOnce(t *testing.T) {
	p := start(t, api.Config{})
	path := "/deployments/" + p.deploy("x") + "/releases"
	open := func() net.Conn {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(p.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "POST /api/v1%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/zstd\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n", path, p.Key)
		status := make([]byte, len("HTTP/1.1 100"))
		if _, err := io.ReadFull(conn, status); err != nil || string(status) != "HTTP/1.1 100" {
			t.Fatalf("%q, %v", status, err) // it is read, then
		}
		return conn
	}
	var all []net.Conn
	for range 8 {
		all = append(all, open())
	}
	ninth := func() answer { return p.call("POST", path, "hello", "Content-Type: application/zstd") }
	if a := ninth(); a.Status != 429 || a.code() != "too_many_uploads" || a.Header.Get("Retry-After") == "" {
		t.Errorf("the ninth: %s", a.Raw)
	}
	neighbour := p.bearer(p.AddKey(miosa.RolePlatform, p.AddTenant("neighbour").ID, ""))
	own := p.want(201, "POST", "/deployments", map[string]any{"name": "x"}, neighbour).text("data.id")
	p.want(201, "POST", "/deployments/"+own+"/releases", "hello", neighbour, "Content-Type: application/zstd")

	// One ends well, one is cut off: each makes room.
	fmt.Fprint(all[0], "hello")
	all[1].Close()
	for range 2 {
		until := time.Now().Add(20 * time.Second)
		for a := ninth(); a.Status >= 300; a = ninth() {
			if a.Status != 429 || time.Now().After(until) {
				t.Fatalf("after one has ended: %s", a.Raw)
			}
		}
		all = append(all[1:], open())
	}
	if a := ninth(); a.Status != 429 {
		t.Errorf("the ninth again: %s", a.Raw)
	}
}

func TestRequestIDs(t *testing.T) {
	p := start(t, api.Config{})
	if a := p.call("GET", "/deployments", nil, "X-Request-ID: my-own.id:1"); a.Header.Get("X-Request-ID") != "my-own.id:1" {
		t.Errorf("a sane request ID was not kept: %q", a.Header.Get("X-Request-ID"))
	}
	for _, bad := range []string{"a b", "<script>", strings.Repeat("x", 129), "é"} {
		if a := p.call("GET", "/deployments/none", nil, "X-Request-ID: "+bad); miosa.IDPrefix(a.Header.Get("X-Request-ID")) != "req" || a.text("error.request_id") != a.Header.Get("X-Request-ID") {
			t.Errorf("%q became %q", bad, a.Header.Get("X-Request-ID"))
		}
	}
	p.want(201, "POST", "/deployments", map[string]any{"name": "traced"}, "X-Request-ID: trace-1")
	events, _ := p.want(200, "GET", "/deployments/traced/events", nil).at("data").([]any)
	if e := events[0].(map[string]any); e["request_id"] != "trace-1" || e["type"] != "deployment.created" || !strings.HasPrefix(e["actor"].(string), "key_") {
		t.Errorf("the audit event: %v", e)
	}
}

// failing is a store that breaks.
type failing struct {
	store.Store
	err error
}

func (f failing) Scan(ctx context.Context, prefix string, opts store.ScanOptions) iter.Seq2[store.Entry, error] {
	if strings.HasPrefix(prefix, store.AllTenants) {
		if f.err == nil {
			panic("scan: secret inner state")
		}
		return func(yield func(store.Entry, error) bool) { yield(store.Entry{}, f.err) }
	}
	return f.Store.Scan(ctx, prefix, opts)
}

// TestNothingInternalIsShown: neither a panic nor an inner error reaches a customer.
func TestNothingInternalIsShown(t *testing.T) {
	for name, s := range map[string]store.Store{
		"panic": failing{Store: memory.New(time.Now)},
		"error": failing{memory.New(time.Now), errors.New("dial 10.1.2.3: secret inner state")},
	} {
		t.Run(name, func(t *testing.T) {
			p := platform{apitest.Start(t, s, api.Config{}), t}
			a := p.want(500, "GET", "/deployments", nil)
			if strings.Contains(a.Raw, "secret") || strings.Contains(a.Raw, "10.1.2.3") || strings.Contains(a.Raw, "goroutine") || a.code() != "internal" {
				t.Errorf("shown: %s", a.Raw)
			}
			if !strings.Contains(p.Log.String(), "secret inner state") || !strings.Contains(p.Log.String(), a.text("error.request_id")) {
				t.Error("not logged")
			}
		})
	}
}

// sse reads server-sent events.
type sse struct {
	t    *testing.T
	in   *bufio.Scanner
	stop context.CancelFunc
}

func (p platform) stream(path string, headers ...string) *sse {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	p.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL+"/api/v1"+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp := p.Do(req)
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		p.t.Fatalf("stream: %d %s", resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	return &sse{p.t, bufio.NewScanner(resp.Body), cancel}
}

// next is the next event's id and type; a comment has type ":".
func (s *sse) next() (id, kind string) {
	s.t.Helper()
	for s.in.Scan() {
		line := s.in.Text()
		switch {
		case strings.HasPrefix(line, "id: "):
			id = line[4:]
		case strings.HasPrefix(line, "data: "):
			var e struct{ Type string }
			if err := json.Unmarshal([]byte(line[6:]), &e); err != nil {
				s.t.Fatal(err)
			}
			kind = e.Type
		case strings.HasPrefix(line, ":"):
			kind = ":"
		case line == "" && kind != "":
			return id, kind
		}
	}
	s.t.Fatalf("the stream ended: %v", s.in.Err())
	return "", ""
}

func TestEventStream(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("x")
	release := p.upload(dep, "x")
	s := p.stream("/deployments/" + dep + "/events")
	var ids []string
	for _, want := range []string{"deployment.created", "release.uploaded"} {
		id, kind := s.next()
		if kind != want {
			t.Fatalf("%s, want %s", kind, want)
		}
		ids = append(ids, id)
	}
	p.publish(dep, release, "/app")
	seen := map[string]bool{}
	var kinds []string
	for kind := ""; kind != "rollout.completed"; {
		var id string
		id, kind = s.next()
		if seen[id] {
			t.Errorf("%s came twice", id)
		}
		seen[id] = true
		ids, kinds = append(ids, id), append(kinds, kind)
	}
	want := "publish.requested rollout.started rollout.became_healthy rollout.flipped rollout.completed"
	if got := strings.Join(kinds, " "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	s.stop()
	// Resumed anywhere, exactly the rest comes, in the same order.
	for n, last := range ids[:len(ids)-1] {
		r := p.stream("/deployments/"+dep+"/events?limit=1", "Last-Event-ID: "+last)
		for _, want := range ids[n+1:] {
			if id, _ := r.next(); id != want {
				t.Fatalf("after %s: %s, want %s", last, id, want)
			}
		}
		r.stop()
	}
	if id, _ := p.stream("/events?follow=true&limit=1").next(); id != ids[len(ids)-1] {
		t.Errorf("the tenant's newest: %s, want %s", id, ids[len(ids)-1])
	}
	if _, kind := p.stream("/deployments/" + dep + "/events?type=rollout.flip").next(); kind != "rollout.flipped" {
		t.Errorf("filtered: %s", kind)
	}
}

func TestEventStreamHeartbeat(t *testing.T) {
	p := start(t, api.Config{Heartbeat: time.Millisecond})
	p.deploy("x")
	s := p.stream("/deployments/x/events?type=none")
	if _, kind := s.next(); kind != ":" {
		t.Errorf("%s, want a comment", kind)
	}
}

// TestStreamsEndWithTheirKey: who has a stream open when the key is revoked
// hears nothing more from the next heartbeat on.
func TestStreamsEndWithTheirKey(t *testing.T) {
	p := start(t, api.Config{Heartbeat: time.Millisecond})
	p.deploy("x")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, path := range []string{"/events", "/deployments/x/events", "/deployments/x/logs"} {
		made := p.want(201, "POST", "/admin/api-keys", map[string]any{"role": "user", "tenant_id": p.Tenant.ID}, p.bearer(p.Admin))
		req, err := http.NewRequestWithContext(ctx, "GET", p.URL+"/api/v1"+path+"?follow=true", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+made.text("data.key"))
		body := p.Do(req).Body
		if _, err := body.Read(make([]byte, 1)); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		p.want(200, "DELETE", "/admin/api-keys/"+made.text("data.id"), nil, p.bearer(p.Admin))
		if _, err := io.Copy(io.Discard, body); err != nil {
			t.Errorf("%s goes on without its key: %v", path, err)
		}
	}
}

// TestEventStreamUnderLoad: many writers, several readers; each event reaches
// each reader once.
func TestEventStreamUnderLoad(t *testing.T) {
	p := start(t, api.Config{})
	p.deploy("x")
	const writers, each = 4, 25
	readers := []*sse{}
	for range 3 {
		readers = append(readers, p.stream("/deployments/x/events?type=variables"))
	}
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for n := range each {
				p.call("POST", "/deployments/x/env", map[string]any{"env": map[string]any{fmt.Sprintf("W%d", w): fmt.Sprint(n)}})
			}
		})
	}
	for _, r := range readers {
		all.Go(func() {
			seen := map[string]bool{}
			for range writers * each {
				id, _ := r.next()
				if seen[id] {
					t.Errorf("%s came twice", id)
				}
				seen[id] = true
			}
		})
	}
	all.Wait()
}

func TestQuota(t *testing.T) {
	p := start(t, api.Config{})
	p.want(201, "POST", "/admin/plans", map[string]any{"name": "tiny", "max_deployments": 1, "max_instances": 3, "max_memory_mb": 1024}, p.bearer(p.Admin))
	p.want(200, "PATCH", "/admin/tenants/"+p.Tenant.ID, map[string]any{"plan": "tiny"}, p.bearer(p.Admin))
	p.want(422, "PATCH", "/admin/tenants/"+p.Tenant.ID, map[string]any{"plan": "none"}, p.bearer(p.Admin))
	dep := p.deploy("x")
	if a := p.want(402, "POST", "/deployments", map[string]any{"name": "y"}); a.code() != "quota_exceeded" {
		t.Errorf("a second deployment: %s", a.Raw)
	}
	p.publish(dep, p.upload(dep, "x"), "/app")
	p.settled(dep)
	p.want(200, "POST", "/deployments/"+dep+"/scale", map[string]any{"instances": 3})
	p.want(402, "POST", "/deployments/"+dep+"/scale", map[string]any{"instances": 4})
	if a := p.want(402, "POST", "/deployments/"+dep+"/publish", map[string]any{"release_id": p.upload(dep, "x")}); !strings.Contains(a.text("message"), "old and new") {
		t.Errorf("a publish beside 3 of 3: %s", a.Raw)
	}
	if a := p.want(402, "POST", "/deployments/"+dep+"/resize", map[string]any{"size": "medium"}); !strings.Contains(a.text("message"), "small") {
		t.Errorf("the nearest size is not named: %s", a.Raw)
	}
}

func TestNotReady(t *testing.T) {
	server, err := api.New(api.Config{PublicURL: apitest.PublicURL}, api.Deps{
		Store: memory.New(time.Now), Uploads: &apitest.Uploads{}, Secrets: apitest.Sealer{}, Events: &apitest.Events{}, Log: slogTo(&apitest.Log{}),
		Ready: func(context.Context) error { return errors.New("the agent at 10.0.0.1 is not there yet") },
	})
	if err != nil {
		t.Fatal(err)
	}
	for path, status := range map[string]int{"/readyz": 503, "/healthz": 200} {
		w := httptest.NewRecorder()
		server.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != status || strings.Contains(w.Body.String(), "10.0.0.1") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if _, err := api.New(api.Config{}, api.Deps{}); err == nil {
		t.Error("a server without anything is made")
	}
}

// TestWrongFieldsComeInOneOrder: what is wrong with a request is told in the
// same order each time.
func TestWrongFieldsComeInOneOrder(t *testing.T) {
	p, _ := metered(t)
	p.want(201, "POST", "/deployments", map[string]any{"name": "shop"})
	long := strings.Repeat("x", 1000)
	for range 20 {
		for _, c := range []struct {
			method, path string
			body         any
			want         string
		}{
			{"PATCH", "/deployments/shop", map[string]any{"project_id": long, "external_workspace_id": long, "external_user_id": long, "external_project_id": long},
				"external_project_id external_user_id external_workspace_id project_id"},
			{"GET", "/usage?since=1960-01-01T00:00:00Z&until=9999-01-01T00:00:00Z", nil, "since until"},
		} {
			a := p.want(422, c.method, c.path, c.body)
			var got []string
			for _, f := range a.at("error.details.fields").([]any) {
				got = append(got, f.(map[string]any)["field"].(string))
			}
			if have := strings.Join(got, " "); have != c.want {
				t.Fatalf("%s %s: %s, want %s", c.method, c.path, have, c.want)
			}
		}
	}
}
