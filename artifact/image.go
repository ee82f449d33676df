package artifact

import (
	"encoding/json"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/miosa/miosa"
)

// The platform that instances run on.
const (
	imageOS           = "linux"
	imageArchitecture = "amd64"
)

const (
	maxLayers      = 512
	maxIndexDepth  = 4
	maxImageConfig = 256 << 10 // bytes of commands and environment in an image's config
)

type descriptor struct {
	MediaType string `json:"mediaType"`
	Digest    string `json:"digest"`
	Size      int64  `json:"size"`
	Platform  *struct {
		OS           string `json:"os"`
		Architecture string `json:"architecture"`
	} `json:"platform"`
	Annotations map[string]string `json:"annotations"`
}

// manifest reads both an index and an image manifest: what is filled tells which.
type manifest struct {
	MediaType string       `json:"mediaType"`
	Manifests []descriptor `json:"manifests"`
	Config    descriptor   `json:"config"`
	Layers    []descriptor `json:"layers"`
}

type imageConfig struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Config       struct {
		User         string                     `json:"User"`
		Env          []string                   `json:"Env"`
		Entrypoint   []string                   `json:"Entrypoint"`
		Cmd          []string                   `json:"Cmd"`
		WorkingDir   string                     `json:"WorkingDir"`
		ExposedPorts map[string]json.RawMessage `json:"ExposedPorts"`
		StopSignal   string                     `json:"StopSignal"`
	} `json:"config"`
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// image is the one image of an archive that will run.
type image struct {
	config imageConfig
	layers []file   // lowest first
	diffs  []string // digests of the unpacked layers, as many as layers or none
}

// readImage finds the image for linux/amd64 in an OCI layout or a `docker
// save` archive. What other platforms need may be missing from it.
func readImage(a *archive) (image, error) {
	if f, ok := a.open("index.json"); ok {
		return readLayout(a, f)
	}
	if f, ok := a.open("manifest.json"); ok {
		return readDocker(a, f)
	}
	return image{}, invalid(CodeImageInvalid,
		"the archive is not an OCI image: it has neither index.json (OCI layout) nor manifest.json (docker save); it begins with %s",
		shownName(strings.Join(a.names(5), ", ")))
}

func readLayout(a *archive, f file) (image, error) {
	var index manifest
	if err := a.decode(f, &index); err != nil {
		return image{}, err
	}
	found := map[string]descriptor{} // by digest: tags of one image count once
	var others []string
	if err := collectManifests(a, index.Manifests, 0, map[string]bool{}, found, &others); err != nil {
		return image{}, err
	}
	switch len(found) {
	case 0:
		slices.Sort(others)
		return image{}, invalid(CodeNoPlatform, "the archive has no image for %s/%s; it has: %s",
			imageOS, imageArchitecture, shownName(strings.Join(others, ", ")))
	case 1:
	default:
		return image{}, invalid(CodeImageInvalid, "the archive holds %d different images for %s/%s; save one image alone",
			len(found), imageOS, imageArchitecture)
	}
	for _, d := range found {
		return readManifest(a, d)
	}
	panic("unreachable")
}

// collectManifests gathers the image manifests of our platform, each digest
// looked at once.
func collectManifests(a *archive, list []descriptor, depth int, seen map[string]bool, found map[string]descriptor, others *[]string) error {
	if depth > maxIndexDepth || len(list) > 1000 {
		return invalid(CodeImageInvalid, "the image's index is nested too deeply or too long")
	}
	for _, d := range list {
		if d.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
			continue
		}
		if p := d.Platform; p != nil && (p.OS != imageOS || p.Architecture != imageArchitecture) {
			noteOther(others, p.OS+"/"+p.Architecture)
			continue
		}
		if seen[d.Digest] {
			continue
		}
		seen[d.Digest] = true
		f, err := a.blob(d.Digest, d.Size)
		if err != nil {
			return err
		}
		var m manifest
		if err := a.decode(f, &m); err != nil {
			return err
		}
		if len(m.Manifests) > 0 {
			if err := collectManifests(a, m.Manifests, depth+1, seen, found, others); err != nil {
				return err
			}
			continue
		}
		if !configMediaType(m.Config.MediaType) {
			noteOther(others, "something of type "+m.Config.MediaType)
			continue
		}
		if d.Platform == nil {
			// Without a platform on the descriptor the config has the word.
			f, err := a.blob(m.Config.Digest, m.Config.Size)
			if err != nil {
				return err
			}
			var c imageConfig
			if err := a.decode(f, &c); err != nil {
				return err
			}
			if !c.runsHere() {
				noteOther(others, c.OS+"/"+c.Architecture)
				continue
			}
		}
		found[d.Digest] = descriptor{Digest: d.Digest, Size: d.Size} // the rest may be long
	}
	return nil
}

// noteOther keeps what an archive has instead of an image that runs here: as
// much as fits into a message, since there may be gigabytes.
func noteOther(others *[]string, what string) {
	const most, length = 20, 100
	what = strings.Clone(what[:min(len(what), length)])
	if len(*others) < most && !slices.Contains(*others, what) {
		*others = append(*others, what)
	}
}

// configMediaType tells images from signatures and other things that
// registries keep in the same shape.
func configMediaType(t string) bool {
	return t == "" || t == "application/vnd.oci.image.config.v1+json" || t == "application/vnd.docker.container.image.v1+json"
}

func (c imageConfig) runsHere() bool {
	return (c.OS == imageOS || c.OS == "") && (c.Architecture == imageArchitecture || c.Architecture == "")
}

func readManifest(a *archive, d descriptor) (image, error) {
	f, err := a.blob(d.Digest, d.Size)
	if err != nil {
		return image{}, err
	}
	var m manifest
	if err := a.decode(f, &m); err != nil {
		return image{}, err
	}
	if f, err = a.blob(m.Config.Digest, m.Config.Size); err != nil {
		return image{}, err
	}
	var img image
	if err := a.decode(f, &img.config); err != nil {
		return image{}, err
	}
	if len(m.Layers) > maxLayers {
		return image{}, invalid(CodeImageInvalid, "the image has %d layers; at most %d are read", len(m.Layers), maxLayers)
	}
	for _, layer := range m.Layers {
		if !layerMediaType(layer.MediaType) {
			return image{}, invalid(CodeImageInvalid, "the image has a layer of type %s, which is not a file system", shownName(layer.MediaType))
		}
		if f, err = a.blob(layer.Digest, layer.Size); err != nil {
			return image{}, err
		}
		img.layers = append(img.layers, f)
	}
	return img.checked()
}

// layerMediaType: the bytes say how a layer is packed; the type only whether
// it is one.
func layerMediaType(t string) bool {
	base, _, _ := strings.Cut(t, "+")
	switch base {
	case "application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.nondistributable.v1.tar":
		return !strings.HasSuffix(t, "+encrypted")
	case "application/vnd.docker.image.rootfs.diff.tar", "application/vnd.docker.image.rootfs.diff.tar.gzip",
		"application/vnd.docker.image.rootfs.diff.tar.zstd", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":
		return true
	}
	return false
}

// readDocker reads what `docker save` wrote before it wrote OCI layouts.
func readDocker(a *archive, f file) (image, error) {
	var list []struct {
		Config string   `json:"Config"`
		Layers []string `json:"Layers"`
	}
	if err := a.decode(f, &list); err != nil {
		return image{}, err
	}
	if len(list) != 1 {
		return image{}, invalid(CodeImageInvalid, "the archive holds %d images; save one image alone", len(list))
	}
	m := list[0]
	config, ok := a.open(m.Config)
	if !ok {
		return image{}, invalid(CodeImageInvalid, "the image archive lacks the config %s that its manifest names", shownName(m.Config))
	}
	if sum := strings.TrimSuffix(path.Base(m.Config), ".json"); IsDigest(sum) && sum != config.sha256 {
		return image{}, invalid(CodeDigestMismatch, "entry %s of the image archive is damaged: its bytes have the digest sha256:%s", shownName(m.Config), config.sha256)
	}
	var img image
	if err := a.decode(config, &img.config); err != nil {
		return image{}, err
	}
	if len(m.Layers) > maxLayers {
		return image{}, invalid(CodeImageInvalid, "the image has %d layers; at most %d are read", len(m.Layers), maxLayers)
	}
	for _, name := range m.Layers {
		layer, ok := a.open(name)
		if !ok {
			return image{}, invalid(CodeImageInvalid, "the image archive lacks the layer %s that its manifest names", shownName(name))
		}
		img.layers = append(img.layers, layer)
	}
	if len(img.config.RootFS.DiffIDs) != len(img.layers) {
		return image{}, invalid(CodeImageInvalid, "the image has %d layers and %d layer digests", len(img.layers), len(img.config.RootFS.DiffIDs))
	}
	return img.checked()
}

// checked is what holds for every image.
func (img image) checked() (image, error) {
	if !img.config.runsHere() {
		return image{}, invalid(CodeNoPlatform, "the archive has no image for %s/%s; it has: %s",
			imageOS, imageArchitecture, shownName(img.config.OS+"/"+img.config.Architecture))
	}
	if len(img.layers) == 0 {
		return image{}, invalid(CodeImageInvalid, "the image has no layers: there is nothing to run in it")
	}
	img.diffs = img.config.RootFS.DiffIDs
	if len(img.diffs) != 0 && len(img.diffs) != len(img.layers) {
		return image{}, invalid(CodeImageInvalid, "the image has %d layers and %d layer digests", len(img.layers), len(img.diffs))
	}
	c := img.config.Config
	size := len(c.User) + len(c.WorkingDir)
	for _, list := range [][]string{c.Env, c.Entrypoint, c.Cmd} {
		for _, s := range list {
			if size += len(s); strings.IndexByte(s, 0) >= 0 {
				return image{}, invalid(CodeImageInvalid, "the image's config has a NUL byte in its command or environment")
			}
		}
	}
	if size > maxImageConfig || len(c.ExposedPorts) > 1000 {
		return image{}, invalid(CodeImageInvalid, "the image's command and environment take more than %d bytes", maxImageConfig)
	}
	return img, nil
}

// defaults are the image's own settings as the rest of the platform knows them.
func (c imageConfig) defaults() miosa.ImageConfig {
	out := miosa.ImageConfig{
		Entrypoint: c.Config.Entrypoint, Cmd: c.Config.Cmd, Env: c.Config.Env,
		WorkingDir: c.Config.WorkingDir, User: c.Config.User, Architecture: c.Architecture,
	}
	// One that nobody knows is as good as none.
	if _, ok := miosa.ParseSignal(c.Config.StopSignal); ok {
		out.StopSignal = c.Config.StopSignal
	}
	for key := range c.Config.ExposedPorts {
		number, protocol, _ := strings.Cut(key, "/")
		port, err := strconv.Atoi(number)
		if err != nil || port < 1 || port > 65535 || protocol != "" && protocol != "tcp" {
			continue
		}
		out.ExposedPorts = append(out.ExposedPorts, port)
	}
	slices.Sort(out.ExposedPorts)
	return out
}

// entrypoint is the command the image starts by itself, as one line to read.
func entrypoint(c miosa.ImageConfig) string {
	words := slices.Concat(c.Entrypoint, c.Cmd)
	for i, w := range words {
		if w == "" || strings.ContainsAny(w, " \t\n'\"\\$`;&|<>()*?[]#~") {
			words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}
