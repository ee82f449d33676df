package artifact

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"

	"github.com/miosa/miosa"
)

// What an archive is, is told by what is in it: neither its name nor who sent it
// say so reliably, and an image that ran as a root file system would be a
// mystery to its owner.

// errImage says that what was read as a file system is an image's archive.
var errImage = errors.New("the archive is an image's")

// telling are the files at an archive's root that say that it is an image's.
var telling = []string{"manifest.json", "index.json", "oci-layout"}

// document keeps the text of a file that tells what the archive is.
func (l *layers) document(name string, c *content) error {
	if err := l.tree.share.Grow(costByte * c.left); err != nil {
		return memoryError(err, l.limits.Memory)
	}
	text := make([]byte, c.left)
	if _, err := io.ReadFull(c, text); err != nil {
		return err
	}
	l.documents[name] = text
	return nil
}

// told decodes one of the telling files, and reports whether it is there and
// what into is.
func (l *layers) told(name string, into any) (bool, error) {
	text, ok := l.documents[name]
	values := bytes.Count(text, []byte{','})
	if n := l.tree.Root.Lookup(name); !ok || n == nil || n.Type != File || values > maxValues {
		return false, nil
	}
	if err := l.tree.share.Grow(costValue * int64(values+1)); err != nil {
		return false, memoryError(err, l.limits.Memory)
	}
	return json.Unmarshal(text, into) == nil, nil
}

// recognise is errImage for the archive of an image, or says what to do with
// one that is of another shape.
func (l *layers) recognise() error {
	var layout struct {
		Version string `json:"imageLayoutVersion"`
	}
	if ok, err := l.told("oci-layout", &layout); err != nil || ok && layout.Version != "" {
		return orImage(err)
	}
	var index struct {
		Manifests []json.RawMessage `json:"manifests"`
	}
	if ok, err := l.told("index.json", &index); err != nil || ok && index.Manifests != nil && l.isDir("blobs", "sha256") {
		return orImage(err)
	}
	var saved []savedImage
	if ok, err := l.told("manifest.json", &saved); err != nil || ok && len(saved) > 0 && saved[0].Config != "" && saved[0].Layers != nil {
		return orImage(err)
	}
	var single manifest
	if ok, err := l.told("manifest.json", &single); err != nil || ok && single.Config.Digest != "" && single.Layers != nil {
		if err == nil {
			err = invalid(CodeImageInvalid, "this is an image saved as a directory (docker-dir); save it as an archive: podman save --format oci-archive, or docker save")
		}
		return err
	}
	if name, dir := l.tree.only(); dir != nil && (dir.Lookup("oci-layout") != nil || savedIn(dir)) {
		return invalid(CodeNotArchive, "everything in the archive is in one folder, %s, which holds an image: pack what is in it (tar -C %[2]s -c . | gzip > image.tar.gz)",
			shownPath(name), shellWord(name))
	}
	if root := l.tree.Root; root.Lookup("repositories") != nil && root.Lookup("manifest.json") == nil {
		for name, c := range root.children {
			if IsDigest(name) && c.node.Type == Dir && c.node.Lookup("layer.tar") != nil {
				return invalid(CodeImageInvalid, "this is an image saved by a Docker older than 1.10, which is not read; save it with a newer one")
			}
		}
	}
	return nil
}

func orImage(err error) error {
	if err == nil {
		err = errImage
	}
	return err
}

func (l *layers) isDir(path ...string) bool {
	n := l.tree.Root
	for _, leaf := range path {
		if n = n.Lookup(leaf); n == nil || n.Type != Dir {
			return false
		}
	}
	return true
}

// notFiles tells those who called an image's archive something else what to do.
func notFiles(kind miosa.Kind) error {
	return invalid(CodeNotArchive, "this is an image archive (OCI layout or docker save), and was sent as kind=%s; leave the kind out, or upload it with kind=oci", kind)
}

// savedImage is one of those that `docker save` lists in manifest.json.
type savedImage struct {
	Config   string   `json:"Config"`
	RepoTags []string `json:"RepoTags"`
	Layers   []string `json:"Layers"`
}

// called lists what images are called, for messages.
func called(names []string) string {
	const most = 10
	more := ""
	if len(names) > most {
		names, more = names[:most], ", …"
	}
	return shownName(strings.Join(names, ", ")) + more
}
