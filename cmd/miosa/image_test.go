package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa/bench/rig"
)

// TestWhatAnImageFinds compares what docs/images.md says of an instance with
// what an app in one sees: an image for Docker, published as it is.
func TestWhatAnImageFinds(t *testing.T) {
	j := begin(t)
	rows := imageRows(t)
	dep, err := j.Create(j.ctx, "image")
	if err != nil {
		t.Fatal(err)
	}
	rel, err := j.UploadImage(j.ctx, dep, packImage(t))
	if err != nil {
		t.Fatal(err)
	}
	p, err := j.Publish(j.ctx, dep, map[string]any{"release_id": rel, "services": []map[string]any{{
		"name": "web", "type": "web", "health_check": map[string]any{"path": "/", "timeout_seconds": 20},
		"resources": map[string]any{"memory_mb": 256, "disk_mb": 64},
	}, {
		"name": "queue", "type": "worker", "run_command": "facts work",
		"health_check": map[string]any{"type": "exec", "command": "facts check", "interval_seconds": 1},
		"resources":    map[string]any{"memory_mb": 256, "disk_mb": 64},
	}}})
	if err != nil || !p.Promoted {
		t.Fatalf("publish: %+v, %v", p, err)
	}
	code, text, err := j.get("image", "/")
	if err != nil || code != http.StatusOK {
		t.Fatalf("%d %v", code, err)
	}
	found := map[string]string{}
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		t.Fatal(err)
	}
	all, err := j.AwaitHealthy(j.ctx, dep, 2)
	if err != nil {
		t.Fatal(err)
	}
	var services []struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	}
	if err := j.Call(j.ctx, http.MethodGet, "/deployments/"+dep+"/services", nil, &services); err != nil {
		t.Fatal(err)
	}
	var instance rig.Instance
	for _, i := range all {
		for _, s := range services {
			if s.ID == i.ServiceID && s.Name == "web" {
				instance = i
			}
		}
	}
	log := func(with string) (text string, found bool) {
		var lines []struct {
			Line string `json:"line"`
		}
		resp, err := j.Do(j.ctx, http.MethodGet, "/runtime-instances/"+instance.ID+"/logs?q="+url.QueryEscape(with), nil)
		if err != nil || resp.Data(&lines) != nil || len(lines) == 0 {
			return "", false
		}
		return lines[0].Line, true
	}
	j.until("what was written through /dev/stdout is in the log", func() bool {
		_, found := log("written through /dev/stdout")
		return found
	})
	if err := j.Call(j.ctx, http.MethodPost, "/runtime-instances/"+instance.ID+"/restart", nil, nil); err != nil {
		t.Fatal(err)
	}
	j.until("the app is asked to end", func() (asked bool) {
		found["`STOPSIGNAL`"], asked = log("asked to end by")
		return asked
	})
	for _, what := range slices.Sorted(maps.Keys(rows)) {
		t.Run(strings.Trim(what, "`"), func(t *testing.T) {
			if found[what] != rows[what] {
				t.Errorf("an app finds %q; docs/images.md says %q", found[what], rows[what])
			}
		})
	}
	for what := range found {
		if _, ok := rows[what]; !ok {
			t.Errorf("docs/images.md has no row %s", what)
		}
	}
}

// imageRows are the rows of docs/images.md: what, and how it is here.
func imageRows(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../../docs/images.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || strings.TrimSpace(cells[1]) == "What" || strings.HasPrefix(cells[1], "---") {
			continue
		}
		what, here := strings.TrimSpace(cells[1]), strings.TrimSpace(cells[3])
		if _, twice := rows[what]; twice || len(here) < 3 || here[0] != '`' || here[len(here)-1] != '`' {
			t.Fatalf("the row of %s: %q", what, line)
		}
		rows[what] = here[1 : len(here)-1]
	}
	if len(rows) < 40 {
		t.Fatalf("docs/images.md has %d rows", len(rows))
	}
	return rows
}

// packImage makes what `docker save` writes of an image with testdata/image.
func packImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	app := filepath.Join(dir, "app")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", app, "./testdata/image")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	program, err := os.ReadFile(app)
	if err != nil {
		t.Fatal(err)
	}
	type entry struct {
		name, content string
		mode          int64
	}
	pack := func(entries ...entry) string {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, e := range entries {
			h := &tar.Header{Name: e.name, Mode: e.mode, Size: int64(len(e.content)), Typeflag: tar.TypeReg, ModTime: time.Unix(1700000000, 0)}
			if strings.HasSuffix(e.name, "/") {
				h.Typeflag = tar.TypeDir
			}
			if err := w.WriteHeader(h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte(e.content)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	sum := func(s string) string {
		d := sha256.Sum256([]byte(s))
		return hex.EncodeToString(d[:])
	}
	layer := pack(
		entry{"usr/", "", 0o755}, entry{"usr/bin/", "", 0o755}, entry{"usr/bin/facts", string(program), 0o755},
		entry{"etc/", "", 0o755},
		entry{"etc/passwd", "root:x:0:0::/root:/bin/sh\nshop:x:1000:1000::/home/shop:/bin/sh\n", 0o644},
		entry{"etc/group", "root:x:0:\nshop:x:1000:\nmedia:x:50:shop\n", 0o644},
	)
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{
			"User": "shop", "WorkingDir": "/srv/shop/missing", "StopSignal": "SIGUSR1",
			"ExposedPorts": map[string]any{"80/tcp": map[string]any{}},
			"Env":          []string{"PATH=/usr/bin", "GREETING=hello", "node.name=one"},
			"Entrypoint":   []string{"facts"},
		},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + sum(layer)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	name := sum(string(config)) + ".json"
	manifest, err := json.Marshal([]map[string]any{{"Config": name, "RepoTags": []string{"shop:1"}, "Layers": []string{sum(layer) + "/layer.tar"}}})
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "shop.tar")
	all := pack(entry{name, string(config), 0o644}, entry{sum(layer) + "/layer.tar", layer, 0o644}, entry{"manifest.json", string(manifest), 0o644})
	if err := os.WriteFile(out, []byte(all), 0o600); err != nil {
		t.Fatal(err)
	}
	return out
}
