// Package artifacttest makes artefacts for tests, and is the conformance
// suite of blob stores.
package artifacttest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Entry is one entry of a tar archive.
type Entry struct {
	Name     string
	Type     byte // 0: a file
	Body     string
	Link     string
	Mode     int64 // 0: 0644, directories 0755
	UID, GID int
	MTime    time.Time // zero: 1970
	Xattrs   map[string]string
}

// File, Dir, Symlink and Hardlink are the usual entries.
func File(name, body string) Entry { return Entry{Name: name, Body: body} }

// Dir is a directory.
func Dir(name string) Entry { return Entry{Name: name, Type: tar.TypeDir} }

// Symlink is a symbolic link.
func Symlink(name, target string) Entry {
	return Entry{Name: name, Type: tar.TypeSymlink, Link: target}
}

// Hardlink is a hard link.
func Hardlink(name, target string) Entry { return Entry{Name: name, Type: tar.TypeLink, Link: target} }

// Tar makes an archive. It panics on entries that tar cannot express.
func Tar(entries ...Entry) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{
			Typeflag: e.Type, Name: e.Name, Linkname: e.Link, Mode: e.Mode,
			Uid: e.UID, Gid: e.GID, ModTime: e.MTime, Size: int64(len(e.Body)),
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			if h.Mode = 0o644; h.Typeflag == tar.TypeDir {
				h.Mode = 0o755
			}
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(0, 0)
		}
		for k, v := range e.Xattrs {
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+k] = v
		}
		must(w.WriteHeader(h))
		_, err := w.Write([]byte(e.Body))
		must(err)
	}
	must(w.Close())
	return buf.Bytes()
}

// Gzip packs.
func Gzip(b []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(b)
	must(err)
	must(w.Close())
	return buf.Bytes()
}

// Zstd packs.
func Zstd(b []byte) []byte {
	w, err := zstd.NewWriter(nil)
	must(err)
	return w.EncodeAll(b, nil)
}

// Digest is the lower-case hex SHA-256.
func Digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Image describes an OCI image to make.
type Image struct {
	Name         string   // what podman saves it under
	Layers       [][]byte // plain tars
	Pack         func([]byte) []byte
	Architecture string         // "": amd64
	Variant      string         // of the architecture, in an index; "": none
	Config       map[string]any // the "config" of the image's config
}

// configJSON is the image's config.
func (i Image) configJSON() []byte {
	arch := i.Architecture
	if arch == "" {
		arch = "amd64"
	}
	diffs := []string{}
	for _, l := range i.Layers {
		diffs = append(diffs, "sha256:"+Digest(l))
	}
	return encode(map[string]any{
		"os": "linux", "architecture": arch, "config": i.Config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	})
}

func (i Image) packed() [][]byte {
	var out [][]byte
	for _, l := range i.Layers {
		if i.Pack != nil {
			l = i.Pack(l)
		}
		out = append(out, l)
	}
	return out
}

// Layout makes an OCI layout archive of images, one per platform, under one
// index.
func Layout(images ...Image) []byte { return Tar(LayoutEntries(images...)...) }

// LayoutEntries are the entries of Layout, for tests that spoil them.
func LayoutEntries(images ...Image) []Entry {
	entries := []Entry{File("oci-layout", `{"imageLayoutVersion":"1.0.0"}`), Dir("blobs/"), Dir("blobs/sha256/")}
	blob := func(mediaType string, b []byte) map[string]any {
		entries = append(entries, File("blobs/sha256/"+Digest(b), string(b)))
		return map[string]any{"mediaType": mediaType, "digest": "sha256:" + Digest(b), "size": len(b)}
	}
	var manifests []any
	for _, img := range images {
		var layers []any
		for _, l := range img.packed() {
			layers = append(layers, blob("application/vnd.oci.image.layer.v1.tar+gzip", l))
		}
		config := blob("application/vnd.oci.image.config.v1+json", img.configJSON())
		m := blob("application/vnd.oci.image.manifest.v1+json", encode(map[string]any{
			"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
			"config": config, "layers": layers,
		}))
		arch := img.Architecture
		if arch == "" {
			arch = "amd64"
		}
		m["platform"] = platform(arch)
		if img.Variant != "" {
			m["platform"] = with(platform(arch), "variant", img.Variant)
		}
		manifests = append(manifests, m)
	}
	index := encode(map[string]any{"schemaVersion": 2, "manifests": manifests})
	// An index in an index is what registries' multi-platform images look like.
	if len(images) > 1 {
		d := blob("application/vnd.oci.image.index.v1+json", index)
		index = encode(map[string]any{"schemaVersion": 2, "manifests": []any{d}})
	}
	return append(entries, File("index.json", string(index)))
}

// DockerSave makes what `docker save` wrote before version 25.
func DockerSave(img Image) []byte { return Tar(DockerSaveEntries(img)...) }

// DockerSaveEntries are the entries of DockerSave, for tests that change them.
func DockerSaveEntries(img Image) []Entry {
	config := img.configJSON()
	configName := Digest(config) + ".json"
	var entries []Entry
	var names []string
	seen := map[string]string{}
	for n, l := range img.packed() {
		dir := fmt.Sprintf("%064x", n)
		name := dir + "/layer.tar"
		entries = append(entries, Dir(dir+"/"), File(dir+"/VERSION", "1.0"))
		if first, ok := seen[Digest(l)]; ok {
			entries = append(entries, Symlink(name, "../"+first))
		} else {
			seen[Digest(l)] = name
			entries = append(entries, File(name, string(l)))
		}
		names = append(names, name)
	}
	return append(entries, File(configName, string(config)), File("repositories", "{}"),
		File("manifest.json", string(encode([]any{map[string]any{"Config": configName, "RepoTags": []string{"app:latest"}, "Layers": names}}))))
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	must(err)
	return b
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
