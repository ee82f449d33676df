package vmmtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing/fstest"

	"github.com/erofs/go-erofs"
)

// BuildBase writes a base image with the suite's program at /app/app into the
// directory. module is the path of this repository's root.
func BuildBase(dir, module string) (_ string, err error) {
	app := filepath.Join(dir, "app")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", app, "./vmm/vmmtest/testdata/app")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the suite's program: %w\n%s", err, out)
	}
	program, err := os.ReadFile(app)
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "base.erofs")
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := erofs.Create(f)
	err = w.CopyFrom(fstest.MapFS{
		"app":     {Mode: fs.ModeDir | 0o755},
		"app/app": {Data: program, Mode: 0o755},
	})
	return path, errors.Join(err, w.Close())
}

// BuildData makes an empty ephemeral disk of 256 MB at the path.
func BuildData(path string) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(path, 256<<20); err != nil {
		return err
	}
	out, err := exec.Command("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard", path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make the ephemeral disk: %w\n%s", err, out)
	}
	return nil
}
