package reconcile_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/reconcile"
	"github.com/miosa/miosa/transcript"
)

var update = flag.Bool("update", false, "accept the transcripts' new output")

func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", *update, func() transcript.Player {
		s := &stage{in: reconcile.Input{Now: epoch, Hosts: map[string]miosa.Host{"one": {ID: "one", Liveness: miosa.Alive}}}, host: "one"}
		return s.line
	})
}

// stage carries decisions out as control and a host would.
type stage struct {
	in   reconcile.Input
	next int
	host string // where new instances go; "" when there is no room
}

// line carries out one line of a script:
//
//	service NAME replicas=2 [age=1h]      add or change one
//	version NAME [proven] [trial] [sets=2]  a side of its own, for all services; how
//	                                      many instances of each it brings
//	ended NAME                            that version is no longer wanted
//	host NAME [alive|suspect|lost]        room NAME|none
//	INSTANCE STATE [kind=completed] [failures=3] [failure="words"]
//	restart INSTANCE | stop INSTANCE      a customer asks
//	wait 10s | decide
//
// Only decide prints, and carries out what it prints.
func (s *stage) line(l transcript.Line) (string, error) {
	switch l.Word(0) {
	case "service":
		s.service(l)
	case "version":
		side := reconcile.Side{Version: miosa.Version{ID: l.Word(1)}, Since: s.in.Now, Proven: l.Has("proven")}
		if l.Has("trial") {
			side.AtLeast = 1
		}
		for _, svc := range s.in.Services {
			spec := miosa.ServiceSpec{ServiceID: svc.ID}
			if n := l.Int("sets", -1); n >= 0 {
				spec.Settings = miosa.ServiceSettings{SetsReplicas: true, Replicas: n}
			}
			side.Version.Services = append(side.Version.Services, spec)
		}
		s.in.Sides = append(s.in.Sides, side)
	case "ended":
		s.in.Sides = slices.DeleteFunc(s.in.Sides, func(d reconcile.Side) bool { return d.Version.ID == l.Word(1) })
	case "host":
		s.in.Hosts[l.Word(1)] = miosa.Host{ID: l.Word(1), Liveness: miosa.Liveness(l.Word(2))}
	case "room":
		s.host = strings.TrimPrefix(l.Word(1), "none")
	case "restart":
		return "", s.edit(l.Word(1), func(i *miosa.Instance) { i.ReplaceAsked = true })
	case "stop":
		return "", s.edit(l.Word(1), func(i *miosa.Instance) { i.Goal = miosa.GoalDrain })
	case "wait":
		d, err := time.ParseDuration(l.Word(1))
		s.in.Now = s.in.Now.Add(d)
		return "", err
	case "decide":
		return s.decide(), nil
	default:
		return "", s.edit(l.Word(0), func(i *miosa.Instance) {
			i.Observed.State = miosa.InstanceState(l.Word(1))
			i.Observed.Generation = i.Generation
			i.Observed.Failures = l.Int("failures", 0)
			i.Observed.Failure = miosa.Failure{Kind: miosa.FailureKind(l.Text("kind", "")), Message: l.Text("failure", "")}
		})
	}
	return "", nil
}

func (s *stage) service(l transcript.Line) {
	svc := miosa.Service{ID: l.Word(1), DesiredReplicas: l.Int("replicas", 1), Restart: miosa.RestartPolicy{MaxAge: l.Duration("age", 0)}}
	s.in.Services = slices.DeleteFunc(s.in.Services, func(o miosa.Service) bool { return o.ID == svc.ID })
	s.in.Services = append(s.in.Services, svc)
}

func (s *stage) edit(id string, how func(*miosa.Instance)) error {
	for n := range s.in.Instances {
		if s.in.Instances[n].ID == id {
			how(&s.in.Instances[n])
			return nil
		}
	}
	return fmt.Errorf("there is no %s", id)
}

func (s *stage) decide() string {
	r := reconcile.Decide(s.in)
	var out []string
	for _, a := range r.Actions {
		switch a.Op {
		case reconcile.Create:
			i := miosa.Instance{
				ID: fmt.Sprint("ri_", s.next), ServiceID: a.Service.ID, VersionID: a.Version, Slot: a.Slot, Replaces: a.Replaces,
				Goal: miosa.GoalRun, HostID: s.host, CreatedAt: s.in.Now, PriorFailures: a.Failures, Generation: 1,
			}
			if i.HostID == a.Avoid {
				i.HostID = ""
			}
			s.next++
			s.in.Instances = append(s.in.Instances, i)
			line := fmt.Sprintf("create %s for slot %d of %s in %s: %s", i.ID, a.Slot, a.Service.ID, a.Version, a.Reason)
			if a.Failures > 0 {
				line += fmt.Sprintf(" (the ladder goes on after %d)", a.Failures)
			}
			if i.HostID == "" {
				line += " (no host)"
			}
			out = append(out, line)
		case reconcile.Drain:
			out = append(out, fmt.Sprintf("drain %s: %s", a.Instance.ID, a.Reason))
			_ = s.edit(a.Instance.ID, func(i *miosa.Instance) { i.Goal = miosa.GoalDrain })
		case reconcile.Restart:
			out = append(out, fmt.Sprintf("restart %s: %s", a.Instance.ID, a.Reason))
			_ = s.edit(a.Instance.ID, func(i *miosa.Instance) { i.RestartNonce++; i.Generation++; i.ReplaceAsked = false })
		}
	}
	if len(out) == 0 {
		out = append(out, "nothing to do")
	}
	if !r.Wake.IsZero() {
		out = append(out, "look again in "+r.Wake.Sub(s.in.Now).String())
	}
	return strings.Join(out, "\n")
}
