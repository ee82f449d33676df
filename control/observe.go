package control

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
)

const (
	// reportsAtOnce bounds the reports of one transaction: each has a record and at
	// most one event to write, on three conditions.
	reportsAtOnce = 32
	// reportWritersAtOnce bounds the transactions of reports that are under way.
	reportWritersAtOnce = 4
	// reportsWithin bounds one of them.
	reportsWithin = 15 * time.Second
)

// intake writes agents' reports down, together those that come together: while some
// are being written the next ones gather.
type intake struct {
	store store.Store

	mu      sync.Mutex
	waiting []*report // guarded by mu
	writers int       // guarded by mu
}

// report is one agent's word on one instance.
type report struct {
	host string
	o    miosa.Observation
	err  error
	done chan struct{} // closed when err is set
}

// add returns when the report is written, or refused, or ctx has ended: it may
// be written all the same then.
func (in *intake) add(ctx context.Context, host string, o miosa.Observation) error {
	r := &report{host: host, o: o, done: make(chan struct{})}
	in.mu.Lock()
	in.waiting = append(in.waiting, r)
	start := in.writers < reportWritersAtOnce
	if start {
		in.writers++
	}
	in.mu.Unlock()
	if start {
		go in.write()
	}
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// write writes what waits until nothing does.
func (in *intake) write() {
	for {
		in.mu.Lock()
		n := min(len(in.waiting), reportsAtOnce)
		if n == 0 {
			in.waiting = nil
			in.writers--
			in.mu.Unlock()
			return
		}
		some := in.waiting[:n:n]
		in.waiting = in.waiting[n:]
		in.mu.Unlock()
		in.together(some)
	}
}

// together writes reports in one transaction. Where that fails each is tried by
// itself: what is wrong with one is not the others' fault.
func (in *intake) together(some []*report) {
	ctx, cancel := context.WithTimeout(context.Background(), reportsWithin)
	defer cancel()
	now := time.Now().UTC()
	var keys []string
	for _, r := range some {
		keys = append(keys, store.InstanceKey(r.o.TenantID, r.o.DeploymentID, r.o.InstanceID), store.ObservationKey(r.o.TenantID, r.o.DeploymentID, r.o.InstanceID))
	}
	_, err := store.Update(ctx, in.store, func(tx *store.Tx) error {
		if err := tx.Prefetch(keys...); err != nil {
			return err
		}
		for _, r := range some {
			r.err = Record(tx, r.host, r.o, now, rand.Reader)
			switch code := miosa.CodeOf(r.err); {
			case r.err == nil:
			case code == miosa.NotFound, code == miosa.Forbidden: // refused, before anything of it was written
			default:
				return r.err
			}
		}
		return nil
	})
	switch {
	case err == nil:
	case len(some) > 1:
		for n := range some {
			in.together(some[n : n+1])
		}
		return
	default:
		some[0].err = err
	}
	for _, r := range some {
		close(r.done)
	}
}
