// Package lifecycle is one instance on its host, as a step machine: boots,
// crashes, in-place restarts, health, stops. It decides; the agent carries
// out. Every state that is not terminal has a deadline and an outcome:
//
//	pending    waits for NextRestartAt, then boots
//	starting   BootDeadline for the VM, then the health check's grace
//	healthy    probed for ever; one that is asked nothing is watched through
//	           its channel
//	unhealthy  probed for ever; control replaces it
//	stopping   the service's stop grace for the app, KillAfter more for the VM
//
// An attempt at a task (miosa.Instance.Once) boots once at most: it is starting
// without a VM until control has said that its boot is on record, which is its leave
// to begin. Whoever finds a boot of it on record that is not its own never begins, and
// whatever ends that boot ends the attempt. Until it has leave nothing runs, and
// control can end it at once.
//
// An instance with a StopAfterDisconnect is stopped in any of them once control
// has not been heard for so long: another one may run in its place by then.
package lifecycle

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/health"
)

const (
	// BootDeadline is how long a boot may take from its beginning (image,
	// disk, VM, kernel, PID 1) to the start of the run command. Generous:
	// emulated machines boot in seconds when quiet, and queue when not.
	BootDeadline = 5 * time.Minute
	// KillAfter is how much longer than its app the VM has to go.
	KillAfter = 5 * time.Second
	// clockTold is how long nothing is reported of an instance's clock after the
	// last time: an app may set it wrong as often as it likes.
	clockTold = time.Hour
	// resumeDeadline is the least that is left of BootDeadline to a boot that is
	// taken up again.
	resumeDeadline = 30 * time.Second
	// MaxLastLines bounds the log lines kept with a failure.
	MaxLastLines = 50
)

// Machine is one instance's state. It is a plain value owned by one goroutine.
type Machine struct {
	in    miosa.Instance // the newest assignment
	obs   miosa.Observation
	vm    vmState
	check health.Tracker
	// began is when the present boot began (deadline of the boot), running
	// when its run command started.
	began, running time.Time
	hint           string
	detached       bool      // what listens is of no process of the run command's session
	wellSince      time.Time // while it starts: the first of the good answers without a bad one since
	elsewhere      []int     // ports that the app listens on, none of which is its own
	probing        bool
	stopAt         time.Time // when StopGuest was sent; its deadline follows
	restarting     bool      // stopping only to boot again (RestartNonce)
	nonce          int
	heard          time.Time // when the last beat was sent that control acknowledged; zero: not known
	behind         int       // how often control had heard more than we remember
	lost           bool      // control saw a boot of it here that this host knows nothing of
	ask            bool      // resumed while stopping: nobody knows whether the app was asked
}

type vmState int

const (
	vmNone     vmState = iota // nothing runs
	vmClaiming                // an attempt's: nothing runs until control has taken the claim
	vmBooting                 // Boot was asked for; the run command has not started
	vmRunning                 // the run command runs
)

// New is an instance that this host has not seen before: feed it Assigned. If
// its observation shows a boot (this host lost its state), that boot is over,
// which counts as a crash, and the next one goes on counting.
func New(in miosa.Instance) *Machine {
	obs := in.Observed
	obs.InstanceID, obs.TenantID, obs.DeploymentID, obs.HostID = in.ID, in.TenantID, in.DeploymentID, in.HostID
	obs.Failures = max(obs.Failures, in.PriorFailures)
	lost := obs.State != "" && obs.State != miosa.Pending && !obs.State.Terminal()
	return &Machine{in: in, obs: obs, nonce: in.RestartNonce, lost: lost}
}

// Resume is an instance whose state this host kept. alive tells whether its VM
// of the present boot was found and adopted; otherwise a Vanished is to follow.
func Resume(in miosa.Instance, obs miosa.Observation, now time.Time) *Machine {
	m := New(in)
	m.obs, m.lost = obs, false
	switch obs.State {
	case miosa.Starting:
		m.vm = vmBooting
		m.began = obs.StartedAt
		// The time that we were away is not the boot's fault.
		if earliest := now.Add(resumeDeadline - BootDeadline); m.began.Before(earliest) {
			m.began = earliest
		}
		if at, ok := PhaseAt(obs, "app_started"); ok {
			m.vm, m.running = vmRunning, at
			m.check = health.Resume(in.Spec.Health, at, false, false, now)
		}
	case miosa.Healthy, miosa.Unhealthy:
		m.vm = vmRunning
		m.began = obs.StartedAt
		at, ok := PhaseAt(obs, "app_started")
		if !ok {
			at = obs.StartedAt
		}
		m.running = at
		m.check = health.Resume(in.Spec.Health, at, obs.State == miosa.Healthy, true, now)
	case miosa.Stopping:
		m.vm, m.began, m.stopAt, m.ask = vmRunning, obs.StartedAt, now, true
	}
	return m
}

// PhaseAt is when the observed boot came to a phase, if it did.
func PhaseAt(obs miosa.Observation, name string) (time.Time, bool) {
	for _, p := range obs.Phases {
		if p.Name == name {
			return p.At, true
		}
	}
	return time.Time{}, false
}

// Observation is the present one.
func (m *Machine) Observation() miosa.Observation { return m.obs }

// Instance is the newest assignment taken.
func (m *Machine) Instance() miosa.Instance { return m.in }

// Handle takes one event and returns what is to be done, in order.
func (m *Machine) Handle(now time.Time, ev Event) []Effect {
	if m.obs.State.Terminal() {
		return nil
	}
	if b := ev.boot(); b != anyBoot && (b != m.obs.Boot || m.vm <= vmClaiming) {
		return nil
	}
	before := m.key()
	var out []Effect
	switch e := ev.(type) {
	case Assigned:
		out = m.assigned(now, e.Instance)
	case Reached:
		m.reached(now, e)
	case Started:
		m.obs.VMID, m.obs.Addr = e.VMID, e.Addr
		m.phase(now, "vmm_started", e.At)
	case NotStarted:
		out = m.crashed(now, e.Failure)
	case Probed:
		m.answered(now, e.Result)
	case Exited:
		out = m.exited(now, e)
	case Vanished:
		out = m.vanished(now, e)
	case Taken:
		if m.vm == vmClaiming && e.Began.Equal(m.obs.StartedAt) && !m.disconnected(now) {
			m.vm, m.began = vmBooting, now
			m.phase(now, Claimed, now)
			out = []Effect{Boot{m.obs.Boot}}
		}
	case ClockSetBack:
		if e.At.Sub(m.obs.ClockSetBack.At) >= clockTold {
			m.obs.ClockSetBack = miosa.ClockSetBack{At: e.At, By: e.By}
		}
	case Heard:
		m.heard = now.Add(-e.Ago)
		return nil
	case Silent:
		if m.vm != vmRunning || m.probed() && m.obs.State == miosa.Healthy {
			break // it boots, which has its own deadline; or it answers its health checks, which counts for more
		}
		out = m.crashed(now, miosa.Failure{
			Kind: miosa.FailureVM, At: now, LastLines: e.LastLines,
			Message: "the virtual machine stopped answering",
		})
	}
	out = append(out, m.due(now)...)
	if m.key() != before {
		out = append(out, m.report(now))
	}
	return out
}

// key is what a report is due for when it changes.
type key struct {
	state      miosa.InstanceState
	boot       int
	vmid       string
	generation int64
	vm         vmState
	failed     time.Time
	behind     int
	setBack    time.Time
}

func (m *Machine) key() key {
	return key{m.obs.State, m.obs.Boot, m.obs.VMID, m.obs.Generation, m.vm, m.obs.Failure.At, m.behind, m.obs.ClockSetBack.At}
}

func (m *Machine) report(now time.Time) Effect {
	m.obs.Seq++
	m.obs.ReportedAt = now
	return Report{m.obs}
}

func (m *Machine) become(next miosa.InstanceState) {
	if m.obs.State == next {
		return
	}
	if m.obs.State != "" && !m.obs.State.CanBecome(next) {
		// A bug in this file, not an input's fault: the property test looks for it.
		panic(fmt.Sprintf("lifecycle: %s cannot become %s", m.obs.State, next))
	}
	m.obs.State = next
}

func (m *Machine) assigned(now time.Time, in miosa.Instance) []Effect {
	if in.Generation < m.in.Generation {
		return nil
	}
	first, lost, told := m.obs.State == "", m.lost, in.Observed
	m.lost = false
	if in.Observed.Seq > m.obs.Seq {
		// Our state on disk was behind what control has heard: it would drop all
		// that we say until we have caught up.
		m.obs.Seq = in.Observed.Seq
		m.behind++
	}
	in.Observed = miosa.Observation{}
	m.in = in
	m.obs.Generation = in.Generation
	switch {
	case in.Once() && told.Boot > 0 && (lost || !told.StartedAt.Equal(m.obs.StartedAt)):
		return m.forgotten(now, told)
	case in.Goal == miosa.GoalStop:
		return m.stop(now)
	case lost:
		return m.crashed(now, miosa.Failure{Kind: miosa.FailureHost, Message: "its host lost everything it knew of it"})
	case first:
		m.become(miosa.Pending)
		m.obs.NextRestartAt = now
	case in.RestartNonce != m.nonce && m.vm != vmNone && m.stopAt.IsZero() && !in.Once():
		m.nonce = in.RestartNonce
		if m.vm == vmBooting {
			return m.restart(now) // there is nobody to ask yet
		}
		m.restarting = true
		return m.stopGuest(now)
	}
	m.nonce = in.RestartNonce
	return nil
}

// forgotten ends an attempt of which control has seen a boot that this host knows
// nothing of: nobody knows how it ended.
func (m *Machine) forgotten(now time.Time, told miosa.Observation) []Effect {
	kill := Kill{m.obs.Boot}
	m.obs.Boot, m.obs.StartedAt, m.obs.HealthyAt, m.obs.Phases = told.Boot, told.StartedAt, told.HealthyAt, told.Phases
	m.obs.Failure = miosa.Failure{Kind: miosa.FailureVM, At: now, Message: "its host lost everything it knew of it: nobody knows how it ended"}
	return append([]Effect{kill}, m.ended(now, miosa.Failed)...)
}

// stop is the one way out for every cause.
func (m *Machine) stop(now time.Time) []Effect {
	m.restarting = false
	if m.vm <= vmClaiming {
		return m.ended(now, miosa.Stopped)
	}
	if m.obs.State == miosa.Stopping {
		return nil
	}
	m.become(miosa.Stopping)
	if m.vm == vmBooting {
		// Nothing of the app runs yet: there is nobody to ask.
		return append([]Effect{Kill{m.obs.Boot}}, m.ended(now, miosa.Stopped)...)
	}
	if !m.stopAt.IsZero() {
		return nil // already asked, on the way to a restart
	}
	return m.stopGuest(now)
}

func (m *Machine) stopGuest(now time.Time) []Effect {
	m.stopAt = now
	return []Effect{StopGuest{m.obs.Boot, StopGrace(m.in.Spec)}}
}

// ended is terminal: everything is given back.
func (m *Machine) ended(now time.Time, state miosa.InstanceState) []Effect {
	m.vm = vmNone
	m.become(state)
	m.obs.StoppedAt = now
	m.obs.NextRestartAt = time.Time{}
	return []Effect{Release{}}
}

func (m *Machine) reached(now time.Time, e Reached) {
	if e.Name == "elsewhere" {
		m.elsewhere = e.Ports
		return
	}
	m.phase(now, e.Name, e.At)
	switch e.Name {
	case "app_started":
		if m.vm != vmBooting {
			return // a guest that reconnects tells it again: no new grace for that
		}
		m.vm = vmRunning
		m.running = now
		m.check = health.Begin(m.in.Spec.Health, now)
		if m.in.Once() {
			m.healthy(now) // nothing more is asked of it
		}
	case "listening":
		m.hint, m.detached = e.Hint, e.Detached
		switch {
		case m.vm != vmRunning:
		case m.probed() && m.obs.State == miosa.Starting && !m.wellSince.IsZero() && !m.mayLeave(now):
			// It has answered well already: who answers was all that was not known.
			m.obs.LastProbe = strings.TrimSuffix(m.obs.LastProbe, staysWords)
			m.observe(now, health.Result{OK: true, At: m.obs.LastProbeAt, Detail: m.obs.LastProbe})
		default:
			m.check.Hurry(now)
		}
	}
}

// Claimed is the phase of an attempt's boot in which control's leave to begin came.
const Claimed = "claimed"

// maxPhases bounds what a lying guest can make us keep.
const maxPhases = 32

// phase notes when the boot came to a phase. Some are told by the guest, whose
// clock is its own: none was before the boot's first, and none is to come.
func (m *Machine) phase(now time.Time, name string, at time.Time) {
	if _, ok := PhaseAt(m.obs, name); ok || len(m.obs.Phases) >= maxPhases {
		return
	}
	if at.After(now) {
		at = now
	}
	if len(m.obs.Phases) > 0 && at.Before(m.obs.Phases[0].At) {
		at = m.obs.Phases[0].At
	}
	// A new slice: reports already made share the old one.
	m.obs.Phases = append(append([]miosa.Phase(nil), m.obs.Phases...), miosa.Phase{Name: name, At: at})
}

// StopGrace is what the app of a service has between the signal that asks it
// to end and SIGKILL.
func StopGrace(spec miosa.ServiceSpec) time.Duration {
	return min(cmp.Or(spec.StopGrace, miosa.DefaultStopGrace), miosa.MaxStopGrace)
}

// killAt is when a VM that was asked to stop is ended.
func (m *Machine) killAt() time.Time { return m.stopAt.Add(StopGrace(m.in.Spec) + KillAfter) }

// probed reports whether the instance is asked how it is.
func (m *Machine) probed() bool { return m.in.Spec.HealthType() != miosa.HealthNone }

// stableAt is when an instance that is asked nothing counts as healthy: by then
// an app that fails at its start has.
func (m *Machine) stableAt() time.Time {
	return m.running.Add(cmp.Or(m.in.Spec.Health.Stable, miosa.DefaultStable))
}

func (m *Machine) answered(now time.Time, r health.Result) {
	m.probing = false
	if m.vm != vmRunning || !m.stopAt.IsZero() {
		return
	}
	m.obs.LastProbeAt, m.obs.LastProbe = r.At, r.Detail
	switch {
	case !r.OK:
		m.wellSince = time.Time{}
	case m.wellSince.IsZero():
		m.wellSince = now
	}
	if r.OK && m.mayLeave(now) {
		r = health.Result{At: r.At, Detail: r.Detail + staysWords}
		m.obs.LastProbe = r.Detail
	}
	m.observe(now, r)
}

// observe takes in what a probe's answer counts for.
func (m *Machine) observe(now time.Time, r health.Result) {
	switch m.check.Observe(now, r) {
	case health.BecameHealthy:
		m.healthy(now)
	case health.BecameUnhealthy:
		m.become(miosa.Unhealthy)
		m.obs.Failure = miosa.Failure{
			Kind: miosa.FailureProbe, At: now,
			Message: fmt.Sprintf("%d health checks in a row failed; the last one: %s", m.check.Failures, r.Detail),
		}
	}
}

// DetachedFor is how long an app has to answer well that listens by a process of
// another session than its run command's, before it counts as healthy.
const DetachedFor = 3 * time.Second

// staysWords follow an answer of which it is not known yet whether it stays.
var staysWords = "; to see that the run command stays takes " + DetachedFor.String()

// mayLeave reports whether the run command may be about to end and to leave those
// behind that answer for it, as a daemon does: they end with it. A supervisor that
// gives each of its processes a session of its own looks the same, and stays. So
// does what answers before the guest's word of who listens is here.
func (m *Machine) mayLeave(now time.Time) bool {
	_, listening := PhaseAt(m.obs, "listening")
	return m.obs.State == miosa.Starting && m.in.Spec.Port != 0 && (!listening || m.detached) && now.Sub(m.wellSince) < DetachedFor
}

func (m *Machine) healthy(now time.Time) {
	m.become(miosa.Healthy)
	m.obs.HealthyAt = now
	m.phase(now, "healthy", now)
}

func (m *Machine) exited(now time.Time, e Exited) []Effect {
	f := e.Failure
	f.LastLines = lastLines(f.LastLines)
	if f.Kind != miosa.FailureNone {
		f.At = now
	}
	if m.in.Once() {
		return m.finished(now, f, e.Stopped)
	}
	if m.obs.State == miosa.Stopping || m.restarting || e.Stopped {
		m.note(f)
		return nil // Vanished follows and ends it
	}
	if f.Kind == miosa.FailureExit && f.ExitCode == 0 && m.in.Restart.Mode != miosa.RestartAlways && m.in.Restart.Mode != "" {
		f.Kind = miosa.FailureCompleted
		m.obs.Failure = f
		return append([]Effect{Kill{m.obs.Boot}}, m.ended(now, miosa.Stopped)...)
	}
	return m.crashed(now, f)
}

// finished ends an attempt whose command has ended. An end of its own is what
// happened, though it was being stopped; one in answer to a stop that nobody asked for
// is an end of its own, whatever the guest calls it.
func (m *Machine) finished(now time.Time, f miosa.Failure, stopped bool) []Effect {
	state := miosa.Failed
	switch {
	case stopped && !m.stopAt.IsZero():
		m.note(f)
		state = miosa.Stopped
	case f.Kind == miosa.FailureLimit:
		m.obs.Failure, state = f, miosa.Stopped
	case f.Kind == miosa.FailureExit && f.ExitCode == 0:
		f.Kind = miosa.FailureCompleted
		m.obs.Failure, state = f, miosa.Stopped
	default:
		m.obs.Failure = f
	}
	return append([]Effect{Kill{m.obs.Boot}}, m.ended(now, state)...)
}

func (m *Machine) vanished(now time.Time, e Vanished) []Effect {
	switch {
	case m.obs.State == miosa.Stopping:
		return append([]Effect{Kill{m.obs.Boot}}, m.ended(now, miosa.Stopped)...)
	case m.restarting:
		return m.restart(now)
	}
	msg := e.Message
	if msg == "" {
		msg = "the virtual machine ended without the app's exit being seen"
	}
	return m.crashed(now, miosa.Failure{Kind: miosa.FailureVM, At: now, Message: msg, LastLines: e.LastLines})
}

// restart boots again at once, without a step on the ladder: control asked.
func (m *Machine) restart(now time.Time) []Effect {
	kill := Kill{m.obs.Boot}
	m.vm, m.restarting, m.stopAt, m.probing = vmNone, false, time.Time{}, false
	m.become(miosa.Pending)
	if m.in.Goal == miosa.GoalDrain {
		return append([]Effect{kill}, m.ended(now, miosa.Stopped)...)
	}
	return append([]Effect{kill}, m.boot(now)...)
}

// crashed is the one path for every failure: exit, VM crash, probes, host.
func (m *Machine) crashed(now time.Time, f miosa.Failure) []Effect {
	f.At = now
	f.LastLines = lastLines(f.LastLines)
	m.note(f)
	kill := []Effect{Kill{m.obs.Boot}}
	m.probing, m.stopAt = false, time.Time{}
	if m.restarting {
		m.restarting = false
	}
	if m.in.Goal != miosa.GoalRun || m.obs.State == miosa.Stopping {
		return append(kill, m.ended(now, miosa.Stopped)...)
	}
	if m.in.Restart.Mode == miosa.RestartNever || m.in.Once() {
		return append(kill, m.ended(now, miosa.Failed)...)
	}
	var healthyAt time.Time
	if !m.obs.HealthyAt.Before(m.obs.StartedAt) {
		healthyAt = m.obs.HealthyAt
	}
	next := health.Climb(health.Setback{
		Kind: f.Kind, At: now, HealthyAt: healthyAt,
		Boot: m.obs.Boot, Failures: m.obs.Failures, Proven: m.in.Proven,
	})
	m.obs.Failures = next.Failures
	if next.GiveUp {
		return append(kill, m.ended(now, miosa.Failed)...)
	}
	m.vm = vmNone
	m.become(miosa.Pending)
	m.obs.NextRestartAt = now.Add(next.Delay)
	return kill
}

// note keeps how the boot ended. Of one that is stopped for want of control, or at
// its limit, that stays the reason.
func (m *Machine) note(f miosa.Failure) {
	if why := m.obs.Failure.Kind; m.obs.State == miosa.Stopping && (why == miosa.FailureDisconnected || why == miosa.FailureLimit) {
		if len(f.LastLines) > 0 {
			m.obs.Failure.LastLines = f.LastLines
		}
		return
	}
	m.obs.Failure = f
}

// disconnected: control has not been heard for as long as the instance may run
// without it.
func (m *Machine) disconnected(now time.Time) bool {
	by := m.disconnectAt()
	return !by.IsZero() && !now.Before(by)
}

// disconnectAt is when that is so, unless control is heard again; zero: never.
func (m *Machine) disconnectAt() time.Time {
	if limit := m.in.StopAfterDisconnect; limit > 0 && !m.heard.IsZero() && m.obs.State != miosa.Stopping {
		return m.heard.Add(limit)
	}
	return time.Time{}
}

// stopAlone stops an instance that control may have replaced by now. That is no
// fault of the app's: nothing is counted, and nothing tried again.
func (m *Machine) stopAlone(now time.Time) []Effect {
	m.obs.Failure = miosa.Failure{Kind: miosa.FailureDisconnected, At: now, Message: fmt.Sprintf(
		"its host had not reached the control plane for %s, and it must never run twice", now.Sub(m.heard).Round(time.Second))}
	out := m.stop(now)
	return append(out, m.due(now)...) // one that is asked to stop for a restart may be late by now
}

// limitAt is when an attempt's command has run for as long as it may; zero: never.
func (m *Machine) limitAt() time.Time {
	if m.in.Once() && m.in.Limit > 0 && m.vm == vmRunning && m.stopAt.IsZero() {
		return m.obs.HealthyAt.Add(m.in.Limit)
	}
	return time.Time{}
}

// overdue: it is that late.
func (m *Machine) overdue(now time.Time) bool {
	by := m.limitAt()
	return !by.IsZero() && !now.Before(by)
}

// AttachLines gives the present failure its last log lines where the event
// that told of it had none: grace runs out by time alone, and time knows no log.
func (m *Machine) AttachLines(lines []string) {
	if m.obs.Failure.Kind != "" && len(m.obs.Failure.LastLines) == 0 {
		m.obs.Failure.LastLines = lastLines(lines)
	}
}

func lastLines(lines []string) []string {
	if len(lines) > MaxLastLines {
		lines = lines[len(lines)-MaxLastLines:]
	}
	return lines
}

// due does what time alone asks for.
func (m *Machine) due(now time.Time) []Effect {
	switch {
	case m.obs.State.Terminal():
		return nil
	case m.disconnected(now):
		return m.stopAlone(now)
	case m.overdue(now):
		m.obs.Failure = miosa.Failure{Kind: miosa.FailureLimit, At: now, Message: fmt.Sprintf("its command ran for %s, which is its limit", m.in.Limit)}
		return m.stop(now)
	case m.obs.State == miosa.Pending:
		if m.in.Goal == miosa.GoalRun && !m.obs.NextRestartAt.IsZero() && !now.Before(m.obs.NextRestartAt) {
			return m.boot(now)
		}
		if m.in.Goal == miosa.GoalDrain {
			return m.ended(now, miosa.Stopped)
		}
	case m.ask:
		m.ask = false
		return m.stopGuest(now)
	case !m.stopAt.IsZero():
		if !now.Before(m.killAt()) {
			if m.restarting {
				return m.restart(now)
			}
			return append([]Effect{Kill{m.obs.Boot}}, m.ended(now, miosa.Stopped)...)
		}
	case m.vm == vmBooting:
		if !now.Before(m.began.Add(BootDeadline)) {
			return m.crashed(now, miosa.Failure{
				Kind:    miosa.FailureBoot,
				Message: fmt.Sprintf("the virtual machine did not start the run command within %s", BootDeadline),
			})
		}
	case m.vm == vmRunning && !m.probed():
		if m.obs.State == miosa.Starting && !now.Before(m.stableAt()) {
			m.healthy(now)
		}
	case m.vm == vmRunning:
		switch {
		case m.check.Expired(now) && !m.wellSince.IsZero():
			// It answers, and has stayed until its grace was over.
			m.observe(now, health.Result{OK: true, At: m.obs.LastProbeAt, Detail: m.obs.LastProbe})
			return nil
		case m.check.Expired(now):
			return m.crashed(now, miosa.Failure{Kind: miosa.FailureProbe, Message: m.graceWords()})
		}
		if !m.probing && !now.Before(m.check.Next) {
			m.probing = true
			return []Effect{Probe{m.obs.Boot, m.in.Spec.HealthType(), m.check.Check}}
		}
	}
	return nil
}

func (m *Machine) boot(now time.Time) []Effect {
	if m.in.Once() && m.obs.Boot > 0 {
		return m.crashed(now, miosa.Failure{Kind: miosa.FailureVM, Message: "its host went down: nobody knows how it ended"})
	}
	if m.obs.Boot > 0 {
		m.obs.RestartCount++
	}
	m.obs.Boot++
	m.become(miosa.Starting)
	m.obs.StartedAt, m.obs.NextRestartAt = now, time.Time{}
	// The address may be another tenant's by now: none until the VMM has one.
	m.obs.Phases, m.obs.VMID, m.obs.Addr = nil, "", netip.AddrPort{}
	m.obs.LastProbe, m.obs.LastProbeAt = "", time.Time{}
	m.phase(now, "boot_decided", now)
	m.vm, m.began, m.hint, m.probing, m.stopAt = vmBooting, now, "", false, time.Time{}
	m.detached, m.wellSince = false, time.Time{}
	m.elsewhere = nil
	m.running = time.Time{}
	if m.in.Once() {
		m.vm = vmClaiming // which the report that follows asks for
		return nil
	}
	return []Effect{Boot{m.obs.Boot}}
}

// graceWords says why an app was never healthy, as its developer needs it.
func (m *Machine) graceWords() string {
	port, how := m.in.Spec.Port, m.in.Spec.HealthType()
	_, listening := PhaseAt(m.obs, "listening")
	switch {
	case how == miosa.HealthExec:
		// It asks nothing of the port, which may be none.
	case !listening && len(m.elsewhere) > 0:
		return fmt.Sprintf("the app listens on %s, not on port %d: let it listen on the port in $PORT (%d), or publish it with the port that it has", portList(m.elsewhere), port, port)
	case !listening:
		return fmt.Sprintf("nothing listened on port %d within %s: the app must listen on the port in $PORT (%d) on all addresses", port, m.check.Check.Grace, port)
	case m.hint == "loopback":
		return fmt.Sprintf("the app listens on port %d on 127.0.0.1 (localhost) only, where nothing outside its machine can reach it: let it listen on 0.0.0.0", port)
	case m.hint == "ipv6":
		return fmt.Sprintf("the app listens on port %d on IPv6 only: let it listen on 0.0.0.0, or on [::] with IPv4 allowed", port)
	}
	return m.check.Words(how, strings.TrimSpace(m.obs.LastProbe))
}

// portList is "port 3000", "ports 3000 and 9090", "ports 80, 443 and 9090".
func portList(ports []int) string {
	words := make([]string, len(ports))
	for i, n := range ports {
		words[i] = strconv.Itoa(n)
	}
	last := len(words) - 1
	if last == 0 {
		return "port " + words[0]
	}
	return "ports " + strings.Join(words[:last], ", ") + " and " + words[last]
}

// Wake is when the machine wants a Tick; the zero time: not before an event.
func (m *Machine) Wake() time.Time {
	if m.obs.State.Terminal() {
		return time.Time{}
	}
	at := m.wake()
	for _, by := range []time.Time{m.disconnectAt(), m.limitAt()} {
		if at.IsZero() || !by.IsZero() && by.Before(at) {
			at = by
		}
	}
	return at
}

// wake is when there is something to do, control aside.
func (m *Machine) wake() time.Time {
	switch {
	case m.obs.State == miosa.Pending:
		return m.obs.NextRestartAt
	case !m.stopAt.IsZero():
		return m.killAt()
	case m.vm == vmBooting:
		return m.began.Add(BootDeadline)
	case m.vm == vmRunning && !m.probed():
		if m.obs.State == miosa.Starting {
			return m.stableAt()
		}
	case m.vm == vmRunning:
		if m.probing {
			if m.check.Ever {
				return time.Time{} // Probed always comes
			}
			return m.check.GraceEnds()
		}
		return m.check.Wake()
	}
	return time.Time{}
}
