package liveness_test

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/liveness"
	"github.com/miosa/miosa/transcript"
)

var update = flag.Bool("update", false, "accept the transcripts' new output")

func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", *update, func() transcript.Player {
		s := &stage{world: newWorld(liveness.Config{})}
		s.see = s.say
		return s.line
	})
}

// stage is a world that tells what it sees.
type stage struct {
	*world
	out    []string
	moment time.Duration
	alike  map[string][]string // by what is said at this moment: of whom
	order  []string
}

// line carries out one line of a script:
//
//	hosts a b c [instances=10]     hosts h 1-40 [instances=10]: h1, h2 … h40
//	silent a b | beats a b         their agents; or h 1-13
//	count a instances=3 [replaced=3]
//	fails a app=shop | starts a | forgive a
//	wait 12s
//	pause 40s                      of who decides, which reads its mail then
//	clock +1h                      of who decides is set
//	store away | store back
//	proceed                        says an operator
//	take over                      another decider
//	status a
//
// What is said of many hosts alike, at one moment, stands on one line.
func (s *stage) line(l transcript.Line) (string, error) {
	s.out = nil
	var err error
	switch l.Word(0) {
	case "hosts":
		for _, id := range names(l) {
			s.add(id, l.Int("instances", 10)).next = s.now
		}
	case "silent", "beats":
		for _, id := range names(l) {
			if s.byID[id] == nil {
				return "", fmt.Errorf("there is no %s", id)
			}
			s.setBeating(id, l.Word(0) == "beats")
		}
	case "count":
		s.tell(l.Word(1), l.Int("instances", 0), l.Int("replaced", 0))
	case "fails":
		s.feed(liveness.StartFailed{Host: l.Word(1), App: l.Text("app", "")})
	case "starts":
		s.feed(liveness.StartSucceeded{Host: l.Word(1)})
	case "forgive":
		s.feed(liveness.Forgive{Host: l.Word(1)})
	case "wait":
		var d time.Duration
		if d, err = time.ParseDuration(l.Word(1)); err == nil {
			s.run(d)
		}
	case "pause":
		var d time.Duration
		if d, err = time.ParseDuration(l.Word(1)); err == nil {
			s.stop()
			s.run(d)
			s.resume()
		}
	case "clock":
		var d time.Duration
		d, err = time.ParseDuration(l.Word(1))
		s.skew += d
	case "store":
		s.feed(liveness.Writable{OK: l.Word(1) == "back"})
	case "proceed":
		s.feed(liveness.Proceed{})
	case "take":
		s.takeOver()
	case "status":
		a := s.byID[l.Word(1)]
		st, _ := s.m.Status(a.id)
		words := fmt.Sprintf("%s is %s, %d of %d instances may be replaced", a.id, st.Liveness, a.granted, a.instances)
		if st.Failing {
			words += ", failing"
		}
		s.flush()
		s.out = append(s.out, s.at()+words)
	default:
		return "", fmt.Errorf("what is %s?", l.Word(0))
	}
	s.flush()
	return strings.Join(s.out, "\n"), err
}

// names are the hosts of a line; "h 1-3" is h1, h2 and h3.
func names(l transcript.Line) []string {
	words := l.Words()[1:]
	if len(words) != 2 {
		return words
	}
	first, last, ok := strings.Cut(words[1], "-")
	from, err := strconv.Atoi(first)
	if !ok || err != nil {
		return words
	}
	to, err := strconv.Atoi(last)
	if err != nil {
		return words
	}
	var out []string
	for n := from; n <= to; n++ {
		out = append(out, fmt.Sprint(words[0], n))
	}
	return out
}

func (s *stage) at() string {
	return fmt.Sprintf("%9s  ", s.now.Sub(epoch).Round(100*time.Millisecond))
}

// say gathers what is said at one moment.
func (s *stage) say(effect liveness.Effect) {
	if at := s.now.Sub(epoch).Round(100 * time.Millisecond); at != s.moment {
		s.flush()
		s.moment = at
	}
	who, what := "", ""
	switch e := effect.(type) {
	case liveness.Judge:
		who, what = e.Host, string(e.Liveness)
		if e.Failing {
			what += ", failing"
		}
		if len(e.Reasons) > 0 {
			what += ": " + strings.Join(e.Reasons, "; ")
		}
	case liveness.Grant:
		who, what = e.Host, fmt.Sprintf("%d more may be replaced", e.Instances)
		if e.All {
			what += ": that is all"
		}
	case liveness.Hold:
		what = map[bool]string{true: "hold", false: "go on"}[e.On]
	case liveness.Tell:
		what = e.Type + ": " + e.Message
		if e.Host != "" && s.byID[e.Host].liveness != miosa.Alive {
			return // its reasons say the same
		}
	}
	if s.alike == nil {
		s.alike = map[string][]string{}
	}
	if s.alike[what] == nil {
		s.order = append(s.order, what)
	}
	s.alike[what] = append(s.alike[what], who)
}

func (s *stage) flush() {
	at := fmt.Sprintf("%9s  ", s.moment)
	for _, what := range s.order {
		who := s.alike[what]
		switch {
		case who[0] == "" || strings.HasPrefix(what, "host."):
			s.out = append(s.out, at+what)
		case len(who) > 6:
			s.out = append(s.out, fmt.Sprintf("%s%s … %s (%d) %s", at, who[0], who[len(who)-1], len(who), what))
		default:
			s.out = append(s.out, at+strings.Join(who, ", ")+" "+what)
		}
	}
	s.alike, s.order = nil, nil
}
