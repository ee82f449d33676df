package balance_test

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/balance"
	"github.com/miosa/miosa/routing"
	"github.com/miosa/miosa/transcript"
)

var update = flag.Bool("update", false, "accept the transcripts' new output")

func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", *update, func() transcript.Player { return newStage().line })
}

var epoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// stage is a machine and the little of a router that a script needs.
type stage struct {
	m       *balance.Machine
	now     time.Time
	pools   map[string]routing.Pool
	turns   map[string]uint64
	at      map[string]*standing // by instance ID
	tunnels map[balance.TunnelID]string
	cookies map[string]string // by client: the instance that it stands for
	told    string            // the last report
	out     []string
}

// standing is a backend as the router sees it.
type standing struct {
	inFlight int
	retired  bool
	refuses  bool
	failures int
	sideline time.Time
}

func newStage() *stage {
	return &stage{
		m: balance.NewMachine("router-1"), now: epoch, pools: map[string]routing.Pool{}, turns: map[string]uint64{},
		at: map[string]*standing{}, tunnels: map[balance.TunnelID]string{}, cookies: map[string]string{},
	}
}

// line carries out one line of a script. A name is a host name, or a port as 30001:
//
//	whole GENERATION NAME INSTANCE… [drain=30s] [sticky=cookie|client_ip]
//	update GENERATION NAME INSTANCE… [from=GENERATION] [drain=30s] [sticky=…]
//	update GENERATION NAME gone
//	request NAME [client=anna]     it stays in flight until:
//	answered INSTANCE
//	tunnel NAME | closes TUNNEL
//	refuses INSTANCE | accepts INSTANCE
//	faulty INSTANCE why="…"
//	wait 10s | stop
//
// Reports are shown where they say something new.
func (s *stage) line(l transcript.Line) (string, error) {
	s.out = nil
	switch l.Word(0) {
	case "whole", "update":
		u, err := s.update(l)
		if err != nil {
			return "", err
		}
		s.feed(balance.Updated{Update: u})
	case "request":
		s.request(l.Word(1), l.Text("client", "somebody"))
	case "tunnel":
		if id := s.request(l.Word(1), l.Text("client", "somebody")); id != "" {
			tunnel := balance.TunnelID(len(s.tunnels) + 1)
			s.tunnels[tunnel] = id
			s.feed(balance.Opened{Tunnel: tunnel, Backend: backend(id)})
		}
	case "answered":
		s.ended(l.Word(1))
	case "closes":
		n, err := strconv.Atoi(l.Word(1))
		if err != nil {
			return "", err
		}
		s.feed(balance.Closed{Tunnel: balance.TunnelID(n)})
		s.ended(s.tunnels[balance.TunnelID(n)])
	case "refuses", "accepts":
		s.of(l.Word(1)).refuses = l.Word(0) == "refuses"
	case "faulty":
		s.feed(balance.Faulted{Backend: backend(l.Word(1)), Why: l.Text("why", "")})
	case "wait":
		d, err := time.ParseDuration(l.Word(1))
		if err != nil {
			return "", err
		}
		s.wait(d)
	case "stop":
		s.feed(balance.Stopping{})
	default:
		return "", fmt.Errorf("no such command")
	}
	return strings.Join(s.out, "\n"), nil
}

func backend(id string) routing.Backend {
	return routing.Backend{InstanceID: id, Address: netip.MustParseAddrPort("10.0.0.1:8080")}
}

func (s *stage) of(id string) *standing {
	if s.at[id] == nil {
		s.at[id] = &standing{}
	}
	return s.at[id]
}

func (s *stage) update(l transcript.Line) (routing.Update, error) {
	words := l.Words()
	if len(words) < 3 {
		return routing.Update{}, fmt.Errorf("which generation, which name?")
	}
	generation, err := strconv.ParseInt(words[1], 10, 64)
	if err != nil {
		return routing.Update{}, err
	}
	u := routing.Update{Whole: words[0] == "whole", From: int64(l.Int("from", int(generation)-1)), Generation: generation}
	port, isPort := 0, false
	if n, err := strconv.Atoi(words[2]); err == nil {
		port, isPort = n, true
	}
	p := routing.Pool{VersionID: "ver_1", Drain: l.Duration("drain", miosa.DefaultDrain), Sticky: miosa.Sticky{Mode: miosa.StickyMode(l.Text("sticky", ""))}}
	for _, id := range words[3:] {
		p.Backends = append(p.Backends, backend(id))
	}
	gone := l.Has("gone")
	switch {
	case gone && isPort:
		u.GonePorts = []int{port}
	case gone:
		u.GoneRoutes = []string{words[2]}
	case isPort:
		u.Ports = map[int]routing.Pool{port: p}
	default:
		u.Routes = map[string]routing.Pool{words[2]: p}
	}
	return u, nil
}

// request picks a backend for a client and tries it, until one takes the request.
func (s *stage) request(name, client string) (instance string) {
	pool := s.pools[name]
	tried := map[string]bool{}
	for {
		how := func(i int) balance.Standing {
			id := pool.Backends[i].InstanceID
			switch {
			case tried[id]:
				return balance.Tried
			case s.now.Before(s.of(id).sideline):
				return balance.Sidelined
			}
			return balance.Usable
		}
		s.turns[name]++
		i, returned := balance.Pick(pool.Backends, s.tie(pool, client), s.turns[name]-1, how)
		if i < 0 {
			s.print("%s finds nobody", client)
			return ""
		}
		id := pool.Backends[i].InstanceID
		if returned {
			s.print("none is left that answers: all are tried again")
			for _, b := range pool.Backends {
				s.of(b.InstanceID).sideline = time.Time{}
			}
		}
		b := s.of(id)
		if b.refuses {
			b.failures++
			pause := balance.Sideline(b.failures)
			b.sideline = s.now.Add(pause)
			tried[id] = true
			s.print("%s does not answer: passed over for %s", id, pause)
			continue
		}
		b.failures, b.sideline = 0, time.Time{}
		b.inFlight++
		s.print("%s goes to %s", client, id)
		if pool.Sticky.Mode == miosa.StickyCookie && s.tie(pool, client).At < 0 {
			s.cookies[client] = id
		}
		return id
	}
}

func (s *stage) tie(pool routing.Pool, client string) balance.Tie {
	switch pool.Sticky.Mode {
	case miosa.StickyCookie:
		c := s.cookies[client]
		return balance.Tie{
			Tied: c != "", Key: routing.KeyOf(c),
			At: slices.IndexFunc(pool.Backends, func(b routing.Backend) bool { return b.InstanceID == c }),
		}
	case miosa.StickyClientIP:
		return balance.Tie{Tied: true, Key: routing.KeyOf(client), At: -1}
	}
	return balance.Tie{}
}

// ended counts a request or tunnel out.
func (s *stage) ended(id string) {
	b := s.of(id)
	b.inFlight--
	if b.inFlight == 0 && b.retired {
		s.feed(balance.Idle{Backend: backend(id)})
	}
}

func (s *stage) feed(ev balance.Event) {
	for events := []balance.Event{ev}; len(events) > 0; events = events[1:] {
		for _, effect := range s.m.Handle(s.now, events[0]) {
			if _, ok := effect.(balance.Count); ok {
				inFlight := map[routing.Backend]int{}
				for id, b := range s.at {
					if b.inFlight > 0 {
						inFlight[backend(id)] = b.inFlight
					}
				}
				events = append(events, balance.Counted{InFlight: inFlight})
				continue
			}
			s.say(effect)
		}
	}
}

func (s *stage) wait(d time.Duration) {
	if transcript.Wait(&s.now, s.now.Add(d), s.m.Wake, func() { s.feed(balance.Tick{}) }) {
		s.print("wants to be woken at once, for nothing")
	}
}

func (s *stage) print(format string, args ...any) {
	s.out = append(s.out, fmt.Sprintf("%8s  ", s.now.Sub(epoch).Round(10*time.Millisecond))+fmt.Sprintf(format, args...))
}

func (s *stage) say(effect balance.Effect) {
	switch e := effect.(type) {
	case balance.SetPool:
		s.set(e.Host, e.Pool)
	case balance.SetPort:
		s.set(strconv.Itoa(e.Port), e.Pool)
	case balance.DropHost:
		delete(s.pools, e.Host)
		s.print("%s is known no more", e.Host)
	case balance.DropPort:
		delete(s.pools, strconv.Itoa(e.Port))
		s.print("port %d is closed", e.Port)
	case balance.Admit:
		s.of(e.Backend.InstanceID).retired = false
		s.print("%s is taken back", e.Backend.InstanceID)
	case balance.Retire:
		s.of(e.Backend.InstanceID).retired = true
		s.print("%s gets no more", e.Backend.InstanceID)
	case balance.Forget:
		delete(s.at, e.Backend.InstanceID)
		s.print("%s is done with", e.Backend.InstanceID)
	case balance.Cut:
		s.print("cut what is in flight at %s", e.Backend.InstanceID)
	case balance.CloseTunnel:
		s.print("ask tunnel %d to close", e.Tunnel)
	case balance.Fetch:
		s.print("an update is missing: get the whole table")
	case balance.Report:
		if told := words(e.Report); told != s.told {
			s.told = told
			s.print("report %s", told)
		}
	default:
		s.print("%T", effect)
	}
}

func (s *stage) set(name string, p routing.Pool) {
	s.pools[name], s.turns[name] = p, 0
	var ids []string
	for _, b := range p.Backends {
		ids = append(ids, b.InstanceID)
	}
	if len(ids) == 0 {
		s.print("%s leads to nobody", name)
		return
	}
	s.print("%s leads to %s", name, strings.Join(ids, ", "))
}

func words(r routing.Report) string {
	out := []string{fmt.Sprintf("table %d", r.Generation)}
	if len(r.InFlight) == 0 {
		out = append(out, "nothing in flight")
	}
	for _, id := range slices.Sorted(maps.Keys(r.InFlight)) {
		out = append(out, fmt.Sprintf("%d at %s", r.InFlight[id], id))
	}
	for _, id := range slices.Sorted(maps.Keys(r.Faults)) {
		out = append(out, fmt.Sprintf("fault of %s: %s", id, r.Faults[id]))
	}
	return strings.Join(out, "; ")
}
