package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/bench/rig"
)

// The journeys run the built binary with real VMs, in a network namespace of
// their own.
func TestMain(m *testing.M) {
	if err := rig.Isolate(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// journey is one platform and the release of the test app.
type journey struct {
	*rig.Rig
	t   *testing.T
	ctx context.Context
	app string // packed release
}

// begin starts a platform for a test, or skips where none can run.
func begin(t *testing.T, flags ...string) *journey {
	t.Helper()
	if testing.Short() {
		t.Skip("boots real virtual machines: not with -short")
	}
	j, root := start(t, rig.Options{Flags: flags})
	j.app = packApp(t, root)
	return j
}

// start runs a platform from the repository at root, until the test ends. It
// has no app yet.
func start(t *testing.T, options rig.Options) (j *journey, root string) {
	t.Helper()
	root, err := rig.Root()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(root, "bin", "miosa")); err != nil {
		t.Skip("bin/miosa is not built: run `make build`")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	r, err := rig.Start(ctx, options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the platform's log ends:\n%s", r.Tail())
		}
		if err := r.Close(); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return &journey{Rig: r, t: t, ctx: ctx}, root
}

// packApp builds testdata/app and packs it as a root file system.
func packApp(t *testing.T, root string) string {
	t.Helper()
	dir := t.TempDir()
	tree := filepath.Join(dir, "root")
	for _, d := range []string{"app", "etc", "tmp", "var"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "etc", "passwd"), []byte("root:x:0:0:root:/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// An executable for another processor: the ELF header of an arm64 program.
	arm := append([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0xb7, 0, 1, 0, 0, 0}, make([]byte, 64)...)
	if err := os.WriteFile(filepath.Join(tree, "app", "arm"), arm, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(env []string, name string, args ...string) {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Dir, cmd.Env = root, append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	run([]string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(tree, "app", "server"), "./cmd/miosa/testdata/app")
	out := filepath.Join(dir, "app.tar.zst")
	run(nil, "go", "run", "./examples/pack", tree, out)
	return out
}

// body is a publish of the test app in a mode, with a short grace.
func body(release, mode string, health map[string]any) map[string]any {
	h := map[string]any{"path": "/healthz", "grace_period_seconds": 6, "interval_seconds": 1, "timeout_seconds": 1}
	maps.Copy(h, health)
	return map[string]any{"release_id": release, "services": []map[string]any{{
		"name": "web", "type": "web", "run_command": "/app/server " + mode, "port": 8080, "health_check": h,
		"resources": map[string]any{"memory_mb": 128, "disk_mb": 64},
	}}}
}

// deploy makes a deployment that serves well. health overrides body's.
func (j *journey) deploy(name string, health map[string]any) (deployment, release string) {
	j.t.Helper()
	dep, err := j.Create(j.ctx, name)
	if err != nil {
		j.t.Fatal(err)
	}
	rel, err := j.Upload(j.ctx, dep, j.app)
	if err != nil {
		j.t.Fatal(err)
	}
	p, err := j.Publish(j.ctx, dep, body(rel, "serve", health))
	if err != nil {
		j.t.Fatal(err)
	}
	if !p.Promoted || p.Version.State != "ready" {
		j.t.Fatalf("publish: promoted %t, version %s: %s", p.Promoted, p.Version.State, p.Version.ErrorMessage)
	}
	return dep, rel
}

// deploySim makes a deployment named app with the one service web, port 8080, on a
// platform of simulated VMs: service says the rest, and what its app does.
func (j *journey) deploySim(root string, service map[string]any) (deployment string) {
	j.t.Helper()
	dep, err := j.Create(j.ctx, "app")
	if err != nil {
		j.t.Fatal(err)
	}
	rel, err := j.Upload(j.ctx, dep, filepath.Join(root, "bin", "examples", "hello.tar.zst"))
	if err != nil {
		j.t.Fatal(err)
	}
	web := map[string]any{"name": "web", "type": "web", "port": 8080}
	maps.Copy(web, service)
	p, err := j.Publish(j.ctx, dep, map[string]any{"release_id": rel, "services": []map[string]any{web}})
	if err != nil || !p.Promoted {
		j.t.Fatalf("publish: %+v, %v", p, err)
	}
	return dep
}

// get asks the app through the router.
func (j *journey) get(name, path string) (int, string, error) {
	return j.send(http.MethodGet, name, path)
}

func (j *journey) send(method, name, path string) (int, string, error) {
	ctx, cancel := context.WithTimeout(j.ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, j.Context.HTTPURL+path, nil)
	if err != nil {
		return 0, "", err
	}
	req.Host = name + ".default.localhost"
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// hurt sends a POST whose answer does not matter: the app may die of it.
func (j *journey) hurt(name, path string) {
	ctx, cancel := context.WithTimeout(j.ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, j.Context.HTTPURL+path, nil)
	if err != nil {
		j.t.Fatal(err)
	}
	req.Host = name + ".default.localhost"
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
	}
}

// one is the deployment's only instance.
func (j *journey) one(deployment string) rig.Instance {
	j.t.Helper()
	list, err := j.AwaitHealthy(j.ctx, deployment, 1)
	if err != nil {
		j.t.Fatal(err)
	}
	return list[0]
}

// until polls what can only be observed from outside.
func (j *journey) until(what string, ok func() bool) {
	j.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			j.t.Fatalf("not within 2 minutes: %s", what)
		}
	}
}

// traffic sends requests to an app until stop is called, which returns how
// many were sent and what failed.
func (j *journey) traffic(name string) (stop func() (int64, []string)) {
	var sent atomic.Int64
	failures := make(chan string, 1000)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
			}
			sent.Add(1)
			if code, text, err := j.get(name, "/"); err != nil || code != http.StatusOK {
				select {
				case failures <- fmt.Sprintf("%d %s %v", code, text, err):
				default:
				}
			}
		}
	}()
	return func() (int64, []string) {
		close(done)
		<-ended
		close(failures)
		var all []string
		for f := range failures {
			all = append(all, f)
		}
		return sent.Load(), all
	}
}

// A bad publish fails with a reason its author understands, while the version
// before it answers every request.
func TestBadPublishes(t *testing.T) {
	j := begin(t)
	dep, rel := j.deploy("bad", nil)
	for _, c := range []struct {
		name, command string
		health        map[string]any
		want          string // in error_message
		lines         string // in last_log_lines
	}{
		{"command not found", "/app/nothing", nil, "not found", ""},
		{"not executable", "/etc/passwd", nil, "not executable", ""},
		{"wrong architecture", "/app/arm", nil, "built for arm64", ""},
		{"exits at once", "/app/server exit 3", nil, "exited with code 3", "line 59 before the end"},
		{"never listens", "/app/server sleep", nil, "nothing listened on port 8080", "app starts in mode sleep"},
		{"only on 127.0.0.1", "/app/server loopback", nil, "127.0.0.1", "app listens"},
		{"only on IPv6", "/app/server ipv6", nil, "127.0.0.1", "app listens"},
		{"listens elsewhere", "/app/server elsewhere", nil, "8081", "app listens"},
		{"in the background", "/app/server daemon", nil, "must stay in the foreground", ""},
		{"answers 404", "/app/server 404", nil, "answered 404", ""},
		{"answers 500", "/app/server 500", nil, "answered 500", ""},
		{"redirects", "/app/server redirect", nil, "redirect", ""},
		{"hangs", "/app/server hang", nil, "no answer within 1s", ""},
		{"slower than grace", "/app/server late 30s", map[string]any{"grace_period_seconds": 3}, "nothing listened", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			stop := j.traffic("bad")
			b := body(rel, "", c.health)
			web := b["services"].([]map[string]any)[0]
			web["run_command"] = c.command
			var p rig.Published
			// On a busy machine 3 s may be over before the app runs, let alone
			// errs in its own way.
			for _, grace := range []int{3, 20, 60} {
				if c.health == nil {
					web["health_check"].(map[string]any)["grace_period_seconds"] = grace
				}
				var err error
				if p, err = j.Publish(j.ctx, dep, b); err != nil {
					t.Fatal(err)
				}
				if strings.Contains(p.Version.ErrorMessage, c.want) {
					break
				}
			}
			sent, failures := stop()
			if p.Promoted || p.Version.State != "failed" {
				t.Errorf("promoted %t, version %s", p.Promoted, p.Version.State)
			}
			if !strings.Contains(p.Version.ErrorMessage, c.want) {
				t.Errorf("error_message %q does not say %q", p.Version.ErrorMessage, c.want)
			}
			if all := strings.Join(p.Version.LastLines, "\n"); !strings.Contains(all, c.lines) || len(p.Version.LastLines) > 50 {
				t.Errorf("last_log_lines (%d) lack %q:\n%s", len(p.Version.LastLines), c.lines, all)
			}
			if sent == 0 || len(failures) > 0 {
				t.Errorf("the old version failed %d of %d requests: %v", len(failures), sent, failures)
			}
			t.Logf("%q; %d requests answered meanwhile", p.Version.ErrorMessage, sent)
		})
	}
	if code, text, err := j.get("bad", "/"); err != nil || code != http.StatusOK || !strings.HasPrefix(text, "serve ") {
		t.Errorf("in the end: %d %q %v", code, text, err)
	}
}

// Whatever happens to a running instance ends in the state that the lifecycle
// says, with the reason on the record, and heals.
func TestRunningFaults(t *testing.T) {
	j := begin(t)
	dep, _ := j.deploy("faults", map[string]any{
		// Slow to judge: what is to be seen here is the crash, and a busy machine
		// must not turn a slow answer into a replacement first.
		"interval_seconds": 10, "timeout_seconds": 5, "grace_period_seconds": 60,
	})
	vmKill := func() {
		pid, ok := j.VM(j.one(dep).VMID)
		if !ok {
			t.Fatal("no VM process")
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	for n, c := range []struct {
		name string
		harm func()
		want string
	}{
		{"the app exits", func() { j.hurt("faults", "/die") }, "exited with code 7"},
		{"the VM is killed", vmKill, "virtual machine"},
		{"the app is killed", func() { j.hurt("faults", "/kill") }, "SIGKILL"},
		{"the guest runs out of memory", func() { j.hurt("faults", "/leak") }, "out of memory"},
		{"the guest's kernel panics", func() { j.hurt("faults", "/panic") }, "kernel"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if n > 2 { // start afresh rather than climb the ladder to 30 s
				var one = j.one(dep)
				if err := j.Call(j.ctx, http.MethodPost, "/runtime-instances/"+one.ID+"/restart", nil, nil); err != nil {
					t.Fatal(err)
				}
				j.until("a fresh instance took over", func() bool {
					list, err := j.AwaitHealthy(j.ctx, dep, 1)
					return err == nil && list[0].ID != one.ID
				})
			}
			before := j.one(dep)
			c.harm()
			var after rig.Instance
			j.until("it is back", func() bool {
				list, err := j.Instances(j.ctx, dep, false)
				if err != nil || len(list) == 0 {
					return false
				}
				after = list[0]
				return after.State == "healthy" && after.RestartCount == before.RestartCount+1
			})
			if !strings.Contains(after.ErrorMessage, c.want) {
				t.Errorf("error_message %q does not say %q", after.ErrorMessage, c.want)
			}
			if code, text, err := j.get("faults", "/"); err != nil || code != http.StatusOK {
				t.Errorf("after healing: %d %q %v", code, text, err)
			}
			t.Logf("%q", after.ErrorMessage)
		})
	}
}

// An instance that fails its checks leaves the route table; one that is deaf
// is replaced; one that recovers comes back; a full disk is the app's own
// affair.
func TestUnhealthy(t *testing.T) {
	j := begin(t)
	dep, _ := j.deploy("sick", nil)
	t.Run("full disk", func(t *testing.T) {
		code, text, err := j.send(http.MethodPost, "sick", "/fill")
		if err != nil || code != http.StatusOK || !strings.Contains(text, "no space left") {
			t.Errorf("filling the disk: %d %q %v", code, text, err)
		}
		if code, _, err := j.get("sick", "/healthz"); err != nil || code != http.StatusOK {
			t.Errorf("with a full disk: %d %v", code, err)
		}
	})
	for _, harm := range []string{"/sick", "/freeze"} {
		t.Run("replaced after "+harm, func(t *testing.T) {
			before := j.one(dep)
			j.hurt("sick", harm)
			j.until("another instance serves", func() bool {
				list, err := j.Instances(j.ctx, dep, false)
				return err == nil && len(list) == 1 && list[0].State == "healthy" && list[0].ID != before.ID
			})
			if code, text, err := j.get("sick", "/"); err != nil || code != http.StatusOK || strings.Contains(text, before.ID) {
				t.Errorf("after the replacement: %d %q %v", code, text, err)
			}
		})
	}
	t.Run("flapping comes back", func(t *testing.T) {
		before := j.one(dep)
		old, ok := j.VM(before.VMID)
		if !ok {
			t.Fatalf("no process runs %s", before.VMID)
		}
		j.hurt("sick", "/sick")
		// Its replacement would be there in a second: it is held up.
		j.until("its replacement boots", func() bool {
			for _, pid := range j.VMs() {
				if pid != old && syscall.Kill(pid, syscall.SIGSTOP) == nil {
					return true
				}
			}
			return false
		})
		j.until("it is unhealthy", func() bool {
			list, err := j.Instances(j.ctx, dep, false)
			return err == nil && len(list) > 0 && list[len(list)-1].State == "unhealthy"
		})
		if code, _, err := j.get("sick", "/"); err == nil && code == http.StatusOK {
			t.Error("an unhealthy instance still gets requests")
		}
		// Its own address, not the router's: it gets no requests from there.
		resp, err := http.Post("http://"+net.JoinHostPort(before.IP, "8080")+"/sick?on=false", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if after := j.one(dep); after.ID != before.ID {
			t.Errorf("%s serves, not %s, which recovered first", after.ID, before.ID)
		}
	})
}

// The platform's own process may die or be told to end at any moment: the
// apps do not notice.
func TestPlatformRestarts(t *testing.T) {
	j := begin(t)
	dep, rel := j.deploy("stay", nil)
	before := j.one(dep)
	same := func(t *testing.T) {
		t.Helper()
		after := j.one(dep)
		if after.ID != before.ID || after.VMID != before.VMID || after.RestartCount != before.RestartCount {
			t.Errorf("the app was restarted: %+v, then %+v", before, after)
		}
		if code, text, err := j.get("stay", "/"); err != nil || code != http.StatusOK || !strings.Contains(text, before.ID) {
			t.Errorf("%d %q %v", code, text, err)
		}
	}
	t.Run("a second platform on the same directory is refused", func(t *testing.T) {
		out, err := exec.CommandContext(t.Context(), j.binary(), "up", "--data", j.Dir, "--api", "127.0.0.1:0", "--http", "127.0.0.1:0").CombinedOutput()
		if err == nil || !bytes.Contains(out, []byte("another miosa")) {
			t.Errorf("%v: %s", err, out)
		}
		same(t)
	})
	t.Run("a second platform beside it", func(t *testing.T) {
		other, err := rig.Start(j.ctx, rig.Options{})
		if err != nil {
			t.Fatal(err)
		}
		same(t)
		if err := other.Close(); err != nil {
			t.Error(err)
		}
		same(t)
	})
	t.Run("SIGKILL", func(t *testing.T) {
		for range 3 {
			if err := j.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := j.Up(j.ctx); err != nil {
				t.Fatal(err)
			}
			same(t)
		}
	})
	t.Run("SIGTERM", func(t *testing.T) {
		if err := j.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if n := len(j.VMs()); n != 1 {
			t.Errorf("%d VMs run after SIGTERM", n)
		}
		if err := j.Up(j.ctx); err != nil {
			t.Fatal(err)
		}
		same(t)
	})
	t.Run("SIGKILL in the middle of a publish", func(t *testing.T) {
		// Its retry finds the same publish, and waits on.
		publish := func() (rig.Response, error) {
			return j.Do(j.ctx, http.MethodPost, "/deployments/"+dep+"/publish?wait=true", body(rel, "serve", nil), "Idempotency-Key", "killed")
		}
		cut := make(chan error, 1)
		go func() {
			_, err := publish()
			cut <- err
		}()
		var begun struct {
			Rollout string `json:"rollout_id"`
		}
		j.until("the publish has begun", func() bool {
			return j.Call(j.ctx, http.MethodGet, "/deployments/"+dep, nil, &begun) == nil && begun.Rollout != ""
		})
		if err := j.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := <-cut; err == nil {
			t.Fatal("it was answered")
		}
		if err := j.Up(j.ctx); err != nil {
			t.Fatal(err)
		}
		for _, wait := range []time.Duration{50 * time.Millisecond, 500 * time.Millisecond, 1500 * time.Millisecond} {
			<-time.After(wait) // the moment is the point: anywhere in the boot
			if err := j.Kill(); err != nil {
				t.Fatal(err)
			}
			if err := j.Up(j.ctx); err != nil {
				t.Fatal(err)
			}
		}
		resp, err := publish()
		var p struct {
			rig.Published
			Rollout struct {
				ID string `json:"id"`
			} `json:"rollout"`
		}
		if err == nil {
			err = resp.Data(&p)
		}
		if err != nil || resp.Status != http.StatusOK || !p.Promoted || p.Rollout.ID != begun.Rollout {
			t.Fatalf("the retry, with %s begun: %d %s %v", begun.Rollout, resp.Status, resp.Body, err)
		}
		j.until("the publish went through", func() bool {
			var d struct {
				Active string `json:"active_version_id"`
			}
			return j.Call(j.ctx, http.MethodGet, "/deployments/"+dep, nil, &d) == nil && d.Active == p.Version.ID
		})
		j.until("the old instance has gone", func() bool {
			list, err := j.Instances(j.ctx, dep, false)
			return err == nil && len(list) == 1 && list[0].VersionID == p.Version.ID && list[0].State == "healthy"
		})
	})
	t.Run("SIGINT stops the VMs, and they come back", func(t *testing.T) {
		if err := j.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if n := len(j.VMs()); n != 0 {
			t.Errorf("%d VMs run after SIGINT", n)
		}
		if err := j.Up(j.ctx); err != nil {
			t.Fatal(err)
		}
		// Until its host has reported, an instance is what it was before.
		j.until("it answers again", func() bool {
			code, _, err := j.get("stay", "/")
			return err == nil && code == http.StatusOK
		})
		j.one(dep)
	})
}

// An app that is deleted the moment it is live is on the bill: its host may
// report after its records are gone.
func TestDeletedAtOnceIsBilled(t *testing.T) {
	j := begin(t)
	dep, _ := j.deploy("brief", nil)
	if err := j.Call(j.ctx, http.MethodDelete, "/deployments/"+dep, nil, nil); err != nil {
		t.Fatal(err)
	}
	j.until("it is on the bill", func() bool {
		resp, err := j.Do(j.ctx, http.MethodGet, "/usage?deployment_id="+dep, nil)
		var rows []struct {
			Hours float64 `json:"compute_hours"`
		}
		return err == nil && resp.Data(&rows) == nil && len(rows) == 1 && rows[0].Hours > 0
	})
}

// An app that sends more than its answers is told so where its author looks:
// in its own log, by the router, through control and the host's agent.
func TestAFaultOfTheAppIsInItsLog(t *testing.T) {
	j := begin(t)
	dep, _ := j.deploy("twice", nil)
	if code, text, err := j.get("twice", "/twice"); err != nil || code != http.StatusOK || text != "a\n" {
		t.Errorf("%d %q %v", code, text, err)
	}
	instance := j.one(dep)
	j.until("it is in the log", func() bool {
		resp, err := j.Do(j.ctx, http.MethodGet, "/runtime-instances/"+instance.ID+"/logs?q="+url.QueryEscape("more than the one answer"), nil)
		var lines []struct{}
		return err == nil && resp.Data(&lines) == nil && len(lines) > 0
	})
	for range 10 {
		if code, text, err := j.get("twice", "/"); err != nil || code != http.StatusOK || !strings.HasPrefix(text, "serve ") {
			t.Errorf("%d %q %v", code, text, err)
		}
	}
}

// What is injected, and that a secret is nowhere it must not be.
// What whoever started the platform left open stays with it: no virtual machine
// has it.
func TestInheritedFilesReachNoVM(t *testing.T) {
	left := filepath.Join(t.TempDir(), "left-open")
	if err := os.WriteFile(left, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(left)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// To be inherited, as a shell's 100<file, and above what a virtual machine is
	// handed over.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 100)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	j := begin(t)
	dep, _ := j.deploy("inherit", nil)
	j.one(dep)
	if !slices.Contains(openFiles(t, j.PID()), left) {
		t.Fatal("the platform did not inherit what it should for this test")
	}
	vms := j.VMs()
	if len(vms) == 0 {
		t.Fatal("no virtual machine runs")
	}
	for _, pid := range vms {
		if slices.Contains(openFiles(t, pid), left) {
			t.Errorf("virtual machine process %d has %s open", pid, left)
		}
	}
}

// openFiles are what a process has open.
func openFiles(t *testing.T, pid int) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			files = append(files, target)
		}
	}
	return files
}

func TestEnvironment(t *testing.T) {
	j := begin(t, "--bind", "AUTH_URL=https://auth.example/{tenant}/{deployment}", "--bind", "MINE=operator")
	dep, rel := j.deploy("env", nil)
	const word = "correct-horse-battery-staple"
	if err := j.Call(j.ctx, http.MethodPost, "/deployments/"+dep+"/env", map[string]any{
		"env": map[string]any{"TOKEN": word, "MINE": "customer", "with.dots-and-dashes": "taken"}, "is_secret": true,
	}, nil); err != nil {
		t.Fatal(err)
	}
	if p, err := j.Publish(j.ctx, dep, body(rel, "serve", nil)); err != nil || !p.Promoted {
		t.Fatalf("%+v %v", p, err)
	}
	one := j.one(dep)
	for key, want := range map[string]string{
		"TOKEN": word, "MINE": "customer", "with.dots-and-dashes": "taken", "PORT": "8080", "AUTH_URL": "https://auth.example/default/env",
		"MIOSA_DEPLOYMENT_ID": dep, "MIOSA_RUNTIME_INSTANCE_ID": one.ID, "MIOSA_ENVIRONMENT": "production",
	} {
		if _, got, err := j.get("env", "/env?key="+key); err != nil || strings.TrimSpace(got) != want {
			t.Errorf("%s is %q, not %q (%v)", key, strings.TrimSpace(got), want, err)
		}
	}
	found := grepTree(t, j.Dir, word)
	for _, pid := range j.VMs() {
		argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || bytes.Contains(argv, []byte(word)) {
			t.Errorf("a secret is in the arguments of process %d (%v)", pid, err)
		}
	}
	if len(found) > 0 {
		t.Errorf("a secret is in clear in %v", found)
	}
}

// grepTree names the files that hold a word.
func grepTree(t *testing.T, dir, word string) []string {
	t.Helper()
	var found []string
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(word)) {
			found = append(found, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

func (j *journey) binary() string {
	root, err := rig.Root()
	if err != nil {
		j.t.Fatal(err)
	}
	return filepath.Join(root, "bin", "miosa")
}
