package artifacttest

import (
	"slices"
	"strings"
)

// An archive is laid out by the tool that saved it. These are the shapes that
// are met, each of the same image.

// Saved is an image's archive as a tool writes it.
type Saved struct {
	Tool    string
	Entries []Entry
}

// Bytes is the archive.
func (s Saved) Bytes() []byte { return Tar(s.Entries...) }

// SavedImages are the archives that tools make of an image.
func SavedImages(img Image) []Saved {
	zipped := img
	zipped.Pack = Gzip
	return []Saved{
		{"docker save before 25", DockerSaveEntries(img)},
		{"docker save", dockerSave(img)},
		{"docker save, containerd's store", containerdSave(zipped)},
		{"podman save", PodmanSave(img.Named("localhost/shop:1"))},
		{"podman save --format oci-archive", podmanOCI(zipped)},
		{"buildkit type=oci", buildkit(zipped, false)},
		{"buildkit type=docker", buildkit(zipped, true)},
		{"crane, kaniko, ko", crane(zipped)},
		{"skopeo copy oci:dir, tar", tarred(LayoutEntries(zipped))},
	}
}

// blobs are what an OCI layout's archive has in blobs/, each once.
type blobs struct{ entries []Entry }

func (b *blobs) add(mediaType string, content []byte) map[string]any {
	name := "blobs/sha256/" + Digest(content)
	if !slices.ContainsFunc(b.entries, func(e Entry) bool { return e.Name == name }) {
		b.entries = append(b.entries, File(name, string(content)))
	}
	return map[string]any{"mediaType": mediaType, "digest": "sha256:" + Digest(content), "size": len(content)}
}

const ociTypes = "application/vnd.oci.image."

// image puts an image's blobs in and returns the descriptor of its manifest.
func (b *blobs) image(img Image) map[string]any {
	config := b.add(ociTypes+"config.v1+json", img.configJSON())
	layers := []any{}
	for _, l := range img.packed() {
		layers = append(layers, b.add(ociTypes+"layer.v1.tar+gzip", l))
	}
	return b.add(ociTypes+"manifest.v1+json", encode(map[string]any{
		"schemaVersion": 2, "mediaType": ociTypes + "manifest.v1+json", "config": config, "layers": layers,
	}))
}

func index(manifests ...any) []byte {
	return encode(map[string]any{"schemaVersion": 2, "mediaType": ociTypes + "index.v1+json", "manifests": manifests})
}

func with(descriptor map[string]any, key string, value any) map[string]any {
	descriptor[key] = value
	return descriptor
}

func platform(arch string) map[string]any { return map[string]any{"os": "linux", "architecture": arch} }

func layoutFile() Entry { return File("oci-layout", `{"imageLayoutVersion":"1.0.0"}`) }

// saved is manifest.json over a layout's blobs, as newer tools write it beside
// the index.
func (b *blobs) saved(img Image, tags ...string) Entry {
	names := []string{}
	for _, l := range img.packed() {
		names = append(names, "blobs/sha256/"+Digest(l))
	}
	return File("manifest.json", string(encode([]any{map[string]any{
		"Config": "blobs/sha256/" + Digest(img.configJSON()), "RepoTags": tags, "Layers": names,
	}})))
}

// dockerSave is what Docker writes since 25: a layout whose layers are plain,
// with the files of before beside it, the manifest last but one.
func dockerSave(img Image) []Entry {
	var b blobs
	m := with(b.image(img), "annotations", map[string]string{"io.containerd.image.name": "docker.io/library/shop:1", "org.opencontainers.image.ref.name": "1"})
	entries := append([]Entry{Dir("blobs/"), Dir("blobs/sha256/")}, b.entries...)
	return append(entries, File("index.json", string(index(m))), b.saved(img, "shop:1"), layoutFile(), File("repositories", `{"shop":{"1":"x"}}`))
}

// containerdSave has the index of all platforms, attestations included, and the
// blobs of its own platform alone.
func containerdSave(img Image) []Entry {
	var b, others blobs
	all := b.add(ociTypes+"index.v1+json", index(
		with(b.image(img), "platform", platform("amd64")),
		with(others.image(Image{Layers: [][]byte{Tar(File("other", ""))}, Architecture: "arm64"}), "platform", platform("arm64")),
		attestation(&others, "sha256:"+Digest(img.configJSON())),
	))
	all["annotations"] = map[string]string{"io.containerd.image.name": "docker.io/library/shop:1"}
	entries := append([]Entry{Dir("blobs/"), Dir("blobs/sha256/")}, b.entries...)
	return append(entries, File("index.json", string(index(all))), b.saved(img, "shop:1"), layoutFile())
}

// attestation is what BuildKit says of how it made an image: a manifest of no
// platform, whose layer is no file system.
func attestation(b *blobs, of string) map[string]any {
	m := b.add(ociTypes+"manifest.v1+json", encode(map[string]any{
		"schemaVersion": 2, "mediaType": ociTypes + "manifest.v1+json",
		"config": b.add(ociTypes+"config.v1+json", encode(map[string]any{"architecture": "unknown", "os": "unknown", "config": map[string]any{}, "rootfs": map[string]any{"type": "layers", "diff_ids": []string{}}})),
		"layers": []any{with(b.add("application/vnd.in-toto+json", []byte(`{"_type":"https://in-toto.io/Statement/v0.1"}`)), "annotations", map[string]string{"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"})},
	}))
	m["platform"] = map[string]any{"os": "unknown", "architecture": "unknown"}
	m["annotations"] = map[string]string{"vnd.docker.reference.digest": of, "vnd.docker.reference.type": "attestation-manifest"}
	return m
}

// buildkit is an index in the index, of an image and its attestation.
func buildkit(img Image, docker bool) []Entry {
	var b blobs
	m := with(b.image(img), "platform", platform("amd64"))
	all := b.add(ociTypes+"index.v1+json", index(m, attestation(&b, m["digest"].(string))))
	all["annotations"] = map[string]string{"io.containerd.image.name": "docker.io/library/shop:1", "org.opencontainers.image.ref.name": "1"}
	entries := append([]Entry{Dir("blobs/"), Dir("blobs/sha256/")}, b.entries...)
	entries = append(entries, File("index.json", string(index(all))))
	if docker {
		entries = append(entries, b.saved(img, "shop:1"))
	}
	return append(entries, layoutFile())
}

func podmanOCI(img Image) []Entry {
	var b blobs
	m := with(b.image(img), "annotations", map[string]string{"org.opencontainers.image.ref.name": "localhost/shop:1"})
	entries := append([]Entry{Dir("blobs/"), Dir("blobs/sha256/")}, b.entries...)
	return append(entries, File("index.json", string(index(m))), layoutFile())
}

// Named is the image under a name.
func (i Image) Named(name string) Image {
	i.Name = name
	return i
}

// PodmanSave is a docker-archive as podman and skopeo write it: layers at the
// root under their digests, and links to them where Docker had them.
func PodmanSave(images ...Image) []Entry {
	var entries []Entry
	manifest := []any{}
	add := func(e Entry) {
		if !slices.ContainsFunc(entries, func(o Entry) bool { return o.Name == e.Name }) {
			entries = append(entries, e)
		}
	}
	for _, img := range images {
		names := []string{}
		for _, l := range img.Layers {
			names = append(names, Digest(l)+".tar")
			add(File(Digest(l)+".tar", string(l)))
		}
		config := img.configJSON()
		add(File(Digest(config)+".json", string(config)))
		for _, l := range img.Layers {
			legacy := Digest([]byte("legacy " + Digest(l)))
			add(Symlink(legacy+"/layer.tar", "../"+Digest(l)+".tar"))
			add(File(legacy+"/VERSION", "1.0"))
			add(File(legacy+"/json", `{"id":"`+legacy+`"}`))
		}
		manifest = append(manifest, map[string]any{"Config": Digest(config) + ".json", "RepoTags": []string{img.Name}, "Layers": names})
	}
	return append(entries, File("manifest.json", string(encode(manifest))), File("repositories", `{}`))
}

// crane is what go-containerregistry writes: packed layers at the root, the
// config under its digest with the algorithm.
func crane(img Image) []Entry {
	config := img.configJSON()
	entries := []Entry{File("sha256:"+Digest(config), string(config))}
	names := []string{}
	for _, l := range img.packed() {
		names = append(names, Digest(l)+".tar.gz")
		entries = append(entries, File(Digest(l)+".tar.gz", string(l)))
	}
	return append(entries, File("manifest.json", string(encode([]any{map[string]any{"Config": "sha256:" + Digest(config), "RepoTags": []string{"shop:1"}, "Layers": names}}))))
}

// tarred is a directory packed by tar -C dir -c .
func tarred(entries []Entry) []Entry {
	out := []Entry{Dir("./")}
	for _, e := range entries {
		e.Name = "./" + strings.TrimPrefix(e.Name, "./")
		out = append(out, e)
	}
	return out
}
