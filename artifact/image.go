package artifact

import (
	"cmp"
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
		Variant      string `json:"variant"`
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
	c := collection{a: a, seen: map[string]bool{}, found: map[string]candidate{}}
	if err := c.collect(index.Manifests, "", 0); err != nil {
		return image{}, err
	}
	if len(c.found) == 0 {
		return image{}, noPlatform(c.others)
	}
	var names []string
	for _, d := range c.found {
		if len(c.found) == 1 {
			return readManifest(a, d.descriptor)
		}
		names = append(names, d.name)
	}
	return image{}, severalImages(names)
}

// noPlatform says what an archive has instead of an image that runs here.
func noPlatform(others []string) error {
	slices.Sort(others)
	return invalid(CodeNoPlatform, "the archive has no image for %[1]s/%[2]s; it has: %[3]s. Build it for that one, and save it: docker build --platform %[1]s/%[2]s",
		imageOS, imageArchitecture, shownName(strings.Join(others, ", ")))
}

// severalImages says which images an archive holds: any of them could be meant.
func severalImages(names []string) error {
	slices.Sort(names)
	return invalid(CodeImageInvalid, "the archive holds %d different images for %s/%s: %s; save the one to publish alone (docker save NAME:TAG)",
		len(names), imageOS, imageArchitecture, called(names))
}

// candidate is an image of our platform in an archive.
type candidate struct {
	descriptor descriptor // of its manifest
	name       string     // what it is called there, or its digest
}

// collection gathers the image manifests of our platform.
type collection struct {
	a      *archive
	seen   map[string]bool      // digests, each looked at once
	found  map[string]candidate // by digest: tags of one image count once
	others []string             // what else there is
}

// variants of amd64 are levels of it, the first of which runs everywhere.
func (d descriptor) level() string {
	if v := d.Platform.Variant; v != "" {
		return v
	}
	return "v1"
}

// name is what an image is called in an index, "" where it is not.
func (d descriptor) name() string {
	name := d.Annotations["io.containerd.image.name"]
	if name == "" {
		name = d.Annotations["org.opencontainers.image.ref.name"]
	}
	return strings.Clone(name[:min(len(name), maxShown)])
}

// collect looks through an index; name is what the image that it is of is called.
// Of one image for several levels of amd64 it takes the one for the lowest.
func (c *collection) collect(list []descriptor, name string, depth int) error {
	if depth > maxIndexDepth || len(list) > 1000 {
		return invalid(CodeImageInvalid, "the image's index is nested too deeply or too long")
	}
	lowest := map[string]string{} // level by name
	for _, d := range list {
		if d.ours() {
			if l, ok := lowest[d.name()]; !ok || d.level() < l {
				lowest[d.name()] = d.level()
			}
		}
	}
	for _, d := range list {
		if d.ours() && d.level() != lowest[d.name()] {
			continue
		}
		if d.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
			continue
		}
		if p := d.Platform; p != nil && (p.OS != imageOS || p.Architecture != imageArchitecture) {
			noteOther(&c.others, p.OS+"/"+p.Architecture)
			continue
		}
		if c.seen[d.Digest] {
			continue
		}
		c.seen[d.Digest] = true
		if depth > 0 && d.ours() && !c.a.holds(d.Digest) {
			// What is saved has the index of all platforms, and what is of its own.
			noteOther(&c.others, d.Platform.OS+"/"+d.Platform.Architecture+" by name only")
			continue
		}
		if err := c.look(d, cmp.Or(d.name(), name), depth); err != nil {
			return err
		}
	}
	return nil
}

// ours reports whether a descriptor says that it is for our platform.
func (d descriptor) ours() bool {
	return d.Platform != nil && d.Platform.OS == imageOS && d.Platform.Architecture == imageArchitecture
}

// look reads what a descriptor leads to: another index, or an image.
func (c *collection) look(d descriptor, name string, depth int) error {
	f, err := c.a.blob(d.Digest, d.Size)
	if err != nil {
		return err
	}
	var m manifest
	if err := c.a.decode(f, &m); err != nil {
		return err
	}
	if len(m.Manifests) > 0 {
		return c.collect(m.Manifests, name, depth+1)
	}
	if !configMediaType(m.Config.MediaType) {
		noteOther(&c.others, "something of type "+m.Config.MediaType)
		return nil
	}
	if d.Platform == nil {
		// Without a platform on the descriptor the config has the word.
		f, err := c.a.blob(m.Config.Digest, m.Config.Size)
		if err != nil {
			return err
		}
		var config imageConfig
		if err := c.a.decode(f, &config); err != nil {
			return err
		}
		if !config.runsHere() {
			noteOther(&c.others, config.OS+"/"+config.Architecture)
			return nil
		}
	}
	if name == "" {
		name = strings.Clone(d.Digest[:min(len(d.Digest), maxShown)])
	}
	// The rest of the descriptor may be long.
	c.found[d.Digest] = candidate{descriptor{Digest: d.Digest, Size: d.Size}, name}
	return nil
}

// maxShown is how much of what an archive calls something is kept for messages,
// in bytes.
const maxShown = 100

// noteOther keeps what an archive has instead of an image that runs here: as
// much as fits into a message, since there may be gigabytes.
func noteOther(others *[]string, what string) {
	const most = 20
	what = strings.Clone(what[:min(len(what), maxShown)])
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
	var list []savedImage
	if err := a.decode(f, &list); err != nil {
		return image{}, err
	}
	if len(list) == 0 || len(list) > maxImages {
		return image{}, invalid(CodeImageInvalid, "the archive holds %d images; save the one to publish alone (docker save NAME:TAG)", len(list))
	}
	var m savedImage
	var img image
	var names, others []string
	seen := map[string]bool{}
	for _, saved := range list {
		config, err := readSavedConfig(a, saved)
		if err != nil {
			return image{}, err
		}
		switch {
		case seen[path.Clean(saved.Config)]:
		case !config.runsHere():
			noteOther(&others, config.OS+"/"+config.Architecture)
		default:
			m, img.config = saved, config
			name := path.Base(saved.Config)
			if len(saved.RepoTags) > 0 {
				name = saved.RepoTags[0]
			}
			names = append(names, name[:min(len(name), maxShown)])
		}
		seen[path.Clean(saved.Config)] = true
	}
	switch len(names) {
	case 0:
		return image{}, noPlatform(others)
	case 1:
	default:
		return image{}, severalImages(names)
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

// maxImages is how many images of an archive are looked at for the one.
const maxImages = 100

func readSavedConfig(a *archive, m savedImage) (imageConfig, error) {
	var c imageConfig
	f, ok := a.open(m.Config)
	if !ok {
		return c, invalid(CodeImageInvalid, "the image archive lacks the config %s that its manifest names", shownName(m.Config))
	}
	if sum := strings.TrimPrefix(strings.TrimSuffix(path.Base(m.Config), ".json"), "sha256:"); IsDigest(sum) && sum != f.sha256 {
		return c, invalid(CodeDigestMismatch, "entry %s of the image archive is damaged: its bytes have the digest sha256:%s", shownName(m.Config), f.sha256)
	}
	return c, a.decode(f, &c)
}

// checked is what holds for every image.
func (img image) checked() (image, error) {
	if !img.config.runsHere() {
		return image{}, noPlatform([]string{img.config.OS + "/" + img.config.Architecture})
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
