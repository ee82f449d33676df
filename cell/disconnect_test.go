package cell_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/liveness"
)

// twoHosts is a stage with a second host, whose service's instances stop after so
// long without control, in a control plane that has seen both hosts for a while.
func twoHosts(t *testing.T, stopAfter time.Duration) *stage {
	s := newStage(t)
	s.judges = true
	s.put(miosa.Host{ID: "host_2", Liveness: miosa.Alive, Schedulable: true, Overcommit: 4, Capacity: miosa.Resources{VCPUs: 16, MemoryMB: 4096, DiskMB: 65536}})
	s.service.StopAfterDisconnect = stopAfter
	s.put(s.service)
	for _, i := range s.all {
		if i.StopAfterDisconnect != stopAfter {
			t.Fatalf("it is carried as %s", i.StopAfterDisconnect)
		}
	}
	s.beat(time.Minute, hostID, "host_2")
	return s
}

// beat lets time pass in which those hosts beat, and no other.
func (s *stage) beat(d time.Duration, hosts ...string) {
	for end := s.now.Add(d); s.now.Before(end); {
		s.now = s.now.Add(time.Second)
		for _, id := range hosts {
			s.carryOut(s.m.Handle(s.now, cell.Beat{Host: id, Session: 1, Seq: s.now.Unix()}))
		}
		s.carryOut(s.m.Handle(s.now, cell.Tick{}))
	}
}

// successors are the instances on the second host.
func (s *stage) successors() (n int) {
	for _, i := range s.all {
		if i.HostID == "host_2" {
			n++
		}
	}
	return n
}

// waits checks that nothing was replaced yet, and that it says why.
func (s *stage) waits(when string) {
	s.t.Helper()
	if n := s.successors(); n > 0 || len(s.lost) > 0 {
		s.t.Fatalf("%s: %d are replaced, %q lost", when, n, s.lost)
	}
	for _, id := range []string{"ri_first0", "ri_first1"} {
		if why := s.all[id].Reasons; len(why) != 1 || !strings.Contains(why[0], "it must never run twice") {
			s.t.Errorf("%s: %s says %q", when, id, why)
		}
	}
}

// What stops after a time without control is replaced when it certainly has ended,
// on a suspect host and on a lost one.
func TestWhatStopsByItselfIsReplacedAfterThat(t *testing.T) {
	for _, stopAfter := range []time.Duration{time.Minute, 10 * time.Minute} {
		s := twoHosts(t, stopAfter)
		s.beat(15*time.Second, "host_2")
		s.waits("suspect")
		wait := liveness.StoppedAfter(stopAfter, spec())
		s.beat(wait-15*time.Second-2*time.Second, "host_2")
		s.waits("a moment before")
		lost := slices.ContainsFunc(s.events, func(e miosa.Event) bool { return e.Type == "host.lost" })
		if lost != (wait > liveness.LostAfter) {
			t.Errorf("its host is lost: %t, after nearly %s", lost, wait)
		}
		s.beat(4*time.Second, "host_2")
		if n := s.successors(); n != 2 {
			t.Errorf("after %s %d are replaced", wait, n)
		}
		if lost != (len(s.lost) == 2) {
			t.Errorf("after %s %q are lost", wait, s.lost)
		}
	}
}

// A host that is heard again in time keeps what it has; one that stopped it gets
// it anew.
func TestWhatStopsByItselfWhenItsHostReturns(t *testing.T) {
	s := twoHosts(t, time.Minute)
	s.beat(40*time.Second, "host_2")
	s.waits("suspect")
	s.beat(time.Minute, hostID, "host_2")
	if i := s.all["ri_first0"]; len(i.Reasons) > 0 || s.successors() > 0 || i.Goal != miosa.GoalRun {
		t.Errorf("its host is back, and %+v", i)
	}
	s.put(s.observed("ri_first0", miosa.Stopped, miosa.Failure{Kind: miosa.FailureDisconnected, Message: "it was alone", At: s.now}))
	made := 0
	for id, i := range s.all {
		if id != "ri_first0" && i.Slot == 0 && i.PriorFailures == 0 && i.HostID != "" {
			made++
		}
	}
	if made != 1 {
		t.Errorf("it was stopped, and %d are made", made)
	}
}

// One that is stopped by hand while its host is silent may run on: its slot stays
// empty until it certainly has ended, or is reported to have.
func TestWhatIsStoppedUnheardIsFollowedOnceItHasEnded(t *testing.T) {
	stop := func(s *stage) {
		i := s.all["ri_first0"]
		i.Goal, i.GoalReason, i.GoalSince, i.Generation = miosa.GoalStop, "stopped by request", s.now, i.Generation+1
		s.put(i)
	}
	s := twoHosts(t, time.Minute)
	s.beat(15*time.Second, "host_2")
	stop(s)
	s.beat(liveness.StoppedAfter(time.Minute, spec())-15*time.Second-2*time.Second, "host_2")
	if n := s.successors(); n > 0 {
		t.Errorf("%d follow before it has ended", n)
	}
	says := func(words string) {
		t.Helper()
		if why := s.all["ri_first0"].Reasons; len(why) != 1 || !strings.Contains(why[0], words) {
			t.Errorf("it says %q, and not %q", why, words)
		}
	}
	says("it is replaced after")
	s.beat(4*time.Second, "host_2")
	if n := s.successors(); n != 2 {
		t.Errorf("once both have ended %d follow", n)
	}

	s = twoHosts(t, time.Minute)
	made := len(s.all)
	stop(s)
	s.beat(5*time.Second, hostID, "host_2")
	if len(s.all) != made {
		t.Error("one follows before the end of the other is reported")
	}
	says("once its host has reported its end")
	s.put(s.observed("ri_first0", miosa.Stopped, miosa.Failure{}))
	s.beat(time.Second, hostID, "host_2")
	if len(s.all) != made+1 {
		t.Errorf("after its end %d follow", len(s.all)-made)
	}
}

// Who takes the setting back is not made to wait; who makes it shorter is, because
// a silent host does not hear of it.
func TestAChangeOfWhatStopsByItself(t *testing.T) {
	s := twoHosts(t, 4*time.Minute)
	s.beat(15*time.Second, "host_2")
	s.waits("suspect")
	s.service.StopAfterDisconnect = 10 * time.Second
	s.put(s.service)
	s.beat(2*time.Minute, "host_2")
	s.waits("after it was made shorter")
	s.service.StopAfterDisconnect = 0
	s.put(s.service)
	s.beat(2*time.Second, "host_2")
	if n := s.successors(); n != 2 {
		t.Errorf("it may run twice, and %d are replaced", n)
	}
}

// The timeline says why it was stopped.
func TestItIsToldWhyItWasStopped(t *testing.T) {
	was := miosa.Observation{Seq: 1, State: miosa.Stopping}
	is := miosa.Observation{Seq: 2, State: miosa.Stopped, Failure: miosa.Failure{Kind: miosa.FailureDisconnected, Message: "it was alone"}}
	if _, events, ok := cell.Observed(miosa.Instance{}, was, is); !ok || len(events) != 1 || events[0].Type != "instance.stopped" || events[0].Message != "it was alone" {
		t.Errorf("%+v", events)
	}
}

// A host may come back in the moment in which it is written off, and connect before
// that: it was told of its instances just then, and hears that they are over, once
// it is alive on record. What it ended itself it knows.
func TestWhatIsWrittenOffIsStoppedWhereItRuns(t *testing.T) {
	for kind, want := range map[miosa.FailureKind]bool{miosa.FailureHostLost: true, miosa.FailureExit: false} {
		for _, liveness := range []miosa.Liveness{miosa.Alive, miosa.Lost} {
			s := newStage(t)
			toldBy := func(noun any) (told bool) {
				s.revision++
				for _, effect := range s.m.Handle(s.now, cell.Changed{Revision: s.revision, Put: []any{noun}}) {
					if e, ok := effect.(cell.Assign); ok {
						for _, i := range e.Instances {
							told = told || i.ID == "ri_first0" && i.Goal == miosa.GoalStop && i.Generation > 1 && i.HostID == hostID
						}
					}
				}
				return told
			}
			host := miosa.Host{ID: hostID, Liveness: liveness, Schedulable: true, Overcommit: 4, Capacity: miosa.Resources{VCPUs: 16, MemoryMB: 4096, DiskMB: 65536}}
			if toldBy(host) {
				t.Errorf("%s: told before it is over", kind)
			}
			if told := toldBy(s.observed("ri_first0", miosa.Stopped, miosa.Failure{Kind: kind})); told != (want && liveness == miosa.Alive) {
				t.Errorf("%s, on a host that is %s: told to stop it %t", kind, liveness, told)
			}
			host.Liveness = miosa.Alive
			if told := toldBy(host); told != (want && liveness == miosa.Lost) {
				t.Errorf("%s, once the host that was %s is alive: told to stop it %t", kind, liveness, told)
			}
		}
	}
}
