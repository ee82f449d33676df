package registrytest

import (
	"archive/tar"
	"bytes"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Layer packs files as a layer, gzipped. A file's content that begins with @ is
// that of the file it names.
func Layer(t *testing.T, files map[string]string) v1.Layer {
	t.Helper()
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for path, text := range files {
		raw := []byte(text)
		if len(text) > 0 && text[0] == '@' {
			var err error
			if raw, err = os.ReadFile(text[1:]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o755, Size: int64(len(raw))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(raw); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

// Noise is text that does not compress, the same for the same seed.
func Noise(seed uint64, size int) string {
	r := rand.New(rand.NewPCG(seed, seed))
	raw := make([]byte, size)
	for i := range raw {
		raw[i] = byte(r.Uint32())
	}
	return string(raw)
}

// Image makes one of layers.
func Image(t *testing.T, architecture string, config v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", architecture, config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	return img
}

// Index makes one of images, by platform: "linux/arm64".
func Index(t *testing.T, images map[string]v1.Image) v1.ImageIndex {
	t.Helper()
	index := v1.ImageIndex(empty.Index)
	for platform, img := range images {
		p, err := v1.ParsePlatform(platform)
		if err != nil {
			t.Fatal(err)
		}
		add := mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: p}}
		if platform == "unknown/unknown" {
			add.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
		}
		index = mutate.AppendManifests(index, add)
	}
	return index
}

// Push puts an image, or an index, into the registry: reference is the part
// behind its host.
func (r *Registry) Push(t *testing.T, reference string, what any) {
	t.Helper()
	var options []name.Option
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // the standard library's own
	if r.opts.CA == nil {
		options = append(options, name.Insecure)
	} else {
		transport.TLSClientConfig = &tls.Config{RootCAs: r.opts.CA.Pool, MinVersion: tls.VersionTLS12}
	}
	if r.opts.Token != nil {
		transport.TLSClientConfig = &tls.Config{RootCAs: r.opts.Token.ca.Pool, MinVersion: tls.VersionTLS12}
	}
	defer transport.CloseIdleConnections()
	ref, err := name.ParseReference(r.Host+"/"+reference, options...)
	if err != nil {
		t.Fatal(err)
	}
	remotely := []remote.Option{remote.WithTransport(transport), remote.WithContext(t.Context())}
	if r.opts.User != "" {
		remotely = append(remotely, remote.WithAuth(authn.FromConfig(authn.AuthConfig{Username: r.opts.User, Password: r.opts.Password})))
	}
	switch v := what.(type) {
	case v1.Image:
		err = remote.Write(ref, v, remotely...)
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, v, remotely...)
	default:
		t.Fatalf("%T is nothing to push", what)
	}
	if err != nil {
		t.Fatalf("push %s: %v", reference, err)
	}
}
