package plane_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	logmemory "github.com/miosa/miosa/logs/memory"
	"github.com/miosa/miosa/logs/plane"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// bench is a plane over records of two tenants, each with an instance on a
// host of its own: ri_a of ten_a on host_a, and so on.
type bench struct {
	*testing.T
	plane   *plane.Plane
	kept    *logmemory.Store
	records *memory.Store
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, kept: logmemory.New(time.Now), records: memory.New(time.Now)}
	b.plane = plane.New(b.kept, records.New(b.records), slog.New(slog.DiscardHandler))
	for _, x := range []string{"a", "b"} {
		b.save(func(tx *store.Tx) error {
			return errors.Join(
				store.Save(tx, store.Tenants, miosa.Tenant{ID: "ten_" + x, Slug: x, Plan: "plan_" + x}),
				store.Save(tx, store.Plans, miosa.Plan{Name: "plan_" + x, LogDays: 3}),
				store.Save(tx, store.Deployments, miosa.Deployment{ID: "dep_" + x, TenantID: "ten_" + x, Slug: "app", Attribution: miosa.Attribution{WorkspaceID: "workspace " + x}}),
				store.Save(tx, store.Instances, miosa.Instance{
					ID: "ri_" + x, TenantID: "ten_" + x, DeploymentID: "dep_" + x, EnvironmentID: "env_" + x,
					ServiceID: "svc_" + x, VersionID: "ver_" + x, HostID: "host_" + x,
				}),
			)
		})
	}
	return b
}

func (b *bench) save(fn func(tx *store.Tx) error) {
	b.Helper()
	if _, err := store.Update(b.Context(), b.records, fn); err != nil {
		b.Fatal(err)
	}
}

// batch is a run of lines of an instance, as its host would send it.
func batch(x string, first uint64, count int) logs.Batch {
	out := logs.Batch{Origin: logs.Origin{TenantID: "ten_" + x, DeploymentID: "dep_" + x, InstanceID: "ri_" + x}, Epoch: 1, First: first}
	for n := range count {
		number := first + uint64(n)
		out.Lines = append(out.Lines, logs.Line{
			Time: time.Unix(1_800_000_000, int64(number)*1000).UTC(), Stream: logs.Stdout, Text: fmt.Appendf(nil, "%s line %d", x, number),
		})
	}
	return out
}

func (b *bench) read(tenant string) (texts []string) {
	b.Helper()
	for e, err := range b.plane.Read(b.Context(), logs.Query{Scope: logs.Scope{TenantID: tenant}}) {
		if err != nil {
			b.Fatal(err)
		}
		texts = append(texts, string(e.Text))
	}
	return texts
}

// What a host says of an instance is not believed: the records are.
func TestOriginsComeFromTheRecords(t *testing.T) {
	b := newBench(t)
	lie := batch("a", 1, 2)
	lie.Origin.ServiceID, lie.Origin.VersionID, lie.Origin.HostID, lie.Origin.WorkspaceID = "svc_b", "ver_b", "host_b", "workspace b"
	if err := b.plane.Ship(t.Context(), "host_a", []logs.Batch{lie}); err != nil {
		t.Fatal(err)
	}
	for e, err := range b.plane.Read(t.Context(), logs.Query{Scope: logs.Scope{TenantID: "ten_a"}}) {
		want := logs.Origin{
			TenantID: "ten_a", DeploymentID: "dep_a", ServiceID: "svc_a", InstanceID: "ri_a", VersionID: "ver_a", HostID: "host_a", WorkspaceID: "workspace a",
		}
		if err != nil || e.Origin != want {
			t.Errorf("%+v, %v", e.Origin, err)
		}
	}
}

// An attempt's lines are its task's, whatever its host calls them.
func TestAnAttemptsLinesAreItsTasks(t *testing.T) {
	b := newBench(t)
	b.save(func(tx *store.Tx) error {
		return store.Save(tx, store.Instances, miosa.Instance{
			ID: "ri_task", TenantID: "ten_a", DeploymentID: "dep_a", EnvironmentID: "env_a", TaskID: "task_a", Attempt: 1, VersionID: "ver_a", HostID: "host_a",
		})
	})
	lie, other := batch("a", 1, 2), batch("a", 1, 1)
	lie.Origin.InstanceID, lie.Origin.ServiceID, lie.Origin.TaskID = "ri_task", "svc_a", "task_b"
	other.Origin.TaskID = "task_a"
	if err := b.plane.Ship(t.Context(), "host_a", []logs.Batch{lie, other}); err != nil {
		t.Fatal(err)
	}
	want := logs.Origin{TenantID: "ten_a", DeploymentID: "dep_a", InstanceID: "ri_task", VersionID: "ver_a", HostID: "host_a", WorkspaceID: "workspace a", TaskID: "task_a"}
	for _, x := range []struct {
		scope logs.Scope
		lines int
	}{{logs.Scope{TaskID: "task_a"}, 2}, {logs.Scope{TaskID: "task_b"}, 0}, {logs.Scope{ServiceID: "svc_a"}, 1}, {logs.Scope{DeploymentID: "dep_a"}, 3}} {
		x.scope.TenantID = "ten_a"
		n := 0
		for e, err := range b.plane.Read(t.Context(), logs.Query{Scope: x.scope}) {
			if n++; err != nil || x.scope.TaskID != "" && e.Origin != want {
				t.Errorf("%+v, %v", e.Origin, err)
			}
		}
		if n != x.lines {
			t.Errorf("%+v has %d lines, want %d", x.scope, n, x.lines)
		}
	}
}

func TestNobodySpeaksForAnother(t *testing.T) {
	b := newBench(t)
	for name, c := range map[string]struct {
		host  string
		batch func() logs.Batch
		code  miosa.Code
	}{
		"another host's instance": {"host_b", func() logs.Batch { return batch("a", 1, 1) }, miosa.Forbidden},
		"another tenant's": {"host_a", func() logs.Batch {
			x := batch("a", 1, 1)
			x.Origin.TenantID = "ten_b"
			return x
		}, miosa.NotFound},
		"another deployment's": {"host_a", func() logs.Batch {
			x := batch("a", 1, 1)
			x.Origin.DeploymentID = "dep_b"
			return x
		}, miosa.NotFound},
		"unknown":    {"host_a", func() logs.Batch { x := batch("a", 1, 1); x.Origin.InstanceID = "ri_x"; return x }, miosa.NotFound},
		"no lines":   {"host_a", func() logs.Batch { return batch("a", 1, 0) }, miosa.Invalid},
		"number 0":   {"host_a", func() logs.Batch { return batch("a", 0, 1) }, miosa.Invalid},
		"bad stream": {"host_a", func() logs.Batch { x := batch("a", 1, 1); x.Lines[0].Stream = "x"; return x }, miosa.Invalid},
		"too long":   {"host_a", func() logs.Batch { x := batch("a", 1, 1); x.Lines[0].Text = make([]byte, logs.MaxText+1); return x }, miosa.Invalid},
	} {
		// With a good batch beside it: nothing of the call is kept.
		err := b.plane.Ship(t.Context(), c.host, []logs.Batch{c.batch(), batch(c.host[len("host_"):], 1, 1)})
		if miosa.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	// Known by now; a lie is not let in by what is remembered.
	if err := b.plane.Ship(t.Context(), "host_a", []logs.Batch{batch("a", 1, 1)}); err != nil {
		t.Fatal(err)
	}
	lie := batch("a", 2, 1)
	lie.Origin.TenantID = "ten_b"
	if err := b.plane.Ship(t.Context(), "host_a", []logs.Batch{lie}); miosa.CodeOf(err) != miosa.NotFound {
		t.Errorf("%v", err)
	}
	if a, other := b.read("ten_a"), b.read("ten_b"); len(a) != 1 || len(other) != 0 {
		t.Errorf("kept %q and %q", a, other)
	}
}

// A host that asks for an instance before it is on any keeps nobody's lines away
// from then on: refused once, a host drops them.
func TestAskedForBeforeItHasAHost(t *testing.T) {
	b := newBench(t)
	i := miosa.Instance{ID: "ri_new", TenantID: "ten_a", DeploymentID: "dep_a", EnvironmentID: "env_a", ServiceID: "svc_a", VersionID: "ver_a"}
	b.save(func(tx *store.Tx) error { return store.Save(tx, store.Instances, i) })
	run := batch("a", 1, 1)
	run.Origin.InstanceID = i.ID
	if err := b.plane.Ship(t.Context(), "host_b", []logs.Batch{run}); miosa.CodeOf(err) != miosa.Forbidden {
		t.Errorf("a host that it is not on: %v", err)
	}
	i.HostID = "host_a"
	b.save(func(tx *store.Tx) error { return store.Save(tx, store.Instances, i) })
	if err := b.plane.Ship(t.Context(), "host_b", []logs.Batch{run}); miosa.CodeOf(err) != miosa.Forbidden {
		t.Errorf("a host that it is not on: %v", err)
	}
	if err := b.plane.Ship(t.Context(), "host_a", []logs.Batch{run}); err != nil {
		t.Errorf("its own host: %v", err)
	}
}

// A line is kept for the days that the plan promised when it came.
func TestThePlanSaysHowLong(t *testing.T) {
	b := newBench(t)
	first := time.Unix(1_800_000_000, 0)
	ship := func(n uint64) {
		if err := b.plane.Ship(t.Context(), "host_a", []logs.Batch{batch("a", n, 1)}); err != nil {
			t.Fatal(err)
		}
	}
	ship(1)
	b.save(func(tx *store.Tx) error {
		p, err := store.Load(tx, store.Plans, store.PlanKey("plan_a"))
		p.LogDays = 10
		return errors.Join(err, store.Save(tx, store.Plans, p))
	})
	// What was remembered of the plan is a minute old at most.
	b.plane = plane.New(b.kept, records.New(b.records), slog.New(slog.DiscardHandler))
	ship(2)
	for _, c := range []struct {
		days int
		want int
	}{{3, 2}, {4, 1}, {10, 1}, {11, 0}} {
		if err := b.kept.Expire(t.Context(), first.Add(time.Duration(c.days)*24*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if got := b.read("ten_a"); len(got) != c.want {
			t.Errorf("after %d days: %q, want %d lines", c.days, got, c.want)
		}
	}
}

// Followers get each arrival once, in order, from wherever they begin, and
// only what they may see.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		ship := func(x string, n uint64) {
			if err := b.plane.Ship(t.Context(), "host_"+x, []logs.Batch{batch(x, n, 1)}); err != nil {
				t.Fatal(err)
			}
		}
		ship("a", 1)
		ship("b", 1)
		mark, err := b.plane.Last(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		follow := func(after logs.Mark) <-chan string {
			out := make(chan string, 100)
			go func() {
				defer close(out)
				for a, err := range b.plane.Follow(ctx, after, logs.Scope{TenantID: "ten_a"}) {
					if err != nil {
						out <- err.Error()
						return
					}
					for _, l := range a.Batch.Lines {
						out <- string(l.Text)
					}
				}
			}()
			return out
		}
		all, fresh := follow(0), follow(mark)
		synctest.Wait()
		for n := uint64(2); n <= 4; n++ {
			ship("b", n)
			ship("a", n)
			synctest.Wait()
		}
		ship("a", 4) // again, after an answer that was lost
		synctest.Wait()
		cancel()
		var got [2][]string
		for text := range all {
			got[0] = append(got[0], text)
		}
		for text := range fresh {
			got[1] = append(got[1], text)
		}
		if want := "[[a line 1 a line 2 a line 3 a line 4] [a line 2 a line 3 a line 4]]"; fmt.Sprint(got) != want {
			t.Errorf("followed %v, want %s", got, want)
		}
	})
}

// TestPurgedStaysPurged: once a purge is asked for, no line of a host's spool
// comes after it, also when the owner was looked up before, or while a batch is
// on its way.
func TestPurgedStaysPurged(t *testing.T) {
	b := newBench(t)
	if err := b.plane.Ship(t.Context(), "host_a", []logs.Batch{batch("a", 1, 2)}); err != nil {
		t.Fatal(err)
	}
	if err := b.plane.Ship(t.Context(), "host_b", []logs.Batch{batch("b", 1, 1)}); err != nil {
		t.Fatal(err)
	}
	b.save(func(tx *store.Tx) error {
		d, err := store.Load(tx, store.Deployments, store.DeploymentKey("ten_a", "dep_a"))
		if err != nil {
			return err
		}
		d.DeletedAt, d.PurgeLogs = time.Unix(1_800_000_000, 0), true
		return store.Save(tx, store.Deployments, d)
	})
	// A host goes on sending meanwhile.
	done := make(chan struct{})
	var refused int
	go func() {
		defer close(done)
		for first := uint64(3); refused < 3; first++ {
			switch err := b.plane.Ship(t.Context(), "host_a", []logs.Batch{batch("a", first, 1)}); miosa.CodeOf(err) {
			case "":
			case miosa.NotFound: // the host forgets them
				refused++
			default:
				t.Error(err)
				return
			}
		}
	}()
	for range 2 { // at least once: a second time changes nothing
		if err := b.plane.Purge(t.Context(), "ten_a", "dep_a"); err != nil {
			t.Fatal(err)
		}
	}
	<-done
	if got := b.read("ten_a"); len(got) != 0 {
		t.Errorf("what was purged is back: %q", got)
	}
	if got := b.read("ten_b"); len(got) != 1 {
		t.Errorf("another tenant's: %q", got)
	}
}

// What a tenant has stored fills its plan's room, whoever of its instances wrote
// it, until it expires or the plan has more; a plane that starts anew knows it.
func TestWhatATenantStoresIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		plan := func(mostMB int) {
			b.save(func(tx *store.Tx) error {
				p, err := store.Load(tx, store.Plans, store.PlanKey("plan_a"))
				if err != nil {
					return err
				}
				p.MaxLogStorageMB = mostMB
				return store.Save(tx, store.Plans, p)
			})
		}
		plan(1)
		first := uint64(1)
		ship := func(to *plane.Plane, x string) {
			t.Helper()
			lines := batch(x, first, 10)
			first += 10
			for n := range lines.Lines {
				lines.Lines[n].Time, lines.Lines[n].Text = time.Now().UTC(), make([]byte, 50_000)
			}
			if err := to.Ship(t.Context(), "host_"+x, []logs.Batch{lines}); err != nil {
				t.Fatal(err)
			}
		}
		want := func(p *plane.Plane, tenant string, mostMB int, full bool) {
			t.Helper()
			if most, is := p.Full(tenant); most != mostMB || is != full {
				t.Errorf("%s: %v of %d MB, not %v of %d", tenant, is, most, full, mostMB)
			}
		}
		want(b.plane, "ten_a", 0, false)
		ship(b.plane, "a")
		want(b.plane, "ten_a", 1, false)
		ship(b.plane, "a")
		want(b.plane, "ten_a", 1, true)
		// A plan of before has the default's.
		ship(b.plane, "b")
		want(b.plane, "ten_b", miosa.DefaultPlan().MaxLogStorageMB, false)
		want(b.plane, "ten_c", 0, false)

		again := plane.New(b.kept, records.New(b.records), slog.New(slog.DiscardHandler))
		want(again, "ten_a", 0, false)
		ship(again, "a")
		want(again, "ten_a", 1, true)

		ctx, cancel := context.WithCancel(t.Context())
		go b.plane.Run(ctx)
		plan(-1)
		<-time.After(time.Minute + time.Second)
		want(b.plane, "ten_a", -1, false)
		plan(1)
		<-time.After(time.Minute)
		want(b.plane, "ten_a", 1, true)
		<-time.After(3 * 24 * time.Hour) // the plan's log_days
		want(b.plane, "ten_a", 1, true)
		<-time.After(time.Hour) // counted by whole hours
		want(b.plane, "ten_a", 1, false)
		cancel()
		synctest.Wait()
	})
}

// A plan's change holds as soon as the records' view has heard of it.
func TestAPlansChangeIsHeardOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		view := records.New(b.records)
		b.plane = plane.New(b.kept, view, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			view.Run(ctx, func(err error) { t.Error(err) })
		}()
		synctest.Wait()
		for n, days := range []int{3, 10} {
			b.save(func(tx *store.Tx) error {
				p, err := store.Load(tx, store.Plans, store.PlanKey("plan_a"))
				p.LogDays = days
				return errors.Join(err, store.Save(tx, store.Plans, p))
			})
			synctest.Wait()
			if err := b.plane.Ship(t.Context(), "host_a", []logs.Batch{batch("a", uint64(n)+1, 1)}); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.kept.Expire(t.Context(), time.Unix(1_800_000_000, 0).Add(4*24*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if got := b.read("ten_a"); len(got) != 1 {
			t.Errorf("after 4 days there is %q, want the line of the plan of 10", got)
		}
		cancel()
		<-ended
	})
}
