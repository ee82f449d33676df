package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/vmm/sim"
	"github.com/miosa/miosa/wire/guest"
)

// bedside is a platform with one instance that sessions can be opened in.
type bedside struct {
	platform
	guests   *apitest.Guests
	vm       vmm.VM
	instance string
	ahead    atomic.Int64 // ns that the API's clock is before the real one
}

func startExec(t *testing.T, cfg api.Config) *bedside {
	t.Helper()
	driver, err := sim.New(sim.Config{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	vm, err := driver.Start(t.Context(), vmm.Spec{
		ID: "ri_a-1", VCPUs: 1, MemoryMB: 64, BaseDisk: "/dev/null", DataDisk: "/dev/null",
		NIC: vmm.NIC{MAC: "02:00:00:00:00:01", Forward: netip.MustParseAddrPort("127.0.0.1:1"), GuestPort: 1, Guest: netip.MustParsePrefix("10.0.0.2/24")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = vm.Kill(context.Background()) })
	b := &bedside{vm: vm, guests: &apitest.Guests{Dial: vm.DialExec, Asked: make(chan guest.ExecOpen, 100)}}
	b.platform = platform{apitest.Start(t, memory.New(time.Now), cfg, func(d *api.Deps) {
		d.Execs = b.guests
		d.Now = func() time.Time { return time.Now().Add(time.Duration(b.ahead.Load())) }
	}), t}
	dep := b.deploy("shop")
	b.publish(dep, b.upload(dep, "bytes"), "/app/server")
	b.settled(dep)
	instances, _ := b.want(200, "GET", "/runtime-instances", nil).at("data").([]any)
	b.instance = instances[0].(map[string]any)["id"].(string)
	return b
}

// console is a client's side of a session.
type console struct {
	*testing.T
	conn           *websocket.Conn
	ctx            context.Context
	stdout, stderr bytes.Buffer
	taken          int
}

func (b *bedside) dial(key, path string) (*console, *http.Response) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 30*time.Second)
	b.t.Cleanup(cancel)
	conn, resp, err := websocket.Dial(ctx, b.URL+"/api/v1"+path, &websocket.DialOptions{ //nolint:bodyclose // the library has closed it
		Subprotocols: []string{resource.ExecProtocol}, HTTPHeader: http.Header{"Authorization": {"Bearer " + key}},
	})
	if err != nil {
		if resp == nil {
			b.t.Fatal(err)
		}
		return nil, resp
	}
	b.t.Cleanup(func() { _ = conn.CloseNow() })
	if conn.Subprotocol() != resource.ExecProtocol {
		b.t.Errorf("the subprotocol is %q", conn.Subprotocol())
	}
	conn.SetReadLimit(1 << 20)
	return &console{T: b.t, conn: conn, ctx: ctx}, resp
}

// open begins a session with the platform key.
func (b *bedside) open(in resource.ExecCommand) *console {
	b.t.Helper()
	c, resp := b.dial(b.Key, "/runtime-instances/"+b.instance+"/exec")
	if c == nil {
		b.t.Fatalf("no session: %s", resp.Status)
	}
	in.Type = "open"
	c.say(in)
	return c
}

func (c *console) say(in resource.ExecCommand) {
	c.Helper()
	raw, err := json.Marshal(in)
	if err == nil {
		err = c.conn.Write(c.ctx, websocket.MessageText, raw)
	}
	if err != nil {
		c.Fatal(err)
	}
}

// next is the next event; output is kept.
func (c *console) next() resource.ExecEvent {
	c.Helper()
	for {
		kind, raw, err := c.conn.Read(c.ctx)
		if err != nil {
			c.Fatal(err)
		}
		if kind == websocket.MessageBinary {
			map[byte]*bytes.Buffer{resource.ExecStdout: &c.stdout, resource.ExecStderr: &c.stderr}[raw[0]].Write(raw[1:])
			continue
		}
		var e resource.ExecEvent
		if err := json.Unmarshal(raw, &e); err != nil {
			c.Fatal(err)
		}
		if e.Type == "alive" {
			continue
		}
		if e.Type == "taken" {
			c.taken += e.Bytes
			continue
		}
		return e
	}
}

// echo says something to cat, and waits until it comes back.
func (c *console) echo(text string) {
	c.Helper()
	if err := c.conn.Write(c.ctx, websocket.MessageBinary, []byte(text)); err != nil {
		c.Fatal(err)
	}
	for !strings.HasSuffix(c.stdout.String(), text) {
		kind, raw, err := c.conn.Read(c.ctx)
		if err != nil {
			c.Fatal(err)
		}
		if kind == websocket.MessageBinary {
			c.stdout.Write(raw[1:])
		}
	}
}

func (c *console) wantStarted() {
	c.Helper()
	if e := c.next(); e.Type != "started" || miosa.IDPrefix(e.SessionID) != miosa.PrefixExec {
		c.Fatalf("the first word is %+v", e)
	}
}

func (c *console) wantEnded(code int) resource.ExecEvent {
	c.Helper()
	e := c.next()
	if e.Type != "ended" || e.ExitCode == nil || *e.ExitCode != code {
		c.Fatalf("the end is %+v, want exit code %d", e, code)
	}
	if _, _, err := c.conn.Read(c.ctx); websocket.CloseStatus(err) != websocket.StatusNormalClosure {
		c.Errorf("after its end: %v", err)
	}
	return e
}

func (c *console) wantError(code string) *resource.ProblemError {
	c.Helper()
	e := c.next()
	if e.Type != "error" || e.Error == nil || e.Error.Code != code || e.Error.Message == "" {
		c.Fatalf("the end is %+v, %+v, want error %s", e, e.Error, code)
	}
	if _, _, err := c.conn.Read(c.ctx); websocket.CloseStatus(err) != websocket.StatusInternalError {
		c.Errorf("after the error: %v", err)
	}
	return e.Error
}

// told waits until the instance's timeline has an event of the type with such
// details, and returns it.
func (b *bedside) told(kind string, want map[string]string) map[string]any {
	b.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		all, _ := b.want(200, "GET", "/runtime-instances/"+b.instance+"/events?type="+kind, nil).at("data").([]any)
		for _, e := range all {
			event := e.(map[string]any)
			got, _ := event["details"].(map[string]any)
			if fits := func() bool {
				for name, value := range want {
					if got[name] != value {
						return false
					}
				}
				return true
			}; fits() {
				return event
			}
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("no event %s with %v: %v", kind, want, all)
		}
	}
}

func TestExec(t *testing.T) {
	b := startExec(t, api.Config{})
	c := b.open(resource.ExecCommand{Command: []string{"echo", "a b", "it's"}, User: "root", Dir: "sub", Env: []string{"A=1"}})
	c.wantStarted()
	c.wantEnded(0)
	if c.stdout.String() != "a b it's\n" {
		t.Errorf("output %q", c.stdout.String())
	}
	if o := <-b.guests.Asked; o.User != "root" || o.Dir != "sub" || len(o.Env) != 1 || o.TTY {
		t.Errorf("asked for %+v", o)
	}
	if host := b.guests.Host(); host != "host_00000000000000000000000001" {
		t.Errorf("asked on %s", host)
	}
	whole := map[string]string{"command": `echo 'a b' 'it'\''s'`, "from": "127.0.0.1", "user": "root", "tty": "false"}
	b.told("exec.started", whole)
	whole["exit_code"] = "0"
	b.told("exec.ended", whole)

	c = b.open(resource.ExecCommand{Command: []string{"no-such"}})
	if e := c.wantEnded(127); !strings.Contains(e.Message, "no-such") {
		t.Errorf("the message is %q", e.Message)
	}

	c = b.open(resource.ExecCommand{Command: []string{"exit", "7"}})
	c.wantStarted()
	c.wantEnded(7)
	b.told("exec.ended", map[string]string{"exit_code": "7"})
}

func TestExecInputIsBinaryAndHeldBack(t *testing.T) {
	b := startExec(t, api.Config{})
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	c := b.open(resource.ExecCommand{Command: []string{"cat"}})
	c.wantStarted()
	var sending sync.WaitGroup
	sending.Go(func() {
		// Without a look at the window: the API keeps what there is no room for.
		for rest := data[:resource.ExecBacklog/2]; len(rest) > 0; rest = rest[min(len(rest), 60_000):] {
			if err := c.conn.Write(c.ctx, websocket.MessageBinary, rest[:min(len(rest), 60_000)]); err != nil {
				t.Error(err)
			}
		}
		c.say(resource.ExecCommand{Type: "eof"})
	})
	c.wantEnded(0)
	sending.Wait()
	if want := data[:resource.ExecBacklog/2]; !bytes.Equal(c.stdout.Bytes(), want) || c.taken != len(want) {
		t.Errorf("cat gave %d bytes of %d, told of %d", c.stdout.Len(), len(want), c.taken)
	}

	// A command that reads nothing, and a client that does not care.
	c = b.open(resource.ExecCommand{Command: []string{"sleep", "1h"}})
	c.wantStarted()
	sending.Go(func() {
		for c.conn.Write(c.ctx, websocket.MessageBinary, data[:100_000]) == nil {
			continue
		}
	})
	c.wantError("exec_input_overflow")
	sending.Wait()
	b.told("exec.ended", map[string]string{"reason": "exec_input_overflow"})
}

func TestExecTerminal(t *testing.T) {
	b := startExec(t, api.Config{})
	c := b.open(resource.ExecCommand{Command: []string{"size"}, TTY: true, Rows: 24, Cols: 80})
	c.wantStarted()
	for cols := range 1000 {
		c.say(resource.ExecCommand{Type: "resize", Rows: 50, Cols: cols + 1})
	}
	for !strings.Contains(c.stdout.String(), "50x1000\r\n") {
		_, raw, err := c.conn.Read(c.ctx)
		if err != nil {
			t.Fatal(err)
		}
		c.stdout.Write(raw[1:])
	}
	if n := strings.Count(c.stdout.String(), "\n"); n > 500 {
		t.Errorf("the guest heard of %d sizes", n)
	}
	c.say(resource.ExecCommand{Type: "signal", Signal: "INT"})
	c.wantEnded(128 + 2)
}

func TestExecRequestsThatAreWrong(t *testing.T) {
	b := startExec(t, api.Config{})
	for name, in := range map[string]string{
		"no JSON":        `{`,
		"another type":   `{"type":"resize"}`,
		"no program":     `{"type":"open","command":[""]}`,
		"a byte 0":       `{"type":"open","command":["a\u0000"]}`,
		"env":            `{"type":"open","env":["NAME"]}`,
		"env no name":    `{"type":"open","env":["=x"]}`,
		"rows":           `{"type":"open","tty":true,"rows":-1}`,
		"cols":           `{"type":"open","tty":true,"cols":5000}`,
		"user":           `{"type":"open","user":"` + strings.Repeat("u", 300) + `"}`,
		"many arguments": `{"type":"open","command":["a"` + strings.Repeat(`,"b"`, 2000) + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := b.dial(b.Key, "/runtime-instances/"+b.instance+"/exec")
			c.T = t
			if err := c.conn.Write(c.ctx, websocket.MessageText, []byte(in)); err != nil {
				t.Fatal(err)
			}
			c.wantError("validation_failed")
		})
	}
	// Of these nothing was run, and nobody is told of anything.
	if len(b.guests.Asked) > 0 {
		t.Errorf("asked for %+v", <-b.guests.Asked)
	}
	for name, in := range map[string]resource.ExecCommand{
		"a type": {Type: "open"}, "a signal": {Type: "signal", Signal: "NONE"}, "a size": {Type: "resize", Rows: 1 << 20},
	} {
		t.Run("later "+name, func(t *testing.T) {
			c := b.open(resource.ExecCommand{Command: []string{"cat"}})
			c.T = t
			c.wantStarted()
			c.say(in)
			c.wantError("validation_failed")
		})
	}
	b.want(426, "GET", "/runtime-instances/"+b.instance+"/exec", nil)
}

func TestExecIsRefused(t *testing.T) {
	b := startExec(t, api.Config{})
	path := "/runtime-instances/" + b.instance + "/exec"
	stranger := b.AddTenant("stranger")
	for name, key := range map[string]string{
		"another tenant's":    b.AddKey(miosa.RolePlatform, stranger.ID, ""),
		"another workspace's": b.AddKey(miosa.RoleUser, b.Tenant.ID, "ws_other"),
	} {
		if c, resp := b.dial(key, path); c != nil || resp.StatusCode != 404 {
			t.Errorf("%s key: %s", name, resp.Status)
		}
	}
	if c, resp := b.dial("msk_u_none", path); c != nil || resp.StatusCode != 401 {
		t.Errorf("no key of ours: %s", resp.Status)
	}
	if c, resp := b.dial(b.Admin, path); c != nil || resp.StatusCode != 403 {
		t.Errorf("the operator's, where the tenant's is needed: %s", resp.Status)
	}
	if c, resp := b.dial(b.Key, "/admin"+path); c != nil || resp.StatusCode != 403 {
		t.Errorf("a tenant's, where the operator's is needed: %s", resp.Status)
	}

	b.guests.Failed = &miosa.Error{Code: miosa.Unavailable, Message: "the instance does not answer"}
	c := b.open(resource.ExecCommand{Command: []string{"cat"}})
	if e := c.wantError("unavailable"); e.Message != "the instance does not answer" || e.RequestID == "" {
		t.Errorf("the error is %+v", e)
	}
	b.told("exec.ended", map[string]string{"reason": "unavailable"})
	b.guests.Failed = errors.New("a cause that is the log's alone")
	c = b.open(resource.ExecCommand{Command: []string{"cat"}})
	if e := c.wantError("internal"); strings.Contains(e.Message, "cause") {
		t.Errorf("the error is %+v", e)
	}

	b.Update(func(tx *store.Tx) error {
		at, err := store.Locate(b.t.Context(), b.Store, b.instance)
		if err != nil {
			return err
		}
		o, err := store.Load(tx, store.Observations, store.ObservationKey(at.TenantID, at.DeploymentID, b.instance))
		o.State = miosa.Stopped
		return errors.Join(err, store.Save(tx, store.Observations, o))
	})
	if c, resp := b.dial(b.Key, path); c != nil || resp.StatusCode != 409 {
		t.Errorf("an instance that does not run: %s", resp.Status)
	}
}

func TestAnOperatorsSessionIsTheTenantsToSee(t *testing.T) {
	b := startExec(t, api.Config{})
	c, resp := b.dial(b.Admin, "/admin/runtime-instances/"+b.instance+"/exec")
	if c == nil {
		t.Fatal(resp.Status)
	}
	c.say(resource.ExecCommand{Type: "open", Command: []string{"true"}})
	c.wantStarted()
	c.wantEnded(0)
	for _, kind := range []string{"exec.started", "exec.ended"} {
		e := b.told(kind, map[string]string{"operator": "true", "command": "true"})
		if message, _ := e["message"].(string); !strings.Contains(message, "the operator") {
			t.Errorf("%s says %q", kind, message)
		}
	}
}

func TestAnInstanceHasSoManySessions(t *testing.T) {
	b := startExec(t, api.Config{})
	b.want(200, "PATCH", "/admin/plans/default", map[string]any{"max_exec_sessions": 2}, b.bearer(b.Admin))
	var got []*console
	var mu sync.Mutex
	refused := 0
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			c, resp := b.dial(b.Key, "/runtime-instances/"+b.instance+"/exec")
			mu.Lock()
			defer mu.Unlock()
			if c != nil {
				got = append(got, c)
			} else if resp.StatusCode == 409 {
				refused++
			}
		})
	}
	all.Wait()
	if len(got) != 2 || refused != 98 {
		t.Fatalf("%d sessions of 100, %d refused", len(got), refused)
	}
	for _, c := range got {
		c.say(resource.ExecCommand{Type: "open", Command: []string{"cat"}})
		c.wantStarted()
	}
	// A client that goes makes room, and ends what ran for it.
	_ = got[0].conn.CloseNow()
	b.told("exec.ended", map[string]string{"reason": "client_gone", "command": "cat"})
	for deadline := time.Now().Add(30 * time.Second); ; {
		c, resp := b.dial(b.Key, "/runtime-instances/"+b.instance+"/exec")
		if c != nil {
			break
		}
		if resp.StatusCode != 409 || time.Now().After(deadline) {
			t.Fatalf("its place is not free: %s", resp.Status)
		}
	}
}

func TestWhatEndsASession(t *testing.T) {
	b := startExec(t, api.Config{Heartbeat: 10 * time.Millisecond})
	b.want(200, "PATCH", "/admin/plans/default", map[string]any{"max_exec_minutes": 600, "max_exec_idle_minutes": 10}, b.bearer(b.Admin))
	begin := func(command ...string) *console {
		b.ahead.Store(0)
		c := b.open(resource.ExecCommand{Command: command})
		c.wantStarted()
		return c
	}
	c := begin("cat")
	b.ahead.Store(int64(9 * time.Minute))
	c.echo("x")
	b.ahead.Store(int64(18 * time.Minute))
	c.echo("y")
	// That "y" was taken may be noted after we have it, so by any clock.
	over := make(chan struct{})
	go func() {
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			select {
			case <-tick.C:
				b.ahead.Add(int64(11 * time.Minute))
			case <-over:
				return
			}
		}
	}()
	c.wantError("exec_idle_limit")
	close(over)

	b.want(200, "PATCH", "/admin/plans/default", map[string]any{"max_exec_idle_minutes": -1}, b.bearer(b.Admin))
	c = begin("flood")
	b.ahead.Store(int64(601 * time.Minute))
	c.wantError("exec_time_limit")

	b.ahead.Store(0)
	key := b.want(201, "POST", "/admin/api-keys", map[string]any{"role": "user", "tenant_id": b.Tenant.ID}, b.bearer(b.Admin))
	c, _ = b.dial(key.text("data.key"), "/runtime-instances/"+b.instance+"/exec")
	c.say(resource.ExecCommand{Type: "open", Command: []string{"flood"}})
	c.wantStarted()
	b.want(200, "DELETE", "/admin/api-keys/"+key.text("data.id"), nil, b.bearer(b.Admin))
	c.wantError("invalid_api_key")

	c = begin("cat")
	c.say(resource.ExecCommand{Type: "alive"})
	c.echo("x")
	b.ahead.Store(int64(61 * time.Second))
	b.told("exec.ended", map[string]string{"reason": "client_gone"})

	// One that takes nothing is let go of as well, and hurts nobody meanwhile.
	stuck := begin("flood")
	begin("true").wantEnded(0)
	b.ahead.Store(int64(601 * time.Minute))
	b.told("exec.ended", map[string]string{"reason": "exec_time_limit"})
	_ = stuck.conn.CloseNow()

	c = begin("cat")
	if err := b.vm.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := c.next(); e.Type != "error" {
		t.Errorf("its guest's end: %+v", e)
	}
}

// The events tell what was done, and where, however it was asked for.
func TestWhatTheEventsTellOfASession(t *testing.T) {
	b := startExec(t, api.Config{})
	long := "x" + strings.Repeat(" ", 2000) + "rm -rf /"
	for _, c := range []struct {
		in   resource.ExecCommand
		want map[string]string
	}{
		{resource.ExecCommand{Copy: &resource.ExecCopy{Path: strings.Repeat("/", 1100) + "etc/../etc/shadow", From: true}, User: "root"}, map[string]string{
			"command": "a copy from /etc/shadow", "copy": "from", "path": "/etc/shadow", "user": "root",
		}},
		{resource.ExecCommand{Copy: &resource.ExecCopy{Path: "shadow"}, Dir: "/etc"}, map[string]string{"command": "a copy to shadow", "copy": "to", "path": "shadow", "dir": "/etc"}},
		{resource.ExecCommand{Command: []string{"./run"}, Dir: "/opt", Env: []string{"LD_PRELOAD=/tmp/a.so", "PATH=/tmp"}}, map[string]string{"command": "./run", "dir": "/opt", "env": "LD_PRELOAD PATH"}},
	} {
		b.open(c.in)
		b.told("exec.started", c.want)
	}
	b.open(resource.ExecCommand{Command: []string{"sh", "-c", long}})
	for deadline := time.Now().Add(30 * time.Second); ; {
		raw := b.want(200, "GET", "/runtime-instances/"+b.instance+"/events?type=exec.started", nil).Raw
		if strings.Contains(raw, "rm -rf /'") && strings.Contains(raw, "SHA-256") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("what a long command ends with is not told: %s", raw)
		}
	}
	if raw := b.want(200, "GET", "/runtime-instances/"+b.instance+"/events", nil).Raw; strings.Contains(raw, "/tmp/a.so") {
		t.Error("the value of a variable is in an event")
	}
}
