package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/miosa/miosa/bench/rig"
)

// A live version that crash-loops is told of where people look, and a receiver
// of theirs hears of it; the deployment's state stays what it is.
func TestACrashLoopReachesPeople(t *testing.T) {
	type event struct {
		Type string `json:"type"`
		Data struct {
			Message string            `json:"message"`
			Details map[string]string `json:"details"`
		} `json:"data"`
	}
	heard := make(chan event, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
			return
		}
		heard <- e
	}))
	defer receiver.Close()
	j, root := start(t, rig.Options{Driver: "sim", Flags: []string{"--allow-target", "127.0.0.1"}})
	if out, err := j.miosa("", "webhooks", "add", receiver.URL, "--type", "deployment.health_changed"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	dep := j.deploySim(root, map[string]any{
		"run_command":  "sim exit 3 after=2s",
		"health_check": map[string]any{"path": "/", "interval_seconds": 1, "timeout_seconds": 1},
	})
	select {
	case e := <-heard:
		if e.Type != "deployment.health_changed" || e.Data.Details["health"] == "ok" || !strings.Contains(e.Data.Message, "exited with code 3") {
			t.Errorf("%+v", e)
		}
	case <-j.ctx.Done():
		t.Fatal("the receiver heard nothing")
	}
	for _, args := range [][]string{{"ps", "app"}, {"why", "app"}, {"deployments"}} {
		out, err := j.miosa("", args...)
		if err != nil || !strings.Contains(out, "degraded") && !strings.Contains(out, "down") {
			t.Errorf("miosa %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	var shown struct {
		State, Health string
		Reasons       []string
	}
	if err := j.Call(j.ctx, http.MethodGet, "/deployments/"+dep, nil, &shown); err != nil {
		t.Fatal(err)
	}
	if shown.State != "running" || shown.Health == "ok" || shown.Health == "" || len(shown.Reasons) == 0 {
		t.Errorf("%+v", shown)
	}
}
