package agent

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
)

// What a crash left half written is gone after the next start, and nothing else.
func TestTheNextStartSweepsWhatWasHalfWritten(t *testing.T) {
	d := disks{dir: t.TempDir()}
	const id = "ri_01jz000000000000000000000a"
	if err := d.writeState(stateOf(id, miosa.Healthy)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{d.path(id, stateFile), filepath.Join(d.dir, "meters")} {
		half, err := disk.Create(path, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		half.Close()
	}
	if err := d.prepare(); err != nil {
		t.Fatal(err)
	}
	states, err := d.states(slog.New(slog.DiscardHandler))
	if err != nil || len(states) != 1 || states[0].Observation.State != miosa.Healthy {
		t.Fatalf("%+v, %v", states, err)
	}
	var left []string
	if err := filepath.WalkDir(d.dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			left = append(left, path)
		}
		return err
	}); err != nil || len(left) != 1 || left[0] != d.path(id, stateFile) {
		t.Errorf("left is %q, %v", left, err)
	}
}
