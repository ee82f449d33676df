package ledger_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
	"github.com/miosa/miosa/usage"
	"github.com/miosa/miosa/usage/ledger"
	usagememory "github.com/miosa/miosa/usage/memory"
)

// id is a well-formed ID that ends with a letter.
func id(prefix, letter string) string { return prefix + "_0000000000000000000000000" + letter }

// bench is a ledger over records of two tenants, each with an instance on a
// host of its own: a's on host a, b's on host b.
type bench struct {
	*testing.T
	ledger  *ledger.Ledger
	kept    *flaky
	records *memory.Store
	began   time.Time
}

// flaky is a store whose commits can be made to fail, before they are made or
// after.
type flaky struct {
	*usagememory.Store
	before, after error
}

func (f *flaky) Commit(ctx context.Context, c usage.Change) error {
	if f.before != nil {
		return f.before
	}
	return errors.Join(f.Store.Commit(ctx, c), f.after)
}

// inBench runs a test over virtual time, which begins at midnight.
func inBench(t *testing.T, test func(b *bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{T: t, kept: &flaky{Store: usagememory.New()}, records: memory.New(time.Now), began: time.Now()}
		b.ledger = ledger.New(b.kept, records.New(b.records), slog.New(slog.DiscardHandler))
		for _, x := range []string{"a", "b"} {
			b.save(func(tx *store.Tx) error {
				return errors.Join(
					store.Save(tx, store.Deployments, deployment(x)),
					store.Save(tx, store.Instances, miosa.Instance{
						ID: id("ri", x), TenantID: id("ten", x), DeploymentID: id("dep", x), EnvironmentID: id("env", x), ServiceID: id("svc", x), VersionID: id("ver", x),
						HostID: id("host", x), CreatedAt: time.Now(), ScheduledAt: time.Now(), Attribution: miosa.Attribution{WorkspaceID: "at first"},
						Spec: miosa.ServiceSpec{Resources: miosa.Resources{VCPUs: 2, MemoryMB: 100, DiskMB: 10}},
					}),
				)
			})
		}
		test(b)
	})
}

// pass lets virtual time pass.
func pass(d time.Duration) { <-time.After(d) }

func deployment(x string) miosa.Deployment {
	return miosa.Deployment{
		ID: id("dep", x), TenantID: id("ten", x), Name: "App " + x, Slug: "app-" + x,
		Attribution: miosa.Attribution{WorkspaceID: "workspace " + x, UserID: "user " + x, ProjectID: "project " + x},
	}
}

func (b *bench) save(fn func(tx *store.Tx) error) {
	b.Helper()
	if _, err := store.Update(b.Context(), b.records, fn); err != nil {
		b.Fatal(err)
	}
}

// report says that an instance has sent and run so much since the beginning.
func (b *bench) report(host, instance string, epoch, bytes uint64, ran time.Duration) metering.Outcome {
	b.Helper()
	ms := uint64(ran / time.Millisecond)
	out, err := b.ledger.Report(b.Context(), id("host", host), []metering.Report{{
		InstanceID: id("ri", instance), Epoch: epoch,
		Points: []metering.Point{{Hour: metering.HourOf(time.Now()), Total: metering.Amount{SentBytes: bytes, RunMS: ms, VCPUMS: 2 * ms}}},
	}})
	if err != nil {
		b.Fatal(err)
	}
	return out[0]
}

// rows are all that is kept, a row a line: hour, the last letters of whom,
// workspace, name, bytes, run.
func (b *bench) rows() string {
	b.Helper()
	var out []string
	last := func(id string) string { return cmp.Or(id, "-")[max(len(id)-1, 0):] }
	for r, err := range b.ledger.Rows(b.Context(), usage.Query{Until: 1 << 30}) {
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%d %s%s%s %s %s %d %d %d/%d %d", r.Hour-metering.HourOf(b.began), last(r.TenantID), last(r.DeploymentID), last(r.ServiceID),
			r.WorkspaceID, r.Name, r.SentBytes, r.RunMS/1000, r.LogLines, r.LogBytes, r.StorageByteHours))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

func (b *bench) want(what, want string) {
	b.Helper()
	if got := b.rows(); got != want {
		b.Errorf("%s:\n%s\nwant\n%s", what, got, want)
	}
}

// An instance whose records go before its host has said anything of it is billed
// all the same, whenever that comes, in another process too.
func TestWhatIsDeletedAtOnceIsBilled(t *testing.T) {
	inBench(t, func(b *bench) {
		b.kept.before = errors.New("the disk is full")
		if err := b.ledger.Open(b.Context(), id("ten", "a"), id("dep", "a")); !errors.Is(err, b.kept.before) {
			b.Errorf("%v", err) // then the records stay, and it is tried again
		}
		b.kept.before = nil
		for range 2 {
			if err := b.ledger.Open(b.Context(), id("ten", "a"), id("dep", "a")); err != nil {
				b.Fatal(err)
			}
		}
		b.save(func(tx *store.Tx) error {
			return errors.Join(
				store.Remove(tx, store.Instances, miosa.Instance{ID: id("ri", "a"), TenantID: id("ten", "a"), DeploymentID: id("dep", "a")}),
				store.Remove(tx, store.Deployments, deployment("a")),
			)
		})
		b.want("nothing was reported", "")
		b.ledger = ledger.New(b.kept, records.New(b.records), slog.New(slog.DiscardHandler))
		pass(30 * time.Hour) // a host that was away
		if got := b.report("b", "a", 1, 7, time.Second); got.Verdict != metering.Refused {
			b.Errorf("another host: %+v", got)
		}
		for range 2 {
			if got := b.report("a", "a", 1, 1000, 2*time.Second); got.Verdict != metering.Taken {
				b.Errorf("%+v", got)
			}
		}
		b.want("rows", "30 aaa workspace a app-a 1000 2 0/0 0")
	})
}

func TestUsageIsBilledToWhoseTheInstanceIs(t *testing.T) {
	inBench(t, func(b *bench) {
		pass(50 * time.Minute)
		b.report("a", "a", 1, 1000, 10*time.Minute)
		b.report("b", "b", 1, 5, 0)
		b.report("a", "a", 1, 1000, 10*time.Minute) // twice
		b.report("a", "a", 1, 900, 9*time.Minute)   // late
		pass(20 * time.Minute)
		b.report("a", "a", 1, 1500, 30*time.Minute)
		b.want("rows", `0 aaa workspace a app-a 1000 600 0/0 0
0 bbb workspace b app-b 5 0 0/0 0
1 aaa workspace a app-a 500 1200 0/0 0`)
	})
}

func TestAHostSpeaksForItsOwnInstancesAlone(t *testing.T) {
	inBench(t, func(b *bench) {
		pass(time.Hour)
		for _, known := range []bool{false, true} { // to the ledger
			if o := b.report("b", "a", 9, 1<<40, time.Minute); o.Verdict != metering.Refused || o.Reason == "" {
				b.Errorf("another host's instance (known %v): %+v", known, o)
			}
			for _, name := range []string{"", "x", "ri_../../x", id("dep", "a"), id("ri", "z")} {
				out, err := b.ledger.Report(b.Context(), id("host", "a"), []metering.Report{{InstanceID: name, Epoch: 1, Points: []metering.Point{{Total: metering.Amount{SentBytes: 1}}}}})
				if err != nil || out[0].Verdict != metering.Refused {
					b.Errorf("instance %q: %+v, %v", name, out, err)
				}
			}
			b.report("a", "a", 1, 7, 0)
		}
		// The records gone, nothing more is possible.
		b.save(func(tx *store.Tx) error {
			return store.Remove(tx, store.Instances, miosa.Instance{ID: id("ri", "a"), TenantID: id("ten", "a"), DeploymentID: id("dep", "a")})
		})
		pass(2 * time.Minute)
		if o := b.report("b", "a", 9, 1<<40, time.Minute); o.Verdict != metering.Refused {
			b.Errorf("another host's instance, gone: %+v", o)
		}
		b.want("rows", "1 aaa workspace a app-a 7 0 0/0 0")
	})
}

// A host that asks for an instance before it is on any keeps nobody's usage away
// from then on: refused once, a host forgets it.
func TestAskedForBeforeItHasAHost(t *testing.T) {
	inBench(t, func(b *bench) {
		i := miosa.Instance{
			ID: id("ri", "c"), TenantID: id("ten", "a"), DeploymentID: id("dep", "a"), EnvironmentID: id("env", "a"), ServiceID: id("svc", "a"), VersionID: id("ver", "a"),
			CreatedAt: time.Now(),
		}
		b.save(func(tx *store.Tx) error { return store.Save(tx, store.Instances, i) })
		if o := b.report("b", "c", 1, 1, 0); o.Verdict != metering.Refused {
			b.Errorf("a host that it is not on: %+v", o)
		}
		i.HostID, i.ScheduledAt = id("host", "a"), time.Now()
		b.save(func(tx *store.Tx) error { return store.Save(tx, store.Instances, i) })
		pass(time.Second)
		if o := b.report("a", "c", 1, 7, 0); o.Verdict != metering.Taken {
			b.Errorf("its own host: %+v", o)
		}
		b.want("rows", "0 aaa workspace a app-a 7 0 0/0 0")
	})
}

func TestAHostIsNotBelievedTheImpossible(t *testing.T) {
	inBench(t, func(b *bench) {
		pass(10 * time.Minute)
		for epoch := range uint64(5) {
			b.report("a", "a", epoch+1, 1<<63, 1000*time.Hour)
			out, err := b.ledger.Report(b.Context(), id("host", "a"), []metering.Report{
				{InstanceID: id("ri", "a"), Epoch: epoch + 1, Points: []metering.Point{{Hour: 1 << 40, Total: metering.Amount{LogBytes: 5, StorageByteHours: 5}}, {Hour: -7}}}, {InstanceID: id("ri", "a"), Epoch: epoch + 1},
			})
			if err != nil || out[0].Verdict != metering.Taken {
				b.Errorf("%+v, %v", out, err)
			}
		}
		out, err := b.ledger.Report(b.Context(), id("host", "a"), []metering.Report{{InstanceID: id("ri", "a"), Epoch: 9, Points: make([]metering.Point, metering.MaxPoints+1)}})
		if err != nil || out[0].Verdict != metering.Refused {
			b.Errorf("a report without an end: %+v, %v", out, err)
		}
		b.want("rows", "0 aaa workspace a app-a 33000000000000 660 0/0 0") // 11 minutes at most, of a line of 400 Gbit/s
	})
}

// An instance that was heard of is billed to the end, whatever is deleted.
func TestWhatIsDeletedIsBilledToTheEnd(t *testing.T) {
	inBench(t, func(b *bench) {
		b.report("a", "a", 1, 0, 0)
		pass(30 * time.Minute)
		b.save(func(tx *store.Tx) error {
			return errors.Join(store.Remove(tx, store.Deployments, deployment("a")),
				store.Remove(tx, store.Instances, miosa.Instance{ID: id("ri", "a"), TenantID: id("ten", "a"), DeploymentID: id("dep", "a")}))
		})
		if o := b.report("a", "a", 1, 123, 30*time.Minute); o.Verdict != metering.Taken {
			b.Errorf("the last report: %+v", o)
		}
		b.want("rows", "0 aaa workspace a app-a 123 1800 0/0 0")
	})
}

// One whose deployment was gone before it was heard of is billed by its own
// attribution.
func TestADeploymentThatWentFirst(t *testing.T) {
	inBench(t, func(b *bench) {
		b.save(func(tx *store.Tx) error { return store.Remove(tx, store.Deployments, deployment("a")) })
		b.report("a", "a", 1, 1, 0)
		b.want("rows", "0 aaa at first  1 0 0/0 0")
	})
}

func TestAnotherWorkspaceFromNowOn(t *testing.T) {
	inBench(t, func(b *bench) {
		b.report("a", "a", 1, 1, 0)
		b.save(func(tx *store.Tx) error {
			d := deployment("a")
			d.WorkspaceID, d.Slug = "another", "renamed"
			return store.Save(tx, store.Deployments, d)
		})
		pass(2 * time.Minute)
		b.report("a", "a", 1, 3, 0)
		b.want("rows", "0 aaa another renamed 2 0 0/0 0\n0 aaa workspace a app-a 1 0 0/0 0")
	})
}

func TestAnOldEpochIsBehind(t *testing.T) {
	inBench(t, func(b *bench) {
		b.report("a", "a", 7, 10, 0)
		if o := b.report("a", "a", 6, 99, 0); o.Verdict != metering.Behind || o.Epoch != 7 {
			b.Errorf("%+v", o)
		}
		b.report("a", "a", 8, 5, 0)
		b.want("rows", "0 aaa workspace a app-a 15 0 0/0 0")
	})
}

// A commit that fails is reported again: made or not, it counts once.
func TestFailuresChangeNothing(t *testing.T) {
	inBench(t, func(b *bench) {
		lines := b.ledger.Shipper(shipper{})
		for n, fail := range []struct{ before, after error }{{errors.New("before"), nil}, {nil, errors.New("after")}} {
			b.kept.before, b.kept.after = fail.before, fail.after
			reports := []metering.Report{{InstanceID: id("ri", "a"), Epoch: 1, Points: []metering.Point{{Total: metering.Amount{SentBytes: 10 * uint64(n+1)}}}}}
			if _, err := b.ledger.Report(b.Context(), id("host", "a"), reports); err == nil {
				b.Fatal("no error")
			}
			b.ship(lines, "a", 1, uint64(1+2*n), 2)
			if err := b.ledger.Flush(b.Context()); err == nil {
				b.Fatal("no error")
			}
			b.ship(lines, "a", 1, uint64(2+2*n), 1)
			b.kept.before, b.kept.after = nil, nil
			if _, err := b.ledger.Report(b.Context(), id("host", "a"), reports); err != nil {
				b.Fatal(err)
			}
			if err := b.ledger.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		b.want("rows", "0 aaa workspace a app-a 20 0 4/16 0")
	})
}

type shipper struct{ err error }

func (s shipper) Ship(context.Context, string, []logs.Batch) error { return s.err }

// ship sends lines of four bytes, each after a system line.
func (b *bench) ship(to ledger.Shipper, x string, epoch, first uint64, n int) {
	b.Helper()
	batch := logs.Batch{Origin: logs.Origin{InstanceID: id("ri", x)}, Epoch: epoch, First: first}
	for range n {
		batch.Lines = append(batch.Lines, logs.Line{Time: time.Now(), Stream: logs.Stdout, Text: []byte("line")})
	}
	if err := to.Ship(b.Context(), id("host", x), []logs.Batch{batch}); err != nil {
		b.Fatal(err)
	}
}

func TestLinesCountOnceByTheirName(t *testing.T) {
	inBench(t, func(b *bench) {
		to := b.ledger.Shipper(shipper{})
		b.ship(to, "a", 1, 1, 3)
		b.ship(to, "a", 1, 2, 3) // two of them again
		b.ship(to, "a", 1, 1, 2)
		b.ship(to, "b", 1, 1, 1)
		if err := b.ledger.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		// Another process takes over: what was written down counts.
		b.ledger = ledger.New(b.kept, records.New(b.records), slog.New(slog.DiscardHandler))
		to = b.ledger.Shipper(shipper{})
		b.ship(to, "a", 1, 3, 3)
		b.ship(to, "a", 2, 1, 1) // a spool begun anew
		b.ship(to, "a", 1, 6, 9)
		system := logs.Batch{Origin: logs.Origin{InstanceID: id("ri", "a")}, Epoch: 2, First: 2, Lines: []logs.Line{{Time: time.Now(), Stream: logs.System, Text: []byte("boot")}}}
		if err := to.Ship(b.Context(), id("host", "a"), []logs.Batch{system}); err != nil {
			b.Fatal(err)
		}
		// Nothing of what is not safe.
		if err := b.ledger.Shipper(shipper{errors.New("no")}).Ship(b.Context(), id("host", "a"), []logs.Batch{system}); err == nil {
			b.Error("no error")
		}
		for range 2 {
			if err := b.ledger.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		b.want("rows", "0 aaa workspace a app-a 0 0 6/24 0\n0 bbb workspace b app-b 0 0 1/4 0")
	})
}

// What a Flush that failed left behind, and what was counted since, are both
// written down by the next: there may be no other.
func TestTheLastFlushLeavesNothing(t *testing.T) {
	inBench(t, func(b *bench) {
		to := b.ledger.Shipper(shipper{})
		b.ship(to, "a", 1, 1, 1)
		b.kept.before = errors.New("the loop was ended meanwhile")
		if err := b.ledger.Flush(b.Context()); err == nil {
			b.Fatal("no error")
		}
		b.kept.before = nil
		b.ship(to, "a", 1, 2, 1)
		b.ship(to, "b", 1, 1, 1)
		if err := b.ledger.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.want("rows", "0 aaa workspace a app-a 0 0 2/8 0\n0 bbb workspace b app-b 0 0 1/4 0")
	})
}

// Lines that were made safe count, though who shipped them has gone.
func TestShippedAtTheVeryEnd(t *testing.T) {
	inBench(t, func(b *bench) {
		ctx, cancel := context.WithCancel(b.Context())
		batch := logs.Batch{Origin: logs.Origin{InstanceID: id("ri", "a")}, Epoch: 1, First: 1, Lines: []logs.Line{{Time: time.Now(), Stream: logs.Stdout, Text: []byte("line")}}}
		if err := b.ledger.Shipper(cancelling{cancel}).Ship(ctx, id("host", "a"), []logs.Batch{batch}); err != nil {
			b.Fatal(err)
		}
		if err := b.ledger.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.want("rows", "0 aaa workspace a app-a 0 0 1/4 0")
	})
}

// cancelling takes everything, when its caller has just gone.
type cancelling struct{ cancel context.CancelFunc }

func (c cancelling) Ship(context.Context, string, []logs.Batch) error {
	c.cancel()
	return nil
}

// TestAStoreThatTakesNothing: what is counted meanwhile is bounded, and written
// down when it can be.
func TestAStoreThatTakesNothing(t *testing.T) {
	inBench(t, func(b *bench) {
		to := b.ledger.Shipper(shipper{})
		b.kept.before = errors.New("no")
		b.ship(to, "a", 1, 1, 1)
		if err := b.ledger.Flush(b.Context()); err == nil {
			b.Fatal("no error")
		}
		const most = 100_000
		for n := range uint64(most + 100) {
			batch := logs.Batch{Origin: logs.Origin{InstanceID: id("ri", "a")}, Epoch: 1, First: n + 2}
			batch.Lines = []logs.Line{{Time: time.Unix(int64(n)*3600, 0), Stream: logs.Stdout, Text: []byte("line")}}
			if err := to.Ship(b.Context(), id("host", "a"), []logs.Batch{batch}); err != nil {
				b.Fatal(err)
			}
		}
		b.kept.before = nil
		for range 2 {
			if err := b.ledger.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		lines := uint64(0)
		for r, err := range b.ledger.Rows(b.Context(), usage.Query{Until: 1 << 30}) {
			if err != nil {
				b.Fatal(err)
			}
			lines += r.LogLines
		}
		if lines != most+1 {
			b.Errorf("%d lines are counted", lines)
		}
		b.ship(to, "a", 2, 1, 1) // and it goes on
		if err := b.ledger.Flush(b.Context()); err != nil {
			b.Fatal(err)
		}
		if a, err := b.kept.Account(b.Context(), id("ri", "a")); err != nil || a.LogEpoch != 2 {
			b.Errorf("%+v, %v", a, err)
		}
	})
}

func release(x, n, digest string, size int64) miosa.Release {
	return miosa.Release{
		ID: id("rel", n), TenantID: id("ten", x), DeploymentID: id("dep", x), SHA256: digest, SizeBytes: size, State: miosa.ReleaseReady, CreatedAt: time.Now(),
	}
}

func TestStorageIsHeldByTheHour(t *testing.T) {
	inBench(t, func(b *bench) {
		gone := miosa.Deployment{ID: id("dep", "c"), TenantID: id("ten", "a"), Slug: "gone", DeletedAt: time.Now()}
		second := miosa.Deployment{ID: id("dep", "d"), TenantID: id("ten", "a"), Slug: "second"}
		ofSecond, ofGone, archived := release("a", "3", "one", 100), release("a", "4", "four", 1<<30), release("a", "5", "five", 1<<30)
		ofSecond.DeploymentID, ofGone.DeploymentID, archived.State = second.ID, gone.ID, miosa.ReleaseArchived
		b.save(func(tx *store.Tx) error {
			err := errors.Join(store.Save(tx, store.Deployments, gone), store.Save(tx, store.Deployments, second))
			for _, r := range []miosa.Release{
				release("a", "1", "one", 100), release("a", "2", "two", 20), ofSecond, ofGone, archived,
				release("b", "6", "one", 100), // another tenant pays for its own
			} {
				err = errors.Join(err, store.Save(tx, store.Releases, r))
			}
			return err
		})
		for range 3 {
			if err := b.ledger.Sample(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		b.want("the first hour", "0 aa- workspace a app-a 0 0 0/0 120\n0 bb- workspace b app-b 0 0 0/0 100")
		// Nobody looks for three hours; meanwhile something comes.
		pass(2*time.Hour + time.Minute)
		b.save(func(tx *store.Tx) error { return store.Save(tx, store.Releases, release("b", "7", "seven", 1)) })
		pass(time.Hour)
		for range 2 {
			if err := b.ledger.Sample(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		b.want("four hours", `0 aa- workspace a app-a 0 0 0/0 120
0 bb- workspace b app-b 0 0 0/0 100
1 aa- workspace a app-a 0 0 0/0 120
1 bb- workspace b app-b 0 0 0/0 100
2 aa- workspace a app-a 0 0 0/0 120
2 bb- workspace b app-b 0 0 0/0 101
3 aa- workspace a app-a 0 0 0/0 120
3 bb- workspace b app-b 0 0 0/0 101`)
	})
}

func TestRunDoesItAllByItself(t *testing.T) {
	inBench(t, func(b *bench) {
		ctx, cancel := context.WithCancel(b.Context())
		defer cancel()
		go func() { _ = b.ledger.Run(ctx) }()
		synctest.Wait()
		b.save(func(tx *store.Tx) error { return store.Save(tx, store.Releases, release("a", "1", "one", 100)) })
		b.ship(b.ledger.Shipper(shipper{}), "a", 1, 1, 1)
		pass(time.Hour + 2*time.Minute)
		b.want("after an hour", "0 aaa workspace a app-a 0 0 1/4 0\n1 aa- workspace a app-a 0 0 0/0 100")
		cancel()
		synctest.Wait()
		b.save(func(tx *store.Tx) error {
			return store.Save(tx, store.Releases, func() miosa.Release { r := release("a", "1", "one", 100); r.State = miosa.ReleaseArchived; return r }())
		})
		pass(ledger.Keep)
		ctx, cancel = context.WithCancel(b.Context())
		defer cancel()
		go func() { _ = b.ledger.Run(ctx) }()
		pass(2 * time.Hour)
		b.want("after thirteen months", "")
		cancel()
		synctest.Wait()
	})
}

// What a host reports of an instance that was placed there a moment ago is taken,
// though the instance was asked for before it was.
func TestAHostReportsAtOnce(t *testing.T) {
	inBench(t, func(b *bench) {
		place := func(host string) {
			b.Helper()
			b.save(func(tx *store.Tx) error {
				i, err := store.Load(tx, store.Instances, store.InstanceKey(id("ten", "a"), id("dep", "a"), id("ri", "a")))
				i.HostID = host
				return errors.Join(err, store.Save(tx, store.Instances, i))
			})
		}
		place("")
		if out := b.report("a", "a", 1, 10, 0); out.Verdict != metering.Refused {
			b.Errorf("before it is placed: %+v", out)
		}
		place(id("host", "a"))
		if out := b.report("b", "a", 1, 10, 0); out.Verdict != metering.Refused {
			b.Errorf("of another host: %+v", out)
		}
		if out := b.report("a", "a", 1, 10, 0); out.Verdict != metering.Taken {
			b.Errorf("of its own: %+v", out)
		}
	})
}
