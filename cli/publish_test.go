package cli_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

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
	return *published.Release
}

// What a pipe brings is published as it comes: docker save shop | miosa publish -
func TestPublishFromStandardInput(t *testing.T) {
	s := verifying(t)
	img := artifacttest.Image{Layers: [][]byte{artifacttest.Tar(artifacttest.File("app", strings.Repeat("some program", 100_000)))}, Config: map[string]any{"Cmd": []string{"/app"}}}
	for _, body := range [][]byte{artifacttest.DockerSave(img), artifacttest.Gzip(artifacttest.DockerSave(img))} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() {
			_, err := w.Write(body)
			sent <- errors.Join(err, w.Close())
		}()
		s.typing = r
		if got := s.publishes(t, "-"); got.Kind != "oci" || got.SizeBytes != int64(len(body)) || got.SHA256 != artifacttest.Digest(body) {
			t.Errorf("%+v", got)
		}
		if err := errors.Join(<-sent, r.Close()); err != nil {
			t.Error(err)
		}
	}
	// A named pipe is one, too.
	if err := unix.Mkfifo("pipe", 0o600); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() { sent <- os.WriteFile("pipe", artifacttest.DockerSave(img), 0) }()
	if got := s.publishes(t, "pipe"); got.Kind != "oci" {
		t.Errorf("%+v", got)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	// What has no beginning makes no deployment, and what has no end no release.
	s.typing = strings.NewReader("")
	if got := s.says(1, "publish", "-", "--name", "other"); !strings.Contains(got, "standard input: nothing came in") {
		t.Errorf("it said %q", got)
	}
	s.typing = iotest.ErrReader(errors.New("the pipe broke"))
	if got := s.says(1, "publish", "-", "--name", "other"); !strings.Contains(got, "the pipe broke") {
		t.Errorf("it said %q", got)
	}
	if got := s.says(0, "deployments", "ls"); strings.Contains(got, "other") {
		t.Errorf("a deployment was made: %s", got)
	}
	body := artifacttest.DockerSave(img)
	s.typing = bytes.NewReader(body[:len(body)-3000])
	if got := s.says(1, "publish", "-", "--name", "hello"); !strings.Contains(got, "truncated") {
		t.Errorf("it said %q", got)
	}
	s.typing = io.MultiReader(bytes.NewReader(body[:5000]), iotest.ErrReader(errors.New("the pipe broke")))
	if got := s.says(1, "publish", "-", "--name", "hello"); !strings.Contains(got, "the pipe broke") {
		t.Errorf("it said %q", got)
	}
	person, program := terminal(t)
	defer person.Close()
	s.typing = program
	if got := s.says(2, "publish", "-", "--name", "hello"); !strings.Contains(got, "docker save shop | miosa publish - --name shop") {
		t.Errorf("it said %q", got)
	}
}

// A terminal sees how much was sent, though nobody knows of how much.
func TestProgressWithoutATotal(t *testing.T) {
	s := verifying(t)
	s.terminal = true
	body := artifacttest.Tar(artifacttest.File("app", strings.Repeat("x", 3<<20)))
	r, w := io.Pipe()
	s.typing = r
	shown := watch("uploading 2.0 MB")
	go func() {
		_, err := w.Write(body[:2<<20])
		<-shown.found // the spinner goes on by itself
		if err == nil {
			_, err = w.Write(body[2<<20:])
		}
		_ = w.CloseWithError(err)
	}()
	var out bytes.Buffer
	if code := s.runTo(t.Context(), &out, shown, "publish", "-", "--name", "hello", "--run", "/app", "--port", "8080"); code != 0 {
		t.Fatalf("exit %d: %s", code, shown.String())
	}
	if strings.Contains(shown.String(), " of -") || strings.Contains(shown.String(), "-1") {
		t.Errorf("it showed %q", shown.String())
	}
}

// TestRollbackOfAFirstPublish calls it off: there is nothing to go back to.
func TestRollbackOfAFirstPublish(t *testing.T) {
	s := newShell(t)
	file := s.file("a.tar")
	s.prints("publish", file, "--name", "shop", "--run", "/app/held", "--wait=false")
	if out := s.prints("rollback", "shop"); out != "The publish of shop is cancelled. Nothing is live, as before.\n" {
		t.Error(out)
	}
	if out := s.says(1, "rollback", "shop"); !strings.Contains(out, "nothing was live in production before") {
		t.Error(out)
	}
	s.prints("publish", file, "--name", "shop", "--run", "/app/server")
}
