package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/store"
)

// logged is a shell whose deployment hello has a service, and an instance that
// printed lines "1" to "n" since noon.
func logged(t *testing.T, n int) (*shell, logs.Origin) {
	t.Helper()
	s := newShell(t)
	var out bytes.Buffer
	if code := s.run(t.Context(), &out, "publish", s.file("a.tar"), "--name", "hello", "--run", "/app/server", "--json"); code != 0 {
		t.Fatal(out.String())
	}
	s.settle()
	out.Reset()
	s.run(t.Context(), &out, "instances", "ls", "--json")
	var all []resource.Instance
	if err := json.Unmarshal(out.Bytes(), &all); err != nil || len(all) != 1 {
		t.Fatalf("%v: %s", err, out.String())
	}
	of := logs.Origin{TenantID: s.p.Tenant.ID, DeploymentID: all[0].DeploymentID, ServiceID: all[0].ServiceID, InstanceID: all[0].ID, VersionID: all[0].VersionID}
	var texts []string
	for i := range n {
		texts = append(texts, fmt.Sprint(i+1))
	}
	s.p.Logs.Write(of, time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), texts...)
	return s, of
}

func (s *shell) prints(args ...string) string {
	s.t.Helper()
	var out strings.Builder
	if code := s.run(s.t.Context(), &out, args...); code != 0 {
		s.t.Errorf("%v: exit %d: %s", args, code, out.String())
	}
	return out.String()
}

func TestLogs(t *testing.T) {
	s, of := logged(t, 2500)
	text := "\x1b[31mred\x1b[0m \x1b]0;title\a\u202e ü"
	last := time.Date(2026, 3, 1, 13, 0, 0, 0, time.UTC)
	s.p.Logs.Append(logs.Batch{Origin: of, Epoch: 1, First: 2501, Lines: []logs.Line{
		{Time: last, Stream: logs.Stderr, Text: []byte(text)}, {Time: last, Stream: logs.Stdout, Text: []byte("in two "), Partial: true},
		{Time: last, Stream: logs.Stdout, Text: []byte("parts")}, {Time: last, Stream: logs.System, Text: []byte("exited")},
	}})
	for _, subject := range []string{"hello", of.DeploymentID, of.ServiceID, of.InstanceID} {
		if got := s.prints("logs", subject, "-n", "4"); got != text+"\nin two parts\nexited\n" {
			t.Errorf("%s: %q", subject, got)
		}
	}
	if got := s.prints("logs", "hello", "--since", "2026-03-01T00:00:00Z", "--stream", "stdout"); strings.Count(got, "\n") != 2501 || !strings.HasPrefix(got, "1\n2\n") {
		t.Errorf("since: %d lines", strings.Count(got, "\n"))
	}
	for _, from := range []string{"2026-03-01T12:59", "2026-03-01 12:59:00", "2026-03-01T13:59:00+01:00", "1772369940", "1772369940000"} {
		if got := s.prints("logs", "hello", "--since", from); got != text+"\nin two parts\nexited\n" {
			t.Errorf("since %s: %q", from, got)
		}
	}
	if got := s.prints("logs", "hello", "--until", "2026-03-01"); got != "" {
		t.Errorf("until that day: %q", got)
	}
	if got := s.prints("logs", "hello", "-n", "2200", "--until", "2026-03-01T12:59:00Z"); strings.Count(got, "\n") != 2200 || !strings.HasPrefix(got, "301\n302\n") {
		t.Errorf("-n: %d lines", strings.Count(got, "\n"))
	}
	if got := s.prints("logs", "hello", "--grep", `"2 p" -red`, "--timestamps"); got != "" {
		t.Errorf("grep: %q", got)
	}
	if got := s.prints("logs", "hello", "--grep", "EXIT", "--timestamps"); got != "2026-03-01T13:00:00.000000Z exited\n" {
		t.Errorf("grep: %q", got)
	}
	if got := s.prints("logs", "hello", "-n", "1", "--environment", "production"); got != "exited\n" {
		t.Errorf("production: %q", got)
	}
	if got := s.prints("logs", "hello", "-n", "1", "--environment", "staging"); got != "" {
		t.Errorf("staging: %q", got)
	}
	var l resource.LogLine
	if got := s.prints("logs", "hello", "-n", "1", "--json"); json.Unmarshal([]byte(got), &l) != nil || l.Line != "exited" || strings.Count(got, "\n") != 1 {
		t.Errorf("--json: %q", got)
	}
	s.terminal = true
	end := of.InstanceID[len(of.InstanceID)-6:]
	got := s.prints("logs", "hello", "-n", "4", "--timestamps")
	for _, want := range []string{
		end + "\x1b[0m \x1b[31merr\x1b[0m red " + `\x1b]0;title\x07\u202e ü` + "\n", end + "\x1b[0m     in two parts\n", end + "\x1b[0m \x1b[36m---\x1b[0m \x1b[36mexited\x1b[0m\n",
		"\x1b[2m2026-03-01T13:00:00.000000Z\x1b[0m \x1b[",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("at a terminal there is no %q in %q", want, got)
		}
	}
}

// TestLogsOfOneEnvironment: -n counts the lines of its services, whatever
// others wrote since. The lines of a deployment that is gone are read by its ID.
func TestLogsOfOneEnvironment(t *testing.T) {
	s, of := logged(t, 1)
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for n, name := range []string{"api", "worker"} {
		staging := of
		staging.ServiceID, staging.InstanceID = s.stagingService(of, name), apitest.ID(t, miosa.PrefixInstance)
		s.p.Logs.Write(staging, noon.Add(time.Duration(n)*time.Hour), name+" 1", name+" 2")
	}
	s.p.Logs.Append(logs.Batch{Origin: of, Epoch: 1, First: 2, Lines: slices.Repeat([]logs.Line{{Time: noon.Add(3 * time.Hour), Stream: logs.Stdout, Text: []byte("loud")}}, 200)})
	if got := s.prints("logs", "hello", "--environment", "staging", "-n", "3"); got != "api 2\nworker 1\nworker 2\n" {
		t.Errorf("the last three: %q", got)
	}
	if got := s.prints("logs", "hello", "--environment", "staging", "--since", "2026-03-01T00:00:00Z"); strings.Count(got, "\n") != 4 || strings.Contains(got, "loud") {
		t.Errorf("since: %q", got)
	}
	s.prints("rm", "hello", "--yes")
	if got := s.prints("logs", of.DeploymentID, "-n", "1"); got != "loud\n" {
		t.Errorf("deleted: %q", got)
	}
}

// stagingService makes a service in staging of a deployment.
func (s *shell) stagingService(of logs.Origin, name string) string {
	s.t.Helper()
	id := apitest.ID(s.t, miosa.PrefixService)
	s.p.Update(func(tx *store.Tx) error {
		env, err := tx.Index(store.EnvironmentNameKey(of.TenantID, of.DeploymentID, miosa.Staging))
		if err != nil {
			return err
		}
		return store.Save(tx, store.Services, miosa.Service{ID: id, TenantID: of.TenantID, DeploymentID: of.DeploymentID, EnvironmentID: env, Name: name, Type: miosa.ServiceAPI})
	})
	return id
}

func TestLogsWrongly(t *testing.T) {
	s := newShell(t)
	for words, args := range map[string][]string{
		"2 wrong number of arguments": {"logs"}, "2 --lines must be": {"logs", "x", "-n", "0"}, "2 --until has no meaning": {"logs", "x", "-f", "--until", "1h"},
		"2 --stream must be": {"logs", "x", "--stream", "all"}, "3 no deployment \"x\"": {"logs", "x"}, "2 --environment is for": {"logs", "ri_00000000000000000000000000", "--environment", "a"},
		"3 no runtime instance": {"logs", "ri_00000000000000000000000000", "-f"}, "3 no service": {"logs", "svc_00000000000000000000000000"},
	} {
		var out strings.Builder
		code := s.run(t.Context(), &out, args...)
		if got := fmt.Sprint(code, " ", strings.TrimPrefix(out.String(), "miosa: ")); !strings.HasPrefix(got, words) {
			t.Errorf("%v: %s", args, got)
		}
	}
	var out strings.Builder
	s.run(t.Context(), &out, "publish", s.file("a.tar"), "--name", "hello", "--run", "/app/server")
	for words, args := range map[string][]string{
		`--since "yesterday" is not a time`: {"--since", "yesterday"}, `--until "5" is not a time`: {"--until", "5"}, "q has a quote": {"--grep", `"open`, "-f"},
	} {
		out.Reset()
		if code := s.run(t.Context(), &out, append([]string{"logs", "hello"}, args...)...); code != 2 || !strings.Contains(out.String(), words) {
			t.Errorf("%v: exit %d: %s", args, code, out.String())
		}
	}
}

func TestLogsAreFollowed(t *testing.T) {
	s, of := logged(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	begun, out := watch("3\n"), watch("4\n")
	code := make(chan int)
	go func() { code <- s.run(ctx, io.MultiWriter(begun, out), "logs", "hello", "-f", "-n", "1") }()
	<-begun.found
	s.p.Logs.Write(of, time.Now(), "4")
	<-out.found
	cancel()
	if c := <-code; c != 130 || out.String() != "3\n4\n" {
		t.Errorf("exit %d: %q", c, out.String())
	}
}

// closing is a pipe whose reader leaves after the first line.
type closing struct{ lines int }

func (c *closing) Write(b []byte) (int, error) {
	if c.lines++; c.lines > 1 {
		return 0, &writeError{}
	}
	return len(b), nil
}

type writeError struct{}

func (*writeError) Error() string { return "write |1: broken pipe" }
func (*writeError) Unwrap() error { return syscall.EPIPE }

func TestWhoHasEnoughOfLogsLeaves(t *testing.T) {
	s, _ := logged(t, 10)
	for _, args := range [][]string{{"logs", "hello"}, {"logs", "hello", "--json"}, {"logs", "hello", "-f"}} {
		out := &closing{}
		if code := s.run(t.Context(), out, args...); code != 0 || out.lines != 2 {
			t.Errorf("%v: exit %d after %d writes", args, code, out.lines)
		}
	}
}
