package agent

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/health"
	"github.com/miosa/miosa/lifecycle"
)

// systemLog tells an instance's life between the lines of its app, in its
// developer's words. The zero value begins.
type systemLog struct {
	failed int // probes in a row
}

// newNotices are what control has to tell that it had not told before.
func newNotices(was miosa.Observation, before, in miosa.Instance) []string {
	if in.Generation < before.Generation {
		return nil
	}
	told := map[string]bool{}
	if was.State != "" { // else before is this very assignment, of which nothing is told yet
		for _, w := range before.Notices {
			told[w.ID] = true
		}
	}
	var out []string
	for _, w := range in.Notices {
		if !told[w.ID] {
			out = append(out, w.Text)
		}
	}
	return out
}

// next is what is to be told of one step of the machine: of the event and what
// it changed. Nothing is told twice, and nothing of what goes well all the time.
func (s *systemLog) next(before, in miosa.Instance, was, is miosa.Observation, ev lifecycle.Event, effects []lifecycle.Effect) []string {
	var out []string
	tell := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if was.State == "" && in.CreatedReason != "" {
		tell("created: %s", in.CreatedReason)
	}
	if in.Goal == miosa.GoalDrain && before.Goal == miosa.GoalRun {
		tell("%s", strings.TrimSuffix("draining: "+in.GoalReason, ": "))
	}
	for _, p := range is.Phases {
		if _, before := lifecycle.PhaseAt(was, p.Name); before && was.Boot == is.Boot {
			continue
		}
		switch p.Name {
		case "vmm_started":
			tell("the virtual machine started")
		case "app_started":
			tell("started: %s", commandWords(in))
		case "listening":
			tell("listening on port %d%s", in.Spec.Port, listenWords(is, p, ev))
		}
	}
	if e, ok := ev.(lifecycle.Probed); ok && is.Boot == e.Boot && is.LastProbeAt.Equal(e.Result.At) {
		s.probed(in, was, is, e, tell)
	}
	asked := false
	if e, ok := ev.(lifecycle.Exited); ok && e.Stopped {
		asked = endedAsAsked(e.StopSignal, is.Failure)
	}
	failure := !asked && !is.Failure.At.Equal(was.Failure.At) && is.Failure.Kind != miosa.FailureNone
	switch {
	case is.State == miosa.Failed && was.State != miosa.Failed && in.Once():
		tell("%s", failureWords(is.Failure))
	case is.State == miosa.Failed && was.State != miosa.Failed:
		tell("%s; it is not booted again", failureWords(is.Failure))
	case is.State == miosa.Pending && failure:
		tell("%s; the next boot comes in %s", failureWords(is.Failure), waitWords(is.NextRestartAt.Sub(is.Failure.At)))
	case is.State == miosa.Unhealthy && was.State != miosa.Unhealthy:
		tell("unhealthy: %s", is.Failure.Message)
	case is.State == miosa.Healthy && was.State != miosa.Healthy && !in.Once():
		tell("healthy")
	case is.Failure.Kind == miosa.FailureCompleted && was.State != is.State:
		tell("exited with code %d: it is done", is.Failure.ExitCode)
	case failure:
		tell("%s", failureWords(is.Failure))
	}
	restarts := false
	for _, effect := range effects {
		if _, ok := effect.(lifecycle.StopGuest); ok && is.State != miosa.Stopping {
			restarts = true
		}
	}
	if _, assigned := ev.(lifecycle.Assigned); restarts || assigned && is.Boot > was.Boot && was.Boot > 0 && was.State == miosa.Starting {
		tell("restarted on request")
	}
	// One that was on its way to the restart is asked no second time.
	if is.State == miosa.Stopping && was.State != miosa.Stopping || is.State == miosa.Stopped && was.State != miosa.Stopped && was.State != miosa.Stopping && is.Failure.Kind != miosa.FailureCompleted {
		reason := in.GoalReason
		if before.Goal == miosa.GoalDrain {
			reason = "" // it was told then
		}
		tell("%s", strings.TrimSuffix("stopping: "+reason, ": "))
	}
	if is.State == miosa.Stopped && was.State != miosa.Stopped {
		tell("stopped")
	}
	if is.Boot > was.Boot {
		s.failed = 0
		// A restart ends one boot and begins the next in one step.
		tell("boot %d began", is.Boot)
	}
	return out
}

// endedAsAsked reports whether an app that was asked to end did so by the
// signal, which is no news: with 0, by the signal itself, or with the code that
// a shell and others have for that.
func endedAsAsked(signal int, f miosa.Failure) bool {
	signal = cmp.Or(signal, 15)
	switch f.Kind {
	case miosa.FailureExit:
		return f.ExitCode == 0 || f.ExitCode == 128+signal
	case miosa.FailureSignal:
		// The guest names those that have no name of their own by number.
		n, ok := miosa.SignalNumber(f.Signal)
		return ok && n == signal || f.Signal == fmt.Sprintf("signal %d", signal)
	}
	return false
}

// probed tells of the first failure in a row; the verdict is told by state.
func (s *systemLog) probed(in miosa.Instance, was, is miosa.Observation, e lifecycle.Probed, tell func(string, ...any)) {
	if e.Result.OK {
		s.failed = 0
		return
	}
	_, listening := lifecycle.PhaseAt(is, "listening")
	if was.State == miosa.Starting && !listening && in.Spec.Port != 0 {
		return // not before it can answer
	}
	if s.failed++; s.failed > 1 || was.State == miosa.Unhealthy || is.State == miosa.Stopping {
		return
	}
	of := ""
	if was.State == miosa.Healthy {
		threshold := in.Spec.Health.Threshold
		if threshold <= 0 {
			threshold = miosa.DefaultHealthCheck().Threshold
		}
		of = fmt.Sprintf(" (1 of %d)", threshold)
	}
	tell("%s failed: %s%s", health.Named(in.Spec.HealthType(), in.Spec.Health), e.Result.Detail, of)
}

func commandWords(in miosa.Instance) string {
	if in.Spec.Command == "" {
		return "the image's own command"
	}
	return in.Spec.Command
}

func listenWords(is miosa.Observation, p miosa.Phase, ev lifecycle.Event) string {
	words := ""
	if e, ok := ev.(lifecycle.Reached); ok {
		switch e.Hint {
		case "loopback":
			words = " of 127.0.0.1 only, where nothing outside its machine can reach it"
		case "ipv6":
			words = " of IPv6 only"
		}
	}
	if at, ok := lifecycle.PhaseAt(is, "app_started"); ok {
		words += fmt.Sprintf(" after %.1f s", max(p.At.Sub(at), 0).Seconds())
	}
	return words
}

func failureWords(f miosa.Failure) string {
	switch f.Kind {
	case miosa.FailureExit, miosa.FailureCompleted:
		return fmt.Sprintf("exited with code %d", f.ExitCode)
	case miosa.FailureSignal:
		return "killed by " + f.Signal
	case miosa.FailureOOM:
		return "out of memory: " + f.Message
	}
	return f.Message
}

// waitWords says how long, as people do.
func waitWords(d time.Duration) string {
	if d = d.Round(time.Second); d >= 2*time.Minute {
		return fmt.Sprintf("%.0f minutes", d.Minutes())
	}
	return fmt.Sprintf("%.0f s", max(d, 0).Seconds())
}
