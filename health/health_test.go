package health_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/health"
	"github.com/miosa/miosa/transcript"
)

var update = flag.Bool("update", false, "accept the transcripts' new output")

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", *update, func() transcript.Player { return (&clinic{now: epoch}).line })
}

// clinic is a tracker and a ladder for a script.
type clinic struct {
	t        health.Tracker
	now      time.Time
	failures int
	boot     int
}

// line carries out one line of a script:
//
//	begin [grace=60s] [interval=5s] [threshold=3]   a boot's run command starts
//	resume healthy|unhealthy|never                  an earlier process tracked it
//	listens                                         something began to listen
//	probe ok|fails [times=3]                        each at its time
//	crash [kind=exit] [proven] [healthy=9m]         climb the ladder
func (c *clinic) line(l transcript.Line) (string, error) {
	switch l.Word(0) {
	case "begin":
		c.t = health.Begin(miosa.HealthCheck{Grace: l.Duration("grace", 0), Interval: l.Duration("interval", 0), Threshold: l.Int("threshold", 0)}, c.now)
		return c.next(), nil
	case "resume":
		c.t = health.Resume(c.t.Check, c.t.Began, l.Has("healthy"), !l.Has("never"), c.now)
		return c.next(), nil
	case "listens":
		c.t.Hurry(c.now)
		return c.next(), nil
	case "probe":
		var out []string
		for range l.Int("times", 1) {
			c.now = c.t.Wake()
			if c.t.Expired(c.now) {
				out = append(out, c.stamp()+"grace is over: "+c.t.Words(miosa.HealthHTTP, "connection refused"))
				break
			}
			v := c.t.Observe(c.now, health.Result{At: c.now, OK: l.Has("ok")})
			out = append(out, c.stamp()+string(v))
		}
		return strings.Join(out, "\n"), nil
	case "crash":
		s := health.Setback{
			Kind: miosa.FailureKind(l.Text("kind", "exit")), At: c.now, Boot: c.boot + 1, Failures: c.failures, Proven: l.Has("proven"),
		}
		if h := l.Duration("healthy", -1); h >= 0 {
			s.HealthyAt = c.now.Add(-h)
		}
		n := health.Climb(s)
		c.failures, c.boot = n.Failures, c.boot+1
		if n.GiveUp {
			return "gives up: " + n.Why, nil
		}
		return n.Why, nil
	}
	return "", fmt.Errorf("no such command")
}

func (c *clinic) stamp() string {
	return fmt.Sprintf("%8s  ", c.now.Sub(epoch).Round(time.Millisecond))
}

func (c *clinic) next() string { return "next probe after " + c.t.Wake().Sub(c.now).String() }

// The ladder never shortens a delay within a row of failures, ends with the
// budget, and forgets after ten healthy minutes.
func TestLadder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		proven := rapid.Bool().Draw(t, "proven")
		failures, delay := 0, time.Duration(0)
		for boot := 1; ; boot++ {
			s := health.Setback{
				Kind: rapid.SampledFrom([]miosa.FailureKind{miosa.FailureExit, miosa.FailureOOM, miosa.FailureVM, miosa.FailureNotFound, miosa.FailureProbe}).Draw(t, "kind"),
				At:   epoch, Boot: boot, Failures: failures, Proven: proven,
			}
			settled := false
			if rapid.Bool().Draw(t, "was healthy") {
				held := time.Duration(rapid.Int64Range(0, int64(20*time.Minute)).Draw(t, "for"))
				s.HealthyAt = epoch.Add(-held)
				settled = held >= health.Settled
			}
			n := health.Climb(s)
			switch {
			case n.Why == "":
				t.Fatal("no reason given")
			case settled && n.Failures != 1, !settled && n.Failures != failures+1:
				t.Fatalf("%d failures after %d, settled %t", n.Failures, failures, settled)
			case n.GiveUp && n.Delay != 0, !n.GiveUp && (n.Delay < time.Second || n.Delay > 5*time.Minute):
				t.Fatalf("%+v", n)
			case !settled && !n.GiveUp && n.Delay < delay:
				t.Fatalf("a delay of %s after one of %s", n.Delay, delay)
			case n.GiveUp && proven && n.Failures <= health.Budget:
				t.Fatalf("gives a proven version up after %d failures", n.Failures)
			case !n.GiveUp && n.Failures > health.Budget:
				t.Fatalf("%d failures and no end", n.Failures)
			case !n.GiveUp && !proven && (boot >= health.RolloutBoots || s.Kind.Permanent() || s.Kind == miosa.FailureProbe):
				t.Fatalf("boot %d of an unproven version ended with %s and is tried again", boot, s.Kind)
			}
			if n.GiveUp || boot > 30 {
				return
			}
			failures, delay = n.Failures, n.Delay
		}
	})
}

// Whatever probes say: a verdict tells a change and nothing else, it takes
// Threshold failures in a row to become unhealthy, one success to become
// healthy, and the next probe is neither now nor farther than the interval.
func TestTracker(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		check := miosa.HealthCheck{
			Interval:  rapid.SampledFrom([]time.Duration{0, 10 * time.Millisecond, time.Second, time.Minute}).Draw(t, "interval"),
			Grace:     rapid.SampledFrom([]time.Duration{0, time.Second, time.Hour}).Draw(t, "grace"),
			Threshold: rapid.IntRange(0, 5).Draw(t, "threshold"),
		}
		now := epoch
		tr := health.Begin(check, now)
		row, ever := 0, false
		for range rapid.IntRange(1, 60).Draw(t, "probes") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(10*time.Second)).Draw(t, "later")))
			if rapid.IntRange(0, 9).Draw(t, "hurry") == 0 {
				tr.Hurry(now)
			}
			was := tr.Healthy
			ok := rapid.Bool().Draw(t, "ok")
			v := tr.Observe(now, health.Result{At: now, OK: ok})
			if row++; ok {
				row, ever = 0, true
			}
			want := health.Same
			switch {
			case ok && !was:
				want = health.BecameHealthy
			case was && row >= tr.Check.Threshold:
				want = health.BecameUnhealthy
			}
			if v != want || tr.Healthy != (v == health.BecameHealthy || was && v == health.Same) {
				t.Fatalf("verdict %s, want %s, after %d failures in a row", v, want, row)
			}
			if tr.Ever != ever || tr.Expired(now.Add(24*time.Hour)) == ever {
				t.Fatalf("ever healthy %t, expired %t", tr.Ever, tr.Expired(now.Add(24*time.Hour)))
			}
			if wait := tr.Next.Sub(now); wait <= 0 || wait > tr.Check.Interval {
				t.Fatalf("next probe after %s, interval %s", wait, tr.Check.Interval)
			}
			if tr.Wake().After(tr.Next) {
				t.Fatal("wakes up after the next probe")
			}
		}
	})
}
