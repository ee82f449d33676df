package api_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/outbound"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// The secret is in the answers that make one, and nowhere else.
func TestWebhookSecretsAreShownOnce(t *testing.T) {
	p := start(t, api.Config{})
	made := p.want(201, "POST", "/webhooks", map[string]any{"url": "https://example.com/in?token=abc", "types": []string{"rollout."}}, "Idempotency-Key: once")
	id, signing := made.text("data.id"), made.text("data.secret")
	if !strings.HasPrefix(signing, "whsec_") || len(signing) != len("whsec_")+44 {
		t.Fatalf("the secret: %q", signing)
	}
	if again := p.want(201, "POST", "/webhooks", map[string]any{"url": "https://example.com/in?token=abc", "types": []string{"rollout."}}, "Idempotency-Key: once"); again.Raw != made.Raw {
		t.Error("repeated, the answer is another one")
	}
	rotated := p.want(200, "POST", "/webhooks/"+id+"/rotate-secret", map[string]any{"previous_hours": 1})
	next := rotated.text("data.secret")
	if next == signing || rotated.text("data.previous_secret_until") == "" {
		t.Errorf("rotated: %s", rotated.Raw)
	}
	hidden := []string{signing[6:], next[6:]}
	for _, path := range []string{"/webhooks", "/webhooks/" + id, "/webhooks/" + id + "/deliveries", "/events?limit=100"} {
		a := p.want(200, "GET", path, nil)
		for _, h := range hidden {
			if strings.Contains(a.Raw, h) {
				t.Errorf("%s shows a secret", path)
			}
		}
		if strings.HasPrefix(path, "/events") && strings.Contains(a.Raw, "token=abc") {
			t.Error("an event shows the query of the URL")
		}
	}
	if a := p.want(200, "PATCH", "/webhooks/"+id, map[string]any{"description": "x"}); strings.Contains(a.Raw, "secret\":\"whsec") {
		t.Errorf("a change shows the secret: %s", a.Raw)
	}
	for e, err := range p.Store.Scan(t.Context(), "", store.ScanOptions{}) {
		for _, h := range hidden {
			if err != nil || strings.Contains(string(e.Value), h) {
				t.Errorf("%s holds a secret in clear, %v", e.Key, err)
			}
		}
	}
	// Both open with what the sender has.
	hook, err := store.Get(t.Context(), p.Store, store.Webhooks, store.WebhookKey(p.Tenant.ID, id))
	if err != nil {
		t.Fatal(err)
	}
	for sealed, want := range map[string]string{string(hook.Secret): next, string(hook.PreviousSecret): signing} {
		got, err := apitest.Sealer{}.Open(context.Background(), p.Tenant.ID, miosa.WebhookAAD(id), []byte(sealed))
		if err != nil || string(got) != want {
			t.Errorf("%q, %v", got, err)
		}
	}
	if !strings.Contains(p.want(200, "GET", "/events?type=webhook", nil).Raw, "webhook.secret_rotated") {
		t.Error("no event tells of the rotation")
	}
}

func TestWebhooksAreChecked(t *testing.T) {
	p := start(t, api.Config{Targets: outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}})
	for _, bad := range []map[string]any{
		{}, {"url": ""}, {"url": "example.com"}, {"url": "/path"}, {"url": "http://example.com"}, {"url": "ftp://example.com"}, {"url": "https://"},
		{"url": "https://example.com:0/"}, {"url": "https://example.com:99999/"}, {"url": "https://example.com:65536"}, {"url": "https://example.com:"},
		{"url": "https://[2001:db8::1]:0/"}, {"url": "http://10.1.2.3:0/in"}, {"url": "https://example.com:99999999999999999999/"},
		{"url": "https://:443/"}, {"url": "https://user:pw@example.com"}, {"url": "https://example.com/#x"}, {"url": "https://example.com/a b"},
		{"url": "http://10.2.0.1/"}, {"url": "http://127.0.0.1/"}, {"url": "https://example.com\n"}, {"url": "https://example.com/" + strings.Repeat("x", 2000)},
		{"url": "https://example.com", "types": []string{"Rollout"}}, {"url": "https://example.com", "types": []string{""}},
		{"url": "https://example.com", "deployment_id": "dep_00000000000000000000000000"}, {"url": "https://example.com", "description": "a\nb"},
	} {
		if a := p.call("POST", "/webhooks", bad); a.Status != 422 {
			t.Errorf("%v: %d %s", bad, a.Status, a.Raw)
		}
	}
	p.want(201, "POST", "/webhooks", map[string]any{"url": "http://10.1.2.3:8080/in"})
	dep := p.deploy("x")
	made := p.want(201, "POST", "/webhooks", map[string]any{"url": "https://example.com", "deployment_id": "x"})
	id := made.text("data.id")
	if made.text("data.deployment_id") != dep {
		t.Errorf("%s", made.Raw)
	}
	p.want(422, "PATCH", "/webhooks/"+id, map[string]any{"url": "http://example.com"})
	if a := p.want(422, "PATCH", "/webhooks/"+id, map[string]any{"url": "https://example.com:99999/"}); !strings.Contains(a.Raw, "1–65535") {
		t.Errorf("a port that is none: %s", a.Raw)
	}
	p.want(200, "PATCH", "/webhooks/"+id, map[string]any{"url": "https://example.com:65535/"})
	if a := p.want(200, "PATCH", "/webhooks/"+id, map[string]any{"deployment_id": nil, "types": []string{"instance.crashed"}}); a.at("data.deployment_id") != nil {
		t.Errorf("%s", a.Raw)
	}
	p.want(412, "PATCH", "/webhooks/"+id, map[string]any{"description": "y"}, `If-Match: "1"`)
	for range 18 {
		p.want(201, "POST", "/webhooks", map[string]any{"url": "https://example.com"})
	}
	if a := p.want(402, "POST", "/webhooks", map[string]any{"url": "https://example.com"}); a.code() != "quota_exceeded" {
		t.Errorf("%s", a.Raw)
	}
	p.want(200, "DELETE", "/webhooks/"+id, nil)
	p.want(404, "GET", "/webhooks/"+id, nil)
	p.want(201, "POST", "/webhooks", map[string]any{"url": "https://example.com"})
}

// Tests, redeliveries, and what the platform disabled.
func TestWebhooksSend(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("x")
	id := p.want(201, "POST", "/webhooks", map[string]any{"url": "https://example.com"}).text("data.id")
	test := p.want(202, "POST", "/webhooks/"+id+"/test", nil).text("data.event_id")
	old, _ := p.events("/deployments/" + dep + "/events")
	p.want(202, "POST", "/webhooks/"+id+"/deliveries/"+old[0]+"/redeliver", nil)
	p.want(404, "POST", "/webhooks/"+id+"/deliveries/evt_00000000000000000000000000/redeliver", nil)
	if got := strings.Join(p.Webhooks.Sent(), ", "); got != id+" "+test+", "+id+" "+old[0] {
		t.Errorf("to be sent: %s", got)
	}
	at := time.Now().Add(-time.Minute)
	p.Webhooks.Set(id, miosa.WebhookStatus{
		DisabledAt: at, DisabledReason: "410", FailingSince: at,
		Recent: []miosa.Delivery{
			{EventID: old[0], Type: "a.b", State: miosa.DeliveryDelivered, Attempts: 1, Status: 204, Latency: 12 * time.Millisecond, AttemptAt: at.Add(-time.Second)},
			{EventID: test, Type: "webhook.tested", State: miosa.DeliveryWaiting, Attempts: 2, Error: "refused", AttemptAt: at, NextAt: at.Add(time.Hour)},
		},
	})
	if a := p.want(200, "GET", "/webhooks/"+id, nil); a.at("data.enabled") != false || a.text("data.disabled_reason") != "410" {
		t.Errorf("%s", a.Raw)
	}
	p.want(409, "POST", "/webhooks/"+id+"/test", nil)
	all := p.want(200, "GET", "/webhooks/"+id+"/deliveries", nil).at("data").([]any)
	first, second := all[0].(map[string]any), all[1].(map[string]any)
	if first["event_id"] != test || first["status"] != nil || first["error"] != "refused" || first["next_attempt_at"] == nil ||
		second["status"] != 204.0 || second["latency_ms"] != 12.0 || second["error"] != nil {
		t.Errorf("%v", all)
	}
	if a := p.want(200, "PATCH", "/webhooks/"+id, map[string]any{"enabled": true}); a.at("data.enabled") != true {
		t.Errorf("%s", a.Raw)
	}
	if a := p.want(200, "GET", "/webhooks/"+id, nil); a.at("data.enabled") != true || a.at("data.disabled_reason") != nil {
		t.Errorf("%s", a.Raw)
	}
	p.want(200, "PATCH", "/webhooks/"+id, map[string]any{"enabled": false})
	p.Webhooks.Set(id, miosa.WebhookStatus{})
	p.want(409, "POST", "/webhooks/"+id+"/test", nil)
}

// A key of a workspace sees and makes that workspace's webhooks only.
func TestWebhooksKeepToTheirWorkspace(t *testing.T) {
	p := start(t, api.Config{})
	one, two := p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "one")), p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "two"))
	stranger := p.bearer(p.AddKey(miosa.RolePlatform, p.AddTenant("other").ID, ""))
	depTwo := p.want(201, "POST", "/deployments", map[string]any{"name": "b"}, two).text("data.id")
	mine := p.want(201, "POST", "/webhooks", map[string]any{"url": "https://example.com"}, one)
	id := mine.text("data.id")
	if mine.text("data.external_workspace_id") != "one" {
		t.Errorf("%s", mine.Raw)
	}
	whole := p.want(201, "POST", "/webhooks", map[string]any{"url": "https://example.com"}).text("data.id")
	p.want(403, "POST", "/webhooks", map[string]any{"url": "https://example.com", "external_workspace_id": "two"}, one)
	p.want(422, "POST", "/webhooks", map[string]any{"url": "https://example.com", "deployment_id": depTwo}, one)
	p.want(422, "PATCH", "/webhooks/"+id, map[string]any{"deployment_id": depTwo}, one)
	events, _ := p.events("/events", two)
	for who, key := range map[string]string{"two": two, "stranger": stranger} {
		for _, hook := range []string{id, whole} {
			for _, try := range [][2]string{
				{"GET", ""}, {"PATCH", ""}, {"DELETE", ""}, {"POST", "/test"}, {"POST", "/rotate-secret"}, {"GET", "/deliveries"}, {"POST", "/deliveries/" + events[0] + "/redeliver"},
			} {
				var body any
				if try[0] == "PATCH" {
					body = map[string]any{"url": "https://evil.example"}
				}
				if a := p.call(try[0], "/webhooks/"+hook+try[1], body, key); a.Status != 404 {
					t.Errorf("%s: %s %s: %d %s", who, try[0], try[1], a.Status, a.Raw)
				}
			}
		}
		if a := p.want(200, "GET", "/webhooks", nil, key); len(a.at("data").([]any)) != 0 {
			t.Errorf("%s lists %s", who, a.Raw)
		}
	}
	// Nor does a webhook of one workspace send another's events when asked to.
	p.want(404, "POST", "/webhooks/"+id+"/deliveries/"+events[0]+"/redeliver", nil, one)
	if a := p.want(200, "GET", "/webhooks", nil); len(a.at("data").([]any)) != 2 {
		t.Errorf("the tenant lists %s", a.Raw)
	}
}

// Without a sender the API still keeps webhooks, and says what it can't do.
func TestNoWebhooksAreSent(t *testing.T) {
	p := platform{apitest.Start(t, memory.New(time.Now), api.Config{}, func(d *api.Deps) { d.Webhooks = nil }), t}
	id := p.want(201, "POST", "/webhooks", map[string]any{"url": "https://example.com"}).text("data.id")
	p.want(503, "POST", "/webhooks/"+id+"/test", nil)
	if a := p.want(200, "GET", "/webhooks/"+id+"/deliveries", nil); len(a.at("data").([]any)) != 0 {
		t.Errorf("%s", a.Raw)
	}
}

// TestEveryRotationKeepsItsPromise: a second one does not end what the first
// promised; an end at once ends all.
func TestEveryRotationKeepsItsPromise(t *testing.T) {
	p := start(t, api.Config{})
	made := p.want(201, "POST", "/webhooks", map[string]any{"url": "https://example.com"})
	id := made.text("data.id")
	secrets := []string{made.text("data.secret")}
	signing := func() (out []string) {
		t.Helper()
		hook, err := store.Get(t.Context(), p.Store, store.Webhooks, store.WebhookKey(p.Tenant.ID, id))
		if err != nil {
			t.Fatal(err)
		}
		for _, sealed := range hook.Secrets(time.Now().Add(23 * time.Hour)) {
			plain, err := apitest.Sealer{}.Open(t.Context(), p.Tenant.ID, miosa.WebhookAAD(id), sealed)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, string(plain))
		}
		return out
	}
	for range 4 {
		secrets = append([]string{p.want(200, "POST", "/webhooks/"+id+"/rotate-secret", nil).text("data.secret")}, secrets...)
		if got := signing(); !slices.Equal(got, secrets) {
			t.Fatalf("in 23 hours %v sign, not %v", got, secrets)
		}
	}
	if a := p.want(429, "POST", "/webhooks/"+id+"/rotate-secret", nil); a.code() != "too_many_secrets" || !slices.Equal(signing(), secrets) {
		t.Errorf("%s", a.Raw)
	}
	last := p.want(200, "POST", "/webhooks/"+id+"/rotate-secret", map[string]any{"previous_hours": 0}).text("data.secret")
	if got := signing(); !slices.Equal(got, []string{last}) {
		t.Errorf("at once: %v", got)
	}
}
