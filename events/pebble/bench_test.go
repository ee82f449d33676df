package pebble

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
)

// BenchmarkTimelines fills a store with events as control and agents write
// them, a million by default (MIOSA_BENCH_EVENTS), over 30 days and 500
// deployments, and reads the first pages of timelines at random:
//
//	go test ./events/pebble -run '^$' -bench Timelines -benchtime 2000x
func BenchmarkTimelines(b *testing.B) {
	total := 1_000_000
	if v := os.Getenv("MIOSA_BENCH_EVENTS"); v != "" {
		if _, err := fmt.Sscan(v, &total); err != nil {
			b.Fatal(err)
		}
	}
	dir := b.TempDir()
	now := time.Date(2026, 3, 31, 0, 0, 0, 0, time.UTC)
	s := open(b, dir, func() time.Time { return now })
	fill := newFiller(b, now, total)
	began := time.Now()
	for n := 0; n < total; n += 256 {
		if err := s.Append(b.Context(), fill.batch(min(256, total-n))); err != nil {
			b.Fatal(err)
		}
	}
	took := time.Since(began)
	size := int64(0)
	err := s.db.Do(func(db *lsm.DB) error {
		err := errors.Join(db.Flush(), db.Compact(b.Context(), []byte{0}, []byte{0xff}, false))
		size = db.Metrics().Total().TablesSize
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%d events in %s (%.0f/s, batches of 256), %.1f bytes an event on disk", total, took.Round(time.Millisecond), float64(total)/took.Seconds(), float64(size)/float64(total))
	for name, scope := range map[string]func(n int) events.Scope{
		"tenant": func(int) events.Scope { return events.Scope{TenantID: fill.tenant} },
		"deployment": func(n int) events.Scope {
			return events.Scope{TenantID: fill.tenant, DeploymentID: pick(fill.deployments, n)}
		},
		"service": func(n int) events.Scope {
			return events.Scope{TenantID: fill.tenant, ServiceID: pick(fill.services, n)}
		},
		"instance": func(n int) events.Scope {
			return events.Scope{TenantID: fill.tenant, InstanceID: pick(fill.instances, n)}
		},
		"rollout": func(n int) events.Scope {
			return events.Scope{TenantID: fill.tenant, RolloutID: pick(fill.rollouts, n)}
		},
		"host":       func(n int) events.Scope { return events.Scope{Operator: true, HostID: pick(fill.hosts, n)} },
		"everything": func(int) events.Scope { return events.Scope{Operator: true} },
	} {
		b.Run(name, func(b *testing.B) {
			var took []time.Duration
			found := 0
			for n := 0; b.Loop(); n++ {
				q := events.Query{Scope: scope(n*7919 + 1), Backward: true}
				began := time.Now()
				left := 20
				for _, err := range s.Read(b.Context(), q) {
					if err != nil {
						b.Fatal(err)
					}
					if left--; left == 0 {
						break
					}
				}
				took = append(took, time.Since(began))
				found += 20 - left
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(found)/float64(len(took)), "events/page")
		})
	}
}

func pick(all []string, n int) string { return all[n%len(all)] }

// filler makes events as rollouts of one instance each write them.
type filler struct {
	b                                                 *testing.B
	at                                                time.Time
	gap                                               time.Duration
	n                                                 int
	tenant, key                                       string
	deployments, services, hosts, instances, rollouts []string
	version, rollout, instance                        string
}

func newFiller(b *testing.B, now time.Time, total int) *filler {
	f := &filler{b: b, at: now.Add(-30 * 24 * time.Hour), gap: 30 * 24 * time.Hour / time.Duration(total)}
	f.tenant, f.key = f.id(miosa.PrefixTenant), f.id(miosa.PrefixKey)
	for range 500 {
		f.deployments, f.services = append(f.deployments, f.id(miosa.PrefixDeployment)), append(f.services, f.id(miosa.PrefixService))
	}
	for range 20 {
		f.hosts = append(f.hosts, f.id(miosa.PrefixHost))
	}
	return f
}

func (f *filler) id(prefix string) string {
	id, err := miosa.NewID(prefix, f.at, rand.Reader)
	if err != nil {
		f.b.Fatal(err)
	}
	return id
}

var steps = []struct{ kind, message, actor string }{
	{"version.published", "publishing version %d to production", ""},
	{"rollout.started", "version %d: 0 of 1 instances healthy", "control"},
	{"instance.created", "slot 0 of web is empty: version %d wants 1 instance", "control"},
	{"instance.started", "boot 1 began", "agent"},
	{"instance.booted", "its virtual machine runs", "agent"},
	{"instance.became_healthy", "healthy after %d ms", "agent"},
	{"rollout.flipped", "every router sends requests to version %d", "control"},
	{"rollout.completed", "version %d is live", "control"},
}

func (f *filler) batch(size int) (out []events.Kept) {
	for range size {
		step := steps[f.n%len(steps)]
		of := f.n / len(steps)
		if f.n%len(steps) == 0 {
			f.version, f.rollout, f.instance = f.id(miosa.PrefixVersion), f.id(miosa.PrefixRollout), f.id(miosa.PrefixInstance)
			f.instances, f.rollouts = append(f.instances, f.instance), append(f.rollouts, f.rollout)
		}
		e := miosa.Event{
			ID: f.id(miosa.PrefixEvent), TenantID: f.tenant, DeploymentID: pick(f.deployments, of*31), VersionID: f.version,
			Type: step.kind, Message: step.message, Actor: step.actor, At: f.at, Revision: int64(f.n) * 3,
		}
		if step.actor == "" {
			e.Actor, e.RequestID = f.key, f.id(miosa.PrefixRequest)
		}
		if len(step.kind) > 8 && step.kind[:8] == "instance" {
			e.ServiceID, e.InstanceID, e.HostID = pick(f.services, of*31), f.instance, pick(f.hosts, of)
		} else {
			e.RolloutID = f.rollout
		}
		if step.message[len(step.message)-1] != 'n' && step.message[0] != 'i' {
			e.Message = fmt.Sprintf(step.message, of%100)
		}
		out = append(out, events.Kept{Event: e, Days: 30})
		f.n++
		f.at = f.at.Add(f.gap)
	}
	return out
}
