package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/ration"
)

const (
	maxLayers = 512
	maxNested = 4       // indexes in indexes
	maxListed = 1000    // images in one index
	maxValues = 1 << 16 // listed in one document: see ration
)

// The forms that are read, as the registry is asked for them.
const (
	typeIndex      = "application/vnd.oci.image.index.v1+json"
	typeList       = "application/vnd.docker.distribution.manifest.list.v2+json"
	typeManifest   = "application/vnd.oci.image.manifest.v1+json"
	typeDocker     = "application/vnd.docker.distribution.manifest.v2+json"
	acceptManifest = typeIndex + ", " + typeList + ", " + typeManifest + ", " + typeDocker
)

// Blob is something that a manifest names.
type Blob struct {
	Digest string // "sha256:…"
	Size   int64  // bytes
}

// hex is the digest without its algorithm.
func (b Blob) hex() string { return strings.TrimPrefix(b.Digest, "sha256:") }

// Image is one image for one platform.
type Image struct {
	Digest    string // of its manifest: pulling that gives these bytes and no others
	Platform  Platform
	MediaType string // of the manifest
	Manifest  []byte
	Config    Blob
	Document  []byte // the config itself
	Layers    []Blob // lowest first; one may stand there twice
}

// Bytes is what its layers take, packed, each counted once.
func (i Image) Bytes() int64 {
	var n int64
	for _, b := range i.Blobs() {
		n += b.Size
	}
	return n
}

// Blobs are the layers, each once.
func (i Image) Blobs() []Blob {
	var out []Blob
	for _, b := range i.Layers {
		if !slices.ContainsFunc(out, func(o Blob) bool { return o.Digest == b.Digest }) {
			out = append(out, b)
		}
	}
	return out
}

type descriptor struct {
	MediaType string   `json:"mediaType"`
	Digest    string   `json:"digest"`
	Size      int64    `json:"size"`
	URLs      []string `json:"urls"`
	Platform  *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
		Variant      string `json:"variant"`
	} `json:"platform"`
	Annotations map[string]string `json:"annotations"`
}

// manifest reads an index and an image manifest: what is filled tells which.
type manifest struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Manifests     []descriptor    `json:"manifests"`
	Config        descriptor      `json:"config"`
	Layers        []descriptor    `json:"layers"`
	FSLayers      json.RawMessage `json:"fsLayers"` // schema 1
}

func (m manifest) index(mediaType string) bool {
	return mediaType == typeIndex || mediaType == typeList || len(m.Manifests) > 0
}

// schema1 tells the form of before 2016.
func schema1(mediaType string, raw []byte) bool {
	return strings.HasPrefix(mediaType, "application/vnd.docker.distribution.manifest.v1+") ||
		bytes.Contains(raw[:min(len(raw), 200)], []byte(`"schemaVersion": 1`)) || bytes.Contains(raw[:min(len(raw), 200)], []byte(`"schemaVersion":1,`))
}

// Resolve finds what the reference means on a platform. While the registry is
// waited for, no memory of Config.Memory is held: only to read what came. Errors
// are *miosa.Error in words for who gave the reference, or the context's own.
func (s *Source) Resolve(ctx context.Context, platform Platform) (Image, error) {
	ref, digest := s.ref.Tag, ""
	what := "tag " + s.ref.Tag + " of " + s.ref.Repository
	if s.ref.Digest != "" {
		ref, digest = s.ref.Digest, s.ref.Digest
		what = "image " + s.ref.Digest + " in " + s.ref.Repository
	}
	var others []string
	for range maxNested {
		raw, mediaType, err := s.document(ctx, "manifests/"+ref, acceptManifest, digest, what)
		if err != nil {
			return Image{}, err
		}
		var img Image
		next := ""
		err = s.read(ctx, func() error {
			if schema1(mediaType, raw) {
				return invalid(CodeFormat, "%s is kept in docker's form of before 2016 (schema 1), which is not read: push it again with a docker of today", s.ref)
			}
			var m manifest
			err := decode(raw, &m, what)
			switch {
			case err != nil:
			case m.index(mediaType):
				next, err = s.choose(m, platform, &others)
			default:
				img, err = s.image(raw, mediaType, m, platform)
			}
			return err
		})
		if err != nil {
			return Image{}, err
		}
		if next == "" {
			return s.configured(ctx, img, others)
		}
		ref, digest = next, next
		what = "image " + next + " for " + platform.String()
	}
	return Image{}, invalid(CodeFormat, "%s is an index in an index, more than %d deep", s.ref, maxNested)
}

// read takes the memory that reading one document takes, for as long as fn does
// so. fn waits for nobody, and what it leaves has a few KB.
func (s *Source) read(ctx context.Context, fn func() error) error {
	share, err := s.cfg.Memory.Take(ctx, ration.Terms{Patience: -1, Unbounded: true}, documents)
	if err != nil {
		return err
	}
	defer share.Release()
	return fn()
}

// choose picks what an index has for a platform, by its digest.
func (s *Source) choose(m manifest, platform Platform, others *[]string) (string, error) {
	if len(m.Manifests) > maxListed {
		return "", invalid(CodeFormat, "%s is an index of more than %d images", s.ref, maxListed)
	}
	var found, unsaid []descriptor
	for _, d := range m.Manifests {
		if d.Annotations["vnd.docker.reference.type"] != "" {
			continue // an attestation, about one of the others
		}
		switch p := d.Platform; {
		case p == nil || p.OS == "" && p.Architecture == "":
			unsaid = append(unsaid, d)
		case p.OS == platform.OS && p.Architecture == platform.Architecture:
			found = append(found, d)
		case p.OS == "unknown":
		default:
			name := p.OS + "/" + p.Architecture
			if p.Variant != "" {
				name += "/" + p.Variant
			}
			noteOther(others, name)
		}
	}
	// The plainest first: a variant may want more than the processor has.
	slices.SortStableFunc(found, func(a, b descriptor) int { return strings.Compare(a.Platform.Variant, b.Platform.Variant) })
	if len(found) == 0 && len(unsaid) == 1 {
		found = unsaid // its config has the word
	}
	if len(found) == 0 {
		return "", s.noPlatform(platform, *others)
	}
	return found[0].Digest, checkDigest(found[0].Digest)
}

func (s *Source) noPlatform(platform Platform, others []string) error {
	has := "it has none at all"
	if len(others) > 0 {
		slices.Sort(others)
		has = "there is: " + strings.Join(others, ", ")
	}
	return invalid(CodePlatform, "%s has no image for %s; %s. Build it with: docker build --platform %s", s.ref, platform, has, platform)
}

// noteOther keeps as much of what there is instead as fits into a message.
func noteOther(others *[]string, what string) {
	const most, length = 20, 60
	what = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '?'
		}
		return r
	}, strings.Clone(what[:min(len(what), length)]))
	if len(*others) < most && !slices.Contains(*others, what) {
		*others = append(*others, what)
	}
}

// image is what a manifest says of an image.
func (s *Source) image(raw []byte, mediaType string, m manifest, platform Platform) (Image, error) {
	img := Image{Digest: digestOf(raw), Platform: platform, MediaType: mediaType, Manifest: raw}
	if m.MediaType != "" {
		img.MediaType = m.MediaType
	}
	if img.MediaType != typeManifest && img.MediaType != typeDocker {
		return Image{}, invalid(CodeFormat, "%s is something of type %s, which is no image", s.ref, shown(img.MediaType))
	}
	if t := m.Config.MediaType; t != "application/vnd.oci.image.config.v1+json" && t != "application/vnd.docker.container.image.v1+json" {
		return Image{}, invalid(CodeFormat, "%s is no image that runs but something of type %s", s.ref, shown(t))
	}
	if len(m.Layers) == 0 {
		return Image{}, invalid(CodeFormat, "%s has no layers: there is nothing to run in it", s.ref)
	}
	if len(m.Layers) > maxLayers {
		return Image{}, invalid(CodeFormat, "%s has %d layers; at most %d are read", s.ref, len(m.Layers), maxLayers)
	}
	var sum int64
	for n, d := range m.Layers {
		if err := s.checkLayer(n, d); err != nil {
			return Image{}, err
		}
		if sum += d.Size; d.Size > s.cfg.Bytes || sum > s.cfg.Bytes {
			e := miosa.Errorf(miosa.TooLarge, "%s has layers of more than %d MB, which is the limit", s.ref, s.cfg.Bytes/1e6)
			e.Public = CodeTooLarge
			return Image{}, e
		}
		img.Layers = append(img.Layers, Blob{Digest: d.Digest, Size: d.Size})
	}
	img.Config.Digest = m.Config.Digest
	return img, checkDigest(m.Config.Digest)
}

// configured reads the config that a manifest names.
func (s *Source) configured(ctx context.Context, img Image, others []string) (Image, error) {
	what := "the config of " + s.ref.String()
	config, _, err := s.document(ctx, "blobs/"+img.Config.Digest, "", img.Config.Digest, what)
	if err != nil {
		return Image{}, err
	}
	err = s.read(ctx, func() error {
		var c struct {
			OS           string `json:"os"`
			Architecture string `json:"architecture"`
		}
		if err := decode(config, &c, what); err != nil {
			return err
		}
		if c.OS != "" && c.OS != img.Platform.OS || c.Architecture != "" && c.Architecture != img.Platform.Architecture {
			noteOther(&others, c.OS+"/"+c.Architecture)
			return s.noPlatform(img.Platform, others)
		}
		return nil
	})
	if err != nil {
		return Image{}, err
	}
	img.Document, img.Config.Size = config, int64(len(config))
	return img, nil
}

// checkLayer refuses what is no file system, or lies elsewhere.
func (s *Source) checkLayer(n int, d descriptor) error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 {
		return invalid(CodeFormat, "layer %d of %s has a size below 0", n+1, s.ref)
	}
	base, packing, _ := strings.Cut(d.MediaType, "+")
	foreign := len(d.URLs) > 0
	switch base {
	case "application/vnd.oci.image.layer.nondistributable.v1.tar", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar":
		foreign = true
	case "application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar.zstd":
	default:
		return invalid(CodeFormat, "layer %d of %s is of type %s, which is not a file system", n+1, s.ref, shown(d.MediaType))
	}
	switch {
	case foreign:
		return invalid(CodeFormat, "layer %d of %s is a foreign one: it is not kept in the registry but elsewhere, which is not followed; build the image on a base without such layers", n+1, s.ref)
	case strings.Contains(packing, "encrypted"):
		return invalid(CodeFormat, "layer %d of %s is encrypted", n+1, s.ref)
	}
	return nil
}

func checkDigest(digest string) error {
	if sum, ok := strings.CutPrefix(digest, "sha256:"); !ok || !artifact.IsDigest(sum) {
		return invalid(CodeFormat, "the image names something by the digest %s; only SHA-256 is read", shown(digest))
	}
	return nil
}

// decode reads one document, whose share is taken.
func decode(raw []byte, into any, what string) error {
	if bytes.Count(raw, []byte{','}) > maxValues {
		return invalid(CodeFormat, "%s is described by more than %d values", what, maxValues)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		// The error quotes it.
		return invalid(CodeFormat, "%s is not described in JSON as it should be", what)
	}
	return nil
}
