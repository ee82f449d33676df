package main

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/miosa/miosa/bench/rig"
)

// With user networking an instance is a port of the host's loopback, to which
// any user of the host connects. The router and the health checks are
// answered there, and nobody else.
func TestAPortOfTheLoopbackIsThePlatformsAlone(t *testing.T) {
	j, root := start(t, rig.Options{Driver: "sim"})
	dep := j.deploySim(root, map[string]any{"run_command": "sim serve", "health_check_path": "/"})
	check := func() {
		t.Helper()
		instance := j.one(dep)
		if code, body, err := j.get("app", "/"); err != nil || code != http.StatusOK {
			t.Errorf("through the router: %d %q, %v", code, body, err)
		}
		kept, err := os.ReadFile(filepath.Join(j.Dir, "ports.json"))
		if err != nil {
			t.Fatal(err)
		}
		var ports map[string]struct{ Port int }
		if err := json.Unmarshal(kept, &ports); err != nil {
			t.Fatal(err)
		}
		stranger := http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}
		answer, err := stranger.Get("http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[instance.ID].Port)))
		if err == nil {
			answer.Body.Close()
			t.Errorf("past the router: %s", answer.Status)
		}
	}
	check()
	if err := j.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := j.Up(j.ctx); err != nil {
		t.Fatal(err)
	}
	check()
}
