package artifact_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	. "github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/artifact/local"
)

// shelf is a blob store on a directory that a test can look into.
type shelf struct {
	*local.Blobs
	dir string
}

func newShelf(t testing.TB) shelf {
	t.Helper()
	b, dir := OnDisk(t, func(dir string) (*local.Blobs, error) { return local.New(local.Config{Dir: dir}) })
	return shelf{b, dir}
}

func (s shelf) files(t testing.TB) []string { return Files(t, s.dir) }

func cut(b []byte, n int) []byte { return b[:len(b)-n] }

// spoil changes one entry of an image archive.
func spoil(entries []Entry, match string, change func(*Entry)) []byte {
	for i := range entries {
		if strings.Contains(entries[i].Name, match) || strings.Contains(entries[i].Body, match) {
			change(&entries[i])
			return Tar(entries...)
		}
	}
	panic("no entry " + match)
}

var app = File("app", "#!/bin/sh\n")

func typed(t byte) Entry { return Entry{Name: "dev/thing", Type: t} }

func TestBadUploads(t *testing.T) {
	good := Tar(app, File("etc/passwd", "root:x:0:0::/:/bin/sh\n"))
	img := Image{Layers: [][]byte{good}, Pack: Gzip}
	many := make([]Entry, 0, 2000)
	for i := range 2000 {
		many = append(many, File(fmt.Sprintf("f%d", i), ""))
	}
	var noEnd bytes.Buffer
	tw := tar.NewWriter(&noEnd)
	_ = tw.WriteHeader(&tar.Header{Name: "app", Size: 512, Typeflag: tar.TypeReg})
	_, _ = tw.Write(make([]byte, 512))
	_ = tw.Flush()

	for _, c := range []struct {
		name   string
		kind   miosa.Kind // "": rootfs
		media  string
		sha    string
		limits artifact.Limits
		body   []byte
		code   miosa.Code // "": invalid
		public string
		names  string // what the message must name
	}{
		{name: "wrong digest", body: good, sha: Digest([]byte("else")), public: "digest_mismatch", names: Digest(good)},
		{name: "digest is no digest", body: good, sha: "abc", public: "digest_mismatch"},
		{name: "empty", body: nil, public: "archive_truncated", names: "empty"},
		{name: "tar cut in content", body: good[:600], public: "archive_truncated", names: `"app"`},
		{name: "tar cut between entries", body: noEnd.Bytes(), public: "archive_truncated", names: `"app"`},
		{name: "tar cut in a header", body: good[:1100], public: "archive_truncated", names: `"app"`},
		{name: "gzip cut", body: cut(Gzip(good), 4), public: "archive_truncated"},
		{name: "zstd cut", body: cut(Zstd(good), 4), public: "archive_truncated"},
		{name: "gzip of something else", body: Gzip([]byte("hello")), public: "archive_truncated"},
		{name: "gzip damaged", body: append(cut(Gzip(good), 8), 1, 2, 3, 4, 5, 6, 7, 8), public: "archive_invalid"},
		{name: "garbage after gzip", body: append(Gzip(good), "garbage garbage"...), public: "archive_invalid"},
		{name: "not a tar", body: bytes.Repeat([]byte("not a tar at all "), 100), public: "archive_invalid"},
		{name: "zip", body: append([]byte("PK\x03\x04"), make([]byte, 2000)...), public: "archive_invalid", names: "zip"},
		{name: "xz", body: append([]byte("\xfd7zXZ\x00"), make([]byte, 2000)...), public: "archive_invalid", names: "xz"},
		{name: "a program", body: append([]byte("\x7fELF"), make([]byte, 2000)...), public: "archive_invalid", names: "program"},
		{name: "two tars in a row", body: append(bytes.Clone(good), good...), public: "archive_invalid", names: "concatenated"},
		{name: "no files", body: Tar(Dir("a/")), public: "archive_invalid"},
		{name: "no entries", body: make([]byte, 1024), public: "archive_invalid"},
		{name: "type says gzip", media: "application/gzip", body: Zstd(good), public: "media_type_mismatch"},
		{name: "type says tar", media: "application/x-tar", body: Gzip(good), public: "media_type_mismatch"},
		{name: "type says image", media: artifact.MediaOCI, body: good, public: "media_type_mismatch", names: "kind=oci"},
		{name: "type is HTML", media: "text/html", body: good, code: miosa.Unsupported, public: "media_type_unsupported"},
		{name: "kind is nothing", kind: "vm", body: good, public: "kind_unknown"},
		{name: "image as rootfs", body: Layout(img), public: "archive_invalid", names: "kind=oci"},
		{name: "docker save as rootfs", body: DockerSave(img), public: "archive_invalid", names: "kind=oci"},

		{name: "more bytes than allowed", limits: artifact.Limits{Bytes: 1000}, body: good, code: miosa.TooLarge, public: "upload_too_large"},
		{name: "more unpacked than allowed", limits: artifact.Limits{UnpackedBytes: 1 << 20}, body: Gzip(Tar(File("zeros", strings.Repeat("\x00", 2<<20)))), code: miosa.TooLarge, public: "archive_too_large", names: `"zeros"`},
		{name: "too many entries", limits: artifact.Limits{Entries: 1000}, body: Tar(many...), code: miosa.TooLarge, public: "archive_too_large", names: `"f1000"`},
		{name: "too many implied directories", limits: artifact.Limits{Entries: 1000}, body: Tar(File(strings.Repeat("d/", 1500)+"f", "")), code: miosa.TooLarge, public: "archive_too_large"},
		{name: "long path", body: Tar(File(strings.Repeat("d/", 2500)+"f", "")), public: "entry_refused", names: "d/d/"},
		{name: "long name", body: Tar(File("a/"+strings.Repeat("n", 256), "")), public: "entry_refused", names: "256 bytes"},

		{name: "dot dot", body: Tar(app, File("../etc/passwd", "x")), public: "entry_refused", names: `"../etc/passwd"`},
		{name: "dot dot inside", body: Tar(app, File("a/b/../../../c", "x")), public: "entry_refused", names: `"a/b/../../../c"`},
		{name: "absolute", body: Tar(app, File("/etc/passwd", "x")), public: "entry_refused", names: `"/etc/passwd"`},
		{name: "link to nothing", body: Tar(app, Symlink("a", "")), public: "entry_refused", names: `"a"`},
		{name: "through a link", body: Tar(app, Symlink("a", "/etc"), File("a/passwd", "x")), public: "entry_refused", names: `"a/passwd"`},
		{name: "through a file", body: Tar(app, File("app/x", "x")), public: "entry_refused", names: `"app/x"`},
		{name: "hard link out to missing", body: Tar(app, Hardlink("l", "../../etc/shadow")), public: "entry_refused", names: `"../../etc/shadow"`},
		{name: "hard link to the root", body: Tar(app, Hardlink("l", "../..")), public: "entry_refused", names: `"l"`},
		{name: "hard link below a file", body: Tar(app, Hardlink("l", "app/..")), public: "entry_refused", names: `"l"`},
		{name: "hard link around a loop", body: Tar(app, Symlink("a", "b"), Symlink("b", "a"), Hardlink("l", "a/x")), public: "entry_refused", names: `"l"`},
		{name: "hard link with a long target", body: Tar(app, Hardlink("l", strings.Repeat("./", 3000)+"app")), public: "entry_refused", names: `6003 bytes`},
		{name: "hard link to missing", body: Tar(app, Hardlink("l", "nothing")), public: "entry_refused", names: `"nothing"`},
		{name: "hard link to later", body: Tar(app, Hardlink("l", "later"), File("later", "")), public: "entry_refused", names: `"later"`},
		{name: "hard link to directory", body: Tar(app, Dir("d"), Hardlink("l", "d")), public: "entry_refused", names: `"l"`},
		{name: "hard link to itself", body: Tar(app, Hardlink("l", "l")), public: "entry_refused", names: `"l"`},
		{name: "unknown type", body: Tar(app, typed('Z')), public: "entry_refused", names: `"dev/thing"`},
		{name: "root is a file", body: Tar(app, File(".", "x")), public: "entry_refused", names: `"."`},
		{name: "root is a link", body: Tar(app, Symlink("./", "x")), public: "entry_refused", names: `"./"`},
		{name: "file over directory", body: Tar(app, File("d/f", ""), File("d", "")), public: "entry_refused", names: `"d"`},
		{name: "proc is a file", body: Tar(app, File("proc", "")), public: "entry_refused", names: `"proc"`},
		{name: "dev is a link", body: Tar(app, Symlink("dev", "etc")), public: "entry_refused", names: `"dev"`},
		{name: "xattrs too large", body: Tar(app, Entry{Name: "x", Xattrs: map[string]string{"user.a": strings.Repeat("v", 40<<10)}}), public: "entry_refused", names: `"x"`},
		{name: "xattr name too long", body: Tar(app, Entry{Name: "x", Xattrs: map[string]string{"user." + strings.Repeat("v", 256): ""}}), public: "entry_refused", names: `"x"`},
		{name: "static: link out", kind: miosa.KindStatic, body: Tar(File("index.html", ""), Symlink("a/b", "../../etc/passwd")), public: "entry_refused", names: `"a/b"`},
		{name: "static: absolute link", kind: miosa.KindStatic, body: Tar(File("index.html", ""), Symlink("a", "/etc/passwd")), public: "entry_refused", names: `"a"`},

		{name: "image is a rootfs", kind: miosa.KindOCI, body: good, public: "image_invalid", names: "app"},
		{name: "image cut", kind: miosa.KindOCI, body: Layout(img)[:3000], public: "archive_truncated"},
		{name: "image without a blob", kind: miosa.KindOCI, public: "image_invalid", names: Digest(Gzip(good)),
			body: spoil(LayoutEntries(img), Digest(Gzip(good)), func(e *Entry) { e.Name = "elsewhere" })},
		{name: "image with a damaged blob", kind: miosa.KindOCI, public: "digest_mismatch", names: Digest(Gzip(good)),
			body: spoil(LayoutEntries(img), Digest(Gzip(good)), func(e *Entry) { e.Body += "x" })},
		{name: "image for another platform", kind: miosa.KindOCI, body: Layout(Image{Layers: img.Layers, Architecture: "arm64"}), public: "image_platform", names: "linux/arm64"},
		{name: "two images", kind: miosa.KindOCI, body: Layout(img, Image{Layers: [][]byte{Tar(app)}}), public: "image_invalid", names: "2 different images"},
		{name: "image of no kind, cut", kind: "none", body: Layout(img)[:3000], public: "archive_truncated"},
		{name: "index is not JSON", kind: miosa.KindOCI, body: Tar(File("index.json", "{"), File("oci-layout", "{}")), public: "image_invalid", names: `"index.json"`},
		{name: "index lists too much", kind: miosa.KindOCI, body: Tar(File("index.json", `{"manifests":[`+strings.Repeat("1,", 1<<20)+`1]}`)), public: "image_invalid", names: "65536"},
		{name: "index lists nothing", kind: miosa.KindOCI, body: Tar(File("index.json", "{}")), public: "image_platform"},
		{name: "index names a strange digest", kind: miosa.KindOCI, body: Tar(File("index.json", `{"manifests":[{"digest":"sha512:00"}]}`)), public: "image_invalid", names: "sha512"},
		{name: "index climbs out", kind: miosa.KindOCI, body: Tar(File("index.json", `{"manifests":[{"digest":"sha256:../../../etc/passwd"}]}`)), public: "image_invalid"},
		{name: "image without layers", kind: miosa.KindOCI, body: Layout(Image{}), public: "image_invalid"},
		{name: "layer with something else", kind: miosa.KindOCI, body: Layout(Image{Layers: [][]byte{Tar(typed('Z'))}}), public: "entry_refused", names: `"dev/thing"`},
		{name: "below a device", body: Tar(app, typed(tar.TypeChar), File("dev/thing/x", "")), public: "entry_refused", names: `"dev/thing/x"`},
		{name: "device over directory", body: Tar(app, File("dev/thing/x", ""), typed(tar.TypeChar)), public: "entry_refused", names: `"dev/thing"`},
		{name: "layer climbs out", kind: miosa.KindOCI, body: Layout(Image{Layers: [][]byte{Tar(File("../x", ""))}}), public: "entry_refused", names: `"../x"`},
		{name: "whiteout of nothing", kind: miosa.KindOCI, body: Layout(Image{Layers: [][]byte{Tar(app, File(".wh.", ""))}}), public: "entry_refused", names: `".wh."`},
		{name: "layer loops through links", kind: miosa.KindOCI, body: Layout(Image{Layers: [][]byte{Tar(Symlink("a", "b"), Symlink("b", "a"), File("a/x", ""))}}), public: "entry_refused", names: `"a/x"`},
		{name: "layer is not a tar", kind: miosa.KindOCI, body: Layout(Image{Layers: [][]byte{bytes.Repeat([]byte("no tar"), 1000)}}), public: "archive_invalid", names: "layer"},
		{name: "layers are too much together", kind: miosa.KindOCI, limits: artifact.Limits{UnpackedBytes: 1 << 20}, code: miosa.TooLarge, public: "archive_too_large",
			body: Layout(Image{Pack: Gzip, Layers: [][]byte{Tar(File("a", strings.Repeat("a", 600<<10))), Tar(File("a", strings.Repeat("b", 600<<10)))}})},
		{name: "image archive climbs out", kind: miosa.KindOCI, body: Tar(append(LayoutEntries(img), File("../x", ""))...), public: "entry_refused", names: `"../x"`},
		{name: "image archive with a device", kind: miosa.KindOCI, body: Tar(append(LayoutEntries(img), typed(tar.TypeBlock))...), public: "entry_refused", names: `"dev/thing"`},
		{name: "index twice", kind: miosa.KindOCI, body: Tar(append(LayoutEntries(img), File("index.json", "{}"))...), public: "entry_refused", names: `"index.json"`},
		{name: "packed image cut", kind: miosa.KindOCI, body: cut(Gzip(Layout(img)), 10), public: "archive_truncated"},
		{name: "docker save: layer damaged", kind: miosa.KindOCI, public: "digest_mismatch", names: "layer",
			body: bytes.Replace(DockerSave(Image{Layers: [][]byte{good}}), []byte("root:x:0"), []byte("root:x:9"), 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			switch c.kind {
			case "":
				c.kind = miosa.KindRootFS
			case "none":
				c.kind = ""
			}
			if c.code == "" {
				c.code = miosa.Invalid
			}
			s := newShelf(t)
			_, err := artifact.Receive(t.Context(), s, artifact.Upload{
				Kind: c.kind, MediaType: c.media, SHA256: c.sha, Body: bytes.NewReader(c.body),
			}, c.limits)
			e, ok := errors.AsType[*miosa.Error](err)
			if !ok {
				t.Fatalf("error is %v", err)
			}
			if e.Code != c.code || e.Public != c.public {
				t.Errorf("code %s/%s, want %s/%s: %s", e.Code, e.Public, c.code, c.public, e.Message)
			}
			if !strings.Contains(e.Message, c.names) {
				t.Errorf("message does not name %s: %s", c.names, e.Message)
			}
			if left := s.files(t); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func receive(t testing.TB, blobs artifact.Blobs, kind miosa.Kind, body []byte) artifact.Stored {
	t.Helper()
	stored, err := artifact.Receive(t.Context(), blobs, artifact.Upload{Kind: kind, SHA256: Digest(body), Body: bytes.NewReader(body)}, artifact.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return stored
}

func TestGoodUploads(t *testing.T) {
	plain := Tar(
		Dir("./"), Dir("./usr/"), Dir("usr/lib/"), Symlink("lib", "usr/lib"), Symlink("./usr/bin/python", "/etc/alternatives/python"),
		File("./app", "12345"), Hardlink("./app2", "./app"), Dir("usr/lib/"), File("a//b/./c", "x"),
		Entry{Name: "su", Mode: 0o4755}, File("app3", "old"), File("app3", "newer"),
		File("deep/"+strings.Repeat("d/", 100)+"long-name", "deep"),
		File("etc/resolv.conf", ""), File(".dockerenv", ""), File("dev/console", ""), File("new\nline", ""), File(".wh.kept", ""),
		Symlink("up/and/over", "../../app"),
	)
	for _, c := range []struct {
		name, media, stored string
		body                []byte
	}{
		{"tar", "application/x-tar", artifact.MediaTar, plain},
		{"gzip", "application/x-gzip; charset=binary", artifact.MediaGzip, Gzip(plain)},
		{"zstd", "application/zstd", artifact.MediaZstd, Zstd(plain)},
		{"untold", "", artifact.MediaZstd, Zstd(plain)},
		{"octets", "application/octet-stream", artifact.MediaTar, plain},
		{"two gzip members", "", artifact.MediaGzip, append(Gzip(plain[:1536]), Gzip(plain[1536:])...)},
		{"zstd behind a skippable frame", "", artifact.MediaZstd, append([]byte{0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 'h', 'i'}, Zstd(plain)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newShelf(t)
			stored, err := artifact.Receive(t.Context(), s, artifact.Upload{
				Kind: miosa.KindRootFS, MediaType: c.media, SHA256: strings.ToUpper(Digest(c.body)),
				Body: iotest.OneByteReader(bytes.NewReader(c.body)),
			}, artifact.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if stored.MediaType != c.stored || stored.Blob.SHA256 != Digest(c.body) || stored.Blob.Size != int64(len(c.body)) {
				t.Errorf("stored %+v", stored)
			}
			// 11 names of files, 3 symbolic links; app3 counts once, as the newer.
			if want := (miosa.ArtifactManifest{Files: 14, TotalBytes: 5 + 1 + 5 + 4}); stored.Manifest != want {
				t.Errorf("manifest %+v, want %+v", stored.Manifest, want)
			}
			r, err := s.Open(t.Context(), stored.Blob.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, c.body) {
				t.Errorf("what was stored is not what was sent: %v", err)
			}
		})
	}
}

func TestUploadOfManyFiles(t *testing.T) {
	entries := make([]Entry, 0, 100_000)
	for i := range 100_000 {
		entries = append(entries, File(fmt.Sprintf("d%d/f%d", i%100, i), ""))
	}
	if got := receive(t, newShelf(t), miosa.KindRootFS, Zstd(Tar(entries...))); got.Manifest.Files != 100_000 {
		t.Errorf("manifest %+v", got.Manifest)
	}
}

func TestImages(t *testing.T) {
	lower := Tar(Dir("etc/"), File("etc/a", "1"), File("etc/b", "22"), Dir("opt/"), File("opt/gone", "333"), Symlink("lib", "usr/lib"), Dir("usr/lib/"),
		File("/rooted", "r"), File("dir/x", ""), File("swap", ""))
	upper := Tar(File("etc/.wh.a", ""), File("opt/here", "4444"), File("opt/.wh..wh..opq", ""), File("lib/libc.so", "55555"),
		Hardlink("etc/b2", "etc/b"), File(".wh.absent", ""), File("dir", "a file now"), File("swap/in", "d"), File(".wh..wh.plnk", ""))
	config := map[string]any{
		"Entrypoint": []string{"/app", "it's"}, "Cmd": []string{"--port", "80"}, "Env": []string{"A=1"},
		"WorkingDir": "/srv", "User": "1000:1000", "StopSignal": "SIGQUIT", "ExposedPorts": map[string]any{"8080/tcp": map[string]any{}, "53/udp": map[string]any{}, "443": map[string]any{}, "x/tcp": map[string]any{}},
	}
	// "swap" is a file below and a directory above: the layer must say so first.
	upper = Tar(append(entriesOf(t, upper)[:7], Dir("swap/"), File("swap/in", "d"), File(".wh..wh.plnk", ""))...)
	img := Image{Layers: [][]byte{lower, upper}, Config: config}
	packed := func(f func([]byte) []byte) Image { i := img; i.Pack = f; return i }
	for name, body := range map[string][]byte{
		"layout":             Layout(img),
		"layout, gzip":       Layout(packed(Gzip)),
		"layout, zstd":       Layout(packed(Zstd)),
		"layout, platforms":  Layout(Image{Layers: [][]byte{Tar(app)}, Architecture: "arm64"}, packed(Gzip)),
		"layout, all packed": Zstd(Layout(packed(Gzip))),
		"docker save":        DockerSave(img),
		"docker save | gzip": Gzip(DockerSave(img)),
		"docker, same layer": DockerSave(Image{Layers: [][]byte{lower, lower, upper}, Config: config}),
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t)
			stored := receive(t, s, miosa.KindOCI, body)
			// etc/b, etc/b2, opt/here, lib, usr/lib/libc.so, rooted, dir, swap/in
			want := miosa.ArtifactManifest{Files: 8, TotalBytes: 2 + 4 + 5 + 1 + 10 + 1, Entrypoint: `/app 'it'\''s' --port 80`}
			if stored.Manifest != want {
				t.Errorf("manifest %+v, want %+v", stored.Manifest, want)
			}
			if c := stored.Config; c.User != "1000:1000" || c.WorkingDir != "/srv" || c.Architecture != "amd64" ||
				c.StopSignal != "SIGQUIT" || fmt.Sprint(c.ExposedPorts) != "[443 8080]" || fmt.Sprint(c.Env, c.Cmd) != "[A=1] [--port 80]" {
				t.Errorf("config %+v", c)
			}
			if stored.MediaType != artifact.MediaOCI || stored.Passed.Markers == 0 {
				t.Errorf("stored %+v", stored)
			}
			if left := s.files(t); len(left) != 1 {
				t.Errorf("the store holds %v", left)
			}
			u, err := artifact.Unpack(t.Context(), s, stored.Blob.SHA256, miosa.KindOCI, artifact.Limits{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(paths(u.Tree.Root, ""), " ")
			if want := "dev/ dir etc/ etc/b etc/b2 lib opt/ opt/here proc/ rooted run/ swap/ swap/in sys/ tmp/ usr/ usr/lib/ usr/lib/libc.so"; got != want {
				t.Errorf("tree %s\nwant %s", got, want)
			}
		})
	}
}

// entriesOf reads an archive back.
func entriesOf(t testing.TB, b []byte) []Entry {
	t.Helper()
	var out []Entry
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, Entry{Name: h.Name, Type: h.Typeflag, Body: string(body), Link: h.Linkname, Mode: h.Mode})
	}
}

func paths(n *artifact.Node, prefix string) []string {
	var out []string
	for name, c := range n.Children() {
		p := prefix + name
		if c.Type == artifact.Dir {
			p += "/"
		}
		out = append(append(out, p), paths(c, p)...)
	}
	return out
}

func TestConnectionCut(t *testing.T) {
	body := Zstd(Tar(File("big", strings.Repeat("0123456789", 100_000)), app))
	for _, kind := range []miosa.Kind{miosa.KindRootFS, miosa.KindOCI} {
		for _, n := range []int{0, 3, 10, len(body) / 2, len(body) - 1} {
			s := newShelf(t)
			broken := io.MultiReader(bytes.NewReader(body[:n]), iotest.ErrReader(io.ErrUnexpectedEOF))
			_, err := artifact.Receive(t.Context(), s, artifact.Upload{Kind: kind, Body: broken}, artifact.Limits{})
			if e, ok := errors.AsType[*miosa.Error](err); !ok || e.Public != artifact.CodeUploadIncomplete {
				t.Errorf("%s cut after %d bytes: %v", kind, n, err)
			}
			if left := s.files(t); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		}
	}
}

func TestCancelled(t *testing.T) {
	s := newShelf(t)
	ctx, cancel := context.WithCancel(t.Context())
	body := Tar(File("big", strings.Repeat("x", 1<<20)))
	r := io.MultiReader(bytes.NewReader(body[:1000]), readerFunc(func([]byte) (int, error) { cancel(); return 0, nil }), bytes.NewReader(body[1000:]))
	if _, err := artifact.Receive(ctx, s, artifact.Upload{Kind: miosa.KindRootFS, Body: r}, artifact.Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if left := s.files(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestSameBytesAtOnce(t *testing.T) {
	s := newShelf(t)
	body := Zstd(Tar(File("app", strings.Repeat("some content ", 10_000))))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			stored, err := artifact.Receive(t.Context(), s, artifact.Upload{Kind: miosa.KindRootFS, Body: bytes.NewReader(body)}, artifact.Limits{})
			if err != nil || stored.Blob.SHA256 != Digest(body) {
				t.Errorf("stored %+v: %v", stored, err)
			}
		})
	}
	wg.Wait()
	if left := s.files(t); len(left) != 1 {
		t.Errorf("the store holds %v", left)
	}
}
