package etcd

import (
	"context"
	"iter"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/miosa/miosa/store"
)

// Pages grow and shrink so that each is about pageBytes: records run from a
// few bytes to a megabyte.
const (
	firstPage = 64
	lastPage  = 4096
	pageBytes = 1 << 20
)

// Scan yields the entries under prefix as they were at one revision.
func (s *Store) Scan(ctx context.Context, prefix string, opts store.ScanOptions) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) {
		sc := scan{store: s, ctx: ctx, keysOnly: opts.KeysOnly, page: firstPage}
		from, to := prefix, store.PrefixEnd(prefix)
		var err error
		if opts.Descending {
			if opts.After != "" && (to == "" || opts.After < to) {
				to = opts.After
			}
			err = sc.descend(from, to, opts.Limit, yield)
		} else {
			if opts.After != "" {
				from = max(from, opts.After+"\x00")
			}
			err = sc.ascend(from, to, opts.Limit, yield)
		}
		if err != nil {
			yield(store.Entry{}, err)
		}
	}
}

type scan struct {
	store    *Store
	ctx      context.Context
	keysOnly bool
	revision int64 // of the first page, then of all
	page     int
}

type yieldEntry = func(store.Entry, error) bool

// ascend yields the keys of [from, to) page by page; to "" is open.
func (sc *scan) ascend(from, to string, limit int, yield yieldEntry) error {
	for yielded := 0; to == "" || from < to; {
		size := sc.page
		if limit > 0 {
			size = min(size, limit-yielded)
		}
		kvs, more, err := sc.fetch(from, to, size, sc.keysOnly)
		if err != nil {
			return err
		}
		for _, kv := range kvs {
			if !yield(sc.entry(kv), nil) {
				return nil
			}
		}
		yielded += len(kvs)
		if !more || yielded == limit {
			return nil
		}
		from = string(kvs[len(kvs)-1].Key) + "\x00"
	}
	return nil
}

// descend yields the keys of [from, to) from the end. etcd ranges run upwards
// only (it would read and sort all of the range for every page), so the keys
// are read once, and the values page by page between them.
func (sc *scan) descend(from, to string, limit int, yield yieldEntry) error {
	if to != "" && from >= to {
		return nil
	}
	keys, _, err := sc.fetch(from, to, 0, true)
	if err != nil {
		return err
	}
	if limit > 0 && len(keys) > limit {
		keys = keys[len(keys)-limit:]
	}
	for len(keys) > 0 {
		begin := max(0, len(keys)-sc.page)
		if sc.keysOnly {
			begin = 0
		}
		part := keys[begin:]
		keys = keys[:begin]
		if !sc.keysOnly {
			first, last := string(part[0].Key), string(part[len(part)-1].Key)
			if part, _, err = sc.fetch(first, last+"\x00", 0, false); err != nil {
				return err
			}
		}
		for _, kv := range slices.Backward(part) {
			if !yield(sc.entry(kv), nil) {
				return nil
			}
		}
	}
	return nil
}

// fetch reads at most limit (0: all) of [from, to), at the scan's revision.
func (sc *scan) fetch(from, to string, limit int, keysOnly bool) (kvs []*mvccpb.KeyValue, more bool, err error) {
	if from == "" {
		from = "\x00"
	}
	if to == "" {
		to = "\x00" // etcd's word for no end
	}
	opts := []clientv3.OpOption{clientv3.WithRange(to), clientv3.WithLimit(int64(limit)), clientv3.WithRev(sc.revision)}
	if keysOnly {
		opts = append(opts, clientv3.WithKeysOnly())
	}
	r, err := do(sc.ctx, sc.store, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return sc.store.client.Get(ctx, from, sc.store.read(opts...)...)
	})
	if err != nil {
		return nil, false, err
	}
	if sc.revision == 0 {
		sc.revision = r.Header.Revision
	}
	sc.adapt(r.Kvs)
	return r.Kvs, r.More, nil
}

func (sc *scan) adapt(kvs []*mvccpb.KeyValue) {
	if len(kvs) == 0 {
		return
	}
	bytes := 0
	for _, kv := range kvs {
		bytes += len(kv.Key) + len(kv.Value)
	}
	fitting := pageBytes / max(1, bytes/len(kvs))
	sc.page = max(1, min(fitting, 4*sc.page, lastPage))
}

func (sc *scan) entry(kv *mvccpb.KeyValue) store.Entry {
	e := entry(kv)
	if sc.keysOnly {
		e.Value = nil
	}
	return e
}

func entry(kv *mvccpb.KeyValue) store.Entry {
	value := kv.Value
	if value == nil {
		value = []byte{} // nil would mean that there is none
	}
	return store.Entry{Key: string(kv.Key), Value: value, Revision: kv.ModRevision}
}
