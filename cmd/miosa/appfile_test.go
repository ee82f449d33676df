package main

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// An app of two services is published by its miosa.toml: both go live together,
// or neither does and the one that failed is named.
func TestServicesOfAFileGoLiveTogether(t *testing.T) {
	j := begin(t)
	dir := t.TempDir()
	archive := filepath.Join(dir, "app.tar.zst")
	if err := os.Link(j.app, archive); err != nil {
		t.Fatal(err)
	}
	publish := func(web, check, grace string) (code int, said string) {
		t.Helper()
		text := `name = "both"

[services.web]
command = "/app/server ` + web + `"
port = 8080
resources = { memory_mb = 128, disk_mb = 64 }
health = { path = "/healthz", interval = "1s", grace = "1m" }

[services.jobs]
type = "worker"
command = "/app/server sleep"
resources = { memory_mb = 128, disk_mb = 64 }
health = { command = "/app/server ` + check + `", interval = "1s", timeout = "30s", grace = "` + grace + `" }
`
		if err := os.WriteFile(filepath.Join(dir, "miosa.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(j.ctx, j.binary(), "publish", archive, "--context", filepath.Join(j.Dir, "context.json")).CombinedOutput()
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return exit.ExitCode(), string(out)
		}
		if err != nil {
			t.Fatal(err)
		}
		return 0, string(out)
	}
	serves := func(mode string) {
		t.Helper()
		if code, text, err := j.get("both", "/"); err != nil || code != http.StatusOK || !strings.HasPrefix(text, mode+" ") {
			t.Errorf("it answers %d %q %v, not as %s", code, text, err, mode)
		}
	}
	if code, said := publish("serve", "exit 0", "3m"); code != 0 || !strings.Contains(said, "Version 1 of both is live") {
		t.Fatalf("exit %d:\n%s", code, said)
	}
	serves("serve")
	stop := j.traffic("both")
	code, said := publish("late 1s", "exit 3", "5s")
	if code != 4 || !strings.Contains(said, "version 2 did not go live: jobs: the health check's command did not exit with 0 within 5s of the start; the last probe: exited with code 3") || !strings.Contains(said, "Version 1 goes on serving.") {
		t.Errorf("exit %d:\n%s", code, said)
	}
	serves("serve")
	if code, said := publish("late 1s", "exit 0", "3m"); code != 0 || !strings.Contains(said, "Version 3 of both is live") {
		t.Errorf("exit %d:\n%s", code, said)
	}
	serves("late")
	if n, failures := stop(); n == 0 || len(failures) > 0 {
		t.Errorf("%d of %d requests failed: %v", len(failures), n, failures)
	}
}
