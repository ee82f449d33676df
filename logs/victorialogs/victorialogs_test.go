package victorialogs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/logs/logstest"
)

// clock is a clock that tests set.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// rig is a store over two VictoriaLogs, which is opened again and again.
type rig struct {
	t           *testing.T
	short, long *server
	clock       clock
	config      Config
	open        *Store
}

func newRig(t *testing.T, config Config) *rig {
	r := &rig{t: t, short: newServer(t), long: newServer(t), clock: clock{at: start}, config: config}
	r.config.Endpoints = map[int]string{7: r.short.URL, 3650: r.long.URL + "/"}
	r.config.State = t.TempDir()
	r.config.Now = r.clock.now
	t.Cleanup(func() {
		if r.open != nil {
			r.open.Close()
		}
	})
	return r
}

func (r *rig) store() *Store {
	r.t.Helper()
	if r.open != nil {
		r.open.Close()
	}
	s, err := Open(r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	r.open = s
	return s
}

var start = time.Date(2026, 3, 14, 15, 9, 26, 535897000, time.UTC)

func lines(instance string, epoch, first uint64, at time.Time, texts ...string) logs.Kept {
	k := logs.Kept{Days: 30, Batch: logs.Batch{Epoch: epoch, First: first, Origin: logs.Origin{
		TenantID: "ten_1", DeploymentID: "dep_1", ServiceID: "svc_1", InstanceID: instance, VersionID: "ver_1", HostID: "hst_1",
	}}}
	for _, text := range texts {
		k.Lines = append(k.Lines, logs.Line{Time: at, Stream: logs.Stdout, Text: []byte(text)})
	}
	return k
}

func appended(t *testing.T, s *Store, batches ...logs.Kept) []logs.Arrival {
	t.Helper()
	came, err := s.Append(t.Context(), batches)
	if err != nil {
		t.Fatal(err)
	}
	return came
}

func collect[V any](seq iter.Seq2[V, error]) (all []V, err error) {
	for v, err := range seq {
		if err != nil {
			return all, err
		}
		all = append(all, v)
	}
	return all, nil
}

var tenant = logs.Query{Scope: logs.Scope{TenantID: "ten_1"}}

func texts(t *testing.T, s *Store, q logs.Query) string {
	t.Helper()
	all, err := collect(s.Read(t.Context(), q))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range all {
		out = append(out, string(e.Text))
	}
	return strings.Join(out, " ")
}

func arrived(t *testing.T, s *Store, after logs.Mark) string {
	t.Helper()
	all, err := collect(s.Arrivals(t.Context(), after, tenant.Scope))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, a := range all {
		for i, l := range a.Batch.Lines {
			out = append(out, fmt.Sprintf("%d:%d/%d:%s", a.Mark, a.Batch.Epoch, a.Batch.First+uint64(i), l.Text))
		}
	}
	return strings.Join(out, " ")
}

func equal[V comparable](t *testing.T, what string, got, want V) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func code(t *testing.T, what string, err error, want miosa.Code) {
	t.Helper()
	if miosa.CodeOf(err) != want {
		t.Errorf("%s: %v (%s), want %s", what, err, miosa.CodeOf(err), want)
	}
}

// TestConformance runs the suite over VictoriaLogs itself, with all that may
// serve a read: it alone, in pages so small that ties span them; with a few of
// the newest lines in memory; and as it is by default.
func TestConformance(t *testing.T) {
	for name, c := range map[string]struct {
		config Config
		lag    bool // VictoriaLogs finds what it took when it likes
	}{
		"served by VictoriaLogs alone":      {Config{Recent: -1, Page: 20}, false},
		"with some of the newest in memory": {Config{Recent: 4 << 10, Page: 100}, false},
		"with all of the newest in memory":  {Config{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			logstest.Run(t, func(t *testing.T) logstest.Fixture {
				r := newRig(t, c.config)
				r.short.lag(c.lag)
				r.long.lag(c.lag)
				return logstest.Fixture{
					Open: func(*testing.T) logs.Store {
						// What it took just before, it finds just after a start of ours.
						r.long.settle()
						return r.store()
					},
					Forget: func(*testing.T, logs.Store) {
						r.clock.add(2 * keepOrder)
						s := r.open
						s.mu.Lock()
						defer s.mu.Unlock()
						s.state.forget(r.clock.now().Add(-keepOrder))
					},
				}
			})
		})
	}
}

// TestLag: what VictoriaLogs took and does not find yet is read from memory,
// once, before and after it is found.
func TestLag(t *testing.T) {
	r := newRig(t, Config{})
	r.long.lag(true)
	s := r.store()
	appended(t, s, lines("ins_1", 1, 1, start, "a", "b"))
	for range 2 {
		equal(t, "read", texts(t, s, tenant), "a b")
		equal(t, "arrivals", arrived(t, s, 0), "1:1/1:a 1:1/2:b")
		r.long.settle()
	}
	equal(t, "reopened", texts(t, r.store(), tenant), "a b")
	equal(t, "arrivals, reopened", arrived(t, r.open, 0), "1:1/1:a 1:1/2:b")
}

// TestLostAnswer: an insert that was done but not answered is repeated, and
// its lines are read once all the same.
func TestLostAnswer(t *testing.T) {
	for _, page := range []int{1, 2, 1000} {
		r := newRig(t, Config{Recent: -1, Page: page})
		s := r.store()
		r.long.fail(lost)
		_, err := s.Append(t.Context(), []logs.Kept{lines("ins_1", 1, 1, start, "a", "b", "c")})
		code(t, "a lost answer", err, miosa.Unavailable)
		equal(t, "last", s.state.mark, 0)
		s = r.store() // as after a crash
		equal(t, "came", len(appended(t, s, lines("ins_1", 1, 1, start, "a", "b", "c"))), 1)
		rows, _ := r.long.count()
		equal(t, "rows", rows, 6)
		equal(t, "read", texts(t, s, tenant), "a b c")
		backward := tenant
		backward.Backward = true
		equal(t, "backward", texts(t, s, backward), "c b a")
		equal(t, "arrivals", arrived(t, s, 0), "1:1/1:a 1:1/2:b 1:1/3:c")
	}
}

// TestPurgeHidesWhatWasNotAcknowledged: lines of an Append that failed are
// purged with the rest, and come back when they are sent again.
func TestPurgeHidesWhatWasNotAcknowledged(t *testing.T) {
	for _, page := range []int{1, 1000} {
		r := newRig(t, Config{Recent: -1, Page: page})
		s := r.store()
		r.long.fail(lost)
		_, err := s.Append(t.Context(), []logs.Kept{lines("ins_1", 1, 1, start, "a", "b")})
		code(t, "a lost answer", err, miosa.Unavailable)
		s = r.store()
		if err := s.Purge(t.Context(), "ten_1", "dep_1"); err != nil {
			t.Fatal(err)
		}
		equal(t, "purged", texts(t, s, tenant), "")
		s = r.store()
		equal(t, "purged, reopened", texts(t, s, tenant), "")
		appended(t, s, lines("ins_1", 1, 1, start, "a", "b"))
		equal(t, "sent again", texts(t, s, tenant), "a b")
		backward := tenant
		backward.Backward = true
		equal(t, "backward", texts(t, s, backward), "b a")
	}
}

// TestFaults: what goes wrong has the code that says whether to try again, and
// leaves nothing behind.
func TestFaults(t *testing.T) {
	r := newRig(t, Config{Recent: -1})
	s := r.store()
	batch := []logs.Kept{lines("ins_1", 1, 1, start, "a", "b", "c", "d")}
	for fault, want := range map[fault]miosa.Code{busy: miosa.Unavailable, full: miosa.NoSpace, wrong: miosa.Internal} {
		r.long.fail(fault)
		_, err := s.Append(t.Context(), batch)
		code(t, "append", err, want)
		if len(err.Error()) > 3000 {
			t.Errorf("an error of %d bytes", len(err.Error()))
		}
	}
	equal(t, "held", must(s.Held(t.Context(), "ten_1", "ins_1")), logs.Position{})
	appended(t, s, batch...)
	for fault, want := range map[fault]miosa.Code{busy: miosa.Unavailable, wrong: miosa.Internal, halved: miosa.Unavailable} {
		r.long.fail(fault)
		got, err := collect(s.Read(t.Context(), tenant))
		code(t, "read", err, want)
		equal(t, "lines before the error", len(got), 0)
		r.long.fail(fault)
		_, err = collect(s.Arrivals(t.Context(), 0, tenant.Scope))
		code(t, "arrivals", err, want)
	}
	equal(t, "then", texts(t, s, tenant), "a b c d")
	r.long.Close()
	r.short.Close()
	_, err := collect(s.Read(t.Context(), tenant))
	code(t, "away", err, miosa.Unavailable)
	if r.store() == nil {
		t.Error("does not open while VictoriaLogs is away")
	}
}

func must[V any](v V, err error) V {
	if err != nil {
		panic(err)
	}
	return v
}

// TestSlow: no answer ends with the time-out, or with the caller's context.
func TestSlow(t *testing.T) {
	r := newRig(t, Config{Timeout: 50 * time.Millisecond})
	s := r.store()
	r.long.fail(stuck)
	_, err := s.Append(t.Context(), []logs.Kept{lines("ins_1", 1, 1, start, "a")})
	code(t, "append", err, miosa.Unavailable)
	r.config.Timeout = time.Hour
	s = r.store()
	r.short.fail(stuck)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err = collect(s.Read(ctx, tenant)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
}

// TestTornJournal: what a crash left half written at the journal's end is
// dropped; damage before the end is told.
func TestTornJournal(t *testing.T) {
	r := newRig(t, Config{Recent: -1})
	s := r.store()
	appended(t, s, lines("ins_1", 1, 1, start, "a"))
	whole := s.journal.size
	appended(t, s, lines("ins_1", 1, 2, start, "b"))
	s.Close()
	name := filepath.Join(r.config.State, journalName)
	content := must(os.ReadFile(name))
	damaged := func(from int64) []byte {
		c := bytes.Clone(content)
		c[from+20]++
		return c
	}
	for what, end := range map[string][]byte{
		"half a frame":         content[:whole+(int64(len(content))-whole)/2],
		"half a head":          content[:whole+3],
		"zeros":                append(bytes.Clone(content[:whole]), make([]byte, 100)...),
		"a last frame damaged": damaged(whole),
	} {
		if err := os.WriteFile(name, end, 0o600); err != nil {
			t.Fatal(err)
		}
		s = must(Open(r.config))
		equal(t, what, must(s.Held(t.Context(), "ten_1", "ins_1")), logs.Position{Epoch: 1, Seq: 1})
		appended(t, s, lines("ins_1", 1, 2, start, "b"))
		equal(t, what, texts(t, s, tenant), "a b")
		s.Close()
	}
	if err := os.WriteFile(name, damaged(0), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Open(r.config)
	code(t, "damage", err, miosa.Internal)
	r.open = nil
}

// TestCompaction: the journal does not grow with what it has forgotten.
func TestCompaction(t *testing.T) {
	r := newRig(t, Config{Recent: -1})
	s := r.store()
	for i := range uint64(50) {
		appended(t, s, lines("ins_1", 1, i+1, start, "x"))
		r.clock.add(time.Hour)
	}
	before := s.journal.size
	s.journal.full = -slack // as if it had grown by far
	appended(t, s, lines("ins_1", 1, 51, start, "x"))
	if s.journal.size*5 > before {
		t.Errorf("%d bytes, %d before", s.journal.size, before)
	}
	s = r.store()
	equal(t, "held", must(s.Held(t.Context(), "ten_1", "ins_1")), logs.Position{Epoch: 1, Seq: 51})
	equal(t, "usage", must(s.Usage(t.Context(), "ten_1", time.Time{}, start.Add(day))), logs.Usage{Lines: 51, Bytes: 51})
	_, err := collect(s.Arrivals(t.Context(), 3, tenant.Scope))
	code(t, "forgotten", err, miosa.Gone)
}

// TestLostState: with the journal gone, what VictoriaLogs has is read still.
func TestLostState(t *testing.T) {
	r := newRig(t, Config{Recent: -1, Page: 2})
	appended(t, r.store(), lines("ins_1", 1, 1, start, "a", "b", "c"), lines("ins_2", 1, 1, start.Add(100*day), "z"))
	r.config.State = t.TempDir()
	s := r.store()
	equal(t, "read", texts(t, s, tenant), "a b c z")
	// And with a state that knows of a part only.
	appended(t, s, lines("ins_3", 1, 1, start.Add(50*day), "m"))
	equal(t, "read", texts(t, s, tenant), "a b c m z")
	backward := tenant
	backward.Backward = true
	equal(t, "backward", texts(t, s, backward), "z m c b a")
	equal(t, "arrivals", arrived(t, s, 0), "1:1/1:m")
}

// TestLinesFromBeforeTasks: a service's are written and read as they were then.
func TestLinesFromBeforeTasks(t *testing.T) {
	const before = `{"_time":"2026-03-14T15:09:26.535897000Z","_msg":"a","tenant_id":"ten_1","deployment_id":"dep_1","service_id":"svc_1","instance_id":"ins_1",` +
		`"version_id":"ver_1","host_id":"hst_1","stream":"stdout","epoch":"1","seq":"2","order":"gjgohdfpdbaaaaaaaaaaaaaaaaabaaaaaaaaaaaaaaac","stamp":"3","days":"30"}` + "\n"
	k := lines("ins_1", 1, 2, start, "a")
	var b bytes.Buffer
	if err := encode(json.NewEncoder(&b), &k, 0, 3); err != nil {
		t.Fatal(err)
	}
	equal(t, "written", b.String(), before)
	got, err := decode([]byte(before))
	if err != nil || got.Origin != k.Origin || got.Position != (logs.Position{Epoch: 1, Seq: 2}) || string(got.Text) != "a" {
		t.Errorf("read is %+v, %v", got, err)
	}
}

// TestClasses: a batch goes where it is kept long enough, at the least.
func TestClasses(t *testing.T) {
	r := newRig(t, Config{Recent: -1})
	s := r.store()
	for i, days := range []int{1, 7, 8, 3650} {
		k := lines("ins_1", 1, uint64(i)+1, start, fmt.Sprint(days))
		k.Days = days
		appended(t, s, k)
	}
	short, _ := r.short.count()
	long, _ := r.long.count()
	equal(t, "rows", fmt.Sprint(short, long), "2 2")
	equal(t, "read", texts(t, s, tenant), "1 7 8 3650")
	k := lines("ins_1", 1, 5, start, "too long")
	k.Days = 3651
	_, err := s.Append(t.Context(), []logs.Kept{k})
	code(t, "3651 days", err, miosa.Invalid)
}

// TestOneAccount: tenants whose accounts are the same by chance are two.
func TestOneAccount(t *testing.T) {
	r := newRig(t, Config{Recent: -1})
	s := r.store()
	r.long.share()
	other := lines("ins_1", 1, 1, start, "of another")
	other.Origin.TenantID = "ten_2"
	appended(t, s, lines("ins_1", 1, 1, start, "mine"), other)
	rows, _ := r.long.count()
	equal(t, "rows", rows, 2)
	equal(t, "read", texts(t, s, tenant), "mine")
	equal(t, "arrivals", arrived(t, s, 0), "1:1/1:mine")
}

// TestSearch: a search is narrowed by the query, and is exact all the same.
func TestSearch(t *testing.T) {
	r := newRig(t, Config{Recent: -1})
	s := r.store()
	said := []string{`a "Quoted" \d+ word`, "tIMEout\xff here", "T\x00imeout", "TİMEOUT timeoutless", "{\"level\":\"error\",\"msg\":\"x\"}", "", "nothing", "Kelvin K timeout"}
	appended(t, s, lines("ins_1", 1, 1, start, said...))
	for _, search := range []string{"timeout", "-timeout", `"\"quoted\" \\d+"`, "level:error", "kelvin", "k", "i", "nothing -timeout", "ß"} {
		parsed, err := logs.ParseSearch(search)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, text := range said {
			if parsed.Match([]byte(text)) {
				want = append(want, text)
			}
		}
		q := tenant
		q.Search = parsed
		got, err := collect(s.Read(t.Context(), q))
		if err != nil {
			t.Fatal(err)
		}
		var have []string
		for _, e := range got {
			have = append(have, string(e.Text))
		}
		if !slices.Equal(have, want) {
			t.Errorf("%s: got %q, want %q", search, have, want)
		}
	}
	r.long.mu.Lock()
	defer r.long.mu.Unlock()
	if !slices.ContainsFunc(r.long.queries, func(q string) bool { return strings.Contains(q, "_msg:~") }) {
		t.Error("no query was narrowed")
	}
}

// TestLongLines: every text of the greatest length fits the line that
// VictoriaLogs takes, and comes back.
func TestLongLines(t *testing.T) {
	r := newRig(t, Config{Recent: -1})
	s := r.store()
	for i, unit := range []string{`"`, "\x00", "\xff", "<", "ß", "\u2028", "\x7f\"", "\\\x1b"} {
		text := strings.Repeat(unit, logs.MaxText/len(unit))
		appended(t, s, lines("ins_1", 1, uint64(i)+1, start.Add(time.Duration(i)*time.Second), text))
		q := tenant
		q.Since = start.Add(time.Duration(i) * time.Second)
		if got := texts(t, s, q); got != text {
			t.Errorf("%q × %d: came back as %d bytes", unit, len(text)/len(unit), len(got))
		}
	}
	_, err := s.Append(t.Context(), []logs.Kept{lines("ins_1", 1, 99, start, strings.Repeat("x", logs.MaxText+1))})
	code(t, "too long", err, miosa.Invalid)
}

// TestWindows: the last lines of a long time are found without a query for
// all of it.
func TestWindows(t *testing.T) {
	r := newRig(t, Config{Recent: -1})
	s := r.store()
	for i := range 90 {
		appended(t, s, lines("ins_1", 1, uint64(i)+1, start.Add(time.Duration(i)*day), fmt.Sprint(i)))
	}
	_, before := r.long.count()
	q := tenant
	q.Backward = true
	for e, err := range s.Read(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "the last", string(e.Text), "89")
		break
	}
	_, after := r.long.count()
	equal(t, "queries for the last", after-before, 1)
	if _, err := collect(s.Read(t.Context(), q)); err != nil {
		t.Fatal(err)
	}
	_, all := r.long.count()
	if all-after > 8 {
		t.Errorf("%d queries for all", all-after)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []Config{
		{State: dir},
		{State: dir, Endpoints: map[int]string{0: "http://a"}},
		{State: dir, Endpoints: map[int]string{3651: "http://a"}},
		{State: dir, Endpoints: map[int]string{7: "a:80"}},
		{State: dir, Endpoints: map[int]string{7: "ftp://a"}},
		{Endpoints: map[int]string{7: "http://a"}},
	} {
		_, err := Open(c)
		code(t, fmt.Sprint(c.Endpoints), err, miosa.Invalid)
	}
	s := must(Open(Config{State: dir, Endpoints: map[int]string{7: "http://a"}}))
	_, err := Open(Config{State: dir, Endpoints: map[int]string{7: "http://a"}})
	code(t, "in use", err, miosa.Conflict)
	s.Close()
}

// TestAClockThatWasAheadForAMoment hides nothing for longer than it was ahead.
func TestAClockThatWasAheadForAMoment(t *testing.T) {
	r := newRig(t, Config{Recent: -1})
	s := r.store()
	appended(t, s, lines("ins_1", 1, 1, start, "a"))
	for n, now := range []time.Time{start.AddDate(1, 0, 0), start.Add(time.Minute)} {
		if err := s.Expire(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		appended(t, s, lines("ins_2", 1, uint64(n)+1, start, "b"))
	}
	for range 2 {
		equal(t, "read", texts(t, s, tenant), "a b b")
		s = r.store()
	}
	// A second is nothing: what is hidden stays so.
	if err := s.Expire(t.Context(), start.Add(30*day)); err != nil {
		t.Fatal(err)
	}
	equal(t, "expired", texts(t, s, tenant), "")
	if err := s.Expire(t.Context(), start.Add(30*day-time.Second)); err != nil {
		t.Fatal(err)
	}
	equal(t, "a second earlier", texts(t, s, tenant), "")
}
