package logstest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa/logs"
)

// naive is what a store must be like, for one tenant.
type naive struct {
	tenant string
	now    time.Time
	lines  []logs.Entry
	next   map[string]logs.Position // of the instance's next line
	known  map[logs.Mark]bool
}

// model appends and reads at random, each check in a tenant of its own.
func model(t *testing.T, fixture func(t *testing.T) Fixture) {
	f := fixture(t)
	s := f.Open(t)
	checks := 0
	rapid.Check(t, func(r *rapid.T) {
		checks++
		m := &naive{
			tenant: fmt.Sprintf("ten_%d", checks), now: start(), next: map[string]logs.Position{}, known: map[logs.Mark]bool{},
		}
		for range rapid.IntRange(1, 25).Draw(r, "calls") {
			switch rapid.SampledFrom([]string{"append", "append", "append", "read", "pages", "open"}).Draw(r, "call") {
			case "append":
				m.append(t, r, s)
			case "read":
				q := m.query(r)
				m.check(r, "read", m.all(t, s, q, 1<<30), m.expect(&q))
			case "pages":
				q := m.query(r)
				m.check(r, "pages", m.all(t, s, q, rapid.IntRange(1, 9).Draw(r, "page")), m.expect(&q))
			case "open":
				if rapid.IntRange(0, 9).Draw(r, "rarely") == 0 {
					s = f.Open(t)
				}
			}
		}
		q := tenant(m.tenant)
		m.check(r, "at the end", m.all(t, s, q, 1<<30), m.expect(&q))
		var u logs.Usage
		for _, e := range m.lines {
			u.Lines++
			u.Bytes += uint64(len(e.Text))
		}
		if got, err := s.Usage(t.Context(), m.tenant, time.Time{}, m.now.Add(time.Hour)); err != nil || got != u {
			r.Fatalf("usage %v, %v; want %v", got, err, u)
		}
	})
}

// append sends lines of some instances, of which the store may know a part.
func (m *naive) append(t *testing.T, r *rapid.T, s logs.Store) {
	var batches []logs.Kept
	expect := []string{}
	for range rapid.IntRange(1, 4).Draw(r, "batches") {
		n := rapid.IntRange(0, 6).Draw(r, "instance")
		o := origin(m.tenant, fmt.Sprintf("dep_%d", n%2), fmt.Sprintf("svc_%d", n%3), fmt.Sprintf("ins_%d", 7-n))
		if n > 4 { // two attempts at one task
			o.DeploymentID, o.ServiceID, o.TaskID = "dep_0", "", "task_0"
		}
		o.VersionID = fmt.Sprintf("ver_%d", rapid.IntRange(0, 1).Draw(r, "version"))
		p := m.next[o.InstanceID]
		if p.Seq == 0 || rapid.IntRange(0, 9).Draw(r, "new epoch") == 0 {
			p = logs.Position{Epoch: p.Epoch + uint64(rapid.IntRange(1, 300).Draw(r, "epoch")), Seq: uint64(rapid.IntRange(1, 3).Draw(r, "first"))}
		}
		again := uint64(rapid.IntRange(0, 3).Draw(r, "again"))
		again = min(again, p.Seq-1)
		if m.next[o.InstanceID].Epoch != p.Epoch {
			again = 0
		}
		b := logs.Kept{Batch: logs.Batch{Origin: o, Epoch: p.Epoch, First: p.Seq - again}, Days: rapid.SampledFrom([]int{3, 30}).Draw(r, "days")}
		for range again {
			b.Lines = append(b.Lines, logs.Line{Time: m.now, Stream: logs.System, Text: []byte("known already")})
		}
		for range rapid.IntRange(0, 5).Draw(r, "lines") {
			m.now = m.now.Add(rapid.SampledFrom([]time.Duration{0, 0, 0, time.Microsecond, time.Second, 25 * time.Minute, 3 * time.Hour}).Draw(r, "later"))
			l := logs.Line{
				Time: m.now, Stream: rapid.SampledFrom([]logs.Stream{logs.Stdout, logs.Stderr, logs.System}).Draw(r, "stream"),
				Text: rapid.SliceOfN(rapid.Byte(), 0, 12).Draw(r, "text"), Partial: rapid.Bool().Draw(r, "partial"),
			}
			b.Lines = append(b.Lines, l)
			e := logs.Entry{Line: l, Origin: o, Position: p}
			m.lines = append(m.lines, e)
			expect = append(expect, told(&e))
			p.Seq++
		}
		if len(b.Lines) == int(again) {
			p = m.next[o.InstanceID] // an epoch without a line is none
		}
		m.next[o.InstanceID] = p
		batches = append(batches, b)
	}
	came, err := s.Append(t.Context(), batches)
	if err != nil {
		r.Fatal(err)
	}
	got := []string{}
	for _, a := range came {
		if a.Mark == 0 || m.known[a.Mark] {
			r.Fatalf("mark %d", a.Mark)
		}
		m.known[a.Mark] = true
		for i, l := range a.Batch.Lines {
			got = append(got, told(&logs.Entry{Line: l, Origin: a.Batch.Origin, Position: logs.Position{Epoch: a.Batch.Epoch, Seq: a.Batch.First + uint64(i)}}))
		}
	}
	m.check(r, "append", got, expect)
}

func (m *naive) query(r *rapid.T) logs.Query {
	q := logs.Query{Backward: rapid.Bool().Draw(r, "backward")}
	q.TenantID = m.tenant
	pick := func(what string, values ...string) string {
		return rapid.SampledFrom(append([]string{"", "", ""}, values...)).Draw(r, what)
	}
	q.DeploymentID = pick("deployment", "dep_0", "dep_1")
	q.ServiceID = pick("service", "svc_0", "svc_1", "svc_2", "task_0")
	q.TaskID = pick("task", "task_0", "task_1", "svc_0")
	q.InstanceID = pick("of instance", "ins_1", "ins_2", "ins_3", "ins_4", "ins_5", "ins_6", "ins_7")
	q.VersionID = pick("of version", "ver_0", "ver_1")
	q.Stream = logs.Stream(pick("of stream", "stdout", "stderr", "system"))
	bound := func(what string) (at time.Time) {
		if len(m.lines) > 0 && rapid.Bool().Draw(r, what) {
			at = rapid.SampledFrom(m.lines).Draw(r, what+" line").Time.Add(rapid.SampledFrom([]time.Duration{-time.Microsecond, 0, 1, time.Microsecond, time.Hour}).Draw(r, what+" off"))
		}
		return at
	}
	q.Since, q.Until = bound("since"), bound("until")
	if len(m.lines) > 0 && rapid.IntRange(0, 2).Draw(r, "after") == 0 {
		e := rapid.SampledFrom(m.lines).Draw(r, "after line")
		q.After = logs.PlaceOf(&e)
	}
	return q
}

// all reads page by page.
func (m *naive) all(t *testing.T, s logs.Store, q logs.Query, page int) []string {
	got := []string{}
	for {
		n := 0
		for e, err := range s.Read(t.Context(), q) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, told(&e))
			q.After = logs.PlaceOf(&e)
			if n++; n == page {
				break
			}
		}
		if n < page {
			return got
		}
	}
}

func (m *naive) expect(q *logs.Query) []string {
	var all []logs.Entry
	for _, e := range m.lines {
		p := logs.PlaceOf(&e)
		behind := q.After == (logs.Place{}) || !q.Backward && q.After.Before(p) || q.Backward && p.Before(q.After)
		if behind && q.Admits(e.Origin) && q.Holds(&e.Line) && !e.Time.Before(q.Since) && (q.Until.IsZero() || e.Time.Before(q.Until)) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b logs.Entry) int {
		if logs.PlaceOf(&a).Before(logs.PlaceOf(&b)) {
			return -1
		}
		return 1
	})
	if q.Backward {
		slices.Reverse(all)
	}
	want := make([]string, len(all))
	for i := range all {
		want[i] = told(&all[i])
	}
	return want
}

func (m *naive) check(r *rapid.T, what string, got, want []string) {
	if !slices.Equal(got, want) {
		r.Fatalf("%s: got\n%q\nwant\n%q", what, got, want)
	}
}

func told(e *logs.Entry) string {
	return fmt.Sprintf("%s %s%s %d/%d %s %s %s %v %q", e.Origin.InstanceID, e.Origin.ServiceID, e.Origin.TaskID, e.Position.Epoch, e.Position.Seq, e.Origin.VersionID,
		e.Time.Format(time.RFC3339Nano), e.Stream, e.Partial, e.Text)
}
