package api_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/events"
	eventmemory "github.com/miosa/miosa/events/memory"
	"github.com/miosa/miosa/events/pebble"
	"github.com/miosa/miosa/events/timeline"
	view "github.com/miosa/miosa/records"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// startReal runs a platform over the real timeline and the built-in event store.
func startReal(t *testing.T) platform {
	t.Helper()
	records := memory.New(time.Now)
	kept, err := pebble.Open(pebble.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), MinFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	tl := timeline.New(timeline.Config{}, kept, view.New(records), slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = tl.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if err := kept.Close(); err != nil {
			t.Error(err)
		}
	})
	return platform{apitest.Start(t, records, api.Config{}, func(d *api.Deps) { d.Events = tl }), t}
}

func (p platform) events(path string, headers ...string) (ids []string, a answer) {
	p.t.Helper()
	a = p.want(200, "GET", path, nil, headers...)
	for _, e := range a.at("data").([]any) {
		ids = append(ids, e.(map[string]any)["id"].(string))
	}
	return ids, a
}

// A caller finds its own change as soon as it has its answer.
func TestACallerReadsItsOwnEvents(t *testing.T) {
	p := startReal(t)
	p.deploy("x")
	for n := range 60 {
		a := p.want(200, "POST", "/deployments/x/env", map[string]any{"env": map[string]any{"N": fmt.Sprint(n)}})
		events, _ := p.want(200, "GET", "/deployments/x/events?limit=1", nil).at("data").([]any)
		if e := events[0].(map[string]any); e["request_id"] != a.Header.Get("X-Request-Id") {
			t.Fatalf("change %d is not the newest event: %v", n, e)
		}
	}
	// Pages have each once, whatever their size.
	whole, _ := p.events("/deployments/x/events?limit=100")
	for _, size := range []int{1, 7, 60} {
		var got []string
		path := fmt.Sprintf("/deployments/x/events?limit=%d", size)
		for cursor := ""; ; {
			ids, a := p.events(path + cursor)
			got = append(got, ids...)
			next := a.text("page.next_cursor")
			if next == "" {
				break
			}
			cursor = "&cursor=" + next
		}
		if !slices.Equal(got, whole) || len(whole) != 61 {
			t.Errorf("pages of %d: %d events, want %d", size, len(got), len(whole))
		}
	}
	// Cursors and marks as they were when events lay in the records.
	if got, _ := p.events("/deployments/x/events?limit=100&cursor=" + api.MakeCursor(fmt.Sprintf("%020d:%s", 77, whole[9]))); !slices.Equal(got, whole[10:]) {
		t.Errorf("behind a former cursor there are %d events, want %d", len(got), len(whole)-10)
	}
	if id, _ := p.stream("/deployments/x/events", "Last-Event-ID: 99:"+whole[5]).next(); id != whole[4] {
		t.Errorf("behind a former mark comes %s, want %s", id, whole[4])
	}
	for _, bad := range []string{"x", api.MakeCursor("nonsense"), api.MakeCursor("77:dep_00000000000000000000000000")} {
		if a := p.want(422, "GET", "/events?cursor="+bad, nil); a.code() != "validation_failed" {
			t.Errorf("code %s", a.code())
		}
	}
}

// What is gone keeps its timeline, for who could see it.
func TestTimelinesOutliveWhatTheyTellOf(t *testing.T) {
	p := startReal(t)
	w := p.world()
	stranger, neighbour := p.AddKey(miosa.RolePlatform, p.AddTenant("other").ID, ""), p.AddKey(miosa.RoleUser, p.Tenant.ID, "w2")
	paths := []string{"/deployments/" + w.dep + "/events", "/services/" + w.ids["services"] + "/events", "/runtime-instances/" + w.ids["ri_id"] + "/events"}
	// The small control plane here writes no events of instances and services.
	p.Update(func(tx *store.Tx) error {
		return store.Save(tx, store.Events, miosa.Event{
			ID: apitest.ID(t, miosa.PrefixEvent), TenantID: p.Tenant.ID, DeploymentID: w.dep, ServiceID: w.ids["services"], InstanceID: w.ids["ri_id"],
			HostID: "host_00000000000000000000000000", Type: "instance.started", Message: "boot 1 began", At: time.Now(),
		})
	})
	p.want(200, "DELETE", "/deployments/"+w.dep, nil)
	p.Update(func(tx *store.Tx) error { // purged
		dep, err := store.Load(tx, store.Deployments, store.DeploymentKey(p.Tenant.ID, w.dep))
		if err != nil {
			return err
		}
		return store.Remove(tx, store.Deployments, dep)
	})
	for _, path := range paths {
		if got, _ := p.events(path); len(got) == 0 {
			t.Errorf("%s is empty", path)
		}
		for who, key := range map[string]string{"stranger": stranger, "neighbour": neighbour} {
			if a := p.call("GET", path, nil, p.bearer(key)); a.Status != http.StatusNotFound {
				t.Errorf("%s reads %s: %d %s", who, path, a.Status, a.Raw)
			}
			if a := p.call("GET", path, nil, p.bearer(key), "Accept: text/event-stream"); a.Status != http.StatusNotFound {
				t.Errorf("%s follows %s: %d", who, path, a.Status)
			}
		}
	}
	p.want(404, "GET", "/deployments/everything/events", nil)
	p.want(404, "GET", "/deployments/dep_00000000000000000000000000/events", nil)
	// The host's timeline is the operator's, over all tenants.
	p.want(403, "GET", "/admin/hosts/host_00000000000000000000000000/events", nil)
	if got, _ := p.events("/admin/hosts/host_00000000000000000000000000/events", p.bearer(p.Admin)); len(got) != 1 {
		t.Errorf("the host has %d events", len(got))
	}
	p.want(404, "GET", "/admin/hosts/host_00000000000000000000000001/events", nil, p.bearer(p.Admin))
	all, _ := p.events("/admin/events?limit=100", p.bearer(p.Admin))
	mine, _ := p.events("/admin/events?limit=100&tenant_id="+p.Tenant.ID, p.bearer(p.Admin))
	if len(mine) == 0 || len(mine) > len(all) {
		t.Errorf("the operator sees %d events, %d of the tenant", len(all), len(mine))
	}
	if got, _ := p.events("/events?host_id=host_00000000000000000000000000", p.bearer(stranger)); len(got) != 0 {
		t.Errorf("another tenant sees %v of the host", got)
	}
}

// A key of a workspace sees that workspace's events, whatever it asks for.
func TestEventsKeepToTheirWorkspace(t *testing.T) {
	p := startReal(t)
	one, two := p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "one")), p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "two"))
	depOne := p.want(201, "POST", "/deployments", map[string]any{"name": "a"}, one).text("data.id")
	depTwo := p.want(201, "POST", "/deployments", map[string]any{"name": "b"}, two).text("data.id")
	p.deploy("neither")
	p.want(201, "POST", "/admin/api-keys", map[string]any{"role": "user", "tenant_id": p.Tenant.ID}, p.bearer(p.Admin))
	owned := func(path, key, dep string) (n int) {
		t.Helper()
		for _, e := range p.want(200, "GET", path, nil, key).at("data").([]any) {
			if n++; e.(map[string]any)["deployment_id"] != dep {
				t.Errorf("%s gives %v", path, e)
			}
		}
		return n
	}
	if owned("/events", one, depOne) != 1 || owned("/events", two, depTwo) != 1 {
		t.Error("a workspace does not see its own")
	}
	for _, path := range []string{
		"/events?deployment_id=" + depTwo, "/events?external_workspace_id=two", "/events?tenant_id=" + p.Tenant.ID + "&external_workspace_id=two",
		"/events?service_id=nonsense", "/events?host_id=host_%00", "/events?deployment_id=" + depOne + "%00",
	} {
		if n := owned(path, one, depOne); n != 0 {
			t.Errorf("%s gives %d events", path, n)
		}
	}
	p.want(404, "GET", "/deployments/"+depTwo+"/events", nil, one)
	// A cursor or a mark of another's event opens nothing.
	foreign, _ := p.events("/events", two)
	owned("/events?cursor="+api.MakeCursor(foreign[0]), one, depOne)
	s := p.stream("/events", one, "Last-Event-ID: "+foreign[0])
	// Moved to another workspace: what happened before stays where it was.
	p.want(200, "PATCH", "/deployments/"+depTwo, map[string]any{"external_workspace_id": "one"})
	if _, kind := s.next(); kind != "deployment.changed" && kind != "deployment.updated" {
		t.Errorf("the new owner hears %s first", kind)
	}
	if n := len(p.want(200, "GET", "/deployments/"+depTwo+"/events", nil, one).at("data").([]any)); n != 1 {
		t.Errorf("the new owner sees %d events of it, want the one since", n)
	}
}

// Events are a list like the others: by number and size, or by cursor.
func TestEventPages(t *testing.T) {
	for name, p := range map[string]platform{"timeline": startReal(t), "stand-in": start(t, api.Config{})} {
		dep := p.deploy("x")
		p.deploy("y")
		for n := range 6 {
			p.want(200, "POST", "/deployments/x/env", map[string]any{"env": map[string]any{"N": fmt.Sprint(n)}})
		}
		path := "/deployments/" + dep + "/events"
		whole, a := p.events(path)
		if len(whole) != 7 || a.at("page.total") != 7.0 || a.at("page.page") != 1.0 || a.at("page.page_size") != 20.0 || a.at("page.next_cursor") != nil {
			t.Fatalf("%s: %s", name, a.Raw)
		}
		check := func(query string, want []string, page float64, next bool) string {
			t.Helper()
			got, a := p.events(path + query)
			if !slices.Equal(got, want) || a.at("page.page") != page || a.at("page.page_size") != 3.0 || a.at("page.total") != 7.0 || (a.text("page.next_cursor") != "") != next {
				t.Errorf("%s: %s: %s", name, query, a.Raw)
			}
			return a.text("page.next_cursor")
		}
		cursor := check("?page_size=3", whole[:3], 1, true)
		check("?limit=3&page=2", whole[3:6], 2, true)
		check("?page_size=3&page=3", whole[6:], 3, false)
		check("?page_size=3&page=4", nil, 4, false)
		check("?page_size=3&page=1000000000000000000", nil, 1000000000000000000, false)
		cursor = check("?page_size=3&cursor="+cursor, whole[3:6], 2, true)
		check("?page_size=3&cursor="+cursor, whole[6:], 3, false)
		if _, a := p.events("/events?page_size=1"); a.at("page.total") != 8.0 {
			t.Errorf("%s: the tenant's: %s", name, a.Raw)
		}
		if got, a := p.events("/events?host_id=nonsense"); len(got) != 0 || a.at("page.total") != 0.0 {
			t.Errorf("%s: nothing: %s", name, a.Raw)
		}
		p.want(422, "GET", path+"?page=0", nil)
	}
}

// FuzzEventResume cuts a stream wherever it likes, and ends the platform in
// between, while events are committed: nothing is missing, nothing comes twice.
// Marks that nobody gave out do no harm.
func FuzzEventResume(f *testing.F) {
	f.Add("", []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13})
	f.Add("12:evt_01m89vpm7a83ya70mn6dyx0ywd", []byte("a longer script, of which each character decides something"))
	f.Add("evt_", []byte{})
	for seed := range 60 {
		script := make([]byte, 200)
		x := uint32(seed + 1)
		for i := range script {
			x = x*1664525 + 1013904223
			script[i] = byte(x >> 24)
		}
		f.Add("", script)
	}
	f.Fuzz(func(t *testing.T, id string, script []byte) {
		if m := api.EventMark(id); m != "" && (api.EventMark(m) != m || api.EventMark("7:"+m) != m) {
			t.Fatalf("%q is read as %q, and that otherwise", id, m)
		}
		c := &chance{script}
		records, kept := memory.New(time.Now), eventmemory.New(time.Now)
		log := slog.New(slog.DiscardHandler)
		committed := map[string]bool{}
		var order []string
		commit := func() {
			e := miosa.Event{ID: apitest.ID(t, miosa.PrefixEvent), TenantID: "t", Type: "a.b", At: time.Now()}
			if len(order) > 0 && c.upTo(4) == 1 {
				e.TenantID = "other"
			}
			if _, err := store.Update(t.Context(), records, func(tx *store.Tx) error { return store.Save(tx, store.Events, e) }); err != nil {
				t.Fatal(err)
			}
			if e.TenantID == "t" {
				order = append(order, e.ID)
				committed[e.ID] = true
			}
		}
		var tl *timeline.Timeline
		stop := func() {}
		restart := func() {
			stop()
			tl = timeline.New(timeline.Config{}, kept, view.New(records), log)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { defer close(done); _ = tl.Run(ctx) }()
			stop = func() { cancel(); <-done }
		}
		restart()
		defer func() { stop() }()
		scope := events.Scope{TenantID: "t"}
		commit()
		order, committed = nil, map[string]bool{}
		if id != "" {
			ctx, cancel := context.WithCancel(t.Context())
			commit()
			arrived := tl.Arrived()
			commit()
			<-arrived
			go cancel()
			_ = api.FollowEvents(ctx, tl, scope, id, 1, func(string, string) bool { return false })
		}
		// A first stream begins at what is there, at most one event of it.
		var got []string
		last := ""
		for round := 0; ; round++ {
			if round > 0 {
				for range c.upTo(6) {
					commit()
				}
				if c.upTo(3) == 1 {
					restart()
				}
			}
			left := len(order) - len(got)
			if round > 0 && last != "" && left == 0 {
				if len(c.data) == 0 {
					break
				}
				continue
			}
			stopAfter := 1 + c.upTo(left+1)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			if last == "" {
				commit() // so that there is something to begin with
			}
			err := api.FollowEvents(ctx, tl, scope, last, 1, func(event, place string) bool {
				fresh := last == ""
				last = place
				if fresh || event == "" {
					// Where it began: all that comes behind it counts.
					if i := slices.Index(order, place); i >= 0 {
						got = slices.Clone(order[:i+1])
					}
					return false
				}
				got = append(got, event)
				stopAfter--
				if c.upTo(5) == 1 && len(order) < 200 {
					commit()
				}
				return stopAfter > 0 && len(got) < len(order)
			})
			hung := ctx.Err()
			cancel()
			if err != nil || hung != nil {
				t.Fatalf("%v, %v: it has %d of %d, behind %q", err, hung, len(got), len(order), last)
			}
		}
		if !slices.Equal(got, order) {
			t.Fatalf("got  %s\nwant %s", strings.Join(got, " "), strings.Join(order, " "))
		}
	})
}
