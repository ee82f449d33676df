package artifact_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	. "github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/artifact/local"
)

func TestCollect(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b, err := local.New(local.Config{Dir: t.TempDir(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	put := func(name string) string {
		body := Tar(File(name, strings.Repeat(name, 1000)))
		stored, err := artifact.Receive(t.Context(), b, artifact.Upload{Kind: miosa.KindRootFS, Body: bytes.NewReader(body)}, artifact.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		return stored.Blob.SHA256
	}
	used, unused, again := put("used"), put("unused"), put("again")
	now = now.Add(2 * time.Hour)
	young := put("young")
	put("again") // the same bytes, uploaded anew: about to be used
	going, err := b.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(going, "an upload in progress"); err != nil {
		t.Fatal(err)
	}

	got, err := artifact.Collect(t.Context(), b, func(sha string) bool { return sha == used }, now.Add(-time.Hour))
	if err != nil || got.Blobs != 1 || got.Bytes == 0 {
		t.Errorf("collected %+v, %v", got, err)
	}
	if _, err := b.Stat(t.Context(), unused); miosa.CodeOf(err) != miosa.NotFound {
		t.Errorf("what nothing references is still there: %v", err)
	}
	for _, sha := range []string{used, again, young} {
		if _, err := b.Stat(t.Context(), sha); err != nil {
			t.Errorf("collected too much: %v", err)
		}
	}
	if _, err := going.Commit(); err != nil {
		t.Errorf("the upload in progress suffered: %v", err)
	}
}

// TestUploadDuringCollect: the same bytes come in after they were judged
// unreferenced and before they are deleted.
func TestUploadDuringCollect(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b, err := local.New(local.Config{Dir: t.TempDir(), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	put := func() string {
		stored, err := artifact.Receive(t.Context(), b, artifact.Upload{Kind: miosa.KindRootFS, Body: bytes.NewReader(Tar(app))}, artifact.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		return stored.Blob.SHA256
	}
	sha := put()
	now = now.Add(2 * time.Hour)
	got, err := artifact.Collect(t.Context(), b, func(string) bool { put(); return false }, now.Add(-time.Hour))
	if err != nil || got.Blobs != 0 {
		t.Errorf("collected %+v, %v", got, err)
	}
	if _, err := b.Stat(t.Context(), sha); err != nil {
		t.Error(err)
	}
}
