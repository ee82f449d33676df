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

	"github.com/miosa/miosa/disk"
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
	err = f.Truncate(whole)
	if err == nil {
		err = disk.SyncDir(filepath.Dir(path)) // what is synced lasts only if its name does
	}
	if err != nil {
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

// add appends entries. They last through the death of this process; a sync makes
// them last through the machine's.
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

// replace writes the file anew: a crash leaves the old one or the new one.
func (f *meterFile) replace(entries []meterEntry) error {
	next, err := disk.Create(f.path, 0o600)
	if err != nil {
		return fmt.Errorf("write the meters: %w", err)
	}
	n := &meterFile{path: f.path, f: next.File}
	if err = n.add(entries...); err == nil {
		err = next.Commit()
	}
	if !next.Named() {
		return errors.Join(err, next.Discard())
	}
	old := f.f
	f.f, f.size = n.f, n.size
	return errors.Join(err, old.Close())
}

func (f *meterFile) close() error { return f.f.Close() }
