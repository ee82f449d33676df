package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/vmm/sim"
	"github.com/miosa/miosa/wire/guest"
)

// newExecShell is a shell on a platform with an app, shop, whose instances know the
// words of simulated VMs.
func newExecShell(t *testing.T) (s *shell, guests *apitest.Guests, vm vmm.VM, instance string) {
	t.Helper()
	driver, err := sim.New(sim.Config{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	vm, err = driver.Start(t.Context(), vmm.Spec{
		ID: "ri_a-1", VCPUs: 1, MemoryMB: 64, BaseDisk: "/dev/null", DataDisk: "/dev/null",
		NIC: vmm.NIC{MAC: "02:00:00:00:00:01", Forward: netip.MustParseAddrPort("127.0.0.1:1"), GuestPort: 1, Guest: netip.MustParsePrefix("10.0.0.2/24")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = vm.Kill(context.Background()) })
	guests = &apitest.Guests{Dial: vm.DialExec, Asked: make(chan guest.ExecOpen, 100)}
	p := apitest.Start(t, memory.New(time.Now), api.Config{}, func(d *api.Deps) { d.Execs = guests })
	s = shellOn(t, p)
	release := filepath.Join(t.TempDir(), "app.tar")
	if err := os.WriteFile(release, []byte("bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code := s.run(t.Context(), &out, "publish", release, "--name", "shop", "--run", "/app/server", "--port", "8080"); code != 0 {
		t.Fatalf("publish: %d\n%s", code, &out)
	}
	out.Reset()
	if code := s.run(t.Context(), &out, "ps", "shop", "--json"); code != 0 {
		t.Fatal(&out)
	}
	var found []struct{ ID string }
	if err := json.Unmarshal(out.Bytes(), &found); err != nil || len(found) != 1 {
		t.Fatalf("%v: %s", err, &out)
	}
	return s, guests, vm, found[0].ID
}

func TestExec(t *testing.T) {
	s, guests, _, instance := newExecShell(t)
	for _, c := range []struct {
		args           string
		stdin          string
		code           int
		stdout, stderr string // stderr: part of it
		user, dir, env string
	}{
		{args: "exec shop -- echo one two", stdout: "one two\n"},
		{args: "exec INSTANCE -- echo one", stdout: "one\n"},
		{args: "exec shop echo one", stdout: "one\n"},
		{args: "exec shop -- cat", stdin: "some\x00bytes\xff", stdout: "some\x00bytes\xff"},
		{args: "exec shop -n -- cat", stdin: "some", stdout: ""},
		{args: "shell shop", stdin: "ls\n", stdout: "ls\n"},
		{args: "exec shop -- exit 7", code: 7},
		{args: "exec shop -- no-such", code: 127, stderr: "no-such was not found"},
		{args: "exec shop --user root -w sub -e A=1 -- true", user: "root", dir: "sub", env: "A=1"},
		{args: "exec INSTANCE --operator -- echo one", stdout: "one\n"},
		{args: "exec shop --operator -- echo one", code: 2, stderr: "takes an instance"},
		{args: "exec shop", code: 2, stderr: "wrong number"},
		{args: "exec shop ls -l", code: 2, stderr: `behind "--"`},
		{args: "exec shop --env A -- true", code: 2, stderr: "NAME=VALUE"},
		{args: "exec shop -t -T -- true", code: 2, stderr: "contradict"},
		{args: "exec nowhere -- true", code: 3, stderr: "no deployment"},
		{args: "exec ri_01jz0000000000000000000000 -- true", code: 3, stderr: "no runtime instance"},
		{args: "exec shop --service worker -- true", code: 3, stderr: "worker"},
		{args: "exec shop --environment staging -- true", code: 1, stderr: "nothing was published to staging"},
	} {
		s.stdin = c.stdin
		var stdout, stderr bytes.Buffer
		words := strings.Fields(strings.ReplaceAll(c.args, "INSTANCE", instance))
		code := s.runTo(t.Context(), &stdout, &stderr, words...)
		if code != c.code || stdout.String() != c.stdout || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%s: %d, %q, %q", c.args, code, &stdout, &stderr)
		}
		for len(guests.Asked) > 0 {
			o := <-guests.Asked
			if o.User != c.user || o.Dir != c.dir || strings.Join(o.Env, " ") != c.env || o.TTY {
				t.Errorf("%s asked for %+v", c.args, o)
			}
		}
	}
}

func TestExecOnAFullDevice(t *testing.T) {
	s, _, _, instance := newExecShell(t)
	for _, line := range []string{"exec " + instance + " -T -- echo words", "shell shop"} {
		s.stdin = "words\n"
		if code, said := s.onFull(t.Context(), strings.Fields(line)...); code != 1 || !strings.HasSuffix(said, unwritten) {
			t.Errorf("miosa %s > /dev/full: exit %d: %s", line, code, said)
		}
	}
}

// What cannot be read ends the input, and is told.
func TestExecWithInputThatCannotBeRead(t *testing.T) {
	s, _, _, instance := newExecShell(t)
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	s.typing = dir
	var out bytes.Buffer
	if code := s.run(t.Context(), &out, "exec", instance, "--", "cat"); code != 1 || !strings.Contains(out.String(), "standard input could not be read") {
		t.Errorf("a directory for input: %d, %s", code, &out)
	}
}

// A session that ends early says why, and has an exit code of its own.
func TestExecThatBreaksOff(t *testing.T) {
	s, guests, vm, instance := newExecShell(t)
	guests.Failed = &miosa.Error{Code: miosa.Unavailable, Message: "the instance does not answer"}
	var out bytes.Buffer
	if code := s.run(t.Context(), &out, "exec", instance, "--", "true"); code != 255 || !strings.Contains(out.String(), "does not answer") {
		t.Errorf("an instance that does not answer: %d, %s", code, &out)
	}
	guests.Failed = nil
	out.Reset()
	started := &notedWriter{to: &out, wrote: make(chan struct{})}
	ended := make(chan int, 1)
	go func() { ended <- s.runTo(t.Context(), started, started, "exec", instance, "-n", "-T", "--", "flood") }()
	<-started.wrote
	if err := vm.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code := <-ended; code != 255 {
		t.Errorf("an instance that has ended: %d", code)
	}

	// One that runs no more is no session at all.
	s.p.Update(func(tx *store.Tx) error {
		at, err := store.Locate(t.Context(), s.p.Store, instance)
		if err != nil {
			return err
		}
		o, err := store.Load(tx, store.Observations, store.ObservationKey(at.TenantID, at.DeploymentID, instance))
		if err != nil {
			return err
		}
		o.State = miosa.Stopped
		return store.Save(tx, store.Observations, o)
	})
	out.Reset()
	if code := s.run(t.Context(), &out, "exec", instance, "--", "true"); code != 1 || !strings.Contains(out.String(), "stopped") {
		t.Errorf("an instance that runs no more: %d, %s", code, &out)
	}
	out.Reset()
	if code := s.run(t.Context(), &out, "shell", "shop"); code != 3 || !strings.Contains(out.String(), "no instance of shop runs") {
		t.Errorf("an app without instances: %d, %s", code, &out)
	}
}

// notedWriter tells of the first write.
type notedWriter struct {
	to    *bytes.Buffer
	wrote chan struct{}
	told  bool
}

func (w *notedWriter) Write(b []byte) (int, error) {
	if !w.told {
		w.told = true
		close(w.wrote)
	}
	return len(b), nil
}

func TestCopiesThatAreAskedForWrongly(t *testing.T) {
	s, _, _, _ := newExecShell(t)
	for line, want := range map[string]string{
		"cp a b": "one of SOURCE", "cp shop:/a shop:/b": "two steps", "cp shop:/a -": "is no path", "cp shop:/a": "wrong number", "cp ./a:b ./c": "one of SOURCE",
	} {
		var out bytes.Buffer
		if code := s.run(t.Context(), &out, strings.Fields(line)...); code != 2 || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %d, %s", line, code, &out)
		}
	}
	var out bytes.Buffer
	if code := s.run(t.Context(), &out, "cp", "nowhere:/a", t.TempDir()); code != 3 {
		t.Errorf("an app that is not there: %d, %s", code, &out)
	}
	out.Reset()
	if code := s.run(t.Context(), &out, "cp", filepath.Join(t.TempDir(), "none"), "shop:/a"); code != 1 || !strings.Contains(out.String(), "no such file") {
		t.Errorf("a source that is not there: %d, %s", code, &out)
	}
}
