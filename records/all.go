package records

import (
	"context"
	"fmt"

	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/store"
)

// Prefix is what the keys of all records begin with.
const Prefix = "/v1/"

// All reads every record as the deciding machine takes it in at first. Changes
// after the returned event's revision may be in it already: seeing them again
// does no harm.
func All(ctx context.Context, s store.Store) (cell.Loaded, error) {
	revision, err := s.Revision(ctx)
	if err != nil {
		return cell.Loaded{}, fmt.Errorf("load the records: %w", err)
	}
	loaded := cell.Loaded{Revision: revision}
	for entry, err := range s.Scan(ctx, Prefix, store.ScanOptions{}) {
		if err != nil {
			return cell.Loaded{}, fmt.Errorf("load the records: %w", err)
		}
		noun, ok, err := ForCell(entry)
		if err != nil {
			return cell.Loaded{}, err
		}
		if ok {
			loaded.Nouns = append(loaded.Nouns, noun)
		}
	}
	return loaded, nil
}

// ForCell is the record that an entry is, unless the machine has no use for it:
// cell.Kinds says what that is.
func ForCell(e store.Entry) (noun any, ok bool, err error) {
	kind, _, ok := store.ParseKey(e.Key)
	if !ok { // an index entry
		return nil, false, nil
	}
	if used, known := cell.Kinds[kind]; !known {
		return nil, false, cell.UnknownKind{Kind: kind}
	} else if !used {
		return nil, false, nil
	}
	noun, err = store.Decode(e)
	if err != nil {
		return nil, false, fmt.Errorf("read %s: %w", e.Key, err)
	}
	return noun, noun != nil, nil
}
