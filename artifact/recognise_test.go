package artifact_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	. "github.com/miosa/miosa/artifact/artifacttest"
)

func shop() Image {
	return Image{
		Layers: [][]byte{Tar(app, File("etc/a", "1")), Tar(File("etc/.wh.a", ""), File("etc/b", "22"))},
		Config: map[string]any{"Cmd": []string{"/app"}},
	}
}

func untold(t interface{ Context() context.Context }, blobs artifact.Blobs, body []byte) (artifact.Stored, error) {
	return artifact.Receive(t.Context(), blobs, artifact.Upload{Body: bytes.NewReader(body)}, artifact.Limits{})
}

// The archives of all tools are recognised, however they are packed, whatever
// the order of what is in them; and they are nothing else.
func TestImagesAreRecognised(t *testing.T) {
	for _, saved := range SavedImages(shop()) {
		t.Run(saved.Tool, func(t *testing.T) {
			reversed := slices.Clone(saved.Entries)
			slices.Reverse(reversed)
			named := slices.SortedFunc(slices.Values(saved.Entries), func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
			for n, body := range [][]byte{
				saved.Bytes(), Gzip(saved.Bytes()), Zstd(saved.Bytes()), Tar(reversed...), Gzip(Tar(reversed...)), Tar(named...), Zstd(Tar(named...)),
			} {
				blobs := NewMemory(time.Now)
				stored, err := untold(t, blobs, body)
				if err != nil {
					t.Fatalf("%d: %v", n, err)
				}
				if stored.Kind != miosa.KindOCI || stored.Manifest != (miosa.ArtifactManifest{Files: 2, TotalBytes: int64(len("#!/bin/sh\n") + 2), Entrypoint: "/app"}) {
					t.Fatalf("%d: stored as %s %+v", n, stored.Kind, stored.Manifest)
				}
				u, err := artifact.Unpack(t.Context(), blobs, stored.Blob.SHA256, stored.Kind, artifact.Limits{}, nil)
				if err != nil || u.Tree.Root.Lookup("app") == nil {
					t.Fatalf("unpacked: %v", err)
				}
				u.Close()
				for _, kind := range []miosa.Kind{miosa.KindRootFS, miosa.KindStatic} {
					_, err := artifact.Receive(t.Context(), blobs, artifact.Upload{Kind: kind, Body: bytes.NewReader(body)}, artifact.Limits{})
					if miosa.CodeOf(err) != miosa.Invalid || !strings.Contains(fmt.Sprint(err), "image archive") {
						t.Fatalf("%d, as %s: %v", n, kind, err)
					}
				}
			}
		})
	}
}

// What only looks a little like an image is a root file system.
func TestFilesThatAreNoImage(t *testing.T) {
	for name, entries := range map[string][]Entry{
		"plain":                      {app},
		"a web app's manifest":       {app, File("manifest.json", `{"name":"shop","icons":[]}`), File("index.json", `{"a":1}`)},
		"a list of something":        {app, File("manifest.json", `[{"name":"shop"}]`), File("repositories", "{}")},
		"no JSON":                    {app, File("manifest.json", `[{"Config`), File("index.json", ""), File("oci-layout", "")},
		"an image further down":      {app, File("images/oci-layout", `{"imageLayoutVersion":"1.0.0"}`), File("usr/manifest.json", `[{"Config":"x","Layers":[]}]`)},
		"an index without its blobs": {app, File("index.json", `{"manifests":[]}`)},
		"directories of the name":    {app, Dir("manifest.json/"), Dir("oci-layout/"), Dir("blobs/sha256/")},
		"replaced":                   {File("manifest.json", `[{"Config":"x","Layers":[]}]`), Symlink("manifest.json", "app"), app},
	} {
		for _, pack := range []func([]byte) []byte{bytes.Clone, Zstd} {
			stored, err := untold(t, NewMemory(time.Now), pack(Tar(entries...)))
			if err != nil || stored.Kind != miosa.KindRootFS {
				t.Errorf("%s: stored as %q: %v", name, stored.Kind, err)
			}
		}
	}
}

// What is of an image and cannot be used is never a root file system instead.
func TestImagesThatCannotBeUsed(t *testing.T) {
	other := Image{Layers: [][]byte{Tar(File("other", ""))}}
	arm := other
	arm.Architecture = "arm64"
	without := func(entries []Entry, part string) []Entry {
		return slices.DeleteFunc(slices.Clone(entries), func(e Entry) bool { return strings.Contains(e.Name, part) })
	}
	tool := func(name string, img Image) []Entry {
		for _, s := range SavedImages(img) {
			if s.Tool == name {
				return s.Entries
			}
		}
		panic(name)
	}
	for name, c := range map[string]struct {
		entries []Entry
		public  string
		says    []string
	}{
		"several of podman":   {PodmanSave(shop().Named("localhost/shop:1"), other.Named("localhost/web:2")), "image_invalid", []string{"2 different images", "localhost/shop:1, localhost/web:2", "docker save NAME:TAG"}},
		"for another machine": {PodmanSave(arm.Named("a")), "image_platform", []string{"linux/arm64", "--platform linux/amd64"}},
		"for another machine, index of all": {
			func() []Entry {
				entries := tool("docker save, containerd's store", shop())
				for i, e := range entries {
					if strings.Contains(e.Body, `"layers":[{`) { // the manifest of ours is not in it
						entries[i].Name = "blobs/sha256/" + strings.Repeat("0", 64)
					}
				}
				return entries
			}(), "image_platform", []string{"linux/amd64 by name only", "linux/arm64"},
		},
		"layout without its index": {without(tool("podman save --format oci-archive", shop()), "index.json"), "image_invalid", []string{"index.json"}},
		"manifest alone":           {[]Entry{File("manifest.json", `[{"Config":"x.json","Layers":["y.tar"]}]`)}, "image_invalid", []string{`lacks the config "x.json"`}},
		"a directory of podman's":  {[]Entry{File("version", "Directory Transport Version: 1.1\n"), File("manifest.json", `{"schemaVersion":2,"config":{"digest":"sha256:00"},"layers":[{}]}`)}, "image_invalid", []string{"podman save --format oci-archive"}},
		"of an old Docker":         {[]Entry{File("repositories", `{"a":{}}`), File(strings.Repeat("0", 64)+"/layer.tar", "x"), File(strings.Repeat("0", 64)+"/json", "{}")}, "image_invalid", []string{"older than 1.10"}},
	} {
		for _, pack := range []func([]byte) []byte{bytes.Clone, Gzip} {
			_, err := untold(t, NewMemory(time.Now), pack(Tar(c.entries...)))
			e, ok := errors.AsType[*miosa.Error](err)
			if !ok || e.Public != c.public {
				t.Errorf("%s: received: %v", name, err)
				continue
			}
			for _, part := range c.says {
				if !strings.Contains(e.Message, part) {
					t.Errorf("%s: %q is not in: %s", name, part, e.Message)
				}
			}
		}
	}
}

// Of several images the one that runs here is meant, and of one image for
// several levels of amd64 that for the lowest.
func TestTheImageThatRunsHere(t *testing.T) {
	arm := Image{Layers: [][]byte{Tar(File("other", ""))}, Architecture: "arm64"}
	stored, err := untold(t, NewMemory(time.Now), Tar(PodmanSave(arm.Named("shop:arm"), shop().Named("shop:1"))...))
	if err != nil || stored.Kind != miosa.KindOCI || stored.Manifest.Entrypoint != "/app" {
		t.Errorf("of two platforms: %+v, %v", stored, err)
	}
	// The same image under two names is one.
	tagged := PodmanSave(shop().Named("shop:1"), shop().Named("shop:latest"))
	if stored, err = untold(t, NewMemory(time.Now), Tar(tagged...)); err != nil || stored.Manifest.Entrypoint != "/app" {
		t.Errorf("of two tags: %+v, %v", stored, err)
	}
	newer := Image{Layers: [][]byte{Tar(File("newer", "avx"))}, Config: map[string]any{"Cmd": []string{"/newer"}}}
	older := shop()
	older.Variant, newer.Variant = "v2", "v3"
	for _, order := range [][]Image{{older, newer}, {newer, older}, {newer, shop()}} {
		if stored, err = untold(t, NewMemory(time.Now), Layout(order...)); err != nil || stored.Manifest.Entrypoint != "/app" {
			t.Errorf("of two levels: %+v, %v", stored.Manifest, err)
		}
	}
	// Two that are different images, each for a level of its own, are two.
	var index []string
	var entries []Entry
	for i, img := range []Image{older, newer} {
		for _, e := range LayoutEntries(img) {
			if e.Name == "index.json" {
				index = append(index, strings.TrimSuffix(strings.SplitAfterN(e.Body, "[", 2)[1], `}],"schemaVersion":2}`)+fmt.Sprintf(`,"annotations":{"org.opencontainers.image.ref.name":"app:%d"}}`, i))
			} else if !slices.ContainsFunc(entries, func(o Entry) bool { return o.Name == e.Name }) {
				entries = append(entries, e)
			}
		}
	}
	entries = append(entries, File("index.json", `{"manifests":[`+strings.Join(index, ",")+`]}`))
	if _, err = untold(t, NewMemory(time.Now), Tar(entries...)); err == nil || !strings.Contains(err.Error(), `"app:0, app:1"`) {
		t.Errorf("of two names: %v", err)
	}
}
