package artifact

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/ration"
)

// blame fails unless err is none or the archive's fault.
func blame(t *testing.T, err error) {
	t.Helper()
	if code := miosa.CodeOf(err); err != nil && code != miosa.Invalid && code != miosa.TooLarge {
		t.Fatalf("refused with %s: %v", code, err)
	}
}

// FuzzUnzip feeds arbitrary bytes to the decoders: none panics, none gives more
// than it may, all give their memory back.
func FuzzUnzip(f *testing.F) {
	text := []byte(strings.Repeat("some text, and ", 1000))
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, err := w.Write(text)
	if err := errors.Join(err, w.Close()); err != nil {
		f.Fatal(err)
	}
	f.Add(z.Bytes())
	f.Add(append(bytes.Clone(z.Bytes()), z.Bytes()...))
	for _, window := range []int{1 << 10, 1 << 20, 16 << 20} {
		var z bytes.Buffer
		w, err := zstd.NewWriter(&z, zstd.WithWindowSize(window))
		if err != nil {
			f.Fatal(err)
		}
		_, err = w.Write(text)
		if err := errors.Join(err, w.Flush(), w.Close()); err != nil {
			f.Fatal(err)
		}
		f.Add(z.Bytes())
		f.Add(append([]byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 'x'}, z.Bytes()...))
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, packed []byte) {
		limits := Limits{Memory: ration.New(0, 24<<20), Time: 64 << 20}.withDefaults()
		s, err := limits.Memory.Take(t.Context(), ration.Terms{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Release()
		u, err := decompress(bytes.NewReader(packed), nil, limits, newAllowance(limits, int64(len(packed)), false), s)
		if err != nil {
			blame(t, archiveError(err, ""))
			return
		}
		n, err := io.Copy(io.Discard, u)
		blame(t, archiveError(err, ""))
		if most := max(limits.Time, limits.Ratio*int64(len(packed))) + 1<<20; n > most {
			t.Fatalf("%d bytes became %d", len(packed), n)
		}
		u.close()
		if err := s.Grow(limits.Memory.Most()); err != nil { // all of it is there again
			t.Fatal(err)
		}
	})
}

// FuzzDocuments feeds arbitrary documents in as an image's: its index, its
// manifest, its config. In the text "0", "1" and "2" between percent signs
// stand for the digests of the second, the third, and a layer.
func FuzzDocuments(f *testing.F) {
	f.Add(`{"manifests":[{"mediaType":"x","digest":"sha256:%0%","size":-1,"platform":{"os":"linux","architecture":"amd64"}}]}`,
		`{"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%1%","size":-1},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%2%","size":-1}]}`,
		`{"os":"linux","architecture":"amd64","config":{"Env":["A=1"],"Cmd":["x"],"ExposedPorts":{"80/tcp":{}}},"rootfs":{"diff_ids":["sha256:%2%"]}}`)
	f.Add(`{"manifests":[{"digest":"sha256:%0%","size":-1}]}`, `{"manifests":[{"digest":"sha256:%1%","size":-1}]}`, `{"manifests":[{"digest":"sha256:%2%","size":-1}]}`)
	f.Add(`[{"Config":"blobs/sha256/%0%","Layers":["blobs/sha256/%2%"]}]`, `{"rootfs":{"diff_ids":["sha256:%2%"]}}`, ``)
	f.Fuzz(func(t *testing.T, index, manifest, config string) {
		limits := Limits{Memory: ration.New(0, 8<<20)}.withDefaults()
		s, err := limits.Memory.Take(t.Context(), ration.Terms{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Release()
		var data []byte
		a := &archive{files: map[string]file{}, links: map[string]string{}, memory: limits.Memory, share: s}
		add := func(name, text string) string {
			sum := sha256.Sum256([]byte(text))
			digest := hex.EncodeToString(sum[:])
			if name == "" {
				name = "blobs/sha256/" + digest
			}
			a.files[name] = file{name: name, offset: int64(len(data)), size: int64(len(text)), sha256: digest}
			data = append(data, text...)
			return digest
		}
		layer := add("", "a layer")
		config = strings.ReplaceAll(config, "%2%", layer)
		second := add("", config)
		manifest = strings.NewReplacer("%1%", second, "%2%", layer).Replace(manifest)
		first := add("", manifest)
		name := "index.json"
		if strings.HasPrefix(index, "[") {
			name = "manifest.json"
		}
		add(name, strings.NewReplacer("%0%", first, "%1%", second, "%2%", layer).Replace(index))
		a.data = bytes.NewReader(data)
		img, err := readImage(a)
		blame(t, err)
		if err != nil {
			return
		}
		if len(img.layers) == 0 || len(img.diffs) != 0 && len(img.diffs) != len(img.layers) {
			t.Fatalf("%d layers, %d digests", len(img.layers), len(img.diffs))
		}
		c := img.config.defaults()
		_ = entrypoint(c)
		for _, port := range c.ExposedPorts {
			if port < 1 || port > 65535 {
				t.Fatalf("port %d", port)
			}
		}
	})
}
