package edge

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"time"

	"github.com/miosa/miosa/metrics"
)

// Traffic takes what this router counted of each service.
type Traffic interface {
	ShipTraffic(ctx context.Context, routerID string, pass metrics.Pass) error
}

// shipTraffic bounds one attempt to hand over a pass; there is no second.
const shipTraffic = 10 * time.Second

// measure samples the traffic of all services until ctx ends.
func (rt *Router) measure(ctx context.Context) {
	s := newSampler(rt.cfg.RouterID)
	tick := time.NewTicker(metrics.Interval)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			pass := s.pass(rt, now)
			if len(pass.Samples) == 0 {
				continue
			}
			err := rt.shipPass(ctx, pass)
			if err != nil && !failing && ctx.Err() == nil {
				rt.log.Warn("traffic figures are not taken: their history has a gap", "err", err)
			}
			failing = err != nil
		}
	}
}

func (rt *Router) shipPass(ctx context.Context, pass metrics.Pass) error {
	ctx, cancel := context.WithTimeout(ctx, shipTraffic)
	defer cancel()
	return rt.cfg.Traffic.ShipTraffic(ctx, rt.cfg.RouterID, pass)
}

// sampler makes of the counters of host names, which come and go, totals of
// services, which only grow. One goroutine owns it.
type sampler struct {
	router   string
	seen     map[*entry]HostStats // at the last pass, of host names that were ever asked for
	services map[metrics.Owner]*traffic
}

// traffic is a service's.
type traffic struct {
	requests, errors uint64 // since it was first asked for
	// Of this pass:
	latency  [latencyBuckets]uint64
	backends map[*backend]bool // two host names may share them
	inFlight int64
	present  bool
}

func newSampler(router string) *sampler {
	return &sampler{router: router, seen: map[*entry]HostStats{}, services: map[metrics.Owner]*traffic{}}
}

func (s *sampler) pass(rt *Router, now time.Time) metrics.Pass {
	for _, t := range s.services {
		*t = traffic{requests: t.requests, errors: t.errors}
	}
	seen := make(map[*entry]HostStats, len(s.seen))
	for e := range rt.served() {
		p := e.pool.Load()
		if p == nil || p.ServiceID == "" {
			continue
		}
		busy := e.inFlight()
		if _, known := s.seen[e]; !known && busy == 0 && !e.stats.asked() {
			continue // of many names most are quiet
		}
		is := e.stats.read()
		s.add(p, s.seen[e], is)
		seen[e] = is
	}
	s.seen = seen
	pass := metrics.Pass{At: now.UTC()}
	for owner, t := range s.services {
		if !t.present {
			delete(s.services, owner)
			continue
		}
		pass.Samples = append(pass.Samples, metrics.Sample{Owner: owner, Values: t.values()})
	}
	slices.SortFunc(pass.Samples, func(a, b metrics.Sample) int { return cmp.Compare(a.Owner.ServiceID, b.Owner.ServiceID) })
	return pass
}

// served yields the entries of host names and of ports.
func (rt *Router) served() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for e := range rt.entries() {
			if !yield(e) {
				return
			}
		}
		for _, p := range rt.ports.all() {
			if !yield(&p.entry) {
				return
			}
		}
	}
}

// asked reports whether a request for the host name ever ended.
func (s *hostStats) asked() bool {
	for i := range s.class {
		if s.class[i].Load() > 0 {
			return true
		}
	}
	return false
}

func (s *sampler) add(p *pool, was, is HostStats) {
	owner := metrics.Owner{TenantID: p.TenantID, DeploymentID: p.DeploymentID, ServiceID: p.ServiceID, SourceID: s.router}
	t := s.services[owner]
	if t == nil {
		t = &traffic{}
		s.services[owner] = t
	}
	t.present = true
	for i := range is.Requests {
		t.requests += is.Requests[i] - was.Requests[i]
	}
	t.errors += is.Requests[5] - was.Requests[5]
	for i := range is.Latency {
		t.latency[i] += is.Latency[i] - was.Latency[i]
	}
	if t.backends == nil {
		t.backends = map[*backend]bool{}
	}
	for _, b := range p.backends {
		if !t.backends[b] {
			t.backends[b] = true
			t.inFlight += b.inFlight.Load()
		}
	}
}

func (t *traffic) values() (v metrics.Values) {
	v.Set(metrics.Requests, int64(min(t.requests, 1<<62))) //nolint:gosec // bounded
	v.Set(metrics.Errors, int64(min(t.errors, 1<<62)))     //nolint:gosec // bounded
	v.Set(metrics.InFlight, t.inFlight)
	if median, ok := quantile(&t.latency, 0.5); ok {
		p99, _ := quantile(&t.latency, 0.99)
		v.Set(metrics.LatencyMedian, median.Microseconds())
		v.Set(metrics.LatencyP99, p99.Microseconds())
	}
	return v
}

// quantile is where the part q of the counted is below, as well as buckets can
// tell: within one, evenly. There is none of nothing.
func quantile(buckets *[latencyBuckets]uint64, q float64) (time.Duration, bool) {
	total := uint64(0)
	for _, n := range buckets {
		total += n
	}
	if total == 0 {
		return 0, false
	}
	rank, below := q*float64(total), 0.0
	for i, n := range buckets {
		if n == 0 || below+float64(n) < rank {
			below += float64(n)
			continue
		}
		low := time.Duration(0)
		if i > 0 {
			low = LatencyBound(i - 1)
		}
		if i == latencyBuckets-1 {
			return low, true // it has no upper bound
		}
		return low + time.Duration(float64(LatencyBound(i)-low)*(rank-below)/float64(n)), true
	}
	return LatencyBound(latencyBuckets - 2), true
}
