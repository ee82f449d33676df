package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/store"
)

// TestOnlyText: what is not UTF-8 is refused wherever it stands, and named;
// nothing is kept that was not sent.
func TestOnlyText(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("x")
	release := p.upload(dep, "x")
	for _, c := range []struct{ method, path, body, field string }{
		{"POST", "/deployments", "{\"name\": \"caf\xe9\"}", "name"},
		{"POST", "/deployments", `{"name": "a\ud800b"}`, "name"},
		{"POST", "/deployments", `{"name": "a\udc00\ud800b"}`, "name"},
		{"POST", "/deployments", "{\"name\": \"y\", \"metadata\": {\"a\": [1, {\"b\": \"\xff\"}]}}", "metadata.a[1].b"},
		{"POST", "/deployments", "{\"name\": \"y\", \"metadata\": {\"a\xff\": 1}}", "metadata"},
		{"POST", "/deployments/x/env", "{\"env\": {\"GOOD\": \"g\", \"KEY\": \"\xc3\x28\"}}", "env.KEY"},
		{"POST", "/deployments/x/env", `{"env": {"KEY": "\ud83d"}}`, "env.KEY"},
		{"PATCH", "/deployments/x", "{\"run_command\": \"\xf0\x9f\"}", "run_command"},
		{"POST", "/deployments/x/publish", "{\"release_id\": \"" + release + "\", \"services\": [{\"name\": \"web\"}, {\"run_command\": \"/a \x80\"}]}", "services[1].run_command"},
		{"POST", "/webhooks", "{\"url\": \"https://example.com\", \"description\": \"\xff\"}", "description"},
		{"POST", "/log-drains", "{\"url\": \"https://logs.example\", \"token\": \"\xff\"}", "token"},
	} {
		a := p.want(422, c.method, c.path, c.body)
		fields, _ := a.at("error.details.fields").([]any)
		if a.code() != "validation_failed" || len(fields) != 1 || fields[0].(map[string]any)["field"] != c.field {
			t.Errorf("%s %s %q: %s", c.method, c.path, c.body, a.Raw)
		}
	}
	p.want(422, "POST", "/projects/%ff/deployments", `{"name": "z"}`)
	p.want(422, "POST", "/deployments/x/releases?external_user_id=%ff", "bytes", "Content-Type: application/zstd")
	for e, err := range p.Store.Scan(t.Context(), "", store.ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(e.Value), "�") || strings.Contains(string(e.Value), `\ufffd`) {
			t.Errorf("%s was altered: %s", e.Key, e.Value)
		}
	}
	// All that is text goes through as it is, U+FFFD among it.
	for _, name := range []string{`"\ud83d\ude00 a"`, `"😀 b"`, `"c \\ud800"`, `"d \" \u00e9"`} {
		if a := p.call("POST", "/deployments", `{"name": `+name+`}`); a.Status != http.StatusCreated {
			t.Errorf("%s: %s", name, a.Raw)
		}
	}
	p.want(200, "POST", "/deployments/x/env", `{"env": {"KEY": "�\ufffd"}}`)
}
