package disruption_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disruption"
	"github.com/miosa/miosa/transcript"
)

var update = flag.Bool("update", false, "accept the transcripts' new output")

func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", *update, func() transcript.Player {
		s := &stage{world: newWorld()}
		s.room = func(string) string { return s.place }
		return s.line
	})
}

// stage is a world in which a script sees what is decided, and carries it out.
type stage struct {
	*world
	place    string // where new instances go; "" when there is no room
	deadline time.Time
	total    int
	force    bool
}

// line carries out one line of a script:
//
//	host a [alive|suspect|lost]
//	service web replicas=3 [max=25%] on=a,b  its instances are healthy there
//	task 10m on=a                           an attempt at one, with that limit, runs there
//	limit web 1                             its max_unavailable from now on
//	ri_001 unhealthy [failures=2]           room b | room none
//	account web                             what it says
//	ask restart ri_001                      and what is said is done
//	drain a [deadline=10m] [force]          begins
//	look a                                  at that drain; what is said is done
//	well                                    everybody gets on with what they were told
//	wait 5m
func (s *stage) line(l transcript.Line) (string, error) {
	switch l.Word(0) {
	case "host":
		s.host(l.Word(1), miosa.Liveness(l.Word(2)))
	case "service":
		svc := miosa.Service{ID: l.Word(1), Name: l.Word(1), DesiredReplicas: l.Int("replicas", 1)}
		s.services = append(s.services, svc)
		limit, err := miosa.ParseMaxUnavailable(l.Text("max", "0"))
		if err != nil {
			return "", err
		}
		s.limits[svc.ID] = limit
		on := strings.Split(l.Text("on", ""), ",")
		for slot := range svc.DesiredReplicas {
			s.add(svc.ID, slot, on[slot%len(on)], "").Observed.State = miosa.Healthy
		}
	case "task":
		limit, err := time.ParseDuration(l.Word(1))
		if err != nil {
			return "", err
		}
		i := s.add("", 0, l.Text("on", ""), "")
		i.TaskID, i.Limit = "task_1", limit
		i.Observed.State, i.Observed.HealthyAt = miosa.Healthy, s.now
	case "limit":
		limit, err := miosa.ParseMaxUnavailable(l.Word(2))
		s.limits[l.Word(1)] = limit
		return "", err
	case "room":
		s.place = strings.TrimPrefix(l.Word(1), "none")
		for n := range s.instances {
			if i := &s.instances[n]; i.HostID == "" && live(*i) {
				i.HostID = s.place
			}
		}
	case "account":
		a := s.account(l.Word(1))
		return fmt.Sprintf("%d of %d serve, %d must", a.Serving, a.Wanted, a.Floor), nil
	case "ask":
		return s.ask(disruption.Cause(l.Word(1)), l.Words()[2:]), nil
	case "drain":
		s.force, s.total, s.deadline = l.Has("force"), 0, time.Time{}
		if d := l.Duration("deadline", 0); d > 0 {
			s.deadline = s.now.Add(d)
		}
	case "look":
		return s.look(l.Word(1)), nil
	case "well":
		s.well()
	case "wait":
		d, err := time.ParseDuration(l.Word(1))
		s.now = s.now.Add(d)
		return "", err
	default:
		i := s.find(l.Word(0))
		if i == nil {
			return "", fmt.Errorf("there is no %s", l.Word(0))
		}
		i.Observed.State = miosa.InstanceState(l.Word(1))
		i.Observed.Failures = l.Int("failures", 0)
		i.Observed.Failure.Kind = miosa.FailureKind(l.Text("kind", ""))
	}
	return "", nil
}

// ask asks of several instances in one decision.
func (s *stage) ask(c disruption.Cause, ids []string) string {
	var out []string
	a := s.account(s.find(ids[0]).ServiceID)
	for _, id := range ids {
		i := *s.find(id)
		if heir, ok := s.heirs()[id]; ok && heir.HostID != "" || c == disruption.Heal {
			if ok, why := a.Allow(c, i); ok {
				a.Take(i)
				s.leave(id)
				out = append(out, id+" may leave")
			} else {
				out = append(out, id+" stays: "+why)
			}
			continue
		}
		if ok, why := a.AllowReplacement(c, i); ok {
			a.TakeReplacement(i)
			s.replace(i)
			out = append(out, fmt.Sprintf("%s may be replaced: by %s", id, s.heirs()[id].ID))
		} else {
			out = append(out, id+" is not replaced: "+why)
		}
	}
	return strings.Join(out, "\n")
}

func (s *stage) look(host string) string {
	if s.total == 0 {
		for _, i := range s.instances {
			if i.HostID == host && !i.State().Terminal() {
				s.total++
			}
		}
	}
	p := s.drain(host, s.deadline, s.force, s.total)
	var out []string
	for _, m := range p.Replace {
		out = append(out, fmt.Sprintf("replace %s by %s: %s", m.Instance.ID, s.heirs()[m.Instance.ID].ID, m.Reason))
	}
	for _, m := range p.Leave {
		out = append(out, fmt.Sprintf("%s leaves: %s", m.Instance.ID, m.Reason))
	}
	out = append(out, p.Summary)
	if !p.Wake.IsZero() {
		out = append(out, "look again in "+p.Wake.Sub(s.now).String())
	}
	return strings.Join(out, "\n")
}
