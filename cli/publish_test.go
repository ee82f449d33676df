package cli_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/client"
)

// verifying is a platform that reads what is uploaded to it.
func verifying(t *testing.T) *shell {
	t.Helper()
	s := newShell(t)
	blobs := artifacttest.NewMemory(time.Now)
	s.p.Uploads.Verify(func(ctx context.Context, up artifact.Upload) (artifact.Stored, error) {
		return artifact.Receive(ctx, blobs, up, artifact.Limits{})
	})
	t.Chdir(t.TempDir())
	return s
}

func write(t *testing.T, name string, body []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, body, 0o600); err != nil {
		t.Fatal(err)
	}
}

// What was left out of an archive is said where it is published, and stays
// with the release.
func TestPublishTellsWhatWasLeftOut(t *testing.T) {
	s := verifying(t)
	write(t, "app.tar", artifacttest.Tar(artifacttest.File("app", "x"),
		artifacttest.Entry{Name: "dev/console", Type: tar.TypeChar}, artifacttest.Entry{Name: "dev/null", Type: tar.TypeChar}))
	const note = "left out 2 device nodes, such as /dev/console: an instance has its own /dev"
	var out, errs bytes.Buffer
	if code := s.runTo(t.Context(), &out, &errs, "publish", "app.tar", "--name", "hello", "--run", "/app", "--port", "8080"); code != 0 {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	if !slices.Contains(strings.Split(errs.String(), "\n"), "Note: "+note) || strings.Contains(out.String(), "left out") {
		t.Errorf("it said %q, and %q", errs.String(), out.String())
	}
	s.settle()
	out.Reset()
	errs.Reset()
	if code := s.runTo(t.Context(), &out, &errs, "publish", "app.tar", "--name", "hello", "--json"); code != 0 {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	var published resource.Published
	if err := json.Unmarshal(out.Bytes(), &published); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if !slices.Equal(published.Release.Notes, []string{note}) || errs.Len() != 0 {
		t.Errorf("notes %q, and %q", published.Release.Notes, errs.String())
	}
	listed, err := client.Collect(s.client().Releases(t.Context(), published.Deployment.ID))
	if err != nil || len(listed) != 1 || !slices.Equal(listed[0].Notes, []string{note}) {
		t.Errorf("listed %+v: %v", listed, err)
	}
}

// An image is one whatever its file is called.
func TestPublishTellsAnImageByItsContents(t *testing.T) {
	s := verifying(t)
	img := artifacttest.Image{Layers: [][]byte{artifacttest.Tar(artifacttest.File("app", "x"))}, Config: map[string]any{"Cmd": []string{"/app"}}}
	for _, saved := range artifacttest.SavedImages(img) {
		for name, body := range map[string][]byte{"rootfs.tar.zst": saved.Bytes(), "x": artifacttest.Gzip(saved.Bytes())} {
			write(t, name, body)
			if got := s.publishes(t, name); got.Kind != "oci" || got.ArtifactManifest.Entrypoint != "/app" {
				t.Errorf("%s of %s: %+v", name, saved.Tool, got)
			}
		}
	}
	write(t, "image.oci.tar", artifacttest.Tar(artifacttest.File("app", "x")))
	if got := s.publishes(t, "image.oci.tar"); got.Kind != "rootfs" {
		t.Errorf("%+v", got)
	}
}

// publishes a file and returns its release.
func (s *shell) publishes(t *testing.T, path string, args ...string) resource.Release {
	t.Helper()
	var out, errs bytes.Buffer
	args = append([]string{"publish", path, "--name", "hello", "--run", "/app", "--port", "8080", "--json"}, args...)
	if code := s.runTo(t.Context(), &out, &errs, args...); code != 0 {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	var published resource.Published
	if err := json.Unmarshal(out.Bytes(), &published); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	s.settle()
	return published.Release
}
