package api_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/outbound"
	"github.com/miosa/miosa/store"
)

func TestLogDrains(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("shop")
	made := p.want(201, "POST", "/log-drains", map[string]any{
		"url": "https://logs.example:8443/in?key=hidden-in-query&plain", "headers": map[string]any{"x-api-key": "hidden-in-header"}, "token": "hidden-token",
		"deployment_id": "shop", "stream": "stderr", "q": `level:error -"health check"`,
	})
	id := made.text("data.id")
	if made.text("data.url") != "https://logs.example:8443/in?key=••••&••••" || made.text("data.type") != "https" || made.text("data.name") != "logs.example" ||
		made.text("data.headers.X-Api-Key") != "••••" || made.text("data.token") != "••••" || made.text("data.deployment_id") != dep || made.text("data.state") != "delivering" {
		t.Errorf("made %s", made.Raw)
	}
	// Nothing of the secrets is in an answer, in the log, or in clear in the store.
	p.want(200, "PATCH", "/log-drains/"+id, map[string]any{"token": "hidden-too"})
	var everything strings.Builder
	everything.WriteString(made.Raw + p.want(200, "GET", "/log-drains/"+id, nil).Raw + p.want(200, "GET", "/log-drains", nil).Raw + p.want(200, "GET", "/events", nil).Raw + p.Log.String())
	for e, err := range p.Store.Scan(t.Context(), "/", store.ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		everything.WriteString(string(e.Value))
	}
	if strings.Contains(everything.String(), "hidden") {
		t.Error("a secret shows")
	}
	if a := p.want(200, "POST", "/log-drains/"+id+"/test", nil); a.at("data.delivered") != true || a.at("data.status_code") != 204.0 || a.at("data.duration_ms") != 12.0 {
		t.Errorf("test: %s", a.Raw)
	}
	if url := p.Drains.Opened(); url != "https://logs.example:8443/in?key=hidden-in-query&plain" {
		t.Errorf("the drain leads to %s", url)
	}

	now := time.Now().UTC().Truncate(time.Second)
	p.Drains.Say(id, miosa.DrainStatus{
		State: miosa.DrainFailed, Error: "the receiver answers 403 Forbidden", ErrorAt: now, NextAttempt: now.Add(time.Minute), DeliveredAt: now.Add(-time.Hour),
		Delivered: 1234, Dropped: 5, Lag: 90 * time.Second, GapFrom: now.Add(-48 * time.Hour), GapUntil: now.Add(-24 * time.Hour),
	})
	a := p.want(200, "GET", "/log-drains/"+id, nil)
	if a.text("data.state") != "failed" || a.text("data.last_error") != "the receiver answers 403 Forbidden" || a.at("data.delivered_lines") != 1234.0 ||
		a.at("data.dropped_lines") != 5.0 || a.at("data.lag_seconds") != 90.0 || a.text("data.gap_until") == "" || a.text("data.next_attempt_at") == "" {
		t.Errorf("status %s", a.Raw)
	}
	for query, total := range map[string]float64{"?state=failed": 1, "?state=delivering": 0, "?external_workspace_id=w1": 0, "": 1} {
		if a := p.want(200, "GET", "/log-drains"+query, nil); a.at("page.total") != total {
			t.Errorf("%s lists %v", query, a.at("page.total"))
		}
	}

	etag := a.Header.Get("ETag")
	a = p.want(200, "PATCH", "/log-drains/"+id, map[string]any{"paused": true, "stream": nil, "deployment_id": nil, "headers": map[string]any{"X-Api-Key": nil, "B": "b"}}, "If-Match: "+etag)
	if a.text("data.state") != "paused" || a.at("data.stream") != nil || a.at("data.deployment_id") != nil || a.at("data.headers.X-Api-Key") != nil || a.text("data.headers.B") != "••••" ||
		a.text("data.q") == "" || a.Header.Get("ETag") == etag {
		t.Errorf("changed %s", a.Raw)
	}
	p.want(412, "PATCH", "/log-drains/"+id, map[string]any{"paused": false}, "If-Match: "+etag)
	p.want(200, "DELETE", "/log-drains/"+id, nil)
	p.want(404, "GET", "/log-drains/"+id, nil)
	p.want(404, "POST", "/log-drains/"+id+"/test", nil)
}

// TestALogDrainsSecretsStayWithTheirHost: who may change a drain cannot have
// its credentials sent to himself.
func TestALogDrainsSecretsStayWithTheirHost(t *testing.T) {
	p := start(t, api.Config{Targets: outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}})
	id := p.want(201, "POST", "/log-drains", map[string]any{"url": "https://logs.example/a", "token": "t", "headers": map[string]any{"X-Key": "v"}}).text("data.id")
	for _, body := range []map[string]any{
		{"url": "https://evil.example/a"},
		{"url": "https://logs.example:444/a"},
		{"url": "http://logs.example/a"},
		{"url": "https://evil.example/a", "token": "t"},
		{"url": "https://evil.example/a", "headers": map[string]any{"X-Key": nil}},
		{"url": "https://evil.example/a", "token": nil, "headers": map[string]any{"Other": "v"}},
	} {
		if a := p.want(422, "PATCH", "/log-drains/"+id, body); !strings.Contains(a.text("message"), "another host") {
			t.Errorf("%v: %s", body, a.Raw)
		}
	}
	p.want(200, "PATCH", "/log-drains/"+id, map[string]any{"url": "https://LOGS.example/b"})
	p.want(200, "PATCH", "/log-drains/"+id, map[string]any{"url": "https://new.example/b", "token": "t2", "headers": map[string]any{"x-key": "v2"}})
	p.want(200, "PATCH", "/log-drains/"+id, map[string]any{"url": "https://newer.example/b", "token": nil, "headers": map[string]any{"X-KEY": nil}})
}

func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// TestWhatALogDrainMayBe: each fault is named with what would be right.
func TestWhatALogDrainMayBe(t *testing.T) {
	p := start(t, api.Config{})
	allowing := start(t, api.Config{Targets: outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}})
	cert, key := selfSigned(t)
	one, two := p.deploy("one"), p.deploy("two")
	p.publish(one, p.upload(one, "bytes"), "/app/server")
	services, _ := p.want(200, "GET", "/deployments/"+one+"/services", nil).at("data").([]any)
	service := services[0].(map[string]any)["id"].(string)
	const ok = "https://logs.example/in"
	for _, x := range []struct {
		p     platform
		body  map[string]any
		field string // "": right
		words string
	}{
		{p, map[string]any{}, "url", "is needed"},
		{p, map[string]any{"url": "logs.example"}, "url", "must be https://"},
		{p, map[string]any{"url": "ftp://logs.example"}, "url", "must be https://"},
		{p, map[string]any{"url": "https:///in"}, "url", "must be https://"},
		{p, map[string]any{"url": "https:logs.example"}, "url", "must be https://"},
		{p, map[string]any{"url": "https://u:p@logs.example"}, "url", "no user and password"},
		{p, map[string]any{"url": "https://logs.example/#x"}, "url", "#"},
		{p, map[string]any{"url": "https://logs.example/a b"}, "url", "without spaces"},
		{p, map[string]any{"url": "https://logs.example:0/"}, "url", "1–65535"},
		{p, map[string]any{"url": "https://logs.example:/"}, "url", "1–65535"},
		{p, map[string]any{"url": "http://logs.example"}, "url", "must begin with https://"},
		{p, map[string]any{"url": "https://127.0.0.1/"}, "url", "--allow-target"},
		{p, map[string]any{"url": "https://[::ffff:10.0.0.1]/"}, "url", "--allow-target"},
		{p, map[string]any{"url": "https://[fd00::1%25eth0]/"}, "url", "--allow-target"},
		{p, map[string]any{"url": "syslog+tls://169.254.169.254"}, "url", "--allow-target"},
		{p, map[string]any{"url": "syslog+tls://logs.example/x"}, "url", "nothing behind it"},
		{p, map[string]any{"url": "syslog://logs.example"}, "url", "syslog+tls://"},
		{p, map[string]any{"url": ok, "type": "syslog"}, "url", "syslog+tls://"},
		{p, map[string]any{"url": "syslog+tls://logs.example", "type": "otlp"}, "url", "https://"},
		{p, map[string]any{"url": ok, "type": "kafka"}, "type", "one of https, syslog, otlp"},
		{p, map[string]any{"url": ok, "stream": "stdin"}, "stream", "one of"},
		{p, map[string]any{"url": ok, "q": `"open`}, "q", "is no search"},
		{p, map[string]any{"url": ok, "name": "\n"}, "name", ""},
		{p, map[string]any{"url": ok, "headers": map[string]any{"A b": "x"}}, "headers.A b", "no name"},
		{p, map[string]any{"url": ok, "headers": map[string]any{"A": "x\r\nB: y"}}, "headers.A", "line breaks"},
		{p, map[string]any{"url": ok, "headers": map[string]any{"content-length": "1"}}, "headers.content-length", "by the drain itself"},
		{p, map[string]any{"url": ok, "headers": map[string]any{"a": "1", "A": "2"}}, "", ""},
		{p, map[string]any{"url": ok, "headers": map[string]any{"authorization": "x"}, "token": "t"}, "token", "choose one"},
		{p, map[string]any{"url": ok, "token": "a b"}, "token", "visible"},
		{p, map[string]any{"url": "syslog+tls://logs.example", "token": `a"]b`}, "token", "structured data"},
		{p, map[string]any{"url": "syslog+tls://logs.example", "headers": map[string]any{"A": "x"}}, "headers", "syslog has none"},
		{p, map[string]any{"url": ok, "ca_certificate": "no"}, "ca_certificate", "must be PEM"},
		{p, map[string]any{"url": ok, "ca_certificate": cert + key}, "ca_certificate", "holds a private key"},
		{p, map[string]any{"url": ok, "deployment_id": "nowhere"}, "deployment_id", "no such deployment"},
		{p, map[string]any{"url": ok, "service_id": "svc_00000000000000000000000000"}, "service_id", "no such service"},
		{p, map[string]any{"url": ok, "service_id": one}, "service_id", "no such service"},
		{p, map[string]any{"url": ok, "deployment_id": two, "service_id": service}, "service_id", "another deployment"},
		{p, map[string]any{"url": ok, "deployment_id": one, "external_workspace_id": "w1"}, "deployment_id", "another external_workspace_id"},
		{p, map[string]any{"url": ok, "deployment_id": one, "service_id": service, "ca_certificate": cert, "stream": "system"}, "", "https"},
		{p, map[string]any{"url": "https://logs.example/v1/logs"}, "", "otlp"},
		{p, map[string]any{"url": "https://93.184.216.34:4318", "type": "otlp"}, "", "otlp"},
		{p, map[string]any{"url": "syslog+tls://logs.example", "token": "0123abcd@41058"}, "", "syslog"},
		{allowing, map[string]any{"url": "http://10.1.2.3/in"}, "", "https"},
		{allowing, map[string]any{"url": "http://inside/in"}, "", "https"}, // its address is asked for when it is called
		{allowing, map[string]any{"url": "http://93.184.216.34/in"}, "url", "--allow-target"},
	} {
		name := fmt.Sprint(x.body)
		a := x.p.call("POST", "/log-drains", x.body)
		if x.field == "" {
			if x.words == "" { // two spellings of one header
				if a.Status != 422 || !strings.Contains(a.text("message"), "twice") {
					t.Errorf("%s: %d %s", name, a.Status, a.Raw)
				}
				continue
			}
			if a.Status != 201 || a.text("data.type") != x.words {
				t.Errorf("%s: %d %s", name, a.Status, a.Raw)
				continue
			}
			x.p.want(200, "DELETE", "/log-drains/"+a.text("data.id"), nil)
			continue
		}
		if a.Status != 422 || !strings.Contains(a.Raw, `"field":"`+x.field+`"`) || !strings.Contains(a.text("message"), x.words) {
			t.Errorf("%s: %d %s", name, a.Status, a.Raw)
		}
	}
	if a := p.want(201, "POST", "/log-drains", map[string]any{"url": "https://logs.example", "type": "otlp"}); a.text("data.url") != "https://logs.example/v1/logs" {
		t.Errorf("url %s", a.text("data.url"))
	}
	if a := p.want(201, "POST", "/log-drains", map[string]any{"url": "syslog+tls://logs.example"}); a.text("data.url") != "syslog+tls://logs.example:6514" {
		t.Errorf("url %s", a.text("data.url"))
	}
}

// TestLogDrainsOfWorkspaces: a key of one workspace makes, sees and changes
// that workspace's drains alone, and they forward nothing else.
func TestLogDrainsOfWorkspaces(t *testing.T) {
	p := start(t, api.Config{})
	w1, w2 := p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "w1")), p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "w2"))
	theirs := p.want(201, "POST", "/deployments", map[string]any{"name": "theirs"}, w2).text("data.id")
	whole := p.want(201, "POST", "/log-drains", map[string]any{"url": "https://logs.example/whole"}).text("data.id")
	made := p.want(201, "POST", "/log-drains", map[string]any{"url": "https://logs.example/w1"}, w1)
	mine := made.text("data.id")
	if made.text("data.external_workspace_id") != "w1" {
		t.Errorf("made %s", made.Raw)
	}
	p.want(403, "POST", "/log-drains", map[string]any{"url": "https://logs.example/w1", "external_workspace_id": "w2"}, w1)
	p.want(403, "PATCH", "/log-drains/"+mine, map[string]any{"external_workspace_id": "w2"}, w1)
	p.want(403, "PATCH", "/log-drains/"+mine, map[string]any{"external_workspace_id": ""}, w1)
	p.want(422, "POST", "/log-drains", map[string]any{"url": "https://logs.example/w1", "deployment_id": theirs}, w1)
	p.want(422, "PATCH", "/log-drains/"+mine, map[string]any{"deployment_id": theirs}, w1)
	for _, id := range []string{whole, mine} {
		for _, method := range []string{"GET", "PATCH", "DELETE"} {
			p.want(404, method, "/log-drains/"+id, map[string]any{}, w2)
		}
		p.want(404, "POST", "/log-drains/"+id+"/test", nil, w2)
	}
	p.want(404, "GET", "/log-drains/"+whole, nil, w1)
	if a := p.want(200, "GET", "/log-drains", nil, w1); a.at("page.total") != 1.0 {
		t.Errorf("w1 sees %s", a.Raw)
	}
	if a := p.want(200, "GET", "/log-drains", nil, w2); a.at("page.total") != 0.0 {
		t.Errorf("w2 sees %s", a.Raw)
	}
	d, err := store.Get(t.Context(), p.Store, store.LogDrains, store.LogDrainKey(p.Tenant.ID, mine))
	if err != nil || d.WorkspaceID != "w1" {
		t.Errorf("the record has workspace %q: %v", d.WorkspaceID, err)
	}
	// Its timeline tells of its own drains, and of nobody else's.
	if a := p.want(200, "GET", "/events?type=log_drain", nil, w1); a.at("page.total") == 0.0 || strings.Contains(strings.ReplaceAll(a.Raw, mine, ""), "ldr_") || !strings.Contains(a.Raw, mine) {
		t.Errorf("the workspace's timeline: %s", a.Raw)
	}
	// One workspace's number is not the other's.
	for n := range 9 {
		p.want(201, "POST", "/log-drains", map[string]any{"url": fmt.Sprintf("https://logs.example/%d", n)}, w1)
	}
	p.want(402, "POST", "/log-drains", map[string]any{"url": "https://logs.example/11"}, w1)
	p.want(201, "POST", "/log-drains", map[string]any{"url": "https://logs.example/1"}, w2)
}
