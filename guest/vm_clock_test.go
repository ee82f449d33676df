package guest_test

import (
	"bufio"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa/timekeeping"
	wire "github.com/miosa/miosa/wire/guest"
)

// keeper keeps a guest's clock as an agent does.
type keeper struct {
	*host
	tr      *transcript
	keeper  timekeeping.Keeper
	began   time.Time
	seq     uint64
	asked   time.Time
	raw     int64
	adjusts []timekeeping.Adjust
	events  []string
}

func (k *keeper) ask() {
	k.t.Helper()
	k.seq, k.asked = rand.Uint64()|1, time.Now()
	k.send(wire.Message{Ping: &wire.Ping{Seq: k.seq}})
}

// answer waits for the answer to the last question and does what it asks for.
// off is how far the guest's clock was from the host's, give or take half.
func (k *keeper) answer() (off, half, next time.Duration) {
	k.t.Helper()
	var c *wire.Clock
	k.until(k.tr, func(m wire.Message) bool {
		if m.Pong == nil || m.Pong.Seq != k.seq {
			return false
		}
		c = m.Pong.Clock
		return true
	})
	now := time.Now()
	if c == nil {
		k.t.Fatal("a pong without clocks")
	}
	if c.Raw < k.raw {
		k.t.Fatalf("monotonic time went back from %d to %d", k.raw, c.Raw)
	}
	k.raw = c.Raw
	moment := func(t time.Time) timekeeping.Moment {
		return timekeeping.Moment{Mono: t.Sub(k.began), Wall: time.Duration(t.UnixNano())}
	}
	out := k.keeper.Read(timekeeping.Reading{Asked: moment(k.asked), Answered: moment(now), Wall: c.Wall, Raw: c.Raw, Rate: c.Rate})
	if a := out.Adjust; a != nil {
		k.adjusts = append(k.adjusts, *a)
		k.send(wire.Message{Adjust: &wire.Adjust{StepNS: int64(a.Step), Rate: a.Rate, Slew: a.Slew, SlewNS: int64(a.SlewFor)}})
	}
	if out.Event != "" {
		k.events = append(k.events, out.Event)
	}
	half = now.Sub(k.asked) / 2
	return time.Duration(c.Wall - k.asked.Add(half).UnixNano()), half, out.Next
}

// right keeps the clock until it is right for sure: it and what may be wrong
// with the reading are less than 100 ms together. first is how far off it was for
// sure when it was asked first, and last when it was right.
func (k *keeper) right(after string) (first, last time.Duration) {
	k.t.Helper()
	began := time.Now()
	for n := 1; ; n++ {
		if time.Since(began) > vmLimit {
			k.t.Fatalf("after %s: not right for %s, adjusted %+v", after, vmLimit, k.adjusts)
		}
		k.ask()
		off, half, next := k.answer()
		if n == 1 {
			first = sure(off, half)
		}
		if off.Abs()+half < 100*time.Millisecond {
			k.t.Logf("after %s: %s ± %s off, %s later, %d exchanges, adjusted %+v", after, off, half, time.Since(began), n, k.adjusts)
			return first, off
		}
		<-time.After(next)
	}
}

// sure is how far off a clock is at least.
func sure(off, half time.Duration) time.Duration {
	if off < 0 {
		return min(off+half, 0)
	}
	return max(off-half, 0)
}

// trusting is what makes a kernel go by this host's time stamp counter, as if it
// ran at a pace of its own times so much; false where that is not steady.
func trusting(t *testing.T, pace float64) (words string, ok bool) {
	t.Helper()
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	words = "tsc_early_khz=" + strconv.Itoa(int(float64(tscKHz(t))/pace))
	if s := string(b); strings.Contains(s, " constant_tsc") && strings.Contains(s, " nonstop_tsc") {
		return words + " tsc=reliable", true
	}
	return words, false
}

// monitor speaks to QEMU.
func (v *vm) monitor(commands ...string) {
	v.t.Helper()
	c, err := net.Dial("unix", filepath.Join(v.dir, "qmp.sock"))
	if err != nil {
		v.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(vmLimit))
	in := bufio.NewScanner(c)
	for _, command := range append([]string{"qmp_capabilities"}, commands...) {
		if _, err := fmt.Fprintf(c, "{\"execute\":%q}\n", command); err != nil {
			v.t.Fatal(err)
		}
		for answered := false; !answered; {
			if !in.Scan() {
				v.t.Fatalf("%s: %v", command, in.Err())
			}
			if strings.Contains(in.Text(), `"error"`) {
				v.t.Fatalf("%s: %s", command, in.Text())
			}
			answered = strings.Contains(in.Text(), `"return"`)
		}
	}
}

// A paused machine makes up for what it missed, as soon as it runs again, and
// its monotonic clock does not notice.
func TestVMClockAfterAPause(t *testing.T) {
	words, _ := trusting(t, 1)
	v := bootWith(t, words)
	h, _ := v.dial(wire.NewSession(0))
	defer h.nc.Close()
	k := &keeper{host: h, tr: &transcript{}, began: time.Now()}
	b := spec("/app/app serve 127.0.0.1:8080")
	b.UnixNano = time.Now().Add(-3 * time.Second).UnixNano() // as of a host that was slow to say it
	h.send(wire.Message{Boot: &b})
	h.until(k.tr, phase("app_started"))
	k.right("the boot")
	if len(k.adjusts) == 0 || k.adjusts[0].Step < 2*time.Second {
		t.Errorf("it was 3 s behind, and adjusted by %+v", k.adjusts)
	}

	const paused = 8 * time.Second
	k.adjusts = nil
	before, _, _ := func() (time.Duration, time.Duration, time.Duration) { k.ask(); return k.answer() }()
	v.monitor("stop")
	raw, asked := k.raw, time.Now()
	k.ask() // as happens in any pause that is long
	<-time.After(paused)
	v.monitor("cont")
	off, half, _ := k.answer()
	t.Logf("%s off before the pause, %s ± %s after it", before, off, half)
	_, last := k.right("the pause")
	steps := time.Duration(0)
	for _, a := range k.adjusts {
		steps += a.Step
	}
	if steps < paused-time.Second {
		t.Errorf("it was set by %s after a pause of %s", steps, paused)
	}
	if ran := time.Duration(k.raw - raw); ran > time.Since(asked)-paused/2 {
		t.Errorf("its monotonic clock made %s, of which it was paused for %s", ran, paused)
	}

	// A little ahead is made up for without going back.
	k.adjusts = nil
	h.send(wire.Message{Adjust: &wire.Adjust{StepNS: int64(150*time.Millisecond - last)}})
	first, _ := k.right("150 ms ahead")
	for _, a := range k.adjusts {
		if a.Step < 0 {
			t.Errorf("it was set back: %+v", k.adjusts)
		}
	}
	if len(k.adjusts) == 0 && first > 20*time.Millisecond || len(k.events) > 0 {
		t.Errorf("adjusted %+v, and its log says %q", k.adjusts, k.events)
	}
}

// A clock whose source runs wrong is kept, and then runs as its host's.
func TestVMClockOfAWrongSource(t *testing.T) {
	for _, pace := range []float64{0.95, 1.05} {
		t.Run(fmt.Sprint(pace), func(t *testing.T) {
			words, ok := trusting(t, pace)
			if !ok {
				t.Skip("this host's time stamp counter is not steady")
			}
			v := bootWith(t, words)
			h, _ := v.dial(wire.NewSession(0))
			defer h.nc.Close()
			k := &keeper{host: h, tr: &transcript{}, began: time.Now()}
			b := spec("/app/app serve 127.0.0.1:8080")
			h.send(wire.Message{Boot: &b})
			h.until(k.tr, phase("app_started"))
			k.right("the boot")
			worst, read := time.Duration(0), time.Now()
			for {
				k.ask()
				late := k.asked.Sub(read) > timekeeping.Calm+timekeeping.Calm/2 // a busy host asks when it can
				off, half, next := k.answer()
				read = time.Now()
				if off := sure(off, half).Abs(); !late {
					worst = max(worst, off)
				}
				if worst > 100*time.Millisecond {
					t.Fatalf("it was right, and is %s ± %s off, adjusted %+v", off, half, k.adjusts)
				}
				if len(k.adjusts) > 0 && math.Abs((1+float64(k.adjusts[len(k.adjusts)-1].Rate)/1e9)*pace-1) < 0.005 {
					t.Logf("never more than %s off, adjusted %+v", worst, k.adjusts)
					return
				}
				if time.Since(k.began) > vmLimit {
					t.Fatalf("its rate was not learnt: adjusted %+v", k.adjusts)
				}
				<-time.After(next)
			}
		})
	}
}

// The clock of a machine whose app has set it is set back; and its lines are as
// old as they are.
func TestVMClockThatItsAppSets(t *testing.T) {
	for _, off := range []time.Duration{2 * time.Minute, -2 * time.Minute} {
		t.Run(off.String(), func(t *testing.T) {
			words, _ := trusting(t, 1)
			v := bootWith(t, words)
			h, _ := v.dial(wire.NewSession(0))
			defer h.nc.Close()
			k := &keeper{host: h, tr: &transcript{}, began: time.Now()}
			b := spec("/app/app wrong " + off.String())
			h.send(wire.Message{Boot: &b})
			h.until(k.tr, phase("app_started"))
			started := time.Now()
			h.until(k.tr, func(m wire.Message) bool {
				if m.Lines == nil {
					return false
				}
				for _, l := range m.Lines.Lines {
					// By the word of its wall clock it was written long ago, or is to come.
					if age := m.Lines.Age(l); l.Mono == 0 || age < 0 || age > 2*time.Since(started)+5*time.Second {
						t.Errorf("%q is %s old", l.Text, age)
					}
				}
				return true
			})
			k.right(off.String())
			if told := len(k.events) > 0; told != (off > timekeeping.Slewed) {
				t.Errorf("its log says %q", k.events)
			}
		})
	}
}
