package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/miosa/miosa/disk"
)

// kernel is an unpacked kernel in the cache; its fields are kernel.json.
type kernel struct {
	Key     string `json:"key"`     // name of its directory: digest of the package file and the layout
	Version string `json:"version"` // uname -r
	Package string `json:"package"`
	Layout  string `json:"layout"` // of this directory, see layoutKey

	dir string
}

const (
	kernelDir      = "kernel"
	kernelManifest = "kernel.json"
	modulesDir     = "modules"
)

// ensureKernel returns the cached kernel, or downloads and unpacks one.
func ensureKernel(ctx context.Context, c Config) (kernel, error) {
	root := filepath.Join(c.CacheDir, kernelDir)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return kernel{}, fmt.Errorf("make the kernel cache: %w", err)
	}
	if c.KernelDeb == "" && !c.Refresh {
		if k, err := readKernel(filepath.Join(root, currentLink)); err == nil {
			return k, nil
		}
	}
	tmp, err := os.MkdirTemp(root, "build-*")
	if err != nil {
		return kernel{}, fmt.Errorf("make a build directory: %w", err)
	}
	defer os.RemoveAll(tmp) // what is left of it is only scratch

	deb := c.KernelDeb
	if deb == "" {
		if deb, err = download(ctx, c, tmp); err != nil {
			return kernel{}, err
		}
	}
	k, err := unpackKernel(ctx, c, root, tmp, deb)
	if err != nil {
		return kernel{}, fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
	}
	return k, point(root, k.Key)
}

func readKernel(dir string) (kernel, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return kernel{}, err
	}
	data, err := os.ReadFile(filepath.Join(dir, kernelManifest))
	if err != nil {
		return kernel{}, err
	}
	k := kernel{dir: dir}
	if err := json.Unmarshal(data, &k); err != nil {
		return kernel{}, fmt.Errorf("read %s: %w", kernelManifest, err)
	}
	if k.Layout != layoutKey() {
		return kernel{}, errors.New("cached by another version of this program")
	}
	if err := whole(filepath.Join(dir, kernelFile)); err != nil {
		return kernel{}, err
	}
	return k, nil
}

// unpackKernel turns a Debian kernel package into a directory of the cache.
func unpackKernel(ctx context.Context, c Config, root, tmp, deb string) (kernel, error) {
	data, err := os.ReadFile(deb)
	if err != nil {
		return kernel{}, err
	}
	sum := sha256.Sum256(fmt.Appendf(data, "layout %s\n", layoutKey()))
	key := hex.EncodeToString(sum[:])
	if k, err := readKernel(filepath.Join(root, key)); err == nil {
		return k, nil
	}
	c.Log.Info("unpacking kernel", "package", filepath.Base(deb))
	tree := filepath.Join(tmp, "tree")
	if err := run(ctx, tmp, "dpkg-deb", "-x", deb, tree); err != nil {
		return kernel{}, err
	}
	// Debian's merged /usr: the modules are in lib or in usr/lib.
	release, err := only(tree, "lib/modules/*", "usr/lib/modules/*")
	if err != nil {
		return kernel{}, err
	}
	imagePath, err := only(tree, "boot/vmlinuz-*")
	if err != nil {
		return kernel{}, err
	}
	image, err := os.ReadFile(imagePath)
	if err != nil {
		return kernel{}, err
	}
	vmlinux, err := extractVMLinux(image)
	if err != nil {
		return kernel{}, err
	}
	modules, err := collectModules(release)
	if err != nil {
		return kernel{}, err
	}
	k := kernel{Key: key, Version: filepath.Base(release), Package: filepath.Base(deb), Layout: layoutKey()}
	out := filepath.Join(tmp, "out")
	if err := errors.Join(k.write(out, vmlinux, modules), flush(out)); err != nil {
		return kernel{}, err
	}
	final := filepath.Join(root, key)
	if err := errors.Join(os.RemoveAll(final), disk.Rename(out, final)); err != nil {
		return kernel{}, err
	}
	return readKernel(final)
}

func (k kernel) write(dir string, vmlinux []byte, modules []loadable) error {
	if err := os.MkdirAll(filepath.Join(dir, modulesDir), 0o755); err != nil {
		return err
	}
	for _, m := range modules {
		if err := os.WriteFile(filepath.Join(dir, modulesDir, m.name+".ko"), m.data, 0o644); err != nil {
			return err
		}
	}
	var order []moduleRecord
	for _, m := range modules {
		order = append(order, moduleRecord{m.name, m.when})
	}
	if err := writeJSON(filepath.Join(dir, modulesDir, "order.json"), order); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, kernelFile), vmlinux, 0o644); err != nil {
		return err
	}
	return writeJSON(filepath.Join(dir, kernelManifest), k)
}

type moduleRecord struct {
	Name string `json:"name"`
	When int    `json:"when"`
}

func (k kernel) modules() ([]loadable, error) {
	data, err := os.ReadFile(filepath.Join(k.dir, modulesDir, "order.json"))
	if err != nil {
		return nil, err
	}
	var order []moduleRecord
	if err := json.Unmarshal(data, &order); err != nil {
		return nil, err
	}
	var out []loadable
	for _, m := range order {
		data, err := os.ReadFile(filepath.Join(k.dir, modulesDir, m.Name+".ko"))
		if err != nil {
			return nil, err
		}
		out = append(out, loadable{module{m.Name, m.When}, data})
	}
	return out, nil
}

// only is the one match of the patterns under dir.
func only(dir string, patterns ...string) (string, error) {
	var found []string
	for _, p := range patterns {
		m, err := filepath.Glob(filepath.Join(dir, p))
		if err != nil {
			return "", err
		}
		found = append(found, m...)
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%d files match %s in the kernel package, want 1: is it a kernel image package?", len(found), patterns[0])
	}
	return found[0], nil
}
