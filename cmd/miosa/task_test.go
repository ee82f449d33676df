package main

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/miosa/miosa/bench/rig"
)

// taken is a task as the API shows it.
type taken struct {
	ID       string   `json:"id"`
	State    string   `json:"state"`
	Reason   string   `json:"reason"`
	ExitCode *int     `json:"exit_code"`
	Signal   *string  `json:"signal"`
	Lines    []string `json:"last_log_lines"`
	Attempt  int      `json:"attempt"`
	Instance string   `json:"runtime_instance_id"`
}

func (t taken) String() string {
	code := "none"
	if t.ExitCode != nil {
		code = fmt.Sprint(*t.ExitCode)
	}
	return fmt.Sprintf("%s code=%s attempts=%d %q: %s", t.State, code, t.Attempt, t.Lines, t.Reason)
}

func (j *journey) task(deployment string, body map[string]any, wait bool) (t taken) {
	j.t.Helper()
	path := "/deployments/" + deployment + "/tasks"
	if wait {
		path += "?wait=true"
	}
	if err := j.Call(j.ctx, http.MethodPost, path, body, &t); err != nil {
		j.t.Fatal(err)
	}
	return t
}

func TestTasksInRealMachines(t *testing.T) {
	if testing.Short() {
		t.Skip("boots real virtual machines: not with -short")
	}
	j, root := start(t, rig.Options{})
	dep := j.tool(root)
	small := func(body map[string]any) map[string]any {
		body["resources"] = map[string]any{"memory_mb": 128, "disk_mb": 256}
		return body
	}
	for _, c := range []struct {
		body     map[string]any
		state    string
		code     int // -1: none
		lines    []string
		attempts int
	}{
		{map[string]any{"argv": []string{"tool", "echo", "it's", "a  word"}}, "succeeded", 0, []string{"it's a  word"}, 1},
		{map[string]any{"argv": []string{"tool", "exit", "3"}}, "failed", 3, nil, 1},
		{map[string]any{"argv": []string{"tool", "exit", "3"}, "retries": 1}, "failed", 3, nil, 2},
		{map[string]any{"argv": []string{"no-such"}, "retries": 3}, "failed", -1, nil, 1},
		{map[string]any{"argv": []string{"tool", "log", "2"}, "time_limit_seconds": 2}, "timed_out", -1, []string{"line 1", "line 2"}, 1},
	} {
		got := j.task(dep, small(c.body), true)
		if got.State != c.state || (got.ExitCode == nil) != (c.code < 0) || got.ExitCode != nil && *got.ExitCode != c.code || got.Attempt != c.attempts ||
			c.lines != nil && !slices.Equal(got.Lines, c.lines) {
			t.Errorf("%v came to %v", c.body, got)
		}
	}

	// Its lines stay where those of instances are read.
	said := j.task(dep, small(map[string]any{"argv": []string{"tool", "echo", "kept"}}), true)
	for _, path := range []string{"/runtime-instances/" + said.Instance + "/logs?format=json", "/deployments/" + dep + "/logs"} {
		j.until("its line is read at "+path, func() bool {
			var found []struct {
				Line string `json:"line"`
				Task string `json:"task_id"`
			}
			if err := j.Call(j.ctx, http.MethodGet, path, nil, &found); err != nil {
				t.Fatal(err)
			}
			for _, l := range found {
				if l.Line == "kept" && l.Task == said.ID {
					return true
				}
			}
			return false
		})
	}

	// The platform's death is none of a task's: it goes on, once.
	runs := j.task(dep, small(map[string]any{"argv": []string{"tool", "log", "3"}, "time_limit_seconds": 60}), false)
	read := func() (now taken) {
		if err := j.Call(j.ctx, http.MethodGet, "/tasks/"+runs.ID, nil, &now); err != nil {
			t.Fatal(err)
		}
		return now
	}
	j.until("the task runs", func() bool { return read().State == "running" })
	vms := j.VMs()
	if err := j.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := j.Up(j.ctx); err != nil {
		t.Fatal(err)
	}
	if now := read(); now.State != "running" || now.Attempt != 1 {
		t.Errorf("after the platform's death it is %v", now)
	}
	slices.Sort(vms)
	if now := j.VMs(); len(now) != 2 || !slices.Equal(slices.Sorted(slices.Values(now)), vms) {
		t.Errorf("machines %v, before %v", now, vms)
	}
	if err := j.Call(j.ctx, http.MethodPost, "/tasks/"+runs.ID+"/stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	j.until("the task stops", func() bool { return read().State == "stopped" })
	j.until("its machine ends", func() bool { return len(j.VMs()) == 1 })
}
