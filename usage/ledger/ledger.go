// Package ledger is the loop that keeps usage: it takes what hosts report of
// their instances, counts the log lines that pass, looks at what storage is
// held every hour, and writes it all down by whom it is billed to.
//
// A host says how much an instance of its own used, and no more is believed of
// that than was possible in the time; whose the instance is comes from the
// records. An instance that was heard of once is billed to the end, even when
// its records are gone.
package ledger

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/steady"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/usage"
)

const (
	// Keep is for how long usage is kept: thirteen months and a few days.
	Keep = 400 * 24 * time.Hour

	// maxIdle bounds how many tallies without counts are kept.
	maxIdle = 20000

	flushEvery  = 5 * time.Second
	flushAgain  = time.Minute // after one that failed
	sampleEvery = time.Minute
	expireEvery = time.Hour
)

// Ledger keeps usage. Make it with New.
type Ledger struct {
	kept usage.Store
	view *records.View
	log  *slog.Logger
	now  func() time.Time

	// settle is held from reading accounts until they are written.
	settle sync.Mutex
	owed   []owed // guarded by settle

	mu      sync.Mutex // guards all below
	tallies map[string]*tally
	tallied int  // hours of all tallies
	deaf    bool // log lines could not be counted; said once
}

// owner is what the records say of an instance.
type owner struct {
	hostID  string
	subject usage.Subject
	name    string
	size    metering.Size
	since   time.Time
}

// New starts nothing.
func New(kept usage.Store, view *records.View, log *slog.Logger) *Ledger {
	return &Ledger{kept: kept, view: view, log: log, now: time.Now, tallies: map[string]*tally{}}
}

// Run writes down what was counted, samples storage and lets go of what is
// old, until ctx ends. Flush is to follow, once nobody ships any more.
func (l *Ledger) Run(ctx context.Context) error {
	flush, sample, expire := time.NewTicker(flushEvery), time.NewTicker(sampleEvery), time.NewTicker(expireEvery)
	defer flush.Stop()
	defer sample.Stop()
	defer expire.Stop()
	var clock steady.Clock
	clock.By(l.now(), l.log)
	l.warn(ctx, "sample storage", l.Sample(ctx))
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-flush.C:
			err := l.Flush(ctx)
			l.warn(ctx, "keep counts of log lines", err)
			if flush.Reset(flushEvery); err != nil {
				flush.Reset(flushAgain)
			}
		case <-sample.C:
			l.warn(ctx, "sample storage", l.Sample(ctx))
		case <-expire.C:
			l.warn(ctx, "expire usage", l.kept.Expire(ctx, metering.HourOf(clock.By(l.now(), l.log).Add(-Keep))))
		}
	}
}

func (l *Ledger) warn(ctx context.Context, what string, err error) {
	if err != nil && ctx.Err() == nil {
		l.log.Error("the ledger fails", "what", what, "err", err)
	}
}

// Rows yields what the query names: see usage.Store.
func (l *Ledger) Rows(ctx context.Context, q usage.Query) iter.Seq2[usage.Row, error] {
	return l.kept.Rows(ctx, q)
}

// Report settles what a host reports, and answers each report in its place.
// When it returns without an error, what was taken is durable; otherwise the
// same is to be sent again.
func (l *Ledger) Report(ctx context.Context, hostID string, reports []metering.Report) ([]metering.Outcome, error) {
	l.settle.Lock()
	defer l.settle.Unlock()
	now := l.now().UTC()
	out := make([]metering.Outcome, len(reports))
	held := map[string]usage.Account{}
	var change usage.Change
	for i, r := range reports {
		if len(r.Points) > metering.MaxPoints {
			out[i] = metering.Outcome{Verdict: metering.Refused, Reason: "no meter of ours has so many points to tell"}
			continue
		}
		a, again := held[r.InstanceID]
		if !again {
			var err error
			a, err = l.account(ctx, hostID, r.InstanceID)
			if code := miosa.CodeOf(err); code == miosa.NotFound || code == miosa.Forbidden {
				out[i] = metering.Outcome{Verdict: metering.Refused, Reason: err.Error()}
				continue
			}
			if err != nil {
				return nil, err
			}
		}
		add, behind := a.Settle(r, metering.Bounds{Size: a.Size, Since: time.Unix(a.Since, 0), Now: now})
		out[i] = metering.Outcome{Verdict: metering.Taken, Epoch: a.Epoch}
		if behind {
			out[i].Verdict = metering.Behind
			continue
		}
		for _, p := range add {
			change.Add = append(change.Add, usage.Row{Hour: p.Hour, Subject: a.Subject, Name: a.Name, Amount: p.Total})
		}
		a.Seen = metering.HourOf(now)
		held[r.InstanceID] = a
	}
	for _, a := range held {
		change.Accounts = append(change.Accounts, a)
	}
	if len(change.Accounts) == 0 {
		return out, nil
	}
	if err := l.kept.Commit(ctx, change); err != nil {
		return nil, fmt.Errorf("settle usage of host %s: %w", hostID, err)
	}
	return out, nil
}

// Open makes sure that what the instances of a deployment used is billed, also
// what their hosts say of it later, or never said before: their records are
// about to go. Nobody is waited for.
func (l *Ledger) Open(ctx context.Context, tenantID, deploymentID string) error {
	l.settle.Lock()
	defer l.settle.Unlock()
	now := metering.HourOf(l.now())
	var change usage.Change
	for i, err := range store.List(ctx, l.view.Store(), store.Instances, store.InstancesOf(tenantID, deploymentID), store.ScanOptions{}) {
		if err != nil {
			return err
		}
		if i.HostID == "" {
			continue // it never ran
		}
		if _, err := l.kept.Account(ctx, i.ID); miosa.CodeOf(err) != miosa.NotFound {
			if err != nil {
				return err
			}
			continue // heard of before: it is billed to the end
		}
		a, err := l.account(ctx, i.HostID, i.ID)
		if code := miosa.CodeOf(err); code == miosa.NotFound || code == miosa.Forbidden {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		a.Seen = now
		change.Accounts = append(change.Accounts, a)
	}
	if len(change.Accounts) == 0 {
		return nil
	}
	if err := l.kept.Commit(ctx, change); err != nil {
		return fmt.Errorf("open the accounts of deployment %s: %w", deploymentID, err)
	}
	return nil
}

// account is an instance's, with its owner as the records have it now;
// l.settle is held. miosa.NotFound when nobody knows the instance, nor ever
// did; miosa.Forbidden when it is on another host.
func (l *Ledger) account(ctx context.Context, hostID, instanceID string) (usage.Account, error) {
	if miosa.IDPrefix(instanceID) != miosa.PrefixInstance {
		return usage.Account{}, miosa.Errorf(miosa.NotFound, "%.40q is no instance", instanceID)
	}
	a, err := l.kept.Account(ctx, instanceID)
	fresh := miosa.CodeOf(err) == miosa.NotFound
	if err != nil && !fresh {
		return a, err
	}
	o, err := l.owner(ctx, hostID, instanceID)
	gone := miosa.CodeOf(err) == miosa.NotFound
	switch {
	case gone && fresh:
		return a, err
	case err != nil && !gone:
		return a, err
	case !gone && o.hostID != hostID, !fresh && a.HostID != hostID:
		return a, miosa.Errorf(miosa.Forbidden, "instance %s is not on host %s", instanceID, hostID)
	case gone:
		return a, nil
	}
	a.InstanceID, a.HostID, a.Subject, a.Name, a.Size, a.Since = instanceID, hostID, o.subject, o.name, o.size, o.since.Unix()
	return a, nil
}

// owner is what the records say of an instance.
func (l *Ledger) owner(ctx context.Context, hostID, instanceID string) (o owner, err error) {
	at, err := l.view.Locate(ctx, instanceID)
	if err != nil {
		return o, fmt.Errorf("instance %s: %w", instanceID, err)
	}
	in, err := records.Get(ctx, l.view, store.Instances, at.Key)
	if err == nil && in.HostID != hostID { // perhaps it was placed a moment ago
		in, err = records.Fresh(ctx, l.view, store.Instances, at.Key)
	}
	if err != nil {
		return o, fmt.Errorf("instance %s: %w", instanceID, err)
	}
	dep, err := records.Get(ctx, l.view, store.Deployments, store.DeploymentKey(in.TenantID, in.DeploymentID))
	if miosa.CodeOf(err) == miosa.NotFound {
		dep, err = miosa.Deployment{Attribution: in.Attribution}, nil
	}
	if err != nil {
		return o, fmt.Errorf("deployment %s: %w", in.DeploymentID, err)
	}
	r := in.Spec.Resources
	return owner{
		hostID: in.HostID, name: dep.Slug,
		subject: usage.Subject{TenantID: in.TenantID, DeploymentID: in.DeploymentID, ServiceID: in.ServiceID, Attribution: dep.Attribution},
		size:    metering.Size{VCPUs: r.VCPUs, MemoryMB: r.MemoryMB, DiskMB: r.DiskMB},
		since:   cmp.Or(in.ScheduledAt, in.CreatedAt, miosa.IDTime(in.ID)),
	}, nil
}

// Sample adds the storage of every hour that has begun and is not yet added.
func (l *Ledger) Sample(ctx context.Context) error {
	l.settle.Lock()
	defer l.settle.Unlock()
	hour := metering.HourOf(l.now())
	last, err := l.kept.Sampled(ctx)
	if err != nil {
		return err
	}
	if last == 0 {
		last = hour - 1
	}
	if last >= hour {
		return nil
	}
	held, err := l.held(ctx)
	if err != nil {
		return err
	}
	// The blobs lay there while nobody looked, too; who was away for very long
	// is not asked for all of it.
	for h := max(last, hour-maxMissed) + 1; h <= hour; h++ {
		change := usage.Change{Sampled: h}
		for _, r := range held {
			if r.created.Before((h + 1).Time()) {
				change.Add = append(change.Add, usage.Row{Hour: h, Subject: r.subject, Name: r.name, Amount: metering.Amount{StorageByteHours: r.bytes}})
			}
		}
		if err := l.kept.Commit(ctx, change); err != nil {
			return fmt.Errorf("keep the storage of %s: %w", h.Time().Format(time.RFC3339), err)
		}
	}
	return nil
}

// maxMissed is how many hours are made up for at most.
const maxMissed = 31 * 24

// holding is one blob that a tenant holds, and who pays for it.
type holding struct {
	subject usage.Subject
	name    string
	bytes   uint64
	created time.Time
}

// held are the blobs of all tenants. A tenant pays once for a digest, however
// many releases have it: the oldest one's deployment does. Nobody pays for
// those of a deployment that is being deleted.
func (l *Ledger) held(ctx context.Context) ([]holding, error) {
	deployments := map[string]miosa.Deployment{}
	for d, err := range store.List(ctx, l.view.Store(), store.Deployments, store.AllTenants, store.ScanOptions{}) {
		if err != nil {
			return nil, err
		}
		if d.DeletedAt.IsZero() {
			deployments[d.ID] = d
		}
	}
	type blob struct{ tenant, digest string }
	oldest := map[blob]miosa.Release{}
	for r, err := range store.List(ctx, l.view.Store(), store.Releases, store.AllTenants, store.ScanOptions{}) {
		if err != nil {
			return nil, err
		}
		at := blob{r.TenantID, r.SHA256}
		if first, ok := oldest[at]; r.State == miosa.ReleaseReady && deployments[r.DeploymentID].ID != "" && r.SizeBytes > 0 && (!ok || r.ID < first.ID) {
			oldest[at] = r
		}
	}
	var all []holding
	for _, r := range oldest {
		d := deployments[r.DeploymentID]
		all = append(all, holding{
			subject: usage.Subject{TenantID: r.TenantID, DeploymentID: r.DeploymentID, Attribution: d.Attribution},
			name:    d.Slug, bytes: uint64(r.SizeBytes), created: r.CreatedAt, //nolint:gosec // positive
		})
	}
	return all, nil
}
