package registry

import (
	"archive/tar"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"time"
)

// WriteLayout writes an image as an archive of an OCI layout: what `docker save`
// would give. The same image gives the same bytes. open reads a layer, which is
// there.
func (i Image) WriteLayout(w io.Writer, open func(Blob) (io.ReadCloser, error)) error {
	t := tar.NewWriter(w)
	file := func(name string, size int64, from io.Reader) error {
		// A time that every run has: it is the digest's, too.
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}); err != nil {
			return err
		}
		_, err := io.Copy(t, from)
		return err
	}
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": typeIndex,
		"manifests": []any{map[string]any{
			"mediaType": i.MediaType, "digest": i.Digest, "size": len(i.Manifest),
			"platform": map[string]string{"os": i.Platform.OS, "architecture": i.Platform.Architecture},
		}},
	})
	if err != nil {
		return err
	}
	const blobs = "blobs/sha256/"
	for _, d := range []struct{ name, text string }{
		{"oci-layout", `{"imageLayoutVersion":"1.0.0"}`}, {"index.json", string(index)},
		{blobs + strings.TrimPrefix(i.Digest, "sha256:"), string(i.Manifest)}, {blobs + i.Config.hex(), string(i.Document)},
	} {
		if err := file(d.name, int64(len(d.text)), strings.NewReader(d.text)); err != nil {
			return err
		}
	}
	layers := i.Blobs()
	slices.SortFunc(layers, func(a, b Blob) int { return strings.Compare(a.Digest, b.Digest) })
	for _, b := range layers {
		r, err := open(b)
		if err != nil {
			return err
		}
		err = file(blobs+b.hex(), b.Size, r)
		if cerr := r.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	return t.Close()
}
