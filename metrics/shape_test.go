package metrics

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func owner(id string) Owner {
	return Owner{"ten_1", "dep_1", "svc_1", "ri_" + "00000000000000000000000000"[:26-len(id)] + id}
}

func row(source string, after time.Duration, pairs ...int64) Row {
	r := Row{Owner: owner(source), At: noon.Add(after)}
	for i := 0; i < len(pairs); i += 2 {
		r.Values.Set(Figure(pairs[i]), pairs[i+1])
	}
	return r
}

func draw(span, step time.Duration, rows ...Row) Shaped {
	s := NewShaper(Want{Grid: NewGrid(noon, noon.Add(span), step), Figures: Figures(), Sources: 10})
	for _, r := range rows {
		s.Add(r)
	}
	return s.Done()
}

func equal(t *testing.T, what string, got []float64, want ...float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s: %v, want %v", what, got, want)
		return
	}
	for i := range got {
		if math.IsNaN(got[i]) != math.IsNaN(want[i]) || math.Abs(got[i]-want[i]) > 1e-9*max(1, math.Abs(want[i])) {
			t.Errorf("%s: %v, want %v", what, got, want)
			return
		}
	}
}

var gap = math.NaN()

func TestRatesAndGaps(t *testing.T) {
	s := time.Second
	c := int64(CPU)
	got := draw(2*time.Minute, Interval,
		row("1", 0, c, 1000), row("1", 15*s, c, 2500), row("1", 30*s, c, 2500), // 0.1 cores, then none
		// The VM is another: the count begins anew.
		row("1", 45*s, c, 300),
		// 75 s of silence: nobody knows.
		row("1", 120*s, c, 99999),
	)
	equal(t, "cpu", got.Total[CPU].Values, 0.1, 0, 0.02, gap, gap, gap, gap, gap)
	equal(t, "memory that nobody told of", got.Total[Memory].Values, gap, gap, gap, gap, gap, gap, gap, gap)
	// Three samples that are missing are bridged.
	got = draw(time.Minute, Interval, row("1", 0, c, 0), row("1", 60*s, c, 60_000))
	equal(t, "cpu", got.Total[CPU].Values, 1, 1, 1, 1)
}

func TestSamplesThatAreNotInStep(t *testing.T) {
	s := time.Second
	m := int64(Memory)
	// A second late, a second early: no hole, no point that counts twice.
	got := draw(time.Minute, Interval, row("1", 1*s, m, 1), row("1", 17*s, m, 1), row("1", 29*s, m, 1), row("1", 46*s, m, 1), row("1", 60*s, m, 1))
	equal(t, "memory", got.Total[Memory].Values, 1024, 1024, 1024, 1024)
	// Between two levels the later one holds since the sample before.
	got = draw(30*s, Interval, row("1", 0, m, 1), row("1", 20*s, m, 3), row("1", 30*s, m, 5))
	equal(t, "memory", got.Total[Memory].Values, 3*1024, (3*5+5*10)/15.0*1024)
}

func TestDrawnTogether(t *testing.T) {
	c, m, n := int64(CPU), int64(Memory), int64(Restarts)
	var rows []Row
	for i := range 9 {
		value := int64(100)
		if i == 5 {
			value = 900
		}
		restarts := int64(0)
		if i > 3 {
			restarts = 2
		}
		rows = append(rows, row("1", time.Duration(i)*Interval, c, int64(i)*1500, m, value, n, restarts))
	}
	got := draw(2*time.Minute, time.Minute, rows...)
	equal(t, "cpu", got.Total[CPU].Values, 0.1, 0.1)
	equal(t, "memory", got.Total[Memory].Values, 100*1024, 300*1024)
	equal(t, "memory's highest", got.Total[Memory].Max, 100*1024, 900*1024)
	// The fourth sample came as the second minute began.
	equal(t, "restarts", got.Total[Restarts].Values, 0, 2)
	if got.Total[Restarts].Max != nil {
		t.Error("a count has a highest")
	}
}

func TestSeveralSources(t *testing.T) {
	m, p, c := int64(Memory), int64(Probe), int64(CPU)
	s := time.Second
	got := draw(time.Minute, 30*s,
		row("1", 0, m, 1, c, 0), row("1", 15*s, m, 1, p, 1000, c, 15000), row("1", 30*s, m, 7, p, 1000, c, 15000), row("1", 45*s, m, 1, c, 15000), row("1", 60*s, m, 1, c, 15000),
		row("2", 0, m, 1), row("2", 15*s, m, 7, p, 3000), row("2", 30*s, m, 1, p, 5000), row("2", 45*s, m, 1), row("2", 60*s, m, 1),
	)
	equal(t, "memory", got.Total[Memory].Values, 8*1024, 2*1024)
	// 7 + 1 at each moment, not 7 + 7.
	equal(t, "memory's highest", got.Total[Memory].Max, 8*1024, 2*1024)
	equal(t, "probe", got.Total[Probe].Values, 0.0025, gap)
	equal(t, "cpu of the one that has it", got.Total[CPU].Values, 0.5, 0)
	if len(got.Sources) != 2 || got.More || got.Sources[1].Owner != owner("2") || !got.Sources[1].Last.Equal(noon.Add(time.Minute)) {
		t.Fatalf("sources: %+v", got.Sources)
	}
	equal(t, "memory of one", got.Sources[0].Series[Memory].Max, 7*1024, 1024)
	equal(t, "cpu of the other", got.Sources[1].Series[CPU].Values, gap, gap)
}

func TestSourcesAreBounded(t *testing.T) {
	s := NewShaper(Want{Grid: NewGrid(noon, noon.Add(time.Minute), Interval), Figures: Figures(), Sources: 2})
	s.Add(row("0", -30*time.Second, int64(Memory), 1)) // before
	for _, id := range []string{"1", "2", "3"} {
		s.Add(row(id, 15*time.Second, int64(Memory), 1))
	}
	r := row("9", 15*time.Second, int64(Requests), 1)
	r.Owner.SourceID = "router-1"
	s.Add(r)
	got := s.Done()
	if len(got.Sources) != 2 || !got.More || got.Sources[0].Owner != owner("2") || got.Sources[1].Owner != owner("3") {
		t.Errorf("%+v", got.Sources)
	}
	equal(t, "total", got.Total[Memory].Values, 3*1024, gap, gap, gap)
}

func TestGrids(t *testing.T) {
	for span, want := range map[time.Duration]time.Duration{
		time.Minute: Interval, time.Hour: Interval, 75 * time.Minute: Interval, 76 * time.Minute: 30 * time.Second, 24 * time.Hour: 5 * time.Minute, 600 * time.Hour: 2 * time.Hour,
	} {
		if got := Step(span, 300); got != want {
			t.Errorf("%s: %s, want %s", span, got, want)
		}
	}
	g := NewGrid(noon.Add(7*time.Second), noon.Add(time.Hour), time.Minute)
	if !g.Start.Equal(noon) || g.Points != 60 {
		t.Errorf("%+v", g)
	}
	if g := NewGrid(noon, noon, time.Minute); g.Points != 0 {
		t.Errorf("%+v", g)
	}
}

// TestNothingIsLostOrMadeUp: whatever the times of the samples, what a total
// grew by is what its rates amount to, and no step is below nothing or above
// its highest.
func TestNothingIsLostOrMadeUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const span = time.Hour
		step := rapid.SampledFrom([]time.Duration{Interval, time.Minute, 5 * time.Minute, 30 * time.Minute}).Draw(t, "step")
		grid := NewGrid(noon, noon.Add(span), step)
		cells, whole := newShape(grid), NewShaper(Want{Grid: grid, Figures: OfInstances()})
		total, grown := int64(0), int64(0)
		before := row("1", 0, int64(NetworkSent), 0)
		whole.Add(before)
		for at := time.Duration(0); ; {
			d := time.Duration(rapid.IntRange(1, 90_000).Draw(t, "ms")) * time.Millisecond
			if at += d; at > span {
				break
			}
			n := rapid.Int64Range(0, 1e6).Draw(t, "bytes")
			if total += n; d <= Stale {
				grown += n
			}
			r := row("1", at, int64(NetworkSent), total)
			cells.add(&before, &r)
			whole.Add(r)
			before = r
		}
		shown := 0.0
		if l := cells.lanes[NetworkSent]; l != nil {
			for _, v := range l.value {
				shown += v * Interval.Seconds()
			}
		}
		if math.Abs(shown-float64(grown)) > 1e-3 {
			t.Fatalf("grew by %d, shows %v", grown, shown)
		}
		out := whole.Done().Total[NetworkSent]
		for i, v := range out.Values {
			if v < 0 || out.Max[i] < v-1e-6 || math.IsNaN(v) != math.IsNaN(out.Max[i]) {
				t.Fatalf("point %d: average %v, highest %v", i, v, out.Max[i])
			}
		}
	})
}
