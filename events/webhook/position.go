package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
)

// positions keeps every webhook's State in a file of its own: it changes with
// every delivery, which is too often for the records.
type positions struct{ dir string }

const positionVersion = 1

type positionFile struct {
	Version int   `json:"v"`
	State   State `json:"state"`
}

func openPositions(dir string) (positions, error) {
	if err := disk.MakeDir(dir, 0o700); err != nil {
		return positions{}, fmt.Errorf("make the directory of webhooks: %w", err)
	}
	if err := disk.Sweep(dir); err != nil {
		return positions{}, fmt.Errorf("clear the directory of webhooks: %w", err)
	}
	return positions{dir}, nil
}

func (p positions) path(id string) string { return filepath.Join(p.dir, id+".json") }

// load is the zero State for a webhook that has none.
func (p positions) load(id string) (State, error) {
	raw, err := os.ReadFile(p.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, nil
	}
	var f positionFile
	if err == nil {
		err = json.Unmarshal(raw, &f)
	}
	if err == nil && f.Version > positionVersion {
		err = fmt.Errorf("it was written by a newer version of miosa")
	}
	if err != nil {
		return State{}, fmt.Errorf("read where webhook %s stands: %w", id, err)
	}
	return f.State, nil
}

// save replaces it in one step: after a crash the former or the new one is there.
func (p positions) save(id string, s State) error {
	raw, err := json.Marshal(positionFile{positionVersion, s})
	if err != nil {
		return err
	}
	if err := disk.Replace(p.path(id), raw, 0o600); err != nil {
		return fmt.Errorf("keep where webhook %s stands: %w", id, err)
	}
	return nil
}

// remove forgets a webhook that does not run any more.
func (p positions) remove(id string) error {
	return p.sweep(func(other string) bool { return other != id })
}

// sweep removes what no webhook is there for. What the others are writing at
// the moment is left to them.
func (p positions) sweep(known func(id string) bool) error {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		id, _, _ := strings.Cut(e.Name(), ".")
		if miosa.IDPrefix(id) == miosa.PrefixWebhook && !known(id) {
			if err := os.Remove(filepath.Join(p.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
