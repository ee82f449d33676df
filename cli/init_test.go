package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miosa/miosa/cli/appfile"
)

// TestInit: what it writes is published as it is, and what is there stays.
func TestInit(t *testing.T) {
	s := newShell(t)
	dir := folder(t, map[string]string{"shop/Procfile": "web: /app/server --port $PORT\njobs: /app/jobs\nrelease: /app/migrate\n", "shop/app.tar": "one", "shop/.env.example": "TOKEN=\nLEVEL=info\n"})
	t.Chdir(dir)
	out := s.prints("init", "shop")
	for _, want := range []string{"Wrote shop/miosa.toml, from Procfile, .env.example.", "/app/migrate", "miosa publish FILE"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if out := s.says(1, "publish", "shop/app.tar"); !strings.Contains(out, "miosa env set shop TOKEN --secret") {
		t.Error(out)
	}
	s.prints("env", "set", "shop", "TOKEN=x")
	s.prints("publish", "shop/app.tar")
	_, live := s.live("shop")
	if len(live) != 2 || *live["web"].RunCommand != "/app/server --port $PORT" || live["jobs"].Type != "worker" {
		t.Errorf("live are %+v", live)
	}

	mine := []byte("name = \"mine\"\n")
	if err := os.WriteFile("shop/miosa.toml", mine, 0o600); err != nil {
		t.Fatal(err)
	}
	if out := s.says(1, "init", "shop"); !strings.Contains(out, "is there already") || !strings.Contains(out, "--force") {
		t.Error(out)
	}
	text := s.prints("init", "shop", "--stdout")
	var said struct {
		Path, Text               string
		Sources, Services, Notes []string
	}
	if err := json.Unmarshal([]byte(s.prints("init", "shop", "--stdout", "--json")), &said); err != nil {
		t.Fatal(err)
	}
	if said.Text != text || said.Path != "" || !slices.Equal(said.Services, []string{"web", "jobs"}) || !slices.Equal(said.Sources, []string{"Procfile", ".env.example"}) || len(said.Notes) != 1 {
		t.Errorf("%+v", said)
	}
	if got, err := os.ReadFile("shop/miosa.toml"); err != nil || string(got) != string(mine) {
		t.Errorf("what was there is now %s, %v", got, err)
	}
	s.prints("init", "shop", "--force")
	if got, err := os.ReadFile("shop/miosa.toml"); err != nil || string(got) != text {
		t.Errorf("--force left %s, %v", got, err)
	}
	if left, err := filepath.Glob("shop/*.new"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	s.says(1, "init", "nowhere")
	s.says(2, "init", "shop", "shop")
	if err := os.Mkdir("empty", 0o700); err != nil {
		t.Fatal(err)
	}
	if out := s.prints("init", "empty"); !strings.Contains(out, "write its command") {
		t.Error(out)
	}
	if got := s.prints("schema"); got != string(appfile.Schema()) {
		t.Errorf("miosa schema prints\n%s", got)
	}
}

// TestInitFollowsNoLinkOut: a folder that somebody else packed writes nowhere
// else, and is not a way to read other files.
func TestInitFollowsNoLinkOut(t *testing.T) {
	s := newShell(t)
	dir := folder(t, map[string]string{"outside/secret": "web: password\n", "outside/target": "keep", "app/x": ""})
	for link, target := range map[string]string{"Procfile": "../outside/secret", "miosa.toml": "../outside/target"} {
		if err := os.Symlink(target, filepath.Join(dir, "app", link)); err != nil {
			t.Fatal(err)
		}
	}
	if out := s.prints("init", filepath.Join(dir, "app"), "--stdout"); strings.Contains(out, "password") {
		t.Errorf("it reads what is outside:\n%s", out)
	}
	s.says(1, "init", filepath.Join(dir, "app"))
	s.prints("init", filepath.Join(dir, "app"), "--force")
	if got, err := os.ReadFile(filepath.Join(dir, "outside/target")); err != nil || string(got) != "keep" {
		t.Errorf("it wrote what is outside: %s, %v", got, err)
	}
}
