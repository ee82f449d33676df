package pebble

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"
	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metrics"
	"github.com/miosa/miosa/metrics/metricstest"
)

func openTest(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(Config{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), MinFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	metricstest.Run(t, func(t *testing.T) metrics.Store { return openTest(t, t.TempDir()) })
}

func append1(t *testing.T, s *Store, at time.Time, cpu int64) {
	t.Helper()
	var v metrics.Values
	v.Set(metrics.CPU, cpu)
	if err := s.Append(t.Context(), metrics.Pass{At: at, Samples: []metrics.Sample{{Owner: metricstest.Owner(1, 1, 1, 1), Values: v}}}); err != nil {
		t.Fatal(err)
	}
}

func read1(t *testing.T, s *Store) (out []int64) {
	t.Helper()
	o := metricstest.Owner(1, 1, 1, 1)
	for r, err := range s.Read(t.Context(), metrics.Scope{TenantID: o.TenantID, DeploymentID: o.DeploymentID}, time.Time{}, metricstest.Begin.Add(time.Hour)) {
		if err != nil {
			t.Fatal(err)
		}
		n, _ := r.Values.Get(metrics.CPU)
		out = append(out, n)
	}
	return out
}

// TestKilled opens a copy of the directory of a store that goes on: what a
// SIGKILL leaves. Nothing that was appended is missing.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir)
	for i := range 5 {
		append1(t, s, metricstest.Begin.Add(time.Duration(i)*metrics.Interval), int64(i*i))
	}
	left := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(left, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, left)
	// It goes on in the same hour, with a row that stands alone; one that
	// overlaps is left out.
	append1(t, again, metricstest.Begin.Add(4*metrics.Interval), 99)
	append1(t, again, metricstest.Begin.Add(5*metrics.Interval), 25)
	got := read1(t, again)
	if len(got) != 6 || got[4] != 16 || got[5] != 25 {
		t.Errorf("after a kill: %v", got)
	}
}

func TestNoRoom(t *testing.T) {
	s := openTest(t, t.TempDir())
	append1(t, s, metricstest.Begin, 1)
	free := uint64(0)
	s.room.Stat, s.room.Every = func(string) (uint64, uint64, error) { return free, 100 << 30, nil }, -1
	s.room.Min = 0
	pass := metrics.Pass{At: metricstest.Begin.Add(metrics.Interval), Samples: []metrics.Sample{{Owner: metricstest.Owner(1, 1, 1, 1)}}}
	if err := s.Append(t.Context(), pass); miosa.CodeOf(err) != miosa.NoSpace {
		t.Errorf("with a full disk: %v", err)
	}
	if got := read1(t, s); len(got) != 1 {
		t.Errorf("what is held cannot be read: %v", got)
	}
	free = 50 << 30
	append1(t, s, pass.At, 2)
	s.cfg.MaxBytes = 1
	if err := s.Append(t.Context(), metrics.Pass{At: pass.At.Add(metrics.Interval), Samples: pass.Samples}); miosa.CodeOf(err) != miosa.NoSpace {
		t.Errorf("past its own bound: %v", err)
	}
	if st := s.Stats(); st.Kept != 2 || st.Refused != 2 {
		t.Errorf("%+v", st)
	}
}

func TestDamagedIsBegunAnew(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir)
	append1(t, s, metricstest.Begin, 1)
	if err := s.db.Do(func(db *lsm.DB) error { return db.Flush() }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	manifests, err := filepath.Glob(filepath.Join(dir, "MANIFEST-*"))
	if err != nil || len(manifests) == 0 {
		t.Fatal(manifests, err)
	}
	for _, m := range manifests {
		if err := os.WriteFile(m, []byte(strings.Repeat("nonsense", 100)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	again := openTest(t, dir)
	append1(t, again, metricstest.Begin.Add(time.Minute), 2)
	if got := read1(t, again); len(got) != 1 || got[0] != 2 {
		t.Errorf("%v", got)
	}
}

func TestNewerFormatIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	s := openTest(t, dir)
	if err := s.db.Do(func(db *lsm.DB) error { return db.Set(formatKey, []byte{format + 1}, nil) }); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: dir, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("%v", err)
	}
}

func TestSilentSourcesAreForgotten(t *testing.T) {
	s := openTest(t, t.TempDir())
	append1(t, s, metricstest.Begin, 1)
	if err := s.Expire(t.Context(), metricstest.Begin.Add(2*time.Hour)); err != nil || len(s.sources) != 0 {
		t.Errorf("%d sources are remembered, %v", len(s.sources), err)
	}
	append1(t, s, metricstest.Begin.Add(2*metrics.Interval), 3)
	if got := read1(t, s); len(got) != 2 {
		t.Errorf("%v", got)
	}
}

// TestRowsAreReadAsTold: any figures at any times, also over restarts.
func TestRowsAreReadAsTold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type told struct {
			ms int64
			v  metrics.Values
		}
		var want []told
		var b []byte
		var s state
		ms := rapid.Int64Range(0, 1000).Draw(t, "begin")
		for i := range rapid.IntRange(1, 30).Draw(t, "rows") {
			var v metrics.Values
			for f := range figures {
				if rapid.Bool().Draw(t, "there") {
					v.Set(metrics.Figure(f), rapid.Int64Min(0).Draw(t, "value"))
				}
			}
			first := i == 0 || rapid.IntRange(0, 9).Draw(t, "restart") == 0
			b = appendRow(b, &s, first, ms, &v)
			want = append(want, told{ms, v})
			ms += rapid.SampledFrom([]int64{interval, interval, 1, interval + 7, 100_000}).Draw(t, "step")
		}
		n := 0
		if !rows(b, func(ms int64, v *metrics.Values) bool {
			if n >= len(want) || want[n].ms != ms || want[n].v != *v {
				t.Fatalf("row %d is %d %+v", n, ms, *v)
			}
			n++
			return true
		}) || n != len(want) {
			t.Fatalf("%d of %d rows", n, len(want))
		}
		// Cut off anywhere it ends early, and no worse.
		cut := rapid.IntRange(0, len(b)).Draw(t, "cut")
		n = 0
		rows(b[:cut], func(ms int64, v *metrics.Values) bool {
			if want[n].ms != ms || want[n].v != *v {
				t.Fatalf("cut off at %d, row %d is %d %+v", cut, n, ms, *v)
			}
			n++
			return true
		})
	})
}

func FuzzRows(f *testing.F) {
	f.Add([]byte{whole, 1, 1, 2, 0, 1, 2})
	f.Add([]byte{inStep, 0xff, 0xff})
	f.Fuzz(func(_ *testing.T, b []byte) {
		rows(b, func(int64, *metrics.Values) bool { return true })
	})
}
