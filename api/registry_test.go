package api_test

import (
	"context"
	"strings"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/store"
)

// TestRegistries: logins are set, shown without their secrets, replaced and
// deleted, by their tenant alone.
func TestRegistries(t *testing.T) {
	p := start(t, api.Config{})
	set := func(status int, body map[string]any, headers ...string) answer {
		t.Helper()
		return p.want(status, "POST", "/registries", body, headers...)
	}
	first := set(201, map[string]any{"host": "https://Registry.Example:5000/", "username": "ann", "password": "a secret to hide"})
	if first.text("data.host") != "registry.example:5000" || first.text("data.username") != "ann" {
		t.Errorf("made %s", first.Raw)
	}
	again := set(200, map[string]any{"host": "registry.example:5000", "username": "bob", "password": "another secret"})
	if again.text("data.id") != first.text("data.id") || again.text("data.username") != "bob" {
		t.Errorf("set again it is %s", again.Raw)
	}
	set(201, map[string]any{"host": "index.docker.io", "username": "ann", "password": "x"})
	for name, body := range map[string]map[string]any{
		"no host":           {"username": "ann", "password": "x"},
		"a URL":             {"host": "https://registry.example/team", "username": "ann", "password": "x"},
		"nobody":            {"host": "registry.example"},
		"no password":       {"host": "registry.example", "username": "ann"},
		"a password alone":  {"host": "registry.example", "password": "x", "ca_certificate": "-"},
		"two lines":         {"host": "registry.example", "username": "ann", "password": "x\ny"},
		"a colon":           {"host": "registry.example", "username": "a:b", "password": "x"},
		"a CA that is none": {"host": "registry.example", "ca_certificate": "not PEM"},
		"a long password":   {"host": "registry.example", "username": "ann", "password": strings.Repeat("x", 20_000)},
	} {
		if a := p.call("POST", "/registries", body); a.Status != 422 || a.code() != "validation_failed" {
			t.Errorf("%s: %d %s", name, a.Status, a.Raw)
		}
	}
	listed := p.want(200, "GET", "/registries", nil)
	if listed.at("page.total") != 2.0 || strings.Contains(listed.Raw, "secret") || !strings.Contains(listed.Raw, `"docker.io"`) {
		t.Errorf("listed: %s", listed.Raw)
	}
	for l, err := range store.List(context.Background(), p.Store, store.RegistryLogins, store.RegistryLoginsOf(p.Tenant.ID), store.ScanOptions{}) {
		if err != nil || strings.Contains(string(l.Secret), "another secret") {
			t.Errorf("kept as %q (%v)", l.Secret, err)
		}
	}
	// A key of one workspace has logins of its own, and sees no others.
	narrow := p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "w1"))
	if a := p.want(200, "GET", "/registries", nil, narrow); a.at("page.total") != 0.0 {
		t.Errorf("a narrow key sees %s", a.Raw)
	}
	p.want(404, "DELETE", "/registries/docker.io", nil, narrow)
	p.want(404, "DELETE", "/registries/"+first.text("data.id"), nil, narrow)
	own := set(201, map[string]any{"host": "docker.io", "username": "eve", "password": "x"}, narrow)
	if own.text("data.external_workspace_id") != "w1" {
		t.Errorf("made %s", own.Raw)
	}
	other := p.AddTenant("other")
	p.want(404, "DELETE", "/registries/docker.io", nil, p.bearer(p.AddKey(miosa.RoleUser, other.ID, "")))

	p.want(200, "DELETE", "/registries/index.docker.io", nil)
	p.want(404, "DELETE", "/registries/docker.io", nil)
	p.want(200, "DELETE", "/registries/"+first.text("data.id"), nil)
	if a := p.want(200, "GET", "/registries", nil, narrow); a.at("page.total") != 1.0 {
		t.Errorf("the narrow key's own is gone: %s", a.Raw)
	}
}
