package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
)

// cachedKernel puts a kernel made of dummy bytes into a cache, as an earlier
// Ensure would have: building an initrd then needs no network.
func cachedKernel(t *testing.T, cache string) {
	t.Helper()
	root := filepath.Join(cache, kernelDir)
	k := kernel{Key: "test", Version: "6.1.0-test", Package: "linux-image-test", Layout: layoutKey()}
	modules := []loadable{{module{"virtio_ring", 0}, []byte("ring")}, {module{"vsock", virtioVsock}, []byte("sock")}}
	if err := k.write(filepath.Join(root, k.Key), []byte("kernel"), modules); err != nil {
		t.Fatal(err)
	}
	if err := point(root, k.Key); err != nil {
		t.Fatal(err)
	}
}

// initBinary is a minimal static ELF header for x86-64 with tail appended.
func initBinary(t *testing.T, tail string) string {
	t.Helper()
	h := make([]byte, 64)
	copy(h, "\x7fELF\x02\x01\x01")
	h[16], h[18], h[20], h[52], h[54], h[58] = 2, byte(elf.EM_X86_64), 1, 64, 56, 64
	path := filepath.Join(t.TempDir(), "miosa-init")
	if err := os.WriteFile(path, append(h, tail...), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEnsureBuildsOnceAndAnewForAnotherInit(t *testing.T) {
	cache := t.TempDir()
	cachedKernel(t, cache)
	one := initBinary(t, "one")
	first, err := Ensure(t.Context(), Config{CacheDir: cache, InitBinary: one})
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(first.Initrd)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Ensure(t.Context(), Config{CacheDir: cache, InitBinary: one})
	if err != nil || again != first {
		t.Fatalf("second Ensure = %+v, %v; want %+v", again, err, first)
	}
	if after, err := os.Stat(first.Initrd); err != nil || !os.SameFile(before, after) {
		t.Errorf("the cached initrd was written again")
	}
	two, err := Ensure(t.Context(), Config{CacheDir: cache, InitBinary: initBinary(t, "two")})
	if err != nil || two.Digest == first.Digest {
		t.Fatalf("another init gave digest %s, %v", two.Digest, err)
	}
	if found, err := Find(cache); err != nil || found != two {
		t.Errorf("Find = %+v, %v; want the last one, %+v", found, err, two)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "build-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestEnsureSameInputSameBytes(t *testing.T) {
	var sums []string
	for range 2 {
		cache := t.TempDir()
		cachedKernel(t, cache)
		b, err := Ensure(t.Context(), Config{CacheDir: cache, InitBinary: initBinary(t, "x")})
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(b.Initrd)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		sums = append(sums, b.Digest+hex.EncodeToString(sum[:]))
	}
	if sums[0] != sums[1] {
		t.Errorf("two builds of the same input differ: %v", sums)
	}
}

func TestEnsureRebuildsAnIncompleteBundle(t *testing.T) {
	cache := t.TempDir()
	cachedKernel(t, cache)
	c := Config{CacheDir: cache, InitBinary: initBinary(t, "x")}
	b, err := Ensure(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func() error{
		"a file is gone": func() error { return os.Remove(b.Initrd) },
		// As a power cut leaves what was never brought to the disk.
		"a file is empty": func() error { return os.Truncate(b.Initrd, 0) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if _, err := Find(cache); miosa.CodeOf(err) != miosa.NotFound {
			t.Errorf("%s: Find of an incomplete bundle: %v, want not_found", name, err)
		}
		if _, err := Ensure(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(b.Initrd); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnEmptyKernelIsNotUsed(t *testing.T) {
	cache := t.TempDir()
	cachedKernel(t, cache)
	dir := filepath.Join(cache, kernelDir, currentLink)
	if _, err := readKernel(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, kernelFile), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := readKernel(dir); err == nil {
		t.Error("it was")
	}
}

func TestEnsureWaitsForTheLock(t *testing.T) {
	cache := t.TempDir()
	unlock, err := lock(t.Context(), filepath.Join(cache, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := Ensure(ctx, Config{CacheDir: cache, InitBinary: initBinary(t, "x")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Ensure beside another = %v, want deadline exceeded", err)
	}
}

func TestEnsureRefusesABadInit(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"script":  []byte("#!/bin/sh\n"),
		"too big": bytes.Repeat([]byte{0}, maxInit+1),
	} {
		path := filepath.Join(dir, "init")
		if err := os.WriteFile(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := Ensure(t.Context(), Config{CacheDir: dir, InitBinary: path}); err == nil {
			t.Errorf("%s: accepted as init", name)
		}
	}
}

func TestFindWithoutABundle(t *testing.T) {
	if _, err := Find(t.TempDir()); miosa.CodeOf(err) != miosa.NotFound {
		t.Errorf("Find in an empty cache = %v, want not_found", err)
	}
}

func TestInitrdIsReadableAsCpio(t *testing.T) {
	if _, err := exec.LookPath("cpio"); err != nil {
		t.Skip("cpio is not installed")
	}
	cache := t.TempDir()
	cachedKernel(t, cache)
	b, err := Ensure(t.Context(), Config{CacheDir: cache, InitBinary: initBinary(t, "x")})
	if err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(b.Initrd)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd := exec.CommandContext(t.Context(), "cpio", "--list", "--quiet")
	cmd.Stdin = in
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"init", "modules/order", "modules/virtio_ring.ko", "modules/vsock.ko", "dev/console"} {
		if !strings.Contains("\n"+string(out), "\n"+want+"\n") {
			t.Errorf("initrd lacks %s:\n%s", want, out)
		}
	}
}

func TestCpioLayout(t *testing.T) {
	var out bytes.Buffer
	c := &cpioWriter{w: &out}
	c.dir("d")
	c.file("d/f", 0o644, []byte("12345"))
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	if out.Len()%512 != 0 {
		t.Errorf("archive of %d bytes is not padded to 512", out.Len())
	}
	// Each header starts on a multiple of four.
	for rest, at := out.Bytes(), 0; ; {
		i := bytes.Index(rest, []byte("070701"))
		if i < 0 {
			break
		}
		if (at+i)%4 != 0 {
			t.Errorf("header at %d", at+i)
		}
		at += i + 6
		rest = rest[i+6:]
	}
}
