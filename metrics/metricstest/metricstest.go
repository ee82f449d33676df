// Package metricstest is the conformance suite of histories.
package metricstest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metrics"
)

// Begin is when the suite's samples begin: in the middle of an hour.
var Begin = time.Date(2026, 3, 1, 11, 40, 0, 0, time.UTC)

// ID is a well-formed one.
func ID(prefix string, n int) string { return fmt.Sprintf("%s_%026d", prefix, n) }

// Owner is an instance of the suite.
func Owner(tenant, deployment, service, instance int) metrics.Owner {
	return metrics.Owner{
		TenantID: ID(miosa.PrefixTenant, tenant), DeploymentID: ID(miosa.PrefixDeployment, deployment),
		ServiceID: ID(miosa.PrefixService, service), SourceID: ID(miosa.PrefixInstance, instance),
	}
}

// Run runs the suite; empty gives a store that is.
func Run(t *testing.T, empty func(t *testing.T) metrics.Store) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, metrics.Store)
	}{
		{"what is kept is read", kept},
		{"reads end where their scope does", scoped},
		{"the part of time that is asked for", stretches},
		{"older and doubled samples are dropped", doubles},
		{"what is no pass is refused", refused},
		{"expiry", expiry},
		{"a reader that leaves", leaves},
		{"an ended context", ended},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, empty(t)) })
	}
}

func scopeOf(o metrics.Owner) metrics.Scope {
	return metrics.Scope{TenantID: o.TenantID, DeploymentID: o.DeploymentID}
}

func values(pairs ...int64) (v metrics.Values) {
	for i := 0; i < len(pairs); i += 2 {
		v.Set(metrics.Figure(pairs[i]), pairs[i+1])
	}
	return v
}

func add(t *testing.T, s metrics.Store, at time.Time, samples ...metrics.Sample) {
	t.Helper()
	if err := s.Append(t.Context(), metrics.Pass{At: at, Samples: samples}); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, s metrics.Store, scope metrics.Scope, since, until time.Time) []metrics.Row {
	t.Helper()
	var out []metrics.Row
	for r, err := range s.Read(t.Context(), scope, since, until) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

var forever = Begin.Add(1000 * time.Hour)

// kept: two hours of three sources with figures that come and go, jump and
// begin anew, at times that are not quite in step.
func kept(t *testing.T, s metrics.Store) {
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same every time
	owners := []metrics.Owner{Owner(1, 1, 1, 1), Owner(1, 1, 1, 2), Owner(1, 1, 2, 3)}
	var want []metrics.Row
	last := map[metrics.Owner]*metrics.Values{}
	at := Begin
	for range 500 {
		if at = at.Add(metrics.Interval); random.IntN(3) == 0 {
			at = at.Add(time.Duration(random.IntN(3000)-1500) * time.Millisecond)
		}
		var pass []metrics.Sample
		for _, o := range owners {
			v := metrics.Values{}
			for _, f := range metrics.Figures() {
				before := int64(0)
				if last[o] != nil {
					before, _ = last[o].Get(f.Figure)
				}
				switch random.IntN(10) {
				case 0: // it cannot be had
				case 1:
					v.Set(f.Figure, random.Int64N(1<<62))
				case 2:
					v.Set(f.Figure, 0)
				case 3, 4, 5:
					v.Set(f.Figure, before)
				default:
					v.Set(f.Figure, before+random.Int64N(100))
				}
			}
			last[o] = &v
			pass = append(pass, metrics.Sample{Owner: o, Values: v})
			want = append(want, metrics.Row{Owner: o, At: at, Values: v})
		}
		add(t, s, at, pass...)
	}
	slices.SortStableFunc(want, func(a, b metrics.Row) int {
		return slices.Index(owners, a.Owner) - slices.Index(owners, b.Owner)
	})
	got := read(t, s, scopeOf(owners[0]), Begin, forever)
	if len(got) != len(want) {
		t.Fatalf("%d rows, want %d", len(got), len(want))
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("row %d is %+v, want %+v", i, got[i], want[i])
		}
	}
}

func scoped(t *testing.T, s metrics.Store) {
	all := []metrics.Owner{
		Owner(1, 1, 1, 1), Owner(1, 1, 1, 2), Owner(1, 1, 2, 3), Owner(1, 2, 3, 4), Owner(2, 1, 1, 1), Owner(2, 9, 9, 9),
		{TenantID: ID(miosa.PrefixTenant, 1), DeploymentID: ID(miosa.PrefixDeployment, 1), ServiceID: ID(miosa.PrefixService, 1), SourceID: "router-1"},
		{TenantID: ID(miosa.PrefixTenant, 1) + "0", DeploymentID: ID(miosa.PrefixDeployment, 1), ServiceID: ID(miosa.PrefixService, 1), SourceID: "router-1"},
		{TenantID: ID(miosa.PrefixTenant, 1), DeploymentID: ID(miosa.PrefixDeployment, 1) + "0", ServiceID: ID(miosa.PrefixService, 1), SourceID: "router-1"},
	}
	for i, o := range all {
		add(t, s, Begin, metrics.Sample{Owner: o, Values: values(0, int64(i))})
	}
	one := all[0]
	for _, c := range []struct {
		scope metrics.Scope
		want  []int64
	}{
		{scopeOf(one), []int64{0, 1, 6, 2}},
		{metrics.Scope{TenantID: one.TenantID, DeploymentID: one.DeploymentID, ServiceID: one.ServiceID}, []int64{0, 1, 6}},
		{metrics.Scope(one), []int64{0}},
		{scopeOf(all[4]), []int64{4}},
		{scopeOf(all[5]), []int64{5}},
		{metrics.Scope{TenantID: one.TenantID, DeploymentID: all[5].DeploymentID}, nil},
		{metrics.Scope{TenantID: all[4].TenantID, DeploymentID: all[3].DeploymentID}, nil},
	} {
		var got []int64
		for _, r := range read(t, s, c.scope, Begin, forever) {
			n, _ := r.Values.Get(0)
			got = append(got, n)
			if !c.scope.Admits(r.Owner) {
				t.Errorf("%+v: a row of %+v", c.scope, r.Owner)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.scope, got, c.want)
		}
	}
	for _, scope := range []metrics.Scope{{}, {TenantID: one.TenantID}, {DeploymentID: one.DeploymentID}, {SourceID: one.SourceID}} {
		for r, err := range s.Read(t.Context(), scope, Begin, forever) {
			if err == nil {
				t.Errorf("%+v: reads %+v", scope, r.Owner)
			}
		}
	}
}

func stretches(t *testing.T, s metrics.Store) {
	o := Owner(1, 1, 1, 1)
	const n = 600 // 2.5 h
	for i := range n {
		add(t, s, Begin.Add(time.Duration(i)*metrics.Interval), metrics.Sample{Owner: o, Values: values(0, int64(i))})
	}
	for _, c := range [][4]int{{0, n, 0, n}, {1, 2, 1, 2}, {79, 82, 79, 82}, {n, 2 * n, n, n}, {-5000, 3, 0, 3}, {80, 320, 80, 320}} {
		got := read(t, s, scopeOf(o), Begin.Add(time.Duration(c[0])*metrics.Interval), Begin.Add(time.Duration(c[1])*metrics.Interval))
		if len(got) != c[3]-c[2] {
			t.Errorf("%v: %d rows", c, len(got))
			continue
		}
		for i, r := range got {
			if v, _ := r.Values.Get(0); v != int64(c[2]+i) {
				t.Fatalf("%v: row %d is %d", c, i, v)
			}
		}
	}
	if got := read(t, s, scopeOf(o), time.Time{}, time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)); len(got) != n {
		t.Errorf("all of time has %d", len(got))
	}
}

func doubles(t *testing.T, s metrics.Store) {
	o, p := Owner(1, 1, 1, 1), Owner(1, 1, 1, 2)
	add(t, s, Begin, metrics.Sample{Owner: o, Values: values(0, 1)})
	add(t, s, Begin, metrics.Sample{Owner: o, Values: values(0, 2)}, metrics.Sample{Owner: p, Values: values(0, 3)})
	add(t, s, Begin.Add(-metrics.Interval), metrics.Sample{Owner: o, Values: values(0, 4)})
	add(t, s, Begin.Add(metrics.Interval), metrics.Sample{Owner: o, Values: values(0, 5)})
	var got []int64
	for _, r := range read(t, s, scopeOf(o), Begin.Add(-time.Hour), forever) {
		n, _ := r.Values.Get(0)
		got = append(got, n)
	}
	if !slices.Equal(got, []int64{1, 5, 3}) {
		t.Errorf("%v", got)
	}
}

func refused(t *testing.T, s metrics.Store) {
	good := Owner(1, 1, 1, 1)
	for name, pass := range map[string]metrics.Pass{
		"no time": {Samples: []metrics.Sample{{Owner: good}}}, "long ago": {At: time.Unix(-1, 0), Samples: []metrics.Sample{{Owner: good}}},
		"far away": {At: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)},
		"no owner": {At: Begin, Samples: []metrics.Sample{{Owner: good}, {}}},
		"a separator": {At: Begin, Samples: []metrics.Sample{{Owner: metrics.Owner{
			TenantID: good.TenantID, DeploymentID: good.DeploymentID, ServiceID: "a\x00b", SourceID: "c",
		}}}},
	} {
		if err := s.Append(t.Context(), pass); miosa.CodeOf(err) != miosa.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := read(t, s, scopeOf(good), time.Time{}, forever); len(got) != 0 {
		t.Errorf("of refused passes there is %+v", got)
	}
}

func expiry(t *testing.T, s metrics.Store) {
	o, gone := Owner(1, 1, 1, 1), Owner(1, 1, 1, 2)
	for i := range 30 {
		at := Begin.Add(time.Duration(i) * time.Hour)
		add(t, s, at, metrics.Sample{Owner: o, Values: values(0, int64(i))})
		if i < 2 {
			add(t, s, at, metrics.Sample{Owner: gone, Values: values(0, 1)})
		}
	}
	now := Begin.Add(29 * time.Hour)
	if err := s.Expire(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	for _, r := range read(t, s, scopeOf(o), time.Time{}, forever) {
		if r.Owner == gone || now.Sub(r.At) > metrics.Kept+2*time.Hour {
			t.Errorf("a sample of %s of %s is still there at %s", r.Owner.SourceID, r.At, now)
		}
	}
	if got := read(t, s, scopeOf(o), now.Add(-metrics.Kept), forever); len(got) != 25 {
		t.Errorf("%d samples of the last day, want 25", len(got))
	}
	// It goes on.
	add(t, s, now.Add(metrics.Interval), metrics.Sample{Owner: o, Values: values(0, 77)})
	if got := read(t, s, scopeOf(o), now.Add(metrics.Interval), forever); len(got) != 1 {
		t.Errorf("after expiry: %+v", got)
	}
}

func leaves(t *testing.T, s metrics.Store) {
	o := Owner(1, 1, 1, 1)
	for i := range 10 {
		add(t, s, Begin.Add(time.Duration(i)*metrics.Interval), metrics.Sample{Owner: o, Values: values(0, int64(i))})
	}
	n := 0
	for range s.Read(t.Context(), scopeOf(o), Begin, forever) {
		if n++; n == 3 {
			break
		}
	}
	if got := read(t, s, scopeOf(o), Begin, forever); n != 3 || len(got) != 10 {
		t.Errorf("%d, then %d", n, len(got))
	}
}

func ended(t *testing.T, s metrics.Store) {
	o := Owner(1, 1, 1, 1)
	add(t, s, Begin, metrics.Sample{Owner: o, Values: values(0, 1)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Append(ctx, metrics.Pass{At: Begin.Add(time.Minute)}); !errors.Is(err, context.Canceled) {
		t.Errorf("append: %v", err)
	}
	var last error
	for _, err := range s.Read(ctx, scopeOf(o), Begin, forever) {
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("read: %v", last)
	}
}
