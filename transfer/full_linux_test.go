package transfer

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A full disk is said in words, to both ends, and leaves nothing half written.
func TestAFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	bothWays(t, func(t *testing.T, d copying) {
		from, to := filepath.Join(t.TempDir(), "src"), t.TempDir()
		if err := syscall.Mount("tmpfs", to, "tmpfs", 0, "size=1m"); err != nil {
			t.Skip("no tmpfs can be mounted here: ", err)
		}
		t.Cleanup(func() { do(t, syscall.Unmount(to, 0)) })
		write(t, filepath.Join(from, "a"), "fits")
		write(t, filepath.Join(from, "b"), strings.Repeat("x", 3<<20))
		_, err := d.copy(t, from, to, Options{})
		says(t, err, `"src/b": no space left on device`)
		same(t, read(t, filepath.Join(to, "src", "a")), "fits")
		clean(t, to)
		write(t, filepath.Join(to, "c"), strings.Repeat("x", 900<<10)) // there is room again
	})
}
