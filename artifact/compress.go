package artifact

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"mime"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/ration"
)

// format is how a byte stream is packed, told by its first bytes.
type format string

const (
	formatTar  format = "tar"
	formatGzip format = "gzip"
	formatZstd format = "zstd"
)

// The canonical media types.
const (
	MediaTar  = "application/x-tar"
	MediaGzip = "application/gzip"
	MediaZstd = "application/zstd"
	MediaOCI  = "application/vnd.oci.image.layout.v1+tar"
)

func (f format) mediaType() string {
	switch f {
	case formatGzip:
		return MediaGzip
	case formatZstd:
		return MediaZstd
	}
	return MediaTar
}

// foreign are formats that people send by mistake; the name goes into the message.
var foreign = []struct{ magic, name string }{
	{"\xfd7zXZ\x00", "xz compressed"},
	{"BZh", "bzip2 compressed"},
	{"\x04\x22\x4d\x18", "lz4 compressed"},
	{"PK\x03\x04", "a zip file"},
	{"PK\x05\x06", "a zip file"},
	{"7z\xbc\xaf\x27\x1c", "a 7-zip file"},
	{"\x7fELF", "a program, not an archive of a file system"},
	{"hsqs", "a squashfs image"},
	{"#!", "a script, not an archive of a file system"},
	{"{", "JSON"},
}

// sniff tells the format without consuming anything.
func sniff(r *bufio.Reader) (format, error) {
	head, err := r.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	switch {
	case len(head) == 0:
		return "", invalid(CodeTruncated, "the upload is empty")
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return formatGzip, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return formatZstd, nil
	}
	for _, f := range foreign {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return "", invalid(CodeNotArchive, "the upload is %s; send a tar, tar.gz or tar.zst archive", f.name)
		}
	}
	return formatTar, nil
}

// sniffAs is sniff where only some formats are allowed; none means all.
func sniffAs(r *bufio.Reader, allowed []format) (format, error) {
	f, err := sniff(r)
	if err == nil && len(allowed) > 0 && allowed[0] != f {
		err = invalid(CodeMediaType, "the Content-Type says %s, the bytes say %s", allowed[0].mediaType(), f.mediaType())
	}
	return f, err
}

// declared maps a Content-Type to the formats it allows; nil allows all.
func declared(mediaType string, kind miosa.Kind) ([]format, error) {
	if mediaType == "" {
		return nil, nil
	}
	base, _, err := mime.ParseMediaType(mediaType)
	if err != nil {
		base = strings.ToLower(strings.TrimSpace(mediaType))
	}
	switch base {
	case "application/octet-stream", "binary/octet-stream":
		return nil, nil
	case MediaTar, "application/tar":
		return []format{formatTar}, nil
	case MediaGzip, "application/x-gzip", "application/x-tar+gzip", "application/x-gtar", "application/x-compressed-tar", "application/tar+gzip":
		return []format{formatGzip}, nil
	case MediaZstd, "application/x-zstd", "application/x-tar+zstd", "application/tar+zstd":
		return []format{formatZstd}, nil
	case MediaOCI:
		if kind != miosa.KindOCI && kind != "" {
			return nil, invalid(CodeMediaType, "the Content-Type says OCI image, the kind says %s; use kind=oci", kind)
		}
		return nil, nil
	}
	e := miosa.Errorf(miosa.Unsupported, "the Content-Type %s is not supported; send %s, %s, %s or %s",
		shownName(base), MediaZstd, MediaGzip, MediaTar, MediaOCI)
	e.Public = CodeMediaTypeRejected
	return nil, e
}

// A zstd decoder allocates the window that the stream asks for, be the stream
// ever so short.
const (
	// maxWindow is the largest: what the zstd tool itself accepts without being
	// told.
	maxWindow = 128 << 20
	// window is what a stream gets without asking: enough for all levels of the
	// zstd tool but --ultra, and for what builds images.
	window = 8 << 20
)

// windowOf is how large windows a zstd stream may have, by its first frame.
func windowOf(buf *bufio.Reader) uint64 {
	head, _ := buf.Peek(zstd.HeaderMaxSize) // shorter at the stream's end
	var h zstd.Header
	size := uint64(0) // of one whose header is damaged: the decoder says so
	switch err := h.Decode(head); {
	case err != nil:
	case h.Skippable:
		size = maxWindow // what comes after it is not known yet
	case h.SingleSegment:
		size = h.FrameContentSize
	default:
		size = h.WindowSize
	}
	return min(max(size, window), maxWindow)
}

// counter counts the bytes read through it. It hides any Seeker, so that
// archive/tar reads everything in order.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// meter reads a decoder's output within the allowance.
type meter struct {
	r         io.Reader
	allowance *allowance
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if bomb := m.allowance.decoded(n); bomb != nil {
		return 0, bomb
	}
	return n, err
}

// unpacked is a decompressed stream and how it came about.
type unpacked struct {
	io.Reader
	format format
	share  *ration.Share
	cost   int64 // of the decoder, in the share
	shut   func()
}

// close gives the decoder's memory back; a second time it does nothing.
func (u *unpacked) close() {
	if u.shut != nil {
		u.shut()
	}
	u.shut, u.Reader = nil, nil
	u.share.Shrink(u.cost)
	u.cost = 0
}

// decompress opens a stream of any of the formats; no allowed means all.
func decompress(r io.Reader, allowed []format, limits Limits, allowance *allowance, share *ration.Share) (*unpacked, error) {
	buf := bufio.NewReaderSize(r, 256<<10)
	f, err := sniffAs(buf, allowed)
	if err != nil {
		return nil, err
	}
	u := &unpacked{format: f, share: share}
	switch f {
	case formatGzip:
		z, err := gzip.NewReader(buf)
		if err != nil {
			return nil, archiveError(err, "")
		}
		u.Reader, u.shut = &meter{z, allowance}, func() { _ = z.Close() }
	case formatZstd:
		size := windowOf(buf)
		cost := int64(size) + costDecoder
		if err := share.Grow(cost); err != nil {
			return nil, memoryError(err, limits.Memory)
		}
		u.cost = cost
		z, err := zstd.NewReader(buf, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(size))
		if err != nil {
			u.close()
			return nil, archiveError(err, "")
		}
		u.Reader, u.shut = &meter{z, allowance}, z.Close
	default:
		u.Reader = buf
	}
	return u, nil
}
