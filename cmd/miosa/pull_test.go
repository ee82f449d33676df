package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/miosa/miosa/bench/rig"
	"github.com/miosa/miosa/registry/registrytest"
)

// miosa runs the built program against the platform.
func (j *journey) miosa(stdin string, args ...string) (out string, err error) {
	j.t.Helper()
	cmd := exec.CommandContext(j.ctx, j.binary(), append([]string{"--context", filepath.Join(j.Dir, "context.json")}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err = cmd.Run()
	return said.String(), err
}

// imageVersion is what is asked of a version that comes from a registry.
type imageVersion struct {
	State        string `json:"state"`
	ErrorMessage string `json:"error_message"`
	Image        struct {
		Digest string `json:"digest"`
		Pull   *struct {
			Bytes     int64 `json:"bytes"`
			BytesDone int64 `json:"bytes_done"`
		} `json:"pull"`
	} `json:"image"`
}

// TestPublishAnImage goes the way of who comes with an image in a registry: a
// refusal that says what to do, the login, and the publish, by the program
// alone. Then the platform is killed with half an image there: the next start
// goes on, and the version becomes live.
func TestPublishAnImage(t *testing.T) {
	ca := registrytest.NewCA(t)
	r := registrytest.Start(t, registrytest.Options{CA: ca, User: "ann", Password: "secret"})
	image := func(seed uint64, size int) v1.Image {
		return registrytest.Image(t, "amd64", v1.Config{Cmd: []string{"sim", "serve"}, ExposedPorts: map[string]struct{}{"8080/tcp": {}}},
			registrytest.Layer(t, map[string]string{"sim": "x"}), registrytest.Layer(t, map[string]string{"data": registrytest.Noise(seed, size)}))
	}
	first := image(1, 1000)
	r.Push(t, "team/shop:1.4", first)
	j, _ := start(t, rig.Options{Driver: "sim", Flags: []string{"--allow-target", "127.0.0.1"}})
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, ca.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	publish := func() (string, error) {
		return j.miosa("", "publish", "--image", r.Host+"/team/shop:1.4", "--name", "shop")
	}
	if out, err := publish(); err == nil || !strings.Contains(out, "miosa registry login "+r.Host+" --ca FILE") {
		t.Errorf("without trust: %v\n%s", err, out)
	}
	if out, err := j.miosa("secret\n", "registry", "login", r.Host, "--username", "ann", "--password-stdin", "--ca", authority); err != nil || !strings.Contains(out, "are pulled as ann") {
		t.Fatalf("login: %v\n%s", err, out)
	}
	digest, err := first.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if out, err := publish(); err != nil || !strings.Contains(out, "is live: http://shop.") || !strings.Contains(out, digest.String()) {
		t.Fatalf("publish: %v\n%s", err, out)
	}
	if code, _, err := j.get("shop", "/"); err != nil || code != http.StatusOK {
		t.Errorf("through the router: %d %v", code, err)
	}
	if left := grepTree(t, j.Dir, "secret\n"); len(left) > 0 {
		t.Errorf("the password is in %v", left)
	}

	r.Push(t, "team/big:1", image(2, 8<<20))
	cutter := registrytest.Cut(t, r.Host, 1<<20, 1<<30)
	if out, err := j.miosa("secret", "registry", "login", cutter.Host, "--username", "ann", "--password-stdin", "--ca", authority); err != nil {
		t.Fatalf("login: %v\n%s", err, out)
	}
	dep, err := j.Create(j.ctx, "big")
	if err != nil {
		t.Fatal(err)
	}
	var begun struct {
		Version struct {
			ID string `json:"id"`
		} `json:"version"`
	}
	if err := j.Call(j.ctx, http.MethodPost, "/deployments/"+dep+"/publish", map[string]any{"image": cutter.Host + "/team/big:1"}, &begun); err != nil {
		t.Fatal(err)
	}
	var v imageVersion
	look := func() bool {
		v = imageVersion{}
		err := j.Call(j.ctx, http.MethodGet, "/deployments/"+dep+"/versions/"+begun.Version.ID, nil, &v)
		if v.State == "failed" {
			t.Fatal(v.ErrorMessage)
		}
		return err == nil
	}
	j.until("half of it is there", func() bool {
		return look() && v.Image.Pull != nil && v.Image.Pull.BytesDone > 0 && v.Image.Pull.BytesDone < v.Image.Pull.Bytes && cutter.Done() > 0
	})
	if err := j.Kill(); err != nil {
		t.Fatal(err)
	}
	cutter.Left(0)
	if err := j.Up(j.ctx); err != nil {
		t.Fatal(err)
	}
	j.until("its version is ready", func() bool { return look() && v.State == "ready" })
	if v.Image.Digest == "" || v.Image.Pull != nil {
		t.Errorf("%+v", v.Image)
	}
	j.until("it serves", func() bool {
		code, _, err := j.get("big", "/")
		return err == nil && code == http.StatusOK
	})
	if out, err := j.miosa("", "registry", "ls"); err != nil || !strings.Contains(out, r.Host) || !strings.Contains(out, "ann") || strings.Contains(out, "secret") {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := j.miosa("", "registry", "logout", r.Host); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if out, err := j.miosa("", "publish", "--image", fmt.Sprintf("%s/team/shop:2", cutter.Host), "--name", "shop"); err == nil || !strings.Contains(out, "has no tag 2 of team/shop") || !strings.Contains(out, "goes on serving") {
		t.Errorf("no such tag: %v\n%s", err, out)
	}
}
