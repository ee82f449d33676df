package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/usage"
)

var placeholder = regexp.MustCompile(`\{([a-z_]+)\}`)

// world is a tenant that has one of everything, as path parameters.
type world struct {
	ids map[string]string
	dep string
}

func (p platform) world() world {
	p.t.Helper()
	dep := p.deploy("everything")
	published := p.publish(dep, p.upload(dep, "bytes"), "/app/server")
	p.settled(dep)
	p.want(200, "POST", "/deployments/"+dep+"/env", map[string]any{"env": map[string]any{"KEY": "a value to hide"}})
	instances, _ := p.want(200, "GET", "/runtime-instances", nil).at("data").([]any)
	services, _ := published.at("data.services").([]any)
	events, _ := p.want(200, "GET", "/events", nil).at("data").([]any)
	// In the next hour too: a month may begin before it is asked for.
	for _, at := range []time.Time{time.Now(), time.Now().Add(time.Hour)} {
		p.Usage.Add(usage.Row{Hour: metering.HourOf(at), Subject: usage.Subject{TenantID: p.Tenant.ID, DeploymentID: dep}, Amount: metering.Amount{SentBytes: 1}})
	}
	return world{dep: dep, ids: map[string]string{
		"deployments": dep, "services": services[0].(map[string]any)["id"].(string),
		"ri_id": instances[0].(map[string]any)["id"].(string), "version_id": published.text("data.version.id"),
		"release_id": published.text("data.release.id"), "rollout_id": published.text("data.rollout.id"),
		"webhooks": p.want(201, "POST", "/webhooks", map[string]any{"url": "https://example.com/x"}).text("data.id"), "event_id": events[0].(map[string]any)["id"].(string),
		"task_id": p.want(201, "POST", "/deployments/"+dep+"/tasks", map[string]any{"command": "/app/held"}).text("data.id"),
		"key":     "KEY", "subject": dep, "project_id": "p1", "tenants": p.Tenant.ID,
		"log-drains": p.want(201, "POST", "/log-drains", map[string]any{"url": "https://logs.example/in"}).text("data.id"),
		"host":       p.want(201, "POST", "/registries", map[string]any{"host": "registry.example", "username": "ann", "password": "hidden"}).text("data.id"),
		"api-keys":   "key_00000000000000000000000000", "hosts": "host_00000000000000000000000000", "name": "default",
	}}
}

// path fills a pattern in.
func (w world) path(pattern string) string {
	return placeholder.ReplaceAllStringFunc(pattern, func(m string) string {
		name := m[1 : len(m)-1]
		if name == "id" {
			name = strings.Split(strings.TrimPrefix(pattern, "/admin"), "/")[1]
		}
		if w.ids[name] == "" {
			panic("no value for " + m + " in " + pattern)
		}
		return w.ids[name]
	})
}

func (p platform) dump(tenant string) map[string]string {
	p.t.Helper()
	all := map[string]string{}
	for e, err := range p.Store.Scan(context.Background(), store.AllTenants+tenant+"/", store.ScanOptions{}) {
		if err != nil {
			p.t.Fatal(err)
		}
		all[e.Key] = fmt.Sprint(e.Revision)
	}
	return all
}

// bodyFor is a valid body for a route that needs one.
func bodyFor(op api.Operation, w world) any {
	switch op.ID {
	case "createDeployment", "createProjectDeployment":
		return map[string]any{"name": "new " + op.ID}
	case "publish":
		return map[string]any{"release_id": w.ids["release_id"]}
	case "scale":
		return map[string]any{"instances": 2}
	case "planDeployment":
		return map[string]any{"scale": map[string]any{"instances": 2}}
	case "planFleet":
		return map[string]any{"deployment_id": w.dep, "scale": map[string]any{"instances": 2}}
	case "resize":
		return map[string]any{"size": "small"}
	case "createLogDrain":
		return map[string]any{"url": "https://logs.example/other"}
	case "createTask":
		return map[string]any{"command": "/app/migrate"}
	case "createEnvironment":
		return map[string]any{"name": "qa"}
	case "setVariables":
		return map[string]any{"env": map[string]any{"A": "b"}}
	case "uploadRelease":
		return "artefact"
	case "createWebhook":
		return map[string]any{"url": "https://example.com/events"}
	case "setRegistry":
		return map[string]any{"host": "other.example", "username": "ann", "password": "hidden too"}
	case "createTenant":
		return map[string]any{"name": "Acme"}
	case "createPlan":
		return map[string]any{"name": "big"}
	case "createAPIKey":
		return map[string]any{"role": "user", "tenant_id": w.ids["tenants"]}
	}
	if op.Method == http.MethodGet || op.Method == http.MethodDelete {
		return nil
	}
	return map[string]any{}
}

func headersFor(op api.Operation) []string {
	if op.Upload {
		return []string{"Content-Type: application/zstd"}
	}
	return nil
}

func TestEveryRouteNeedsAKey(t *testing.T) {
	p := start(t, api.Config{})
	w := p.world()
	revoked := p.AddKey(miosa.RoleUser, p.Tenant.ID, "")
	keys, _ := p.want(200, "GET", "/admin/api-keys", nil, p.bearer(p.Admin)).at("data").([]any)
	p.want(200, "DELETE", "/admin/api-keys/"+keys[0].(map[string]any)["id"].(string), nil, p.bearer(p.Admin))
	orphan := p.AddKey(miosa.RoleUser, "ten_00000000000000000000000000", "")
	before := p.dump(p.Tenant.ID)
	for _, op := range api.Operations() {
		for name, header := range map[string]string{
			"missing": "Authorization: Basic Og==", "garbled": "Authorization: Bearer msk_u_garbled", "unknown": p.bearer(p.Key[:len(p.Key)-1] + "_"),
			"wrong scheme": "Authorization: Token " + p.Key, "two words": p.bearer(p.Key + " " + p.Key), "revoked": p.bearer(revoked), "orphan": p.bearer(orphan),
		} {
			if name == "orphan" && op.Admin {
				continue // 403: a user's key either way
			}
			a := p.call(op.Method, w.path(op.Pattern), bodyFor(op, w), append(headersFor(op), header)...)
			if a.Status != http.StatusUnauthorized || a.Header.Get("WWW-Authenticate") == "" || a.text("error.request_id") == "" {
				t.Errorf("%s %s with a %s key: %d %s", op.Method, op.Pattern, name, a.Status, a.Raw)
			}
		}
		wrong := p.Admin
		if op.Admin {
			wrong = p.Key
		}
		if a := p.call(op.Method, w.path(op.Pattern), bodyFor(op, w), append(headersFor(op), p.bearer(wrong))...); a.Status != http.StatusForbidden {
			t.Errorf("%s %s with a key of the wrong role: %d", op.Method, op.Pattern, a.Status)
		}
	}
	if after := p.dump(p.Tenant.ID); !maps.Equal(before, after) {
		t.Error("a refused request changed records")
	}
}

// TestNoRouteCrossesTenants walks the route list: nothing of one tenant can
// be read, listed, changed or found by another, nor by a key of the same
// tenant that is restricted to another workspace.
func TestNoRouteCrossesTenants(t *testing.T) {
	p := start(t, api.Config{})
	w := p.world()
	stranger := p.AddKey(miosa.RolePlatform, p.AddTenant("other").ID, "")
	neighbour := p.AddKey(miosa.RoleUser, p.Tenant.ID, "workspace-2")
	before := p.dump(p.Tenant.ID)
	bySlug := world{dep: w.dep, ids: maps.Clone(w.ids)}
	bySlug.ids["deployments"], bySlug.ids["subject"] = "everything", "everything"
	for _, op := range api.Operations() {
		if op.Admin {
			continue
		}
		for who, key := range map[string]string{"stranger": stranger, "neighbour": neighbour} {
			for how, w := range map[string]world{"id": w, "slug": bySlug} {
				path := w.path(op.Pattern)
				named := strings.Contains(op.Pattern, "{") && !strings.Contains(op.Pattern, "{project_id}")
				if how == "slug" && !named {
					continue
				}
				a := p.call(op.Method, path, bodyFor(op, w), append(headersFor(op), p.bearer(key))...)
				if named && a.Status != http.StatusNotFound {
					t.Errorf("%s: %s %s by %s: %d %s", who, op.Method, path, how, a.Status, a.Raw)
				}
				for _, id := range w.ids {
					// The tenant's own ID is no secret to its other workspaces.
					if len(id) > 20 && id != w.ids["tenants"] && (strings.Contains(strings.ReplaceAll(a.Raw, "no ", ""), `"id":"`+id) || strings.Contains(op.Pattern, "/usage") && strings.Contains(a.Raw, id)) {
						t.Errorf("%s: %s %s gives %s away", who, op.Method, path, id)
					}
				}
				if op.List && !named && op.Tag() != "compute" && op.ID != "listEvents" && op.ID != "listWebhooks" && op.ID != "listRegistries" && a.at("page.total") != 0.0 {
					t.Errorf("%s: %s lists %v things", who, path, a.at("page.total"))
				}
			}
		}
	}
	after := p.dump(p.Tenant.ID)
	for key, revision := range before {
		// The neighbour's own things are the tenant's, and count.
		if after[key] != revision && key != store.RoomKey(p.Tenant.ID) {
			t.Errorf("%s was changed by somebody else's key", key)
		}
	}
}

// TestEveryRouteKeepsItsSchema calls each route rightly and checks the answer
// against the OpenAPI document.
func TestEveryRouteKeepsItsSchema(t *testing.T) {
	p := start(t, api.Config{})
	doc := p.openapi()
	for _, op := range api.Operations() {
		t.Run(op.ID, func(t *testing.T) {
			p := start(t, api.Config{})
			w := p.world()
			if strings.HasPrefix(op.Pattern, "/admin/api-keys/") {
				keys, _ := p.want(200, "GET", "/admin/api-keys", nil, p.bearer(p.Admin)).at("data").([]any)
				w.ids["api-keys"] = keys[0].(map[string]any)["id"].(string)
			}
			if strings.HasPrefix(op.Pattern, "/admin/hosts/") {
				liveness := miosa.Alive
				if op.ID == "deleteHost" || op.ID == "loseHost" {
					liveness = miosa.Lost
				}
				p.Update(func(tx *store.Tx) error {
					return store.Save(tx, store.Hosts, miosa.Host{ID: w.ids["hosts"], Name: "h", Region: "local", Liveness: liveness})
				})
			}
			key := p.Key
			if op.Admin {
				key = p.Admin
			}
			if op.ID == "rollback" {
				p.publish(w.dep, w.ids["release_id"], "")
				p.settled(w.dep)
			}
			a := p.call(op.Method, w.path(op.Pattern), bodyFor(op, w), append(headersFor(op), p.bearer(key))...)
			if op.WebSocket {
				if a.Status != http.StatusUpgradeRequired || a.code() != "upgrade_required" {
					t.Fatalf("%s %s without an upgrade: %d %s", op.Method, op.Pattern, a.Status, a.Raw)
				}
				return // see TestExec
			}
			if a.Status/100 != 2 {
				t.Fatalf("%s %s: %d %s", op.Method, op.Pattern, a.Status, a.Raw)
			}
			if a.Header.Get("X-Request-ID") == "" {
				t.Error("no X-Request-ID")
			}
			single := op.Method == http.MethodGet && !op.List && op.ID != "explain" && op.ID != "getInstanceLogs" && !strings.HasSuffix(op.Pattern, "/metrics") && op.ID != "getPlan" && op.ID != "currentTenant" && !strings.Contains(op.Pattern, "/usage")
			if single && !regexp.MustCompile(`^"\d+"$`).MatchString(a.Header.Get("ETag")) {
				t.Errorf("ETag %q", a.Header.Get("ETag"))
			}
			item := doc.at("paths").(map[string]any)[op.Pattern].(map[string]any)[strings.ToLower(op.Method)].(map[string]any)
			response, ok := item["responses"].(map[string]any)[fmt.Sprint(a.Status)].(map[string]any)
			if !ok {
				t.Fatalf("the document knows no %d", a.Status)
			}
			if strings.HasSuffix(op.Pattern, ".csv") {
				if response["content"].(map[string]any)["text/csv"] == nil || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/csv") || !strings.Contains(a.Raw, w.dep) {
					t.Errorf("the table: %v, %s", a.Header, a.Raw)
				}
				return
			}
			schema := response["content"].(map[string]any)["application/json"].(map[string]any)["schema"]
			for _, wrong := range validate(doc, schema, a.Body, "body") {
				t.Error(wrong)
			}
		})
	}
}

// TestEveryProblemKeepsItsSchema: errors too have the documented shape.
func TestEveryProblemKeepsItsSchema(t *testing.T) {
	p := start(t, api.Config{})
	doc := p.openapi()
	for _, a := range []answer{
		p.call("GET", "/nowhere", nil), p.call("PUT", "/deployments", nil), p.call("POST", "/deployments", "{"), p.call("POST", "/deployments", "{}"),
		p.call("GET", "/deployments", nil, "Authorization: Bearer x"), p.call("GET", "/deployments/none", nil),
	} {
		for _, wrong := range validate(doc, map[string]any{"$ref": "#/components/schemas/Problem"}, a.Body, "body") {
			t.Errorf("%d: %s", a.Status, wrong)
		}
		if a.Status < 400 || a.text("message") == "" || a.text("message") != a.text("error.message") {
			t.Errorf("problem: %d %s", a.Status, a.Raw)
		}
	}
}

func (p platform) openapi() answer {
	p.t.Helper()
	a := p.call("GET", "/openapi.json", nil, "Authorization: none")
	if a.Status != 200 {
		p.t.Fatalf("openapi.json: %d", a.Status)
	}
	return a
}

func TestOpenAPIDocument(t *testing.T) {
	p := start(t, api.Config{Version: "1.2.3"})
	doc := p.openapi()
	if v := doc.text("openapi"); !strings.HasPrefix(v, "3.1.") {
		t.Errorf("openapi %q", v)
	}
	if doc.text("info.version") != "1.2.3" {
		t.Errorf("info.version %q", doc.text("info.version"))
	}
	var refs func(v any)
	refs = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				if doc.at(strings.ReplaceAll(strings.TrimPrefix(ref, "#/"), "/", ".")) == nil {
					t.Errorf("%s leads nowhere", ref)
				}
			}
			for _, inner := range v {
				refs(inner)
			}
		case []any:
			for _, inner := range v {
				refs(inner)
			}
		}
	}
	refs(doc.Body)
	seen := map[string]bool{}
	paths := doc.at("paths").(map[string]any)
	for path, item := range paths {
		for method, op := range item.(map[string]any) {
			op := op.(map[string]any)
			id, _ := op["operationId"].(string)
			if id == "" || seen[id] || op["summary"] == "" {
				t.Errorf("%s %s: operationId %q is missing or not unique, or there is no summary", method, path, id)
			}
			seen[id] = true
			var declared []string
			for _, param := range op["parameters"].([]any) {
				if m := param.(map[string]any); m["in"] == "path" {
					declared = append(declared, "{"+m["name"].(string)+"}")
					if m["required"] != true {
						t.Errorf("%s %s: a path parameter is not required", method, path)
					}
				}
			}
			if want := placeholder.FindAllString(path, -1); !slices.Equal(declared, want) {
				t.Errorf("%s %s declares %v", method, path, declared)
			}
		}
	}
	if len(seen) != len(api.Operations()) {
		t.Errorf("%d operations in the document, %d routes", len(seen), len(api.Operations()))
	}
	page := p.call("GET", "/reference", nil, "Authorization: none")
	if page.Status != 200 || !strings.Contains(page.Raw, "/api/v1/deployments/{id}/publish") || strings.Contains(page.Raw, "<script") || strings.Contains(page.Raw, "https://") {
		t.Errorf("the reference page: %d", page.Status)
	}
}

// validate is the part of JSON Schema that the document uses.
func validate(doc answer, schema, v any, path string) []string {
	s, _ := schema.(map[string]any)
	if ref, ok := s["$ref"].(string); ok {
		s, _ = doc.at(strings.ReplaceAll(strings.TrimPrefix(ref, "#/"), "/", ".")).(map[string]any)
	}
	if options, ok := s["anyOf"].([]any); ok {
		var wrong []string
		for _, option := range options {
			if wrong = validate(doc, option, v, path); len(wrong) == 0 {
				return nil
			}
		}
		return wrong
	}
	var wrong []string
	if kinds := kindsOf(s["type"]); kinds != nil && !slices.ContainsFunc(kinds, func(k string) bool { return isKind(k, v) }) {
		return []string{fmt.Sprintf("%s is %T, the schema wants %v", path, v, kinds)}
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, v) {
		wrong = append(wrong, fmt.Sprintf("%s is %v, not one of %v", path, v, enum))
	}
	switch v := v.(type) {
	case map[string]any:
		properties, _ := s["properties"].(map[string]any)
		required, _ := s["required"].([]any)
		for _, name := range required {
			if _, ok := v[name.(string)]; !ok {
				wrong = append(wrong, fmt.Sprintf("%s.%s is missing", path, name))
			}
		}
		for name, inner := range v {
			if p, ok := properties[name]; ok {
				wrong = append(wrong, validate(doc, p, inner, path+"."+name)...)
			} else if properties != nil {
				wrong = append(wrong, fmt.Sprintf("%s.%s is not in the document", path, name))
			}
		}
	case []any:
		for n, inner := range v {
			wrong = append(wrong, validate(doc, s["items"], inner, fmt.Sprintf("%s[%d]", path, n))...)
		}
	}
	return wrong
}

func kindsOf(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, k := range v {
			out = append(out, k.(string))
		}
		return out
	}
	return nil
}

func isKind(kind string, v any) bool {
	switch kind {
	case "null":
		return v == nil
	case "string":
		_, ok := v.(string)
		return ok
	case "boolean":
		_, ok := v.(bool)
		return ok
	case "number":
		_, ok := v.(float64)
		return ok
	case "integer":
		n, ok := v.(float64)
		return ok && n == float64(int64(n))
	case "array":
		_, ok := v.([]any)
		return ok
	}
	_, ok := v.(map[string]any)
	return ok
}

// TestTheDocumentIsStable: the same routes give the same bytes.
func TestTheDocumentIsStable(t *testing.T) {
	a, b := start(t, api.Config{}).openapi(), start(t, api.Config{}).openapi()
	if a.Raw != b.Raw || !json.Valid([]byte(a.Raw)) {
		t.Error("two servers give two documents")
	}
}
