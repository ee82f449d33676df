package balance

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa/routing"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func testBackend(i int) routing.Backend {
	return routing.Backend{
		InstanceID: fmt.Sprintf("ri_%02d", i/2), // two addresses each: a reboot elsewhere
		Address:    netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 80),
	}
}

// fleet is what the machine's effects made of the world: the model that the
// properties are read from.
type fleet struct {
	pools   map[string]routing.Pool
	retired map[routing.Backend]time.Time // since when
	was     map[routing.Backend]time.Duration
	flying  map[routing.Backend]int
	tunnels map[TunnelID]routing.Backend
	asked   map[TunnelID]bool
	cut     map[routing.Backend]bool
	told    []routing.Report
}

// carry runs the effects as the router does, feeding counts back at once.
func (f *fleet) carry(t *rapid.T, m *Machine, now time.Time, effects []Effect) {
	for _, e := range effects {
		switch e := e.(type) {
		case SetPool:
			f.pools[e.Host] = e.Pool
		case DropHost:
			delete(f.pools, e.Host)
		case SetPort:
			f.pools[fmt.Sprint(":", e.Port)] = e.Pool
		case DropPort:
			delete(f.pools, fmt.Sprint(":", e.Port))
		case Retire:
			f.retired[e.Backend] = now
			delete(f.cut, e.Backend)
		case Admit:
			if _, ok := f.retired[e.Backend]; !ok {
				t.Fatalf("%v admitted but was never retired", e.Backend)
			}
			delete(f.retired, e.Backend)
			delete(f.cut, e.Backend)
		case Forget:
			if f.flying[e.Backend] != 0 {
				t.Fatalf("%v forgotten with %d in flight", e.Backend, f.flying[e.Backend])
			}
			delete(f.retired, e.Backend)
			delete(f.cut, e.Backend)
		case Cut:
			if f.cut[e.Backend] {
				t.Fatalf("%v cut twice", e.Backend)
			}
			f.cut[e.Backend] = true
		case CloseTunnel:
			if f.asked[e.Tunnel] {
				t.Fatalf("tunnel %d asked twice", e.Tunnel)
			}
			if _, ok := f.retired[f.tunnels[e.Tunnel]]; !ok {
				t.Fatalf("tunnel %d asked to close though its backend serves", e.Tunnel)
			}
			f.asked[e.Tunnel] = true
		case Count:
			f.carry(t, m, now, m.Handle(now, Counted{maps.Clone(f.flying)}))
		case Report:
			f.told = append(f.told, e.Report)
		}
	}
}

func drawTable(t *rapid.T, generation int64) routing.Table {
	table := routing.Table{Generation: generation, Routes: map[string]routing.Pool{}, Ports: map[int]routing.Pool{}}
	for h := range rapid.IntRange(0, 4).Draw(t, "hosts") {
		var pool routing.Pool
		pool.Drain = time.Duration(rapid.IntRange(0, 60).Draw(t, "drain")) * time.Second
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, 7), 0, 4, rapid.ID[int]).Draw(t, "backends") {
			pool.Backends = append(pool.Backends, testBackend(i))
		}
		slices.SortFunc(pool.Backends, compareBackends)
		if rapid.Bool().Draw(t, "port") {
			table.Ports[30000+h] = pool
		} else {
			table.Routes[fmt.Sprintf("h%d.example", h)] = pool
		}
	}
	return table
}

// difference is the update from one table to the next.
func difference(now, next routing.Table) routing.Update {
	u := routing.Update{From: now.Generation, Generation: next.Generation, Routes: map[string]routing.Pool{}, Ports: map[int]routing.Pool{}}
	for name, pool := range next.Routes {
		if old, known := now.Routes[name]; !known || !old.Equal(pool) {
			u.Routes[name] = pool
		}
	}
	for port, pool := range next.Ports {
		if old, known := now.Ports[port]; !known || !old.Equal(pool) {
			u.Ports[port] = pool
		}
	}
	u.GoneRoutes, u.GonePorts = missing(now.Routes, next.Routes), missing(now.Ports, next.Ports)
	return u
}

func TestMachineProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := NewMachine("router-1")
		f := &fleet{
			pools: map[string]routing.Pool{}, retired: map[routing.Backend]time.Time{}, was: map[routing.Backend]time.Duration{},
			flying: map[routing.Backend]int{}, tunnels: map[TunnelID]routing.Backend{},
			asked: map[TunnelID]bool{}, cut: map[routing.Backend]bool{},
		}
		now, generation, tunnel := epoch, int64(0), TunnelID(0)
		var current routing.Table

		// advance lets time pass, waking the machine whenever it asks for it.
		advance := func(by time.Duration) {
			end := now.Add(by)
			for {
				at := m.Wake()
				if at.IsZero() || at.After(end) {
					break
				}
				if at.After(now) {
					now = at
				}
				f.carry(t, m, now, m.Handle(now, Tick{}))
				if next := m.Wake(); !next.IsZero() && !next.After(now) {
					t.Fatalf("woken at %v, wants to be woken at %v: it would spin", now, next)
				}
			}
			now = end
		}

		t.Repeat(map[string]func(*rapid.T){
			"table": func(t *rapid.T) {
				generation++
				next := drawTable(t, generation)
				u := next.Whole()
				if generation > 1 && rapid.Bool().Draw(t, "only what changes") {
					u = difference(current, next)
				}
				f.carry(t, m, now, m.Handle(now, Updated{u}))
				current = next
				if !routing.SameRoutes(m.table, current) {
					t.Fatalf("the table is %+v, should be %+v", m.table, current)
				}
				if len(f.told) == 0 || f.told[len(f.told)-1].Generation != generation {
					t.Fatalf("generation %d was not acknowledged", generation)
				}
			},
			"old table": func(t *rapid.T) {
				if generation > 1 {
					if got := m.Handle(now, Updated{drawTable(t, generation-1).Whole()}); got != nil {
						t.Fatalf("an older table was taken: %v", got)
					}
				}
			},
			"gap": func(t *rapid.T) {
				u := difference(current, drawTable(t, generation+2))
				u.From++
				if got := m.Handle(now, Updated{u}); len(got) != 1 || got[0] != (Fetch{}) {
					t.Fatalf("an update is missing, and the machine does %v", got)
				}
			},
			"same table": func(t *rapid.T) {
				if generation > 0 {
					told := len(f.told)
					f.carry(t, m, now, m.Handle(now, Updated{current.Whole()}))
					if len(f.told) != told+1 {
						t.Fatal("the same generation was not acknowledged again")
					}
				}
			},
			"request": func(t *rapid.T) {
				for _, host := range slices.Sorted(maps.Keys(f.pools)) {
					p := f.pools[host]
					if len(p.Backends) > 0 {
						f.flying[p.Backends[rapid.IntRange(0, len(p.Backends)-1).Draw(t, "b")]]++
						return
					}
				}
			},
			"upgrade": func(t *rapid.T) {
				// On any backend with something in flight, leaving ones too.
				for _, b := range sortedBackends(f.flying) {
					if f.flying[b] > 0 && rapid.Bool().Draw(t, "this") {
						tunnel++
						f.flying[b]++
						f.tunnels[tunnel] = b
						f.carry(t, m, now, m.Handle(now, Opened{tunnel, b}))
						return
					}
				}
			},
			"end": func(t *rapid.T) {
				for _, id := range slices.Sorted(maps.Keys(f.tunnels)) {
					if rapid.Bool().Draw(t, "tunnel") {
						b := f.tunnels[id]
						delete(f.tunnels, id)
						f.flying[b]--
						f.carry(t, m, now, m.Handle(now, Closed{id}))
						return
					}
				}
				for _, b := range sortedBackends(f.flying) {
					open := 0
					for _, at := range f.tunnels {
						if at == b {
							open++
						}
					}
					if f.flying[b] > open {
						if f.flying[b]--; f.flying[b] == 0 {
							f.carry(t, m, now, m.Handle(now, Idle{b}))
							if _, still := f.retired[b]; still {
								t.Fatalf("%v is idle and not forgotten", b)
							}
						}
						return
					}
				}
			},
			"time": func(t *rapid.T) {
				advance(time.Duration(rapid.IntRange(0, 40_000).Draw(t, "ms")) * time.Millisecond)
			},
			"": func(t *rapid.T) {
				advance(0) // the loop looks at wake after every event
				// What serves is what the table says, no more and no less.
				if !maps.EqualFunc(f.pools, maps.Collect(current.Pools()), routing.Pool.Equal) {
					t.Fatalf("pools %v, table %v", f.pools, current)
				}
				inTable := map[routing.Backend]bool{}
				for _, p := range f.pools {
					for _, b := range p.Backends {
						inTable[b] = true
					}
				}
				for b := range f.retired {
					if inTable[b] {
						t.Fatalf("%v is retired and serves", b)
					}
				}
				for b, since := range f.retired {
					if now.Sub(since) > time.Minute && !f.cut[b] {
						t.Fatalf("%v left %v ago and was never cut", b, now.Sub(since))
					}
				}
				for id, b := range f.tunnels {
					if since, leaving := f.retired[b]; leaving && now.Sub(since) > time.Minute && f.flying[b] > 0 && !f.asked[id] {
						t.Fatalf("tunnel %d was not asked to close %v after its backend left", id, now.Sub(since))
					}
				}
				if n := len(f.told); n > 0 {
					want := map[string]int{}
					for b, k := range f.flying {
						want[b.InstanceID] += k
					}
					for id, k := range f.told[n-1].InFlight {
						if k <= 0 {
							t.Fatalf("%s reported with %d in flight", id, k)
						}
					}
					if f.told[n-1].At.Equal(now) && f.told[n-1].RouterID != "router-1" {
						t.Fatal("the report does not name its router")
					}
				}
			},
		})
	})
}

func TestMachineSpreadsClosesOverTheWindow(t *testing.T) {
	m := NewMachine("r")
	b := testBackend(0)
	m.Handle(epoch, Updated{routing.Table{Generation: 1, Routes: map[string]routing.Pool{"h": {Drain: 30 * time.Second, Backends: []routing.Backend{b}}}}.Whole()})
	const n = 1000
	for id := range TunnelID(n) {
		m.Handle(epoch, Opened{id, b})
	}
	m.Handle(epoch, Updated{routing.Table{Generation: 2}.Whole()})
	m.Handle(epoch, Counted{map[routing.Backend]int{b: n}})
	closed := map[int]int{} // by quarter of the window
	for now := epoch; now.Before(epoch.Add(31 * time.Second)); now = now.Add(100 * time.Millisecond) {
		for _, e := range m.Handle(now, Tick{}) {
			if _, ok := e.(CloseTunnel); ok {
				closed[int(now.Sub(epoch)*4/Window(30*time.Second))]++
			}
		}
	}
	if got := closed[0] + closed[1] + closed[2] + closed[3]; got != n {
		t.Fatalf("%d of %d asked within the window: %v", got, n, closed)
	}
	for q := range 3 {
		if closed[q] < n/5 {
			t.Errorf("quarter %d closes only %d of %d: %v", q, closed[q], n, closed)
		}
	}
}

func TestMachineReturningBackendKeepsItsTunnels(t *testing.T) {
	m := NewMachine("r")
	b := testBackend(0)
	with := map[string]routing.Pool{"h": {Drain: 10 * time.Second, Backends: []routing.Backend{b}}}
	m.Handle(epoch, Updated{routing.Table{Generation: 1, Routes: with}.Whole()})
	m.Handle(epoch, Opened{7, b})
	m.Handle(epoch, Updated{routing.Table{Generation: 2}.Whole()})
	m.Handle(epoch, Updated{routing.Table{Generation: 3, Routes: with}.Whole()})
	for _, e := range m.Handle(epoch.Add(time.Minute), Tick{}) {
		switch e.(type) {
		case CloseTunnel, Cut:
			t.Errorf("%T after the backend came back", e)
		}
	}
}
