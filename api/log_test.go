package api_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/secret"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// logged is a world whose instance printed lines "1" to "n".
func (p platform) logged(n int) (world, logs.Origin) {
	p.t.Helper()
	w := p.world()
	of := logs.Origin{
		TenantID: p.Tenant.ID, DeploymentID: w.dep, ServiceID: w.ids["services"], InstanceID: w.ids["ri_id"], VersionID: w.ids["version_id"],
		HostID: "host_00000000000000000000000001",
	}
	var texts []string
	for i := range n {
		texts = append(texts, fmt.Sprint(i+1))
	}
	p.Logs.Write(of, noon, texts...)
	return w, of
}

// lines are the texts of a page.
func (a answer) lines() string {
	var out []string
	data, _ := a.at("data").([]any)
	for _, l := range data {
		out = append(out, l.(map[string]any)["line"].(string))
	}
	return strings.Join(out, " ")
}

func TestLogPages(t *testing.T) {
	p := start(t, api.Config{})
	w, of := p.logged(7)
	for _, path := range []string{"/deployments/" + w.dep, "/deployments/everything", "/services/" + of.ServiceID, "/runtime-instances/" + of.InstanceID} {
		path += "/logs"
		for direction, want := range map[string]string{"": "5 6 7|2 3 4|1", "backward": "5 6 7|2 3 4|1", "forward": "1 2 3|4 5 6|7"} {
			var pages []string
			cursor := ""
			for {
				a := p.want(200, "GET", path+"?lines=3&direction="+direction+"&cursor="+cursor, nil)
				pages = append(pages, a.lines())
				if cursor = a.text("page.next_cursor"); cursor == "" {
					if a.at("page") == nil || len(a.at("page").(map[string]any)) != 1 {
						t.Errorf("the page: %v", a.at("page"))
					}
					break
				}
			}
			if got := strings.Join(pages, "|"); got != want {
				t.Errorf("%s %s: %s", path, direction, got)
			}
		}
	}
	a := p.want(200, "GET", "/deployments/"+w.dep+"/logs?limit=1", nil)
	l := a.at("data").([]any)[0].(map[string]any)
	want := map[string]any{
		"ts": "2026-03-01T12:00:00.006Z", "stream": "stdout", "line": "7", "deployment_id": of.DeploymentID, "service_id": of.ServiceID,
		"runtime_instance_id": of.InstanceID, "version_id": of.VersionID, "host_id": of.HostID, "external_workspace_id": nil,
	}
	if fmt.Sprint(l) != fmt.Sprint(want) {
		t.Errorf("a line: %v", l)
	}
	one := p.want(200, "GET", "/deployments/"+w.dep+"/runtime-instances/"+of.InstanceID+"/logs?lines=2", nil)
	if one.text("data.logs") != "6\n7\n" || one.text("data.runtime_instance_id") != of.InstanceID || one.text("data.deployment_id") != w.dep {
		t.Errorf("as one text: %s", one.Raw)
	}
}

func TestLogParameters(t *testing.T) {
	p := start(t, api.Config{})
	w, of := p.logged(3)
	recent := time.Now().Add(-30 * time.Minute)
	p.Logs.Append(logs.Batch{Origin: of, Epoch: 1, First: 4, Lines: []logs.Line{
		{Time: recent, Stream: logs.Stderr, Text: []byte(`{"level":"error","msg":"Bad"}`)}, {Time: recent, Stream: logs.System, Text: []byte("7 lines lost"), Lost: 7},
	}})
	path := "/deployments/" + w.dep + "/logs?"
	esc := url.QueryEscape
	for query, want := range map[string]string{
		"limit=2&until=" + esc("2026-03-01T12:00:00.002Z"): "1 2", "since=" + esc("2026-03-01T12:00:00.002Z") + "&until=1h": "3",
		"until=2026-03-01T13:00:00.001%2B01:00": "1", "until=2026-03-01T13:00:00.001+01:00": "1", "since=1h&stream=system": "7 lines lost",
		"since=15m": "", "since=10m30s": "", "since=1w1d&stream=stderr&q=level:err": `{"level":"error","msg":"Bad"}`, "q=bad": `{"level":"error","msg":"Bad"}`,
		"q=-bad+-lost": "1 2 3", "limit=99999999999999999999&stream=stdout": "1 2 3", "lines=1&limit=2&stream=stdout": "2 3",
		"version_id=" + of.VersionID + "&stream=stdout": "1 2 3", "version_id=ver_00000000000000000000000000": "", "version_id=%00/../x": "", "host_id=" + of.HostID + "&limit=1&until=1h": "3",
		"service_id=" + of.ServiceID + "&until=1h": "1 2 3", "service_id=svc_00000000000000000000000000": "", "external_workspace_id=w": "", "external_workspace_id=%ff": "",
	} {
		if got := p.want(200, "GET", path+query, nil).lines(); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	if a := p.want(200, "GET", path+"stream=system", nil); a.at("data").([]any)[0].(map[string]any)["lost"] != 7.0 {
		t.Errorf("lost: %s", a.Raw)
	}
	for query, field := range map[string]string{
		"since=yesterday": "since", "until=-5m": "until", "since=5": "since", "since=m": "since", "since=99999d": "since", "until=9999999999999999999d": "until",
		"since=1h&until=2h": "until", "limit=0": "limit", "lines=x": "lines", "direction=up": "direction", "stream=all": "stream", "q=%22open": "q", "q=" + strings.Repeat("x", 1001): "q",
		"q=%ff": "q", "cursor=x": "cursor", "cursor=Y2FiYw": "cursor", "follow=true&until=1h": "until",
	} {
		a := p.want(422, "GET", path+query, nil)
		if fields, ok := a.at("error.details.fields").([]any); !ok || len(fields) != 1 || fields[0].(map[string]any)["field"] != field {
			t.Errorf("%s: %s", query, a.Raw)
		}
	}
	if a := p.want(422, "GET", path+"since=x&limit=x&q=%22", nil); len(a.at("error.details.fields").([]any)) != 3 {
		t.Errorf("not all that is wrong is told: %s", a.Raw)
	}
}

func TestLogsAsText(t *testing.T) {
	p := start(t, api.Config{})
	w, of := p.logged(1)
	p.Logs.Append(logs.Batch{Origin: of, Epoch: 1, First: 2, Lines: []logs.Line{
		{Time: noon.Add(time.Second), Stream: logs.Stdout, Text: []byte("a\tb\x1b[31m\x00\r\x7f\xff\u0085é"), Partial: true},
		{Time: noon.Add(time.Second), Stream: logs.Stdout, Text: []byte("…on")}, {Time: noon.Add(time.Second), Stream: logs.Stdout},
	}})
	path := "/deployments/" + w.dep + "/logs"
	a := p.want(200, "GET", path+"?limit=3", nil, "Accept: text/plain")
	if want := "a\tb\\x1b[31m\\x00\\x0d\\x7f\ufffd\\x85é…on\n\n"; a.Raw != want || a.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("%q\n%q", a.Raw, want)
	}
	next, ok := strings.CutPrefix(a.Header.Get("Link"), "</api/v1")
	next, rel, _ := strings.Cut(next, ">")
	if b := p.want(200, "GET", next, nil, "Accept: text/plain"); !ok || rel != `; rel="next"` || b.Raw != "1\n" || b.Header.Get("Link") != "" {
		t.Errorf("%s leads to %q", a.Header.Get("Link"), b.Raw)
	}
	// What browsers' libraries send.
	b := p.want(200, "GET", path, nil, "Accept: application/json, text/plain, */*")
	if !strings.HasSuffix(b.Header.Get("Content-Type"), "json; charset=utf-8") || !strings.Contains(b.Raw, `\u0000`) || !strings.Contains(b.Raw, `"partial":true`) {
		t.Errorf("JSON: %s", b.Raw)
	}
}

// TestLogsStayWithTheirOwner tries to read another's logs.
func TestLogsStayWithTheirOwner(t *testing.T) {
	p := start(t, api.Config{})
	w, of := p.logged(3)
	other := p.AddTenant("other")
	stranger := p.bearer(p.AddKey(miosa.RolePlatform, other.ID, ""))
	theirs := p.want(201, "POST", "/deployments", map[string]any{"name": "theirs"}, stranger).text("data.id")
	p.Logs.Write(logs.Origin{TenantID: other.ID, DeploymentID: theirs, InstanceID: apitest.ID(t, miosa.PrefixInstance)}, noon, "theirs")
	cursor := p.want(200, "GET", "/deployments/"+w.dep+"/logs?limit=1", nil).text("page.next_cursor")
	for _, path := range []string{
		"/deployments/" + w.dep + "/logs", "/services/" + of.ServiceID + "/logs", "/runtime-instances/" + of.InstanceID + "/logs",
		"/deployments/" + w.dep + "/runtime-instances/" + of.InstanceID + "/logs", "/deployments/" + theirs + "/runtime-instances/" + of.InstanceID + "/logs",
		"/deployments/theirs%2f..%2feverything/logs", "/runtime-instances/ri_x/logs", "/services/" + of.InstanceID + "/logs",
	} {
		for _, how := range []string{"?", "?follow=true", "?tenant_id=" + p.Tenant.ID + "&tenant=" + p.Tenant.ID} {
			if a := p.call("GET", path+how, nil, stranger); a.Status != 404 {
				t.Errorf("%s: %d %s", path+how, a.Status, a.Raw)
			}
		}
	}
	for _, query := range []string{
		"cursor=" + cursor, "direction=forward&cursor=" + cursor, "tenant_id=" + p.Tenant.ID, "service_id=" + of.ServiceID, "deployment_id=" + w.dep + "&id=" + w.dep, "external_workspace_id=",
	} {
		if a := p.want(200, "GET", "/deployments/"+theirs+"/logs?"+query, nil, stranger); a.lines() != "" && a.lines() != "theirs" {
			t.Errorf("%s: %s", query, a.Raw)
		}
	}

	// A key of one workspace.
	key := p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "w1"))
	if a := p.call("GET", "/deployments/"+w.dep+"/logs", nil, key); a.Status != 404 {
		t.Errorf("another workspace's deployment: %d", a.Status)
	}
	mine := p.want(201, "POST", "/deployments", map[string]any{"name": "mine"}, key).text("data.id")
	ri := apitest.ID(t, miosa.PrefixInstance)
	p.Logs.Write(logs.Origin{TenantID: p.Tenant.ID, DeploymentID: mine, InstanceID: ri, WorkspaceID: "w1"}, noon, "w1")
	p.Logs.Write(logs.Origin{TenantID: p.Tenant.ID, DeploymentID: mine, InstanceID: apitest.ID(t, miosa.PrefixInstance), WorkspaceID: "w0"}, noon, "before")
	for query, want := range map[string]string{"": "w1", "external_workspace_id=w1": "w1", "external_workspace_id=w0": "", "external_workspace_id=w0&external_workspace_id=w1": ""} {
		if a := p.want(200, "GET", "/deployments/"+mine+"/logs?"+query, nil, key); a.lines() != want {
			t.Errorf("%q: %s", query, a.Raw)
		}
	}
	if a := p.want(200, "GET", "/deployments/"+mine+"/logs?external_workspace_id=w0", nil); a.lines() != "before" {
		t.Errorf("the tenant's own key: %s", a.Raw)
	}

	// An instance that has no record any more is known by its lines.
	for path, status := range map[string]int{
		"/runtime-instances/" + ri + "/logs": 200, "/deployments/mine/runtime-instances/" + ri + "/logs": 200,
		"/deployments/everything/runtime-instances/" + ri + "/logs": 404, "/runtime-instances/" + apitest.ID(t, miosa.PrefixInstance) + "/logs": 404,
	} {
		p.want(status, "GET", path, nil)
	}
	p.want(404, "GET", "/runtime-instances/"+ri+"/logs", nil, stranger)
	p.want(404, "GET", "/runtime-instances/"+ri+"/logs", nil, p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "w2")))
}

// TestLogsOfWhatIsDeleted: they are read by ID by who could read them before,
// until a purge.
func TestLogsOfWhatIsDeleted(t *testing.T) {
	p := start(t, api.Config{})
	key, other := p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "w1")), p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "w2"))
	stranger := p.bearer(p.AddKey(miosa.RoleUser, p.AddTenant("stranger").ID, ""))
	for _, gone := range []bool{false, true} {
		dep := p.want(201, "POST", "/deployments", map[string]any{"name": "mine"}, key).text("data.id")
		of := logs.Origin{TenantID: p.Tenant.ID, DeploymentID: dep, ServiceID: apitest.ID(t, miosa.PrefixService), InstanceID: apitest.ID(t, miosa.PrefixInstance), WorkspaceID: "w1"}
		p.Logs.Write(of, noon, "one", "two")
		paths := []string{"/deployments/" + dep + "/logs", "/services/" + of.ServiceID + "/logs", "/runtime-instances/" + of.InstanceID + "/logs"}
		p.want(422, "DELETE", "/deployments/"+dep+"?purge_logs=maybe", nil, key)
		p.want(200, "DELETE", "/deployments/"+dep, nil, key)
		p.want(404, "GET", "/deployments/"+dep, nil, key)
		if gone {
			p.dropRecord(dep)
		}
		for _, path := range paths {
			if a := p.want(200, "GET", path, nil, key); a.lines() != "one two" {
				t.Errorf("%s: %s", path, a.Raw)
			}
			p.want(200, "GET", path, nil)
			p.want(404, "GET", path, nil, other)
			p.want(404, "GET", path, nil, stranger)
		}
		p.want(404, "GET", "/deployments/mine/logs", nil, key)
		p.want(404, "DELETE", "/deployments/"+dep+"?purge_logs=true", nil, stranger)
		p.want(404, "DELETE", "/deployments/"+dep+"?purge_logs=true", nil, other)
		p.want(404, "DELETE", "/deployments/"+dep, nil)
		if gone {
			p.want(404, "DELETE", "/deployments/"+dep+"?purge_logs=true", nil, key) // others' lines may be among them
		}
		p.want(200, "DELETE", "/deployments/"+dep+"?purge_logs=true", nil)
		for _, path := range paths {
			p.want(404, "GET", path, nil, key)
			p.want(404, "GET", path, nil)
		}
	}
	dep := p.want(201, "POST", "/deployments", map[string]any{"name": "mine"}, key).text("data.id")
	p.Logs.Write(logs.Origin{TenantID: p.Tenant.ID, DeploymentID: dep, InstanceID: apitest.ID(t, miosa.PrefixInstance), WorkspaceID: "w1"}, noon, "one")
	p.want(200, "DELETE", "/deployments/"+dep+"?purge_logs=true", nil, key)
	p.want(404, "GET", "/deployments/"+dep+"/logs", nil, key)
	d, err := store.Get(t.Context(), p.Store, store.Deployments, store.DeploymentKey(p.Tenant.ID, dep))
	if err != nil || !d.PurgeLogs || d.DeletedAt.IsZero() {
		t.Errorf("the record: %+v, %v", d, err)
	}
}

// dropRecord is what control does once nothing of a deployment runs.
func (p platform) dropRecord(dep string) {
	p.t.Helper()
	_, err := store.Update(p.t.Context(), p.Store, func(tx *store.Tx) error {
		d, err := store.Load(tx, store.Deployments, store.DeploymentKey(p.Tenant.ID, dep))
		if err != nil {
			return err
		}
		return store.Remove(tx, store.Deployments, d)
	})
	if err != nil {
		p.t.Fatal(err)
	}
}

// connection is a stream of log lines.
type connection struct {
	t     *testing.T
	in    *bufio.Reader
	last  string
	close func()
}

func (p platform) connect(path, last string, headers ...string) *connection {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", p.URL+"/api/v1"+path, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp := p.Do(req)
	if resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		p.t.Fatalf("%s: %d", path, resp.StatusCode)
	}
	return &connection{p.t, bufio.NewReader(resp.Body), last, cancel}
}

// next is what comes next: a line's text, or a comment; an ID alone is only noted.
func (c *connection) next() string {
	c.t.Helper()
	event, data := "", ""
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			c.t.Fatalf("the stream ended: %v", err)
		}
		line = strings.TrimSuffix(line, "\n")
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "":
			if data == "" {
				if value != "" {
					return value
				}
				continue
			}
			var l resource.LogLine
			if err := json.Unmarshal([]byte(data), &l); err != nil || event != "log_line" {
				c.t.Fatalf("event %q: %v", event, err)
			}
			return l.Line
		case "id":
			c.last = value
		case "event":
			event = value
		case "data":
			data = value
		}
	}
}

func (c *connection) expect(lines ...string) {
	c.t.Helper()
	for _, want := range lines {
		if got := c.next(); got != want {
			c.t.Fatalf("%q came, want %q", got, want)
		}
	}
}

func TestLogsAreFollowed(t *testing.T) {
	p := start(t, api.Config{Heartbeat: time.Hour})
	w, of := p.logged(5)
	path := "/deployments/" + w.dep + "/logs?follow=true"
	c := p.connect(path+"&limit=3", "")
	c.expect("3", "4")
	c.close() // in the backlog
	c = p.connect(path+"&limit=3", c.last)
	c.expect("5")
	p.Logs.Write(of, noon.Add(time.Minute), "6", "7")
	c.expect("6")
	c.close() // within an arrival
	p.Logs.Write(of, noon.Add(2*time.Minute), "8")
	c = p.connect(path, c.last)
	c.expect("7", "8")
	for _, garbage := range []string{"x", "!", strings.Repeat("A", 9000), c.last[:len(c.last)-3], "Zg"} {
		c := p.connect(path+"&limit=1", garbage)
		c.expect("8")
		c.close()
	}
	// From a time on: all of it, without an own limit.
	since := p.connect(path+"&since="+noon.Add(2*time.Millisecond).Format(time.RFC3339Nano), "")
	since.expect("3", "4", "5", "6", "7", "8")
	only := p.connect(path+"&limit=1&q=9", "")
	// The order of arrival is forgotten: what is left is time.
	id := c.last
	p.Logs.Write(of, noon.Add(3*time.Minute), "9", "10")
	only.expect("9")
	p.Logs.Forget(4)
	c = p.connect(path, id)
	c.expect("9", "10")
	// Another store's mark.
	other := start(t, api.Config{})
	w2, of2 := other.logged(1)
	other.Logs.Write(of2, noon.Add(time.Hour), "later")
	other.connect("/deployments/"+w2.dep+"/logs", c.last).expect("later")
	// Another tenant's stream resumed with this ID shows nothing of it.
	stranger := p.bearer(p.AddKey(miosa.RolePlatform, p.AddTenant("other").ID, ""))
	p.want(201, "POST", "/deployments", map[string]any{"name": "x"}, stranger)
	p.Logs.Write(of, noon.Add(4*time.Minute), "11")
	own := p.connect("/deployments/x/logs", since.last, stranger)
	mine, _ := p.openLog("x", stranger)
	p.Logs.Write(mine, noon.Add(time.Hour), "own")
	own.expect("own")
}

// openLog is the origin of a new instance of a deployment.
func (p platform) openLog(slug string, headers ...string) (logs.Origin, string) {
	p.t.Helper()
	a := p.want(200, "GET", "/deployments/"+slug, nil, headers...)
	return logs.Origin{TenantID: a.text("data.tenant_id"), DeploymentID: a.text("data.id"), InstanceID: apitest.ID(p.t, miosa.PrefixInstance)}, a.text("data.id")
}

func TestSilentLogs(t *testing.T) {
	p := start(t, api.Config{Heartbeat: time.Millisecond})
	p.deploy("quiet")
	c := p.connect("/deployments/quiet/logs", "")
	for c.last == "" {
		c.expect("heartbeat")
	}
	c.close()
	// What came while nobody was there, though nothing had come before.
	of, _ := p.openLog("quiet")
	p.Logs.Write(of, noon, "first")
	c = p.connect("/deployments/quiet/logs", c.last)
	for c.next() != "first" {
		continue
	}
	nothing := p.connect("/deployments/quiet/logs?service_id=x", "")
	nothing.expect("heartbeat", "heartbeat")
}

// endless is a log store that finds some lines, and then searches until it is told to stop.
type endless struct {
	api.LogReader
	lines []logs.Entry
	ended int
}

func (e *endless) Read(ctx context.Context, _ logs.Query) iter.Seq2[logs.Entry, error] {
	return func(yield func(logs.Entry, error) bool) {
		for _, l := range e.lines {
			if !yield(l, nil) {
				return
			}
		}
		<-ctx.Done()
		e.ended++
		yield(logs.Entry{}, ctx.Err())
	}
}

// TestALongSearchEnds: after 30 s a page has what was found, and nobody is
// asked to repeat a search that found nothing; who leaves ends it.
func TestALongSearchEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := memory.New(time.Now)
		key, hash, err := secret.NewAPIKey(miosa.RoleUser, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		tenant, dep := apitest.ID(t, miosa.PrefixTenant), apitest.ID(t, miosa.PrefixDeployment)
		if _, err := store.Update(t.Context(), s, func(tx *store.Tx) error {
			return errors.Join(
				store.Save(tx, store.Tenants, miosa.Tenant{ID: tenant, Slug: "a"}),
				store.Save(tx, store.APIKeys, miosa.APIKey{ID: apitest.ID(t, miosa.PrefixKey), Hash: hash, Role: miosa.RoleUser, TenantID: tenant}),
				store.Save(tx, store.Deployments, miosa.Deployment{ID: dep, TenantID: tenant, Slug: "x"}),
			)
		}); err != nil {
			t.Fatal(err)
		}
		slow := &endless{}
		server, err := api.New(api.Config{PublicURL: apitest.PublicURL}, api.Deps{
			Store: s, Uploads: &apitest.Uploads{}, Secrets: apitest.Sealer{}, Events: &apitest.Events{}, Logs: slow, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ask := func(ctx context.Context) (*httptest.ResponseRecorder, time.Duration) {
			r := httptest.NewRequestWithContext(ctx, "GET", "/api/v1/deployments/"+dep+"/logs?q=504", nil)
			r.Header.Set("Authorization", "Bearer "+key)
			w, began := httptest.NewRecorder(), time.Now()
			server.ServeHTTP(w, r)
			return w, time.Since(began)
		}
		if w, took := ask(t.Context()); w.Code != 422 || !strings.Contains(w.Body.String(), "search_too_long") || w.Header().Get("Retry-After") != "" || took != 30*time.Second {
			t.Errorf("nothing found: after %v %d %s", took, w.Code, w.Body)
		}
		slow.lines = []logs.Entry{{Line: logs.Line{Time: noon, Text: []byte("status 504")}, Origin: logs.Origin{InstanceID: apitest.ID(t, miosa.PrefixInstance)}}}
		if w, took := ask(t.Context()); w.Code != 200 || !strings.Contains(w.Body.String(), "status 504") || strings.Contains(w.Body.String(), `"next_cursor":null`) || took != 30*time.Second {
			t.Errorf("one found: after %v %d %s", took, w.Code, w.Body)
		}
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if _, took := ask(ctx); took != time.Second || slow.ended != 3 {
			t.Errorf("the client left after 1 s: ended after %v, %d of 3 searches", took, slow.ended)
		}
	})
}

func TestNoLogsAreKept(t *testing.T) {
	s := memory.New(time.Now)
	p := platform{apitest.Start(t, s, api.Config{}), t}
	w, of := p.logged(1)
	server, err := api.New(api.Config{PublicURL: apitest.PublicURL}, api.Deps{Store: s, Uploads: p.Uploads, Secrets: apitest.Sealer{}, Events: p.Events, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	bare := httptest.NewServer(server)
	defer bare.Close()
	p.URL = bare.URL
	a := p.want(503, "GET", "/deployments/"+w.dep+"/logs", nil)
	if a.text("message") != "logs are not kept here" {
		t.Errorf("%s", a.Raw)
	}
	p.want(404, "GET", "/deployments/nowhere/logs", nil)
	p.want(404, "GET", "/runtime-instances/"+apitest.ID(t, miosa.PrefixInstance)+"/logs", nil)
	p.want(503, "GET", "/deployments/"+w.dep+"/runtime-instances/"+of.InstanceID+"/logs", nil)
}

// TestDaysThatNobodyKeeps: a plan promises no more than the log store can hold.
func TestDaysThatNobodyKeeps(t *testing.T) {
	p := start(t, api.Config{})
	admin := p.bearer(p.Admin)
	p.want(422, "POST", "/admin/plans", map[string]any{"name": "long", "log_days": logs.MaxDays + 1}, admin)
	p.want(201, "POST", "/admin/plans", map[string]any{"name": "long", "log_days": logs.MaxDays}, admin)
	p = start(t, api.Config{MaxLogDays: 30})
	admin = p.bearer(p.Admin)
	p.want(201, "POST", "/admin/plans", map[string]any{"name": "long", "log_days": 30}, admin)
	p.want(422, "PATCH", "/admin/plans/long", map[string]any{"log_days": 31}, admin)
}
