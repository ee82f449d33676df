package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/store"
)

const aHost = "host_00000000000000000000000001"

// host writes a host's record as edit has it.
func (p platform) host(edit func(h *miosa.Host)) {
	p.t.Helper()
	p.Update(func(tx *store.Tx) error {
		h, err := store.Load(tx, store.Hosts, store.HostKey(aHost))
		if miosa.CodeOf(err) == miosa.NotFound {
			h, err = miosa.Host{ID: aHost, Name: "one", Region: "eu", Zone: "a", Liveness: miosa.Alive, Schedulable: true}, nil
		}
		if err != nil {
			return err
		}
		edit(&h)
		return store.Save(tx, store.Hosts, h)
	})
}

// operate asks for something about the host with the operator's key.
func (p platform) operate(status int, verb string, body any) answer {
	p.t.Helper()
	method, path := "POST", "/admin/hosts/"+aHost+"/"+verb
	switch verb {
	case "get":
		method, path = "GET", "/admin/hosts/"+aHost
	case "delete", "delete?force=true":
		method, path = "DELETE", "/admin/hosts/"+aHost+strings.TrimPrefix(verb, "delete")
	}
	return p.want(status, method, path, body, p.bearer(p.Admin))
}

func TestCordon(t *testing.T) {
	p := start(t, api.Config{})
	p.host(func(*miosa.Host) {})
	if p.operate(200, "cordon", nil).at("data.schedulable") != false || p.operate(200, "get", nil).at("data.schedulable") != false {
		t.Error("cordoned, it is schedulable")
	}
	first := p.operate(200, "get", nil).Header.Get("ETag")
	if p.operate(200, "cordon", nil); p.operate(200, "get", nil).Header.Get("ETag") != first {
		t.Error("cordoned again, it was written again")
	}
	if p.operate(200, "uncordon", nil).at("data.schedulable") != true {
		t.Error("uncordoned, it is not schedulable")
	}
	var told []string
	events, _ := p.want(200, "GET", "/admin/hosts/"+aHost+"/events", nil, p.bearer(p.Admin)).at("data").([]any)
	for _, e := range events {
		told = append(told, e.(map[string]any)["type"].(string))
	}
	if got := strings.Join(told, " "); !strings.Contains(got, "host.uncordoned host.cordoned") {
		t.Errorf("events %s", got)
	}
	for _, verb := range []string{"cordon", "uncordon", "drain"} {
		p.want(403, "POST", "/admin/hosts/"+aHost+"/"+verb, nil)
		p.want(404, "POST", "/admin/hosts/host_00000000000000000000000009/"+verb, map[string]any{}, p.bearer(p.Admin))
	}
	p.want(403, "DELETE", "/admin/hosts/"+aHost, nil)
}

func TestDrainOfAHost(t *testing.T) {
	p := start(t, api.Config{})
	p.host(func(*miosa.Host) {})
	a := p.operate(200, "drain", map[string]any{})
	since, deadline := moment(t, a.text("data.drain.since")), moment(t, a.text("data.drain.deadline"))
	if a.at("data.schedulable") != false || a.text("data.drain.state") != "draining" || deadline.Sub(since) != time.Hour {
		t.Fatalf("a drain: %s", a.Raw)
	}
	for _, seconds := range []int{-1, 604801} {
		if got := p.operate(422, "drain", map[string]any{"deadline_seconds": seconds}); !strings.Contains(got.Raw, "deadline_seconds") {
			t.Errorf("a deadline of %d seconds: %s", seconds, got.Raw)
		}
	}
	// Control tells how it stands, which a second wish leaves alone.
	p.host(func(h *miosa.Host) {
		h.Drain.Total, h.Drain.Left, h.Drain.Progress, h.Drain.ReportedAt = 3, 2, "1 of 3 instances have left one", time.Now()
		h.Drain.LateAt = time.Now()
	})
	if got := p.operate(200, "get", nil); got.text("data.drain.state") != "late" {
		t.Errorf("late: %s", got.Raw)
	}
	a = p.operate(200, "drain", map[string]any{"deadline_seconds": 0, "force": true})
	if !moment(t, a.text("data.drain.since")).Equal(since) || a.at("data.drain.deadline") != nil || a.at("data.drain.force") != true ||
		a.at("data.drain.left") != 2.0 || a.text("data.drain.state") != "draining" || a.text("data.drain.progress") == "" {
		t.Errorf("asked for again: %s", a.Raw)
	}
	p.host(func(h *miosa.Host) { h.Drain.Left, h.Drain.DoneAt = 0, time.Now() })
	if got := p.operate(200, "get", nil); got.text("data.drain.state") != "drained" {
		t.Errorf("done: %s", got.Raw)
	}
	if a = p.operate(200, "uncordon", nil); a.at("data.drain") != nil || a.at("data.schedulable") != true {
		t.Errorf("uncordoned: %s", a.Raw)
	}
}

func moment(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestDeleteHost(t *testing.T) {
	p := start(t, api.Config{})
	for _, c := range []struct {
		name  string
		edit  func(h *miosa.Host)
		code  string // "": it is deleted
		force bool
	}{
		{"alive", func(*miosa.Host) {}, "host_alive", true},
		{"drained and alive", func(h *miosa.Host) { h.Drain.Since, h.Drain.DoneAt = time.Now(), time.Now() }, "host_alive", false},
		{"silent", func(h *miosa.Host) { h.Liveness = miosa.Suspect }, "host_not_empty", false},
		{"silent, by force", func(h *miosa.Host) { h.Liveness = miosa.Suspect }, "", true},
		{"drained and silent", func(h *miosa.Host) {
			h.Liveness, h.Drain.Since, h.Drain.DoneAt = miosa.Suspect, time.Now(), time.Now()
		}, "", false},
		{"lost", func(h *miosa.Host) { h.Liveness = miosa.Lost }, "", false},
	} {
		p.host(func(h *miosa.Host) {
			h.Liveness, h.Drain = miosa.Alive, miosa.HostDrain{}
			c.edit(h)
		})
		verb, status := "delete", 200
		if c.force {
			verb += "?force=true"
		}
		if c.code != "" {
			status = 409
		}
		a := p.operate(status, verb, nil)
		if a.code() != c.code {
			t.Errorf("%s: %s", c.name, a.Raw)
		}
		if c.code == "" {
			p.operate(404, "get", nil)
		}
	}
}

func TestDeclareLost(t *testing.T) {
	p := start(t, api.Config{})
	p.host(func(*miosa.Host) {})
	if a := p.operate(409, "lost", nil); a.code() != "host_alive" {
		t.Errorf("one that is alive: %s", a.Raw)
	}
	p.host(func(h *miosa.Host) { h.Liveness, h.Reasons = miosa.Suspect, []string{"it has not been heard of"} })
	for range 2 {
		if a := p.operate(200, "lost", nil); a.text("data.liveness") != "lost" {
			t.Errorf("one that is silent: %s", a.Raw)
		}
	}
	p.want(403, "POST", "/admin/hosts/"+aHost+"/lost", nil)
	// One that is failing is well again when it is uncordoned.
	p.host(func(h *miosa.Host) {
		h.Liveness, h.Failing, h.Reasons = miosa.Alive, true, []string{"three apps failed"}
	})
	if a := p.operate(200, "uncordon", nil); a.at("data.failing") != false || len(a.at("data.reasons").([]any)) != 0 {
		t.Errorf("one that is failing: %s", a.Raw)
	}
}
