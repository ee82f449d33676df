// Package pull is the loop that pulls the images of versions that wait for one
// (rollouts in step pulling). What a pull came to is written by its Keeper;
// control goes on from there. A pull that the platform's end cuts off begins
// anew with the next start, with the layers that it had.
package pull

import (
	"cmp"
	"context"
	"crypto/x509"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/outbound"
	"github.com/miosa/miosa/ration"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/registry"
	"github.com/miosa/miosa/store"
)

const (
	atOnce       = 4 // pulls of all tenants together
	atOnceTenant = 2 // of one tenant
	layersAtOnce = 3 // of one pull
	sweepEvery   = 10 * time.Minute
	// cacheBytes and cacheAge bound the layers that no pull needs now.
	cacheBytes = 10 << 30
	cacheAge   = time.Hour
	// leaveFree is what a pull leaves of the disk, in bytes.
	leaveFree = 512 << 20
	// lookEvery is how much a pull writes before it looks at the disk again, in bytes.
	lookEvery = 1 << 20
	// writeTries is how often a result is written, with growing pauses, before it
	// is left to the rollout's deadline.
	writeTries = 8
)

// Keeper writes what pulls came to into the records. Errors that are the
// tenant's to mend (a quota) are *miosa.Error in words.
type Keeper interface {
	// RoomForImage says why a tenant may not keep so many more bytes.
	RoomForImage(ctx context.Context, tenantID string, bytes int64) error
	// UseImage gives the rollout's version the release that its deployment has of
	// an image already; false: it has none.
	UseImage(ctx context.Context, r miosa.Rollout, digest string) (bool, error)
	// KeepImage makes what was pulled a release and gives it to the rollout's version.
	KeepImage(ctx context.Context, r miosa.Rollout, digest string, stored artifact.Stored) error
	// FailImage has the rollout's version fail, with the reason.
	FailImage(ctx context.Context, r miosa.Rollout, reason string) error
}

// Uploads takes artefacts in.
type Uploads interface {
	Receive(ctx context.Context, upload artifact.Upload) (artifact.Stored, error)
}

// Opener opens what was sealed under a tenant's data key.
type Opener interface {
	Open(ctx context.Context, tenantID, aad string, sealed []byte) ([]byte, error)
}

// Config says where things lie and lead.
type Config struct {
	Dir    string         // of layers on their way; made if it is not there
	Guard  outbound.Guard // where registries may be
	Roots  *x509.CertPool // that their certificates are signed by; nil: the system's
	Memory *ration.Pool   // what manifests are read with
	// Pause, LeastRate and RateOver are as in registry.Config.
	Pause     time.Duration
	LeastRate int64
	RateOver  time.Duration
	// Waits is how long a pull waits for its place; 0: 1 hour. Takes is how long it
	// may take from then on; 0: 1 hour.
	Waits, Takes time.Duration
	// Free is how many bytes the disk of a directory has; nil: asks the system.
	Free func(dir string) (uint64, error)
}

// Puller pulls images. Make it with New.
type Puller struct {
	cfg     Config
	records store.Store
	uploads Uploads
	secrets Opener
	log     *slog.Logger
	cache   *registry.Cache

	running sync.WaitGroup // every job's goroutine
	disk    sync.Mutex     // held by who promises some of it to a pull

	mu   sync.Mutex // guards the rest
	jobs []*job     // in the order in which they came
}

// New checks its arguments and starts nothing.
func New(cfg Config, records store.Store, uploads Uploads, secrets Opener, log *slog.Logger) (*Puller, error) {
	if records == nil || uploads == nil || secrets == nil {
		return nil, miosa.Errorf(miosa.Internal, "pulling images needs records, uploads and secrets")
	}
	if cfg.Memory == nil {
		cfg.Memory = artifact.NewMemory()
	}
	if cfg.Free == nil {
		cfg.Free = free
	}
	cfg.Waits, cfg.Takes = cmp.Or(cfg.Waits, time.Hour), cmp.Or(cfg.Takes, time.Hour)
	cache, err := registry.OpenCache(cfg.Dir, cacheBytes, cacheAge)
	if err != nil {
		return nil, err
	}
	return &Puller{cfg: cfg, records: records, uploads: uploads, secrets: secrets, log: log, cache: cache}, nil
}

// Close lets go of the directory.
func (p *Puller) Close() error { return p.cache.Close() }

// Run pulls images until ctx ends.
func (p *Puller) Run(ctx context.Context, keeper Keeper) error {
	defer p.running.Wait()
	p.running.Go(func() { p.sweep(ctx) })
	f := records.Follower{
		Store: p.records, Kinds: []string{store.Rollouts.Name()},
		List: records.OfTenants(p.records, func(tenant string) string { return store.RolloutsOf(tenant, "") }),
		Take: func(ctx context.Context, b records.Batch) error {
			p.apply(ctx, keeper, b)
			return nil
		},
	}
	f.Run(ctx, func(err error) { p.log.Error("read which images are to be pulled", "err", err) })
	return nil
}

func (p *Puller) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := p.cache.Sweep(time.Now(), false); err != nil {
			p.log.Error("sweep layers", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// apply takes up every rollout that waits for an image, and each that comes.
func (p *Puller) apply(ctx context.Context, keeper Keeper, b records.Batch) {
	waiting := map[string]bool{}
	for _, rec := range b.Records {
		if rec.Gone {
			p.changed(ctx, keeper, miosa.Rollout{ID: rec.ID})
			continue
		}
		r, err := records.As[miosa.Rollout](rec)
		if err != nil {
			p.log.Error("a rollout cannot be read", "rollout", rec.ID, "err", err)
			continue
		}
		if wanted(r) {
			waiting[r.ID] = true
		}
		p.changed(ctx, keeper, r)
	}
	if !b.Whole {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, j := range p.jobs {
		if !waiting[j.rollout.ID] {
			j.cancel()
		}
	}
}

func wanted(r miosa.Rollout) bool { return r.Step == miosa.StepPulling && r.CancelledBy == "" }

// changed begins a rollout's pull, or ends one that nobody wants any more.
func (p *Puller) changed(ctx context.Context, keeper Keeper, r miosa.Rollout) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := slices.IndexFunc(p.jobs, func(j *job) bool { return j.rollout.ID == r.ID })
	switch {
	case n >= 0 && !wanted(r):
		p.jobs[n].cancel()
	case n < 0 && wanted(r):
		j := &job{p: p, keeper: keeper, rollout: r, begin: make(chan struct{})}
		var inner context.Context
		inner, j.cancel = context.WithDeadline(ctx, r.Deadline)
		p.jobs = append(p.jobs, j)
		p.running.Go(func() {
			defer p.ended(j)
			j.run(inner)
		})
		p.dispatch()
	}
}

// dispatch lets those begin for whom there is a place; p.mu is held.
func (p *Puller) dispatch() {
	running := map[string]int{}
	var waiting []*job
	var tenants []string
	for _, j := range p.jobs {
		if j.begun {
			running[j.rollout.TenantID]++
		} else {
			waiting, tenants = append(waiting, j), append(tenants, j.rollout.TenantID)
		}
	}
	for n := next(running, tenants); n >= 0; n = next(running, tenants) {
		waiting[n].begun = true
		close(waiting[n].begin)
		running[tenants[n]]++
		waiting, tenants = slices.Delete(waiting, n, n+1), slices.Delete(tenants, n, n+1)
	}
}

// next is whose pull begins beside those that go on, so many of each tenant: of
// those that wait, each named by its tenant and in the order in which they came,
// the first of who has the fewest. -1: none.
func next(running map[string]int, waiting []string) int {
	all, best := 0, -1
	for _, n := range running {
		all += n
	}
	for n, tenant := range waiting {
		// The last place is for who has none: two tenants can't have all.
		mine := running[tenant]
		may := all < atOnce
		if mine > 0 {
			may = mine < atOnceTenant && all < atOnce-1
		}
		if may && (best < 0 || mine < running[waiting[best]]) {
			best = n
		}
	}
	return best
}

func (p *Puller) ended(j *job) {
	j.cancel()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.jobs = slices.DeleteFunc(p.jobs, func(o *job) bool { return o == j })
	p.dispatch()
}

// Status is how far the pull of a version's image has come; false: none goes on.
func (p *Puller) Status(versionID string) (miosa.PullStatus, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, j := range p.jobs {
		if j.rollout.TargetID == versionID {
			return j.status(), true
		}
	}
	return miosa.PullStatus{}, false
}
