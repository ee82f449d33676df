package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa/cli"
)

// onFull runs a command whose standard output is a full device.
func (s *shell) onFull(ctx context.Context, args ...string) (code int, said string) {
	s.t.Helper()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer full.Close()
	var stderr bytes.Buffer
	code = s.runTo(ctx, full, &stderr, args...)
	return code, stderr.String()
}

const unwritten = "the output could not be written: write /dev/full: no space left on device\n"

// No command whose words nobody can read ends as if all were well, whatever it
// is asked for: each is tried here, as text and as JSON.
func TestFullDevice(t *testing.T) {
	s, of := logged(t, 3)
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(s.prints("webhooks", "add", "https://example.com/in", "--json")), &made); err != nil {
		t.Fatal(err)
	}
	var sent struct {
		EventID string `json:"event_id"`
	}
	if err := json.Unmarshal([]byte(s.prints("webhooks", "test", made.ID, "--json")), &sent); err != nil {
		t.Fatal(err)
	}
	s.prints("drains", "add", "https://logs.example/in", "--name", "away")
	s.hosts()
	s.twins(7)
	var tried [][]string
	for _, line := range []string{
		"instances restart " + of.InstanceID, "publish a.tar --name hello --run /app/server", "publish a.tar --name hello --wait=false", "ps", "ps hello",
		"plan", "plan scale hello 2", "plan scale hello 20", "plan publish hello", "plan drain castor", "plan lose-host castor", "plan lose-zone local/a", "scale hello 2", "restart hello", "restart hello --wait=false", "versions hello",
		"promote hello 1", "promote hello 2", "rollback hello 1", "rollback hello 2 --wait=false",
		"env set hello A=b", "env ls hello", "env rm hello A", "events", "events hello", "events hello -f",
		"logs hello", "logs hello --since 2026-03-01", "logs hello -f", "logs hello -f --since 2026-03-01", "log-limit hello", "log-limit hello 100",
		"schema", "init --force " + t.TempDir(), "init --stdout", "services ls hello", "services get hello", "services set hello --replicas 2", "services set hello --stop-grace 20s",
		"drains", "drains ls", "drains show away", "drains add https://logs.example/in --name there", "drains pause away", "drains resume away",
		"top hello", "top hello --once", "why hello", "usage", "usage --csv", "deployments", "deployments ls", "deployments get hello", "deployments create other",
		"instances", "instances ls", "instances get " + of.InstanceID, "instances stop " + of.InstanceID,
		"webhooks", "webhooks ls", "webhooks add https://example.com/in", "webhooks disable " + made.ID, "webhooks enable " + made.ID, "webhooks test " + made.ID,
		"webhooks deliveries " + made.ID, "webhooks redeliver " + made.ID + " " + sent.EventID, "webhooks rotate " + made.ID, "webhooks rm " + made.ID,
		"registry", "registry ls", "registry login registry.example --username ann", "registry logout registry.example",
		"hosts", "hosts ls", "hosts show one", "hosts cordon one", "hosts drain one --detach", "hosts uncordon one", "hosts lost two", "hosts rm two",
		"drains rm away", "rm hello --yes",
	} {
		s.stdin = "" // of a password
		if strings.HasPrefix(line, "registry login") {
			s.stdin = "secret\n"
		}
		args := strings.Fields(line)
		if args[0] == "publish" {
			args[1] = s.file("a.tar")
		}
		tried = append(tried, args)
		for _, args := range [][]string{args, append(args[:len(args):len(args)], "--json")} {
			switch line {
			case "usage --csv":
				if len(args) > 2 {
					continue
				}
			case "schema": // JSON in any case
				if len(args) > 1 {
					continue
				}
			case "deployments create other", "registry logout registry.example", "hosts rm two", "drains rm away", "webhooks rm " + made.ID, "rm hello --yes", "env rm hello A", "instances stop " + of.InstanceID, "instances restart " + of.InstanceID:
				// Done once. As JSON they print as all others do.
				if args[len(args)-1] == "--json" {
					continue
				}
			}
			if code, said := s.onFull(t.Context(), args...); code != 1 || !strings.HasSuffix(said, unwritten) {
				t.Errorf("miosa %s > /dev/full: exit %d: %s", strings.Join(args, " "), code, said)
			}
			s.settle() // a rollout that is not waited for
		}
	}
	root := cli.New(cli.Config{})
	var walk func(path []string, cmd *cobra.Command)
	walk = func(path []string, cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			walk(append(path[:len(path):len(path)], sub.Name()), sub)
		}
		name := strings.Join(path, " ")
		is := func(args []string) bool { return strings.HasPrefix(strings.Join(args, " ")+" ", name+" ") }
		// The test of a drain needs a receiver that answers, and a session a guest: see
		// TestExec.
		if name != "" && !slices.Contains([]string{"drains test", "exec", "shell", "cp"}, name) && !slices.ContainsFunc(tried, is) {
			t.Errorf("%s was not tried", name)
		}
	}
	walk(nil, root)
}

// What fails before it prints anything says why.
func TestFullDeviceAfterAnotherReason(t *testing.T) {
	s := newShell(t)
	if code, said := s.onFull(t.Context(), "logs", "hello"); code != 3 || strings.Contains(said, "written") {
		t.Errorf("exit %d: %s", code, said)
	}
}

// A terminal that is gone ends what would be drawn for ever.
func TestTopEndsWithItsTerminal(t *testing.T) {
	s, _ := logged(t, 1)
	s.terminal = true
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if code, said := s.onFull(ctx, "top", "hello"); code != 1 || !strings.HasSuffix(said, unwritten) {
		t.Errorf("exit %d: %s", code, said)
	}
}

// Who reads may leave when they have enough.
func TestReaderThatLeaves(t *testing.T) {
	s, _ := logged(t, 100)
	for _, args := range [][]string{{"logs", "hello"}, {"logs", "hello", "--json"}, {"events", "hello"}, {"ps", "--json"}, {"usage", "--csv"}, {"--help"}} {
		r, w := io.Pipe()
		r.Close()
		var stderr bytes.Buffer
		if code := s.runTo(t.Context(), w, &stderr, args...); code != 0 || stderr.Len() > 0 {
			t.Errorf("%v: exit %d: %s", args, code, &stderr)
		}
	}
}
