package artifact

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/miosa/miosa/ration"
)

// The archive around an image holds a few files per layer, never many.
const (
	maxArchiveEntries = 10_000
	maxDocument       = 4 << 20 // bytes of one JSON document
	// maxValues bounds what a document lists, before it is decoded: two bytes
	// of it may become sixty in memory. An ordinary one has a few hundred.
	maxValues = 1 << 16
)

// file is one entry of an image archive: where its bytes are, and what they are.
type file struct {
	name   string
	offset int64
	size   int64
	sha256 string
}

// archive is an image archive by entry name.
type archive struct {
	data  io.ReaderAt // the plain tar
	files map[string]file
	links map[string]string // docker save ties equal layers together by links

	memory *ration.Pool
	share  *ration.Share // of it
}

// indexArchive reads an image archive once, in order, hashing every file.
// The caller gives the archive its data afterwards.
func indexArchive(ctx context.Context, r io.Reader, limits Limits, share *ration.Share) (*archive, error) {
	a := &archive{files: map[string]file{}, links: map[string]string{}, memory: limits.Memory, share: share}
	in := &counter{r: r}
	tr := tar.NewReader(in)
	buf := make([]byte, 256<<10)
	last := ""
	for entries := 0; ; entries++ {
		before := in.n
		hdr, err := tr.Next()
		if err == io.EOF {
			if in.n-(before+511)/512*512 < 512 {
				return nil, truncated(last)
			}
			break
		}
		if err != nil {
			return nil, archiveError(err, last)
		}
		last = hdr.Name
		if entries >= maxArchiveEntries {
			return nil, tooLarge(CodeArchiveTooLarge, "entry %s: an image archive of more than %d entries is not read", shownName(last), maxArchiveEntries)
		}
		if err := a.entry(ctx, hdr, tr, in, limits, share, buf); err != nil {
			return nil, archiveError(err, last)
		}
	}
	l := &layers{ctx: ctx, buf: buf, limits: limits, stream: limits.UnpackedBytes}
	return a, l.tail(in, last, true)
}

func (a *archive) entry(ctx context.Context, hdr *tar.Header, tr *tar.Reader, in *counter, limits Limits, share *ration.Share, buf []byte) error {
	switch hdr.Typeflag {
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeSymlink, tar.TypeLink:
	default:
		return refused(hdr.Name, "is neither a file nor a directory; an image archive holds nothing else")
	}
	parts, err := splitPath(hdr.Name, limits.PathLength, false)
	if err != nil {
		return err
	}
	name := strings.Clone(strings.Join(parts, "/")) // what it is part of may be long
	if _, ok := a.files[name]; ok || name == "" || a.links[name] != "" {
		return refused(hdr.Name, "appears twice in the image archive")
	}
	if len(hdr.Linkname) > limits.PathLength {
		return refused(hdr.Name, "is a link with a target of %d bytes; at most %d are allowed", len(hdr.Linkname), limits.PathLength)
	}
	if err := share.Grow(int64(costFile + len(name) + len(hdr.Linkname))); err != nil {
		return memoryError(err, limits.Memory)
	}
	if hdr.Typeflag != tar.TypeReg {
		target := hdr.Linkname
		if hdr.Typeflag == tar.TypeSymlink && !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		// Whatever it says, it stays below the archive's root.
		a.links[name] = strings.Clone(path.Join("/", target)[1:])
		return nil
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return refused(hdr.Name, "is a sparse file; an image archive holds none")
		}
	}
	if hdr.Size > limits.UnpackedBytes {
		return tooLarge(CodeArchiveTooLarge, "entry %s: the archive unpacks to more than %d bytes, which is the limit", shownName(hdr.Name), limits.UnpackedBytes)
	}
	f := file{name: name, offset: in.n, size: hdr.Size}
	h := sha256.New()
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := tr.Read(buf)
		h.Write(buf[:n])
		if in.n > limits.UnpackedBytes {
			return tooLarge(CodeArchiveTooLarge, "entry %s: the archive unpacks to more than %d bytes, which is the limit", shownName(hdr.Name), limits.UnpackedBytes)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	f.sha256 = hex.EncodeToString(h.Sum(nil))
	a.files[name] = f
	return nil
}

// open finds a file, through links inside the archive.
func (a *archive) open(name string) (file, bool) {
	name = path.Clean(name)
	for range 8 {
		if f, ok := a.files[name]; ok {
			return f, true
		}
		next, ok := a.links[name]
		if !ok {
			break
		}
		name = next
	}
	return file{}, false
}

// blob finds a file of the layout by its digest and verifies it.
func (a *archive) blob(digest string, size int64) (file, error) {
	algorithm, sum, _ := strings.Cut(digest, ":")
	if algorithm != "sha256" || !IsDigest(sum) {
		return file{}, invalid(CodeImageInvalid, "the image names a blob %s; only sha256 digests are read", shownName(digest))
	}
	f, ok := a.open("blobs/sha256/" + sum)
	switch {
	case !ok:
		return file{}, invalid(CodeImageInvalid, "the image archive lacks the blob %s that the image names", digest)
	case f.sha256 != sum:
		return file{}, invalid(CodeDigestMismatch, "entry %s of the image archive is damaged: its bytes have the digest sha256:%s", shownName(f.name), f.sha256)
	case size >= 0 && f.size != size:
		return file{}, invalid(CodeImageInvalid, "entry %s of the image archive has %d bytes; the image says %d", shownName(f.name), f.size, size)
	}
	return f, nil
}

// holds reports whether there is a blob of that digest, sound or not.
func (a *archive) holds(digest string) bool {
	_, ok := a.open("blobs/sha256/" + strings.TrimPrefix(digest, "sha256:"))
	return ok
}

func (a *archive) section(f file) *io.SectionReader {
	return io.NewSectionReader(a.data, f.offset, f.size)
}

// decode reads one JSON document.
func (a *archive) decode(f file, into any) error {
	if f.size > maxDocument {
		return invalid(CodeImageInvalid, "entry %s of the image archive should be JSON and has %d bytes; at most %d are read", shownName(f.name), f.size, maxDocument)
	}
	if err := a.share.Grow(costByte * f.size); err != nil {
		return memoryError(err, a.memory)
	}
	text := make([]byte, f.size)
	if _, err := io.ReadFull(a.section(f), text); err != nil {
		return StorageError(err)
	}
	values := bytes.Count(text, []byte{','})
	if values > maxValues {
		return invalid(CodeImageInvalid, "entry %s of the image archive lists more than %d values; no more are read", shownName(f.name), maxValues)
	}
	if err := a.share.Grow(costValue * int64(values+1)); err != nil {
		return memoryError(err, a.memory)
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(into); err != nil {
		e := invalid(CodeImageInvalid, "entry %s of the image archive is not the JSON it should be", shownName(f.name))
		e.Err = err
		return e
	}
	return nil
}

// names lists what is inside, for messages.
func (a *archive) names(most int) []string {
	var names []string
	for name := range a.files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names[:min(most, len(names))]
}

// IsDigest reports whether s is a lower-case hex SHA-256.
func IsDigest(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
