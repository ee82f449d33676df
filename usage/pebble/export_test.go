package pebble

import (
	"encoding/binary"

	lsm "github.com/cockroachdb/pebble/v2"
)

// SetFormat marks the store as one of another version.
func (s *Store) SetFormat(n uint64) error {
	return s.db.Do(func(db *lsm.DB) error { return db.Set(metaKey("format"), binary.AppendUvarint(nil, n), lsm.Sync) })
}
