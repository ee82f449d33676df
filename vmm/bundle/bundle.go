// Package bundle builds and caches what every microVM boots: a kernel and an
// initial root with PID 1 (miosa-init) and the kernel modules it may load.
//
// The kernel is Debian's cloud kernel, downloaded by apt and unpacked, never
// installed; the initrd is made here. Both are addressed by the digest of
// what they were made from, so that the same inputs are built once per
// machine:
//
//	<cache>/kernel/<key>/        vmlinux, modules/, kernel.json
//	<cache>/<digest>/            vmlinux, initrd.cpio, bundle.json
//	<cache>/current              symbolic link to the digest built last
//
// A changed miosa-init makes a new initrd from the cached kernel, without the
// network.
package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
)

// Config says where bundles live and what goes into one.
type Config struct {
	CacheDir   string // "" : DefaultCacheDir
	InitBinary string // path of a static miosa-init for linux/amd64
	// KernelPackage is the Debian package to take the kernel from, a
	// meta-package or a real one; "" : linux-image-cloud-amd64.
	KernelPackage string
	// KernelDeb is a downloaded kernel package, for machines without a
	// network; it wins over KernelPackage.
	KernelDeb string
	// Refresh asks apt for the current kernel even if one is cached.
	Refresh bool
	Log     *slog.Logger // progress; nil: silent
}

// Bundle is a bootable pair of files.
type Bundle struct {
	Kernel        string // path of vmlinux, an ELF file with a PVH entry
	Initrd        string // path of initrd.cpio, uncompressed
	Digest        string // hex SHA-256 of everything that went in
	KernelVersion string // the kernel's release, as in uname -r
	KernelPackage string // file name of the Debian package
}

// KernelArgs are the kernel arguments that every driver should give this
// kernel besides its own. Under software emulation they take some 0.5 s off a
// boot: no self-tests of ciphers that nobody uses, no table of events for
// kernel probes, no certificates to check modules with that carry no
// signatures any more. Found with initcall_debug; nothing of it is of use to a
// guest.
func (Bundle) KernelArgs() []string {
	return []string{
		"cryptomgr.notests",
		"initcall_blacklist=init_kprobe_trace,load_system_certificate_list",
	}
}

const (
	kernelFile  = "vmlinux"
	initrdFile  = "initrd.cpio"
	bundleFile  = "bundle.json"
	currentLink = "current"
)

// manifest is bundle.json, written last: a directory without it is no bundle.
type manifest struct {
	Digest        string   `json:"digest"`
	KernelVersion string   `json:"kernel_version"`
	KernelPackage string   `json:"kernel_package"`
	Modules       []string `json:"modules"` // in load order
	InitSHA256    string   `json:"init_sha256"`
}

// DefaultCacheDir is miosa/bundle under the user's cache directory.
func DefaultCacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory: %w", err)
	}
	return filepath.Join(dir, "miosa", "bundle"), nil
}

// Ensure returns the bundle of the given inputs, building what is not cached.
// The first build on a machine downloads some 27 MB with apt and takes
// seconds; a cached one takes milliseconds. Concurrent calls, of other
// processes too, wait for each other.
func Ensure(ctx context.Context, c Config) (Bundle, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.CacheDir == "" {
		dir, err := DefaultCacheDir()
		if err != nil {
			return Bundle{}, err
		}
		c.CacheDir = dir
	}
	initBinary, err := os.ReadFile(c.InitBinary)
	if err != nil {
		return Bundle{}, fmt.Errorf("read the guest's init program: %w", err)
	}
	if err := checkInit(initBinary); err != nil {
		return Bundle{}, fmt.Errorf("init program %s: %w", c.InitBinary, err)
	}
	if err := os.MkdirAll(c.CacheDir, 0o755); err != nil {
		return Bundle{}, fmt.Errorf("make the bundle cache: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(c.CacheDir, "lock"))
	if err != nil {
		return Bundle{}, err
	}
	defer unlock()

	k, err := ensureKernel(ctx, c)
	if err != nil {
		return Bundle{}, err
	}
	digest := bundleDigest(k, initBinary)
	if b, err := read(filepath.Join(c.CacheDir, digest)); err == nil {
		return b, point(c.CacheDir, digest)
	}
	c.Log.Info("building guest bundle", "digest", digest, "kernel", k.Version)
	if err := build(c.CacheDir, digest, k, initBinary); err != nil {
		return Bundle{}, fmt.Errorf("build the guest bundle: %w", err)
	}
	b, err := read(filepath.Join(c.CacheDir, digest))
	if err != nil {
		return Bundle{}, err
	}
	c.Log.Info("guest bundle built", "digest", digest)
	return b, point(c.CacheDir, digest)
}

// Find returns the bundle that Ensure built or used last. "" is
// DefaultCacheDir. Without one it fails with code NotFound.
func Find(cacheDir string) (Bundle, error) {
	if cacheDir == "" {
		dir, err := DefaultCacheDir()
		if err != nil {
			return Bundle{}, err
		}
		cacheDir = dir
	}
	digest, err := os.Readlink(filepath.Join(cacheDir, currentLink))
	if err != nil {
		return Bundle{}, &miosa.Error{Code: miosa.NotFound, Message: "no guest bundle has been built yet: run make build", Err: err}
	}
	return read(filepath.Join(cacheDir, filepath.Base(digest)))
}

func read(dir string) (Bundle, error) {
	data, err := os.ReadFile(filepath.Join(dir, bundleFile))
	if err != nil {
		return Bundle{}, &miosa.Error{Code: miosa.NotFound, Message: "no guest bundle in " + dir, Err: err}
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return Bundle{}, fmt.Errorf("read %s: %w", filepath.Join(dir, bundleFile), err)
	}
	b := Bundle{
		Kernel:        filepath.Join(dir, kernelFile),
		Initrd:        filepath.Join(dir, initrdFile),
		Digest:        m.Digest,
		KernelVersion: m.KernelVersion,
		KernelPackage: m.KernelPackage,
	}
	for _, path := range []string{b.Kernel, b.Initrd} {
		if err := whole(path); err != nil {
			return Bundle{}, &miosa.Error{Code: miosa.NotFound, Message: "the guest bundle in " + dir + " is incomplete", Err: err}
		}
	}
	return b, nil
}

// whole is nil where a file is there and holds something: a power cut may leave
// an empty one.
func whole(path string) error {
	info, err := os.Stat(path)
	if err == nil && info.Size() == 0 {
		err = fmt.Errorf("%s is empty", path)
	}
	return err
}

// flush brings everything below the directory to the disk: once it has its
// name, it is whole.
func flush(dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path) //nolint:gosec // nobody else writes there
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

func build(cacheDir, digest string, k kernel, initBinary []byte) (err error) {
	tmp, err := os.MkdirTemp(cacheDir, "build-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	// Readable for the unprivileged user that a VMM runs as.
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := share(filepath.Join(k.dir, kernelFile), filepath.Join(tmp, kernelFile)); err != nil {
		return err
	}
	modules, err := k.modules()
	if err != nil {
		return err
	}
	if err := writeInitrd(filepath.Join(tmp, initrdFile), initBinary, modules); err != nil {
		return err
	}
	sum := sha256.Sum256(initBinary)
	m := manifest{
		Digest: digest, KernelVersion: k.Version, KernelPackage: k.Package,
		InitSHA256: hex.EncodeToString(sum[:]),
	}
	for _, mod := range modules {
		m.Modules = append(m.Modules, mod.name)
	}
	if err := writeJSON(filepath.Join(tmp, bundleFile), m); err != nil {
		return err
	}
	if err := flush(tmp); err != nil {
		return err
	}
	final := filepath.Join(cacheDir, digest)
	if err := os.RemoveAll(final); err != nil { // an incomplete one
		return err
	}
	return disk.Rename(tmp, final)
}

// share makes a hard link, the kernel being 53 MB and the same for many
// bundles, or a copy where links are not possible.
func share(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}

// point makes digest the one that Find returns.
func point(cacheDir, digest string) error {
	link := filepath.Join(cacheDir, currentLink)
	if have, err := os.Readlink(link); err == nil && have == digest {
		return nil
	}
	tmp := link + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("mark the current bundle: %w", err)
	}
	if err := os.Symlink(digest, tmp); err != nil {
		return fmt.Errorf("mark the current bundle: %w", err)
	}
	if err := disk.Rename(tmp, link); err != nil {
		return fmt.Errorf("mark the current bundle: %w", err)
	}
	return nil
}

// layout counts changes of how kernels and initrds are made from their inputs.
const layout = "1"

// layoutKey changes whenever cached kernels and bundles must be made anew.
func layoutKey() string {
	h := sha256.New()
	fmt.Fprintf(h, "layout %s\n", layout)
	for _, m := range wantedModules {
		fmt.Fprintf(h, "module %s %d\n", m.name, m.when)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func bundleDigest(k kernel, initBinary []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "kernel %s\ninit %x\n", k.Key, sha256.Sum256(initBinary))
	return hex.EncodeToString(h.Sum(nil))
}

func writeJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(data, '\n'), 0o644)
}
