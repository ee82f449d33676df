package bundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/miosa/miosa"
)

const defaultKernelPackage = "linux-image-cloud-amd64"

// imageName matches a real kernel image package within a Depends field.
var imageName = regexp.MustCompile(`\blinux-image-[0-9][a-z0-9.+~-]*`)

// download fetches the real package behind c.KernelPackage into dir, as a
// file: apt checks its signature chain, nothing is installed.
func download(ctx context.Context, c Config, dir string) (string, error) {
	name := c.KernelPackage
	if name == "" {
		name = defaultKernelPackage
	}
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(tool); err != nil {
			return "", &miosa.Error{Code: miosa.Unsupported, Err: err, Message: tool +
				" is not installed: the guest's kernel comes from a Debian package; on other systems give a downloaded one as KernelDeb"}
		}
	}
	// A meta-package leads to the real one through its dependencies.
	if !imageName.MatchString(name) {
		real, err := resolve(ctx, dir, name)
		if err != nil {
			return "", err
		}
		name = real
	}
	c.Log.Info("downloading kernel package", "package", name)
	// The sandbox user of apt could not write into our directory, and would
	// only warn about it.
	if err := run(ctx, dir, "apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name); err != nil {
		return "", &miosa.Error{Code: miosa.Unavailable, Err: err, Message: "cannot download " + name +
			": is the network up, and are the package lists fresh (apt-get update)?"}
	}
	return only(dir, "linux-image-*.deb")
}

func resolve(ctx context.Context, dir, name string) (string, error) {
	var out bytes.Buffer
	if err := runTo(ctx, dir, &out, "apt-cache", "--no-all-versions", "show", name); err != nil {
		return "", &miosa.Error{Code: miosa.Unavailable, Err: err, Message: "apt does not know " + name +
			": are the package lists there (apt-get update)?"}
	}
	for line := range strings.Lines(out.String()) {
		if depends, ok := strings.CutPrefix(line, "Depends:"); ok {
			if real := imageName.FindString(depends); real != "" {
				return real, nil
			}
		}
	}
	return "", fmt.Errorf("package %s depends on no kernel image", name)
}

func run(ctx context.Context, dir, name string, args ...string) error {
	return runTo(ctx, dir, nil, name, args...)
}

func runTo(ctx context.Context, dir string, stdout *bytes.Buffer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if stdout != nil {
		cmd.Stdout = stdout
	}
	if err := cmd.Run(); err != nil {
		words := strings.TrimSpace(stderr.String())
		if words == "" {
			return fmt.Errorf("%s: %w", filepath.Base(name), err)
		}
		return errors.Join(fmt.Errorf("%s: %w", filepath.Base(name), err), errors.New(words))
	}
	return nil
}
