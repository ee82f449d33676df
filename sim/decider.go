package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/control"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/routing"
	"github.com/miosa/miosa/store"
)

// decider is one process of control. Hosts and routers turn to the newest; one
// before it goes on until it learns that it has been succeeded: by a write that is
// refused, or after a while.
type decider struct {
	s       *Sim
	machine *cell.Machine
	term    control.Term
	skew    time.Duration // of its clock
	began   time.Time
	ended   bool
	paused  bool // it handles nothing; what comes meanwhile waits
	waiting cell.Together

	wake    time.Time
	timer   int // the one that counts
	watch   lane
	watches int           // counts watches begun: changes on a former one are lost
	table   routing.Table // the newest that it has published
	flipped time.Time     // when that was
}

// startControl begins a control plane that knows nothing but the records. Hosts
// turn to it as soon as it has them, each within a while.
func (s *Sim) startControl(within time.Duration) {
	term, err := control.BeginTerm(context.Background(), s.store)
	if err != nil {
		s.fail("%v", err)
	}
	d := &decider{s: s, term: term, began: s.now, skew: s.apart()}
	d.machine = cell.NewMachine(cell.Config{
		RouterWindow: cell.RouterWindow,
		Hosts: func(t miosa.Tenant, d miosa.Deployment, e miosa.Environment) []string {
			if a := s.users.appOf(d.ID); a != nil && a.poisoned {
				panic("records that no decision can be made of")
			}
			return []string{d.Slug + "--" + e.Name + "." + t.Slug + ".sim"}
		},
	})
	s.control, s.deciders = d, append(s.deciders, d)
	d.reload(func() {
		for _, h := range s.hosts {
			if within == 0 {
				h.reconnect()
				continue
			}
			s.after(s.between(0, within), h.reconnect)
		}
	})
}

// clock is the time of day as it has it.
func (d *decider) clock() time.Time { return d.s.clock().Add(d.skew) }

// end is the end of the process.
func (d *decider) end() {
	d.ended = true
	d.s.deciders = slices.DeleteFunc(d.s.deciders, func(o *decider) bool { return o == d })
}

// crashControl is a SIGKILL of the control plane and its next start.
func (s *Sim) crashControl() {
	s.trace("control crashes")
	s.control.end()
	s.startControl(0)
	for _, r := range s.routers {
		r.follow()
	}
}

// A decider that another has succeeded learns of it within deposed, as whoever
// holds a lease does. Routers have turned to the next by the time in which that
// waits for their reports, and hosts before it judges any.
const (
	deposed       = 15 * time.Second
	routersFollow = 2 * time.Second
	hostsFollow   = 10 * time.Second
)

// takeOver has another process of control begin although the one before is
// there still: it has been paused, or is cut off from those who would have told
// it. Once it goes on it decides by what it knew, until it learns better.
func (s *Sim) takeOver() {
	if len(s.deciders) > 1 {
		return
	}
	s.report.Takeovers++
	old := s.control
	pause := time.Duration(0)
	if s.chance(0.7) {
		pause = s.between(time.Second, 2*time.Minute)
	}
	s.trace("another control takes over from one that is paused for %s", pause)
	old.paused = pause > 0
	s.after(pause, old.goOn)
	s.after(pause+s.between(0, deposed), func() {
		if !old.ended {
			s.trace("the control before learns that it has been succeeded")
			old.end()
		}
	})
	s.startControl(hostsFollow)
	for _, r := range s.routers {
		s.after(s.between(0, routersFollow), r.follow)
	}
}

// goOn ends a pause: what has come meanwhile is taken in first.
func (d *decider) goOn() {
	if !d.paused || d.ended {
		return
	}
	d.paused = false
	waiting := d.waiting
	d.waiting = nil
	d.feed(append(waiting, cell.Tick{}))
}

// hear brings it what was committed, late by a little.
func (d *decider) hear(changed cell.Changed) {
	s, watch := d.s, d.watches
	late := s.between(100*time.Microsecond, 5*time.Millisecond)
	if s.cfg.Faults && s.chance(0.005) {
		late = s.between(100*time.Millisecond, 800*time.Millisecond) // longer than control waits after a lost answer
	}
	s.inOrder(&d.watch, late, func() {
		if watch == d.watches {
			d.feed(changed)
		}
	})
}

// reload is a watch that begins with all records, read at one moment and
// handed over a little later; changes since then follow.
func (d *decider) reload(then func()) {
	s := d.s
	d.watches++
	watch := d.watches
	s.after(s.between(time.Millisecond, 300*time.Millisecond), func() {
		if watch != d.watches || d.ended {
			return
		}
		// What was committed up to here comes with the records, not after them.
		d.watches++
		watch = d.watches
		loaded, err := records.All(context.Background(), s.store)
		if err != nil {
			s.fail("load: %v", err)
			return
		}
		s.inOrder(&d.watch, s.between(100*time.Microsecond, 50*time.Millisecond), func() {
			if watch != d.watches || d.ended {
				return
			}
			d.feed(loaded)
			then()
		})
	})
}

// feed hands its machine an event and carries out what that asks for.
func (d *decider) feed(ev cell.Event) {
	s := d.s
	if d.ended {
		return
	}
	if d.paused {
		d.waiting = append(d.waiting, ev)
		return
	}
	for _, effect := range d.machine.Handle(d.clock(), ev) {
		d.carryOut(effect)
	}
	at := d.machine.Wake()
	if _, ok := ev.(cell.Tick); ok && !at.IsZero() && !at.After(d.clock()) {
		s.fail("control wants to be woken at once, right after it was")
	}
	if at.IsZero() || at.Equal(d.wake) {
		return
	}
	d.wake = at
	d.timer++
	timer := d.timer
	s.after(max(at.Sub(d.clock()), 0), func() {
		if timer == d.timer {
			d.wake = time.Time{}
			d.feed(cell.Tick{})
		}
	})
}

func (d *decider) carryOut(effect cell.Effect) {
	s := d.s
	switch e := effect.(type) {
	case cell.Publish:
		u := e.Update
		s.trace("table %d: %d names change, %d go", u.Generation, len(u.Routes)+len(u.Ports), len(u.GoneRoutes)+len(u.GonePorts))
		next := routing.Table{}
		next.Apply(d.table.Whole()) // those before are still looked at
		if !next.Apply(u) {
			s.fail("the update to %d is for %d, and the table is %d", u.Generation, u.From, next.Generation)
			return
		}
		d.table, d.flipped = next, s.now
		if d == s.control {
			s.check.published(next)
		}
		for _, r := range s.routers {
			if r.at == d {
				r.send(u)
			}
		}
	case cell.Assign:
		for _, h := range s.hosts {
			if !e.Anew {
				break
			}
			if h.at == d {
				for _, i := range d.machine.Assigned(h.id) {
					h.send(i)
				}
			}
		}
		for _, i := range e.Instances {
			for _, h := range s.hosts {
				if h.id == i.HostID && h.at == d {
					h.send(i)
				}
			}
		}
	case cell.Commit:
		took := s.between(200*time.Microsecond, 20*time.Millisecond)
		if s.cfg.Faults && s.chance(0.01) {
			took = s.between(20*time.Millisecond, 10*time.Second) // a slow store
		}
		s.after(took, func() {
			if d.ended && !s.chance(0.3) {
				return // control died before it could write
			}
			answer := d.attempt(e) // or its write comes after another has taken over
			s.after(s.between(100*time.Microsecond, 5*time.Millisecond), func() {
				d.feed(answer)
			})
		})
	case cell.SaveHost:
		s.after(s.between(200*time.Microsecond, 20*time.Millisecond), func() {
			if d.ended && !s.chance(0.3) {
				return
			}
			answer := d.saveHost(e)
			s.after(s.between(100*time.Microsecond, 5*time.Millisecond), func() {
				d.feed(answer)
			})
		})
	case cell.Purge:
		s.after(s.between(time.Millisecond, 50*time.Millisecond), func() {
			if d.ended {
				return
			}
			err := control.PurgeRecords(context.Background(), s.store, e)
			d.feed(cell.Purged{Deployment: e.Deployment, Err: err})
		})
	}
}

// attempt is a commit as networks and other writers leave it: refused, changed
// in between, or carried out with its answer lost.
func (d *decider) attempt(e cell.Commit) cell.Committed {
	s := d.s
	switch {
	case s.cfg.Faults && s.chance(0.02):
		s.report.Refused++
		s.refused = s.now
		return e.Unanswered(errors.New("the store is away"))
	case s.cfg.Faults && s.chance(0.005):
		s.report.Refused++
		s.refused = s.now
		d.commit(e)
		return e.Unanswered(errors.New("the answer was lost"))
	case s.chance(0.02):
		s.intervene(e)
	}
	return d.commit(e)
}

// saveHost writes a verdict, or does not, as attempt.
func (d *decider) saveHost(e cell.SaveHost) cell.HostSaved {
	s := d.s
	if s.cfg.Faults && s.chance(0.02) {
		s.report.Refused++
		s.refused = s.now
		return control.HostAnswer(e, errors.New("the store is away"))
	}
	_, err := store.Try(context.Background(), s.store, func(tx *store.Tx) error { return control.WriteHost(tx, d.term, e, d.clock(), s) })
	d.heed(err)
	return control.HostAnswer(e, err)
}

// heed: a write that is refused shows that another decides by now.
func (d *decider) heed(err error) {
	over, failed := d.term.Over(context.Background(), d.s.store)
	switch {
	case failed != nil:
		d.s.fail("look whose term it is: %v", failed)
	case err == nil && over:
		d.s.fail("control wrote in another's term")
	case over && !d.ended:
		d.s.trace("the control before learns that it has been succeeded")
		d.end()
	}
}

// intervene writes one of the records first, as somebody else would.
func (s *Sim) intervene(e cell.Commit) {
	for _, put := range e.Put {
		i, ok := put.(miosa.Instance)
		if !ok {
			continue
		}
		if _, err := store.Update(context.Background(), s.store, func(tx *store.Tx) error {
			known, err := store.Load(tx, store.Instances, store.InstanceKey(i.TenantID, i.DeploymentID, i.ID))
			if err != nil {
				return err
			}
			return store.Save(tx, store.Instances, known)
		}); err != nil && miosa.CodeOf(err) != miosa.NotFound {
			s.fail("intervene: %v", err)
		}
		return
	}
}

func (d *decider) commit(e cell.Commit) cell.Committed {
	s := d.s
	if err := e.Mint(d.clock(), s); err != nil {
		s.fail("mint: %v", err)
	}
	sealed := map[string][]byte{}
	for _, i := range e.Bootable() {
		sealed[i.ID] = []byte("sealed")
	}
	revision, err := store.Try(context.Background(), s.store, func(tx *store.Tx) error { return control.Write(tx, d.term, &e, sealed, d.clock(), s) })
	d.heed(err)
	answer := control.Answer(e, revision, err)
	s.report.Commits++
	if answer.Conflict {
		s.report.Conflicts++
	}
	if answer.Err != nil {
		s.fail("commit refused: %v", answer.Err)
	}
	if revision != 0 && len(e.Put)+len(e.Create) > 0 && !s.check.tells(e) {
		s.wrote[e.Environment] = written{s.now, whatOf(e)}
	}
	for _, ev := range e.Events {
		s.trace("%s %s %s", ev.Type, ev.InstanceID, ev.Message)
	}
	for _, i := range e.Create {
		s.trace("create %s %s slot %d on %s: %s %s", i.ID, short(i.VersionID), i.Slot, i.HostID, i.CreatedReason, strings.Join(i.Reasons, "; "))
	}
	return answer
}

// whatOf says what a commit writes.
func whatOf(e cell.Commit) string {
	var words strings.Builder
	fmt.Fprintf(&words, "%d new", len(e.Create))
	for _, put := range e.Put {
		fmt.Fprintf(&words, ", %T", put)
	}
	for _, ev := range e.Events {
		fmt.Fprintf(&words, ", %s %s", ev.Type, ev.Message)
	}
	return words.String()
}

func short(id string) string {
	if len(id) > 6 {
		return id[len(id)-6:]
	}
	return id
}
