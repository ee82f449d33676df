package agent

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/miosa/miosa/metering"
)

// meterFile keeps the meters of a host: one entry a line behind its checksum,
// the last of an instance counts. A line that was cut off, and all behind it,
// is not there. It belongs to who holds the meters' lock.
type meterFile struct {
	path string
	f    *os.File
	size int64 // of what is whole
}

// meterEntry is one line.
type meterEntry struct {
	Instance string          `json:"instance,omitempty"`
	Meter    *metering.Meter `json:"meter,omitempty"` // nil: nothing more of it is needed
	Epoch    uint64          `json:"epoch"`           // the highest that was given out
}

// openMeterFile reads the file, or begins one. keep is told each entry.
func openMeterFile(path string, keep func(meterEntry)) (*meterFile, error) {
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read the meters: %w", err)
	}
	whole := int64(0)
	for r := bufio.NewReader(bytes.NewReader(b)); ; {
		line, err := r.ReadBytes('\n')
		e, ok := parseMeterEntry(line)
		if errors.Is(err, io.EOF) || !ok {
			break
		}
		keep(e)
		whole += int64(len(line))
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the meters: %w", err)
	}
	if err := f.Truncate(whole); err != nil {
		return nil, fmt.Errorf("open the meters: %w", errors.Join(err, f.Close()))
	}
	return &meterFile{path: path, f: f, size: whole}, nil
}

func parseMeterEntry(line []byte) (e meterEntry, ok bool) {
	sum, entry, found := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	if !found || fmt.Sprintf("%08x", crc32.ChecksumIEEE(entry)) != string(sum) {
		return e, false
	}
	return e, json.Unmarshal(entry, &e) == nil
}

func appendMeterEntry(b []byte, e meterEntry) ([]byte, error) {
	entry, err := json.Marshal(e)
	if err != nil {
		return b, err
	}
	return append(append(fmt.Appendf(b, "%08x ", crc32.ChecksumIEEE(entry)), entry...), '\n'), nil
}

// add appends entries. It lasts through the death of this process; sync makes
// it last through the machine's.
func (f *meterFile) add(entries ...meterEntry) error {
	var b []byte
	for _, e := range entries {
		var err error
		if b, err = appendMeterEntry(b, e); err != nil {
			return err
		}
	}
	// What a failed write left behind is written over.
	if _, err := f.f.WriteAt(b, f.size); err != nil {
		return fmt.Errorf("write the meters: %w", err)
	}
	f.size += int64(len(b))
	return nil
}

func (f *meterFile) sync() error {
	if err := f.f.Sync(); err != nil {
		return fmt.Errorf("sync the meters: %w", err)
	}
	return nil
}

// replace writes the file anew: a crash leaves the old one or the new one.
func (f *meterFile) replace(entries []meterEntry) (err error) {
	next, err := os.OpenFile(f.path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write the meters: %w", err)
	}
	n := &meterFile{path: f.path, f: next}
	if err = n.add(entries...); err == nil {
		err = n.sync()
	}
	if err == nil {
		err = os.Rename(f.path+".new", f.path)
	}
	if err != nil {
		return errors.Join(err, next.Close())
	}
	old := f.f
	f.f, f.size = n.f, n.size
	err = old.Close()
	if dir, derr := os.Open(filepath.Dir(f.path)); derr == nil {
		err = errors.Join(err, dir.Sync(), dir.Close())
	}
	return err
}

func (f *meterFile) close() error { return f.f.Close() }
