package liveness_test

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/liveness"
)

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// world is a fleet whose agents beat, and who decides about it.
type world struct {
	m      *liveness.Machine
	cfg    liveness.Config
	now    time.Time     // as it is
	skew   time.Duration // how far the decider's clock is from it
	agents []*agent
	byID   map[string]*agent
	// stopped: who decides does nothing, and beats wait for it.
	stopped bool
	mail    []liveness.Event
	since   time.Time // stopped since
	looked  time.Time // the last tick
	session int64
	said    []said // all that was handed over, since there is this decider
	// writable, and when somebody may be judged at the earliest.
	writable bool
	judges   time.Time
	see      func(effect liveness.Effect)
}

// said is an event, and when.
type said struct {
	at time.Time
	ev liveness.Event
}

// agent is one host, in truth and as it was judged.
type agent struct {
	id                  string
	beats               bool
	next                time.Time
	session, seq        int64
	taken               int64     // the session of the last beat that was taken
	heard               time.Time // when that was, or it became known; later by what was not attended
	instances, replaced int

	liveness miosa.Liveness
	failing  bool
	granted  int
	all      bool
}

func newWorld(cfg liveness.Config) *world {
	return &world{
		m: liveness.New(cfg), cfg: cfg, now: epoch, byID: map[string]*agent{},
		looked: epoch, writable: true, judges: epoch.Add(liveness.Window), see: func(liveness.Effect) {},
	}
}

func (w *world) add(id string, instances int) *agent {
	a := &agent{id: id, beats: true, next: w.now.Add(time.Duration(len(w.agents)*137%2000) * time.Millisecond), instances: instances, liveness: miosa.Alive, heard: w.now}
	w.session++
	a.session = w.session
	w.agents = append(w.agents, a)
	w.byID[id] = a
	w.feed(liveness.Known{Host: id, Name: id})
	w.feed(liveness.Counted{Host: id, Instances: instances})
	return a
}

// takeOver is another decider, which knows the records alone.
func (w *world) takeOver() {
	w.m, w.mail, w.said = liveness.New(w.cfg), nil, nil
	w.writable, w.judges, w.looked = true, w.now.Add(liveness.Window), w.now
	for _, a := range w.agents {
		a.heard, a.taken, a.granted, a.all = w.now, 0, 0, false
		w.feed(liveness.Known{Host: a.id, Name: a.id, Liveness: a.liveness, Failing: a.failing})
		w.feed(liveness.Counted{Host: a.id, Instances: a.instances, Replaced: a.replaced})
	}
}

// feed hands an event over, and takes down what is said.
func (w *world) feed(ev liveness.Event) {
	if w.stopped {
		w.mail = append(w.mail, ev)
		return
	}
	switch e := ev.(type) {
	case liveness.Beat:
		a := w.byID[e.Host]
		a.heard, a.taken = w.now, e.Session
	case liveness.Writable:
		if e.OK && !w.writable {
			w.nobodyBefore(liveness.SuspectAfter)
		}
		w.writable = e.OK
	case liveness.Tick:
		w.looked = w.now
	}
	w.said = append(w.said, said{w.now.Add(w.skew), ev})
	for _, effect := range w.m.Handle(w.now.Add(w.skew), ev) {
		w.see(effect)
		switch e := effect.(type) {
		case liveness.Judge:
			a := w.byID[e.Host]
			a.liveness, a.failing = e.Liveness, e.Failing
			if e.Liveness == miosa.Alive {
				a.granted, a.all = 0, false
			}
		case liveness.Grant:
			w.byID[e.Host].granted += e.Instances
			w.byID[e.Host].all = e.All
		}
	}
}

func (w *world) nobodyBefore(d time.Duration) {
	if at := w.now.Add(d); at.After(w.judges) {
		w.judges = at
	}
}

// stop has who decides stand still.
func (w *world) stop() { w.stopped, w.since = true, w.now }

// resume has who decides read its mail, and look.
func (w *world) resume() {
	w.stopped = false
	paused := w.now.Sub(w.since)
	for _, a := range w.agents {
		if a.heard = a.heard.Add(max(0, paused-liveness.Stride)); a.heard.After(w.now) {
			a.heard = w.now
		}
	}
	if paused > liveness.SuspectAfter {
		w.nobodyBefore(liveness.Window)
	}
	mail := w.mail
	w.mail = nil
	for _, ev := range mail {
		w.feed(ev)
	}
	w.feed(liveness.Tick{})
}

func (w *world) tell(id string, instances, replaced int) {
	a := w.byID[id]
	a.instances, a.replaced = instances, replaced
	w.feed(liveness.Counted{Host: id, Instances: instances, Replaced: replaced})
}

func (w *world) setBeating(id string, beats bool) {
	a := w.byID[id]
	if beats && !a.beats {
		w.session++
		a.session, a.seq, a.next = w.session, 0, w.now
	}
	a.beats = beats
}

// run lets time pass.
func (w *world) run(d time.Duration) {
	end := w.now.Add(d)
	for {
		next, who := end, (*agent)(nil)
		for _, a := range w.agents {
			if a.beats && a.next.Before(next) {
				next, who = a.next, a
			}
		}
		tick := false
		if wake := w.m.Wake(); !w.stopped && !wake.IsZero() {
			if wake = wake.Add(-w.skew); wake.Before(w.now) {
				wake = w.now
			}
			if wake.Before(next) {
				next, tick = wake, true
			}
		}
		w.now = next
		switch {
		case tick:
			w.feed(liveness.Tick{})
		case who == nil:
			return
		default:
			w.beat(who)
		}
	}
}

func (w *world) beat(a *agent) {
	a.seq++
	a.next = w.now.Add(liveness.BeatEvery)
	w.feed(liveness.Beat{Host: a.id, Session: a.session, Seq: a.seq})
}

// ms draws a time.
func ms(t *rapid.T, from, to int, name string) time.Duration {
	return time.Duration(rapid.IntRange(from, to).Draw(t, name)) * time.Millisecond
}

func drawFleet(t *rapid.T, w *world, most int) {
	for n := range rapid.IntRange(1, most).Draw(t, "hosts") {
		w.add(fmt.Sprint("h", n), rapid.IntRange(0, 30).Draw(t, "instances"))
	}
}

func drawAgent(t *rapid.T, w *world) *agent { return rapid.SampledFrom(w.agents).Draw(t, "host") }

// A host whose silences are all shorter than the limit is never suspected,
// whatever the others do.
func TestSilenceBelowTheLimitIsBorne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(liveness.Config{})
		drawFleet(t, w, 4)
		w.see = func(effect liveness.Effect) {
			if j, ok := effect.(liveness.Judge); ok && j.Host == "h0" {
				t.Fatalf("at %s: %+v", w.now.Sub(epoch), j)
			}
		}
		w.run(liveness.Window - 5*time.Second)
		w.beat(w.byID["h0"])
		for range rapid.IntRange(1, 30).Draw(t, "gaps") {
			for _, a := range w.agents[1:] {
				w.setBeating(a.id, rapid.Bool().Draw(t, "beats"))
			}
			w.byID["h0"].beats = false
			w.run(ms(t, 1, 9999, "gap"))
			w.beat(w.byID["h0"])
		}
	})
}

// Whatever happens to who decides and to its clock, a host that beats is not
// suspected for it. (A clock is not set by less than a stride all the time.)
func TestAJumpIsNoSilence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(liveness.Config{})
		drawFleet(t, w, 6)
		w.see = func(effect liveness.Effect) {
			switch effect.(type) {
			case liveness.Judge, liveness.Grant, liveness.Hold:
				t.Fatalf("at %s: %#v", w.now.Sub(epoch), effect)
			}
		}
		for range rapid.IntRange(1, 20).Draw(t, "disturbances") {
			switch rapid.SampledFrom([]string{"jump", "pause", "pause unread", "read only", "take over"}).Draw(t, "what") {
			case "jump":
				w.skew += ms(t, -100_000_000, 100_000_000, "by")
			case "pause":
				w.stop()
				w.run(pause(t))
				w.resume()
			case "pause unread": // the connections did not outlast it
				w.stop()
				w.run(pause(t))
				w.mail = nil
				w.resume()
			case "read only":
				w.feed(liveness.Writable{OK: false})
				w.run(ms(t, 1, 60_000, "read only"))
				w.feed(liveness.Writable{OK: true})
			case "take over":
				w.takeOver()
			}
			w.run(ms(t, 6000, 60_000, "rest"))
		}
	})
}

// pause is one of who decides: as long as hosts may be silent, or much longer.
func pause(t *rapid.T) time.Duration {
	return ms(t, 1, rapid.SampledFrom([]int{12_000, 400_000}).Draw(t, "up to"), "paused")
}

// chaos is one thing that happens to the fleet or to who decides.
func chaos(t *rapid.T, w *world) {
	switch rapid.SampledFrom([]string{"silent", "silent", "several", "back", "all back", "count", "pause", "write", "take over", "fail", "start", "forgive", "late", "grow", "leave"}).Draw(t, "what") {
	case "silent":
		w.setBeating(drawAgent(t, w).id, false)
	case "several":
		for _, a := range w.agents {
			if rapid.IntRange(0, 3).Draw(t, "silent") > 0 {
				w.setBeating(a.id, false)
			}
		}
	case "back":
		w.setBeating(drawAgent(t, w).id, true)
	case "all back":
		for _, a := range w.agents {
			w.setBeating(a.id, true)
		}
	case "count":
		a := drawAgent(t, w)
		n := rapid.IntRange(0, 30).Draw(t, "instances")
		w.tell(a.id, n, rapid.IntRange(0, n).Draw(t, "replaced"))
	case "pause":
		w.stop()
		w.run(ms(t, 1, 60_000, "paused"))
		w.resume()
	case "write":
		w.feed(liveness.Writable{OK: rapid.Bool().Draw(t, "writable")})
	case "take over":
		w.takeOver()
	case "fail":
		w.feed(liveness.StartFailed{Host: drawAgent(t, w).id, App: rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "app")})
	case "start":
		w.feed(liveness.StartSucceeded{Host: drawAgent(t, w).id})
	case "forgive":
		w.feed(liveness.Forgive{Host: drawAgent(t, w).id})
	case "late":
		a := drawAgent(t, w)
		w.stale(a, rapid.Int64Range(0, 3).Draw(t, "sessions ago"), rapid.Int64Range(0, 3).Draw(t, "beats ago"))
	case "grow":
		w.add(fmt.Sprint("h", len(w.byID)), rapid.IntRange(0, 30).Draw(t, "instances"))
	case "leave":
		if len(w.agents) > 1 {
			a := drawAgent(t, w)
			w.agents = slices.DeleteFunc(w.agents, func(o *agent) bool { return o == a })
			w.feed(liveness.Gone{Host: a.id})
		}
	}
}

// stale is a beat from the past, or one that was heard already.
func (w *world) stale(a *agent, sessions, beats int64) {
	ev := liveness.Beat{Host: a.id, Session: a.session - sessions, Seq: a.seq - beats}
	if a.taken != a.session || a.seq == 0 {
		return // none of this connection was heard
	}
	if sessions > 0 {
		ev.Seq = 1_000_000
	}
	for range w.m.Handle(w.now.Add(w.skew), ev) {
		panic("something follows from a beat of the past")
	}
}

// minded is a world with a model of the brakes beside it.
type minded struct {
	*world
	t      *rapid.T
	grants []grantedAt
	sizes  []sizeAt
	held   bool
}

type grantedAt struct {
	at   time.Time
	host string
	n    int
}

type sizeAt struct {
	at               time.Time
	hosts, instances int
}

// mind checks what is said against the model.
func mind(t *rapid.T, w *world) *minded {
	m := &minded{world: w, t: t}
	w.see = m.check
	return m
}

func (m *minded) fleet() (hosts, instances, silent int) {
	for _, a := range m.agents {
		if a.liveness == miosa.Lost {
			continue
		}
		hosts++
		instances += a.instances
		if m.now.Sub(a.heard) >= liveness.SuspectAfter {
			silent++
		}
	}
	return hosts, instances, silent
}

// size notes how large the fleet is, before each event.
func (m *minded) size() {
	hosts, instances, _ := m.fleet()
	m.sizes = append(m.sizes, sizeAt{m.now, hosts, instances})
}

func (m *minded) check(effect liveness.Effect) {
	switch e := effect.(type) {
	case liveness.Judge:
		m.size()
		bad := e.Liveness != miosa.Alive || e.Failing
		a := m.byID[e.Host]
		worse := e.Liveness != miosa.Alive && e.Liveness != a.liveness || e.Failing && !a.failing
		switch {
		case !m.writable:
			m.t.Fatalf("at %s, with no store to write to: %+v", m.now.Sub(epoch), e)
		case worse && m.now.Before(m.judges):
			m.t.Fatalf("at %s, before %s: %+v", m.now.Sub(epoch), m.judges.Sub(epoch), e)
		case bad && len(e.Reasons) == 0:
			m.t.Fatalf("without a reason: %+v", e)
		case e.Liveness == miosa.Lost && !a.all:
			m.t.Fatalf("at %s %s is lost, with %d of %d instances granted", m.now.Sub(epoch), e.Host, a.granted, a.instances)
		case e.Liveness == miosa.Lost && m.now.Sub(a.heard) < liveness.SuspectAfter:
			m.t.Fatalf("%s is lost and was heard %s ago", e.Host, m.now.Sub(a.heard))
		case e.Liveness == miosa.Lost && m.held:
			m.t.Fatal("lost while everything is held")
		}
	case liveness.Hold:
		if e.On == m.held {
			m.t.Fatalf("held twice, or let go twice: %v", e.On)
		}
		m.held = e.On
	case liveness.Grant:
		m.granted(e)
	case liveness.Tell:
		if e.Message == "" || e.Type == "" {
			m.t.Fatalf("an event without words: %+v", e)
		}
	}
}

func (m *minded) granted(e liveness.Grant) {
	hosts, _, silent := m.fleet()
	switch {
	case !m.writable, m.now.Before(m.judges):
		m.t.Fatalf("at %s nobody is to be judged: %+v", m.now.Sub(epoch), e)
	case m.held:
		m.t.Fatalf("at %s, while everything is held: %+v", m.now.Sub(epoch), e)
	case hosts >= 5 && silent*10 > hosts*8:
		m.t.Fatalf("at %s, with %d of %d hosts silent: %+v", m.now.Sub(epoch), silent, hosts, e)
	case m.byID[e.Host].liveness != miosa.Suspect:
		m.t.Fatalf("%s is %s: %+v", e.Host, m.byID[e.Host].liveness, e)
	}
	m.size()
	m.grants = append(m.grants, grantedAt{m.now, e.Host, e.Instances})
	m.grants = slices.DeleteFunc(m.grants, func(g grantedAt) bool { return m.now.Sub(g.at) >= time.Minute })
	m.sizes = slices.DeleteFunc(m.sizes, func(s sizeAt) bool { return m.now.Sub(s.at) >= time.Minute })
	perHost := map[string]int{}
	for _, g := range m.grants {
		perHost[g.host] += g.n
	}
	largest := func(of func(sizeAt) int) int {
		return of(slices.MaxFunc(m.sizes, func(a, b sizeAt) int { return cmp.Compare(of(a), of(b)) }))
	}
	whole := max(3, largest(func(s sizeAt) int { return s.hosts })/10)
	pieces := max(1, largest(func(s sizeAt) int { return s.instances })/20)
	counts := slices.SortedFunc(maps.Values(perHost), func(a, b int) int { return b - a })
	beyond := 0
	for _, n := range counts[min(whole, len(counts)):] {
		beyond += n
	}
	if beyond > pieces {
		m.t.Fatalf("at %s: within a minute %v were granted, of which %d hosts at once and %d more", m.now.Sub(epoch), counts, whole, pieces)
	}
}

// step lets one thing happen and time pass, and keeps the model's account.
func (m *minded) step() {
	before := m.m
	m.size()
	chaos(m.t, m.world)
	if m.m != before { // another decider
		m.held, m.grants = false, nil
	}
}

// Whatever happens: nobody is judged by who has just begun or cannot write, the
// brakes hold over any minute, nothing is granted while more than 80 % are silent,
// nothing follows from beats of the past, and when peace returns every suspect host
// ends as alive or lost.
func TestChaos(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(liveness.Config{LostAfter: 90 * time.Second})
		m := mind(t, w)
		drawFleet(t, w, 40)
		w.run(ms(t, 0, 40_000, "begin"))
		for range rapid.IntRange(0, 30).Draw(t, "length") {
			m.step()
			w.run(ms(t, 0, 15_000, "later"))
		}
		// Peace: whoever is silent stays so, at most half of them.
		w.feed(liveness.Writable{OK: true})
		for n, a := range w.agents {
			w.setBeating(a.id, n%2 == 0 || rapid.Bool().Draw(t, "well"))
		}
		w.run(15 * time.Minute)
		for _, a := range w.agents {
			want := miosa.Lost
			if a.beats {
				want = miosa.Alive
			}
			if a.liveness != want {
				t.Fatalf("%s beats: %v, and is %s in the end", a.id, a.beats, a.liveness)
			}
		}
	})
}

// The order in which things of one moment are handed over changes nothing.
func TestOrderOfOneMoment(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one, other := liveness.New(liveness.Config{}), liveness.New(liveness.Config{})
		hosts := rapid.IntRange(1, 40).Draw(t, "hosts")
		now := epoch
		both := func(batch []liveness.Event) {
			turned := rapid.Permutation(batch).Draw(t, "order")
			var a, b []liveness.Effect
			for n := range batch {
				a = append(a, one.Handle(now, batch[n])...)
				b = append(b, other.Handle(now, turned[n])...)
			}
			same(t, sorted(a), sorted(b))
			same(t, sorted(one.Handle(now, liveness.Tick{})), sorted(other.Handle(now, liveness.Tick{})))
			if !one.Wake().Equal(other.Wake()) {
				t.Fatalf("woken at %s and %s", one.Wake(), other.Wake())
			}
		}
		var batch []liveness.Event
		for n := range hosts {
			batch = append(batch, liveness.Known{Host: fmt.Sprint("h", n), Name: fmt.Sprint("h", n)})
		}
		both(batch)
		silent := map[int]bool{}
		for round := range rapid.IntRange(1, 60).Draw(t, "rounds") {
			now = now.Add(2 * time.Second)
			batch = nil
			for n := range hosts {
				if rapid.IntRange(0, 9).Draw(t, "turn") == 0 {
					silent[n] = !silent[n]
				}
				switch id := fmt.Sprint("h", n); {
				case !silent[n]:
					batch = append(batch, liveness.Beat{Host: id, Session: 1, Seq: int64(round + 1)})
				case rapid.Bool().Draw(t, "counted"):
					batch = append(batch, liveness.Counted{Host: id, Instances: rapid.IntRange(0, 9).Draw(t, "instances"), Replaced: rapid.IntRange(0, 9).Draw(t, "replaced")})
				}
			}
			both(batch)
		}
	})
}

func sorted(effects []liveness.Effect) []liveness.Effect {
	return slices.SortedStableFunc(slices.Values(effects), func(a, b liveness.Effect) int {
		return cmp.Compare(fmt.Sprintf("%T%v", a, a), fmt.Sprintf("%T%v", b, b))
	})
}

func same(t *rapid.T, a, b []liveness.Effect) {
	if !reflect.DeepEqual(a, b) {
		t.Fatalf("%+v\nin one order, in another\n%+v", a, b)
	}
}

// Beats that are late, or come twice, change nothing: not then, and not later.
func TestBeatsOfThePast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(liveness.Config{LostAfter: 90 * time.Second})
		drawFleet(t, w, 5)
		for range rapid.IntRange(1, 15).Draw(t, "length") {
			chaos(t, w)
			w.run(ms(t, 0, 20_000, "later"))
		}
		one, other := liveness.New(w.cfg), liveness.New(w.cfg)
		var beats []liveness.Event
		for n, s := range w.said {
			a, b := one.Handle(s.at, s.ev), other.Handle(s.at, s.ev)
			if !reflect.DeepEqual(a, b) || !one.Wake().Equal(other.Wake()) {
				t.Fatalf("%+v, and with beats of the past %+v", a, b)
			}
			if _, ok := s.ev.(liveness.Beat); ok {
				beats = append(beats, s.ev)
			}
			// Most of them soon: a host that has just fallen silent.
			for back := 1; back <= len(beats) && back <= 1<<(n%8); back *= 2 {
				if out := other.Handle(s.at, beats[len(beats)-back]); len(out) > 0 {
					t.Fatalf("from a beat of the past follows %+v", out)
				}
			}
		}
	})
}

// Who decides is woken for what is due, and never for nothing.
func TestWake(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(liveness.Config{LostAfter: 90 * time.Second})
		if !w.m.Wake().IsZero() {
			t.Fatal("woken for no host")
		}
		drawFleet(t, w, 12)
		for range rapid.IntRange(0, 20).Draw(t, "length") {
			chaos(t, w)
			w.run(ms(t, 0, 15_000, "later"))
			if late := w.now.Sub(w.looked); late > time.Second {
				t.Fatalf("for %s nobody looked", late)
			}
			w.feed(liveness.Tick{})
			now := w.now.Add(w.skew)
			if wake := w.m.Wake(); !wake.After(now) || wake.Sub(now) > time.Second {
				t.Fatalf("right after a look it is woken in %s", wake.Sub(now))
			}
		}
	})
}

// More than half of a fleet is never taken out for starts that fail.
func TestFailingEverywhere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(liveness.Config{})
		drawFleet(t, w, 9)
		w.run(liveness.Window + time.Second)
		for range rapid.IntRange(0, 200).Draw(t, "length") {
			w.feed(liveness.StartFailed{Host: drawAgent(t, w).id, App: rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "app")})
			failing := 0
			for _, a := range w.agents {
				if a.failing {
					failing++
				}
			}
			if 2*failing > len(w.agents) {
				t.Fatalf("%d of %d hosts are given nothing", failing, len(w.agents))
			}
		}
	})
}

// What must never run twice has ended when it is replaced, by clocks that run one
// percent apart and an agent that was heard last when it says so.
func TestMayReplace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stop := ms(t, 0, 3_600_000, "stop after")
		spec := miosa.ServiceSpec{StopGrace: ms(t, 0, int(miosa.MaxStopGrace/time.Millisecond), "grace")}
		silence := ms(t, 0, 8_000_000, "silence")
		ok, reason, again := liveness.MayReplace(silence, stop, spec)
		if ok != (reason == "") || ok != (again == 0) || again < 0 {
			t.Fatalf("%v, %q, %s", ok, reason, again)
		}
		grace := spec.StopGrace
		if grace == 0 {
			grace = miosa.DefaultStopGrace
		}
		ends := stop + stop/100 + grace
		if stop == 0 && !ok || stop > 0 && ok && silence <= ends {
			t.Fatalf("%v after %s; the app may run for %s", ok, silence, ends)
		}
		if ok, _, _ := liveness.MayReplace(silence+again, stop, spec); !ok {
			t.Fatal("asked again when told to, it still waits")
		}
	})
}

// An event costs the same whatever the number of hosts.
func BenchmarkBeat(b *testing.B) {
	for _, hosts := range []int{50, 500, 5000} {
		b.Run(fmt.Sprint(hosts), func(b *testing.B) {
			m, ids := liveness.New(liveness.Config{}), make([]string, hosts)
			now := epoch
			for n := range ids {
				ids[n] = fmt.Sprint("host_", n)
				m.Handle(now, liveness.Known{Host: ids[n], Name: ids[n]})
			}
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				now = now.Add(liveness.BeatEvery / time.Duration(hosts))
				m.Handle(now, liveness.Beat{Host: ids[n%hosts], Session: 1, Seq: int64(n + 1)})
				if n++; n%hosts == 0 {
					m.Handle(now, liveness.Tick{})
				}
			}
		})
	}
}

// A zone of 5,000 hosts' goes silent: all that is decided about it.
func BenchmarkZone(b *testing.B) {
	const hosts = 5000
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		m, now := liveness.New(liveness.Config{}), epoch
		for n := range hosts {
			id := fmt.Sprint("host_", n)
			m.Handle(now, liveness.Known{Host: id, Name: id})
			m.Handle(now, liveness.Counted{Host: id, Instances: 20})
		}
		for range 20 {
			now = now.Add(2 * time.Second)
			for n := range hosts * 2 / 3 {
				m.Handle(now, liveness.Beat{Host: fmt.Sprint("host_", n), Session: 1, Seq: now.Unix()})
			}
		}
		b.StartTimer()
		if len(m.Handle(now, liveness.Tick{})) < hosts/3 {
			b.Fatal("not judged")
		}
	}
}
