package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/miosa/miosa/disk"
)

// summary is what one packing came to.
type summary struct {
	Entries  int
	Unpacked int64  // bytes of file content
	Packed   int64  // bytes of the archive
	SHA256   string // of the archive, lower-case hex
}

// packFile packs dir into the file out: whole or not at all, since a
// platform may read the former one at this moment.
func packFile(ctx context.Context, dir, out string) (_ summary, err error) {
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return summary{}, err
	}
	f, err := disk.Create(out, 0o644)
	if err != nil {
		return summary{}, err
	}
	defer func() { err = errors.Join(err, f.Discard()) }()
	sum, err := pack(ctx, dir, f)
	if err != nil {
		return summary{}, err
	}
	return sum, f.Commit()
}

// pack writes dir to w as a compressed tar.
func pack(ctx context.Context, dir string, w io.Writer) (summary, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return summary{}, err
	}
	defer root.Close()

	digest := sha256.New()
	packed := &counter{w: io.MultiWriter(w, digest)}
	// One encoder thread: blocks then never depend on the number of cores.
	compressed, err := zstd.NewWriter(packed, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return summary{}, err
	}
	a := archive{root: root, tar: tar.NewWriter(compressed)}
	// WalkDir goes through each directory in lexical order.
	err = fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return a.add(name, entry)
	})
	if err != nil {
		compressed.Close()
		return summary{}, err
	}
	if err := a.tar.Close(); err != nil {
		return summary{}, err
	}
	if err := compressed.Close(); err != nil {
		return summary{}, err
	}
	a.sum.Packed = packed.n
	a.sum.SHA256 = hex.EncodeToString(digest.Sum(nil))
	return a.sum, nil
}

// archive is one tar being written.
type archive struct {
	root *os.Root
	tar  *tar.Writer
	sum  summary
}

func (a *archive) add(name string, entry fs.DirEntry) error {
	if name == "." {
		return nil
	}
	info, err := entry.Info()
	if err != nil {
		return err
	}
	target := ""
	switch info.Mode().Type() {
	case 0, fs.ModeDir:
	case fs.ModeSymlink:
		if target, err = a.root.Readlink(name); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s: a release holds files, directories and symbolic links only, not %s", name, info.Mode().Type())
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	header.Name = name
	if info.IsDir() {
		header.Name += "/"
	}
	// Nothing of who packed, where and when goes in.
	header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", ""
	header.ModTime = time.Unix(0, 0)
	header.AccessTime, header.ChangeTime = time.Time{}, time.Time{}
	header.PAXRecords, header.Format = nil, tar.FormatUnknown
	if err := a.tar.WriteHeader(header); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	a.sum.Entries++
	if !info.Mode().IsRegular() {
		return nil
	}
	return a.copyFile(name)
}

func (a *archive) copyFile(name string) error {
	f, err := a.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(a.tar, f)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	a.sum.Unpacked += n
	return nil
}

// counter counts what passes through it.
type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
