package pebble

import (
	"maps"
	"slices"
	"sync"

	lsm "github.com/cockroachdb/pebble/v2"

	"github.com/miosa/miosa/pebbledb"
)

// buckets are those that may hold something.
type buckets struct {
	mu  sync.Mutex // guards all
	all map[bucket]struct{}
}

// load finds them: the first key of each leads to the next.
func (s *buckets) load(db *pebbledb.DB) error {
	s.all = map[bucket]struct{}{}
	it, err := db.NewIter(&lsm.IterOptions{LowerBound: []byte{kindChunk}, UpperBound: []byte{kindChunk + 1}})
	if err != nil {
		return err
	}
	for ok := it.First(); ok; {
		b := bucketOf(it.Key())
		s.all[b] = struct{}{}
		ok = it.SeekGE(b.end())
	}
	return it.Close()
}

func (s *buckets) add(b bucket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[b] = struct{}{}
}

func (s *buckets) remove(b bucket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, b)
}

// list is all of them, in the order of their keys.
func (s *buckets) list() []bucket {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Keys(s.all), func(a, b bucket) int {
		if a.days != b.days {
			return int(a.days) - int(b.days)
		}
		return int(a.hour) - int(b.hour)
	})
}

// hour is all buckets of an hour.
type hour struct {
	hour    int32
	classes []bucket
}

// within are the hours from first to last, in order or against it.
func (s *buckets) within(first, last int32, backward bool) []hour {
	classes := map[int32][]bucket{}
	for _, b := range s.list() {
		if first <= b.hour && b.hour <= last {
			classes[b.hour] = append(classes[b.hour], b)
		}
	}
	var all []hour
	for _, h := range slices.Sorted(maps.Keys(classes)) {
		all = append(all, hour{h, classes[h]})
	}
	if backward {
		slices.Reverse(all)
	}
	return all
}
