package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/cli"
	"github.com/miosa/miosa/client"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// shell runs commands against a platform of its own.
type shell struct {
	t        *testing.T
	p        *apitest.Platform
	context  string
	terminal bool
	stdin    string
	typing   io.Reader // instead of stdin
}

func newShell(t *testing.T) *shell {
	t.Helper()
	return shellOn(t, apitest.Start(t, memory.New(time.Now), api.Config{PublicPorts: store.PortRange{First: 30000, Last: 30099}}))
}

func shellOn(t *testing.T, p *apitest.Platform) *shell {
	t.Helper()
	s := &shell{t: t, p: p, context: filepath.Join(t.TempDir(), "context.json")}
	raw, err := json.Marshal(map[string]string{"api_url": p.URL, "api_key": p.Key, "admin_key": p.Admin, "http_url": "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.context, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	return s
}

func (s *shell) run(ctx context.Context, out io.Writer, args ...string) int {
	return s.runTo(ctx, out, out, args...)
}

func (s *shell) runTo(ctx context.Context, out, errs io.Writer, args ...string) int {
	var stdin io.Reader = strings.NewReader(s.stdin)
	if s.typing != nil {
		stdin = s.typing
	}
	root := cli.New(cli.Config{
		Stdin: stdin, Stdout: out, Stderr: errs, Version: "test",
		Getenv: func(name string) string { return map[string]string{"MIOSA_CONTEXT": s.context}[name] },
		// Every age is 0s, and every event at the same minute.
		Now:      func() time.Time { return time.Time{} },
		Terminal: func(io.Writer) bool { return s.terminal },
	})
	root.SetArgs(args)
	return cli.Run(ctx, root)
}

// TestTranscripts runs the sessions in testdata: lines that begin with "$ "
// are commands, what follows is what they print.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := newShell(t)
			t.Chdir(t.TempDir())
			for name, content := range map[string]string{"v1.tar": "one", "v2.tar": "two", "v3.tar": "three", "empty.tar": ""} {
				if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := s.session(string(raw))
			if *update {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(raw) {
				t.Errorf("%s differs; run with -update and look at the difference\n--- got\n%s", file, got)
			}
		})
	}
}

var dir = func() string {
	wd, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	return wd
}()

var (
	ids   = regexp.MustCompile(`\b(dep|env|svc|ver|rel|rol|ri|host|evt|key|ten|req|ldr)_[0-9a-z]{26}`)
	halfs = regexp.MustCompile(`\b(rel|ver)_…[0-9a-z]{6}`)
	times = regexp.MustCompile(`\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?Z?|\b\d\d:\d\d:\d\d\b`)
	// Whether the fake control plane got that far is nobody's business.
	late = regexp.MustCompile(`(?m)^(  live|  \S+  live|.*rollout\.completed.*)\n`)
	gaps = regexp.MustCompile(`(?m) +$`)
)

func (s *shell) session(script string) string {
	var out strings.Builder
	seen := map[string]string{}
	for line := range strings.Lines(script) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "# "), line == "" && out.Len() == 0:
			fmt.Fprintln(&out, line)
			continue
		case !strings.HasPrefix(line, "$ "):
			continue
		}
		fmt.Fprintln(&out, line)
		command := line[2:]
		s.stdin = ""
		if before, stdin, ok := strings.Cut(command, " <<< "); ok {
			command, s.stdin = before, stdin
		}
		var printed bytes.Buffer
		code := s.run(s.t.Context(), &printed, words(command)[1:]...)
		text := ids.ReplaceAllStringFunc(printed.String(), func(id string) string {
			if seen[id] == "" {
				prefix, _, _ := strings.Cut(id, "_")
				seen[id] = fmt.Sprintf("%s_%d", prefix, len(seen)+1)
			}
			return seen[id]
		})
		text = halfs.ReplaceAllString(text, "${1}_…")
		text = strings.ReplaceAll(text, s.p.URL, "http://API")
		text = times.ReplaceAllString(late.ReplaceAllString(text, ""), "TIME")
		// Columns are as wide as what was in them before.
		text = regexp.MustCompile(`  +`).ReplaceAllString(strings.ReplaceAll(text, "\n  ", "\n\x00"), "  ")
		text = gaps.ReplaceAllString(strings.ReplaceAll(text, "\n\x00", "\n  "), "")
		out.WriteString(text)
		if code != 0 {
			fmt.Fprintf(&out, "exit %d\n", code)
		}
		s.settle()
	}
	return out.String()
}

// settle waits until no rollout goes on, so that what the next command sees
// does not depend on luck.
func (s *shell) settle() {
	for range 10000 {
		var out bytes.Buffer
		if s.run(s.t.Context(), &out, "deployments", "ls", "--json") != 0 || !strings.Contains(out.String(), `"rollout_id": "rol_`) {
			return
		}
	}
	s.t.Fatal("a rollout does not end")
}

// words splits a command line; double quotes hold words together.
func words(line string) []string {
	var out []string
	var word strings.Builder
	quoted, some := false, false
	for _, r := range line {
		switch {
		case r == '"':
			quoted, some = !quoted, true
		case r == ' ' && !quoted:
			if some {
				out = append(out, word.String())
			}
			word.Reset()
			some = false
		default:
			word.WriteRune(r)
			some = true
		}
	}
	if some {
		out = append(out, word.String())
	}
	return out
}

// TestPublishKeepsOtherServices: flags for one service say nothing of the others.
func TestPublishKeepsOtherServices(t *testing.T) {
	s := newShell(t)
	file := s.file("a.tar")
	s.prints("publish", file, "--name", "shop", "--run", "/app/server")
	s.settle()
	c, err := client.New(client.Config{URL: s.p.URL, Key: s.p.Key})
	if err != nil {
		t.Fatal(err)
	}
	dep, err := c.Deployment(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.Version(t.Context(), dep.ID, *dep.ActiveVersionID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(t.Context(), "shop", resource.Publish{ReleaseID: *v.ReleaseID, Services: []resource.PublishService{
		{Name: "jobs", Type: "worker", RunCommand: "/app/jobs"}, {Name: "front", Type: "web", RunCommand: "/app/server"},
	}}, client.Wait()); err != nil {
		t.Fatal(err)
	}
	s.settle()
	s.prints("publish", file, "--name", "shop", "--replicas", "2")
	s.settle()
	if dep, err = c.Deployment(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	if v, err = c.Version(t.Context(), dep.ID, *dep.ActiveVersionID); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range v.Services {
		live, err := c.Service(t.Context(), s.ServiceID)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(s.Name, " ", *s.RunCommand, " ", live.DesiredReplicas))
	}
	if want := []string{"jobs /app/jobs 1", "front /app/server 2"}; v.VersionNumber != 3 || !slices.Equal(got, want) {
		t.Errorf("version %d has %q, want %q", v.VersionNumber, got, want)
	}
}
