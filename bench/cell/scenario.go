package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/miosa/miosa"
	mind "github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/routing"
)

// This file and mind.go are all that runs; the build of before is the same
// scenario with the machine that it had: see before.go.

// size is a fleet.
type size struct{ Hosts, Environments, Instances int }

// figure is one measurement.
type figure struct {
	Name   string
	Median time.Duration // of one event, or the whole
	P99    time.Duration `json:",omitempty"`
	Count  int           `json:",omitempty"` // events, or instances placed
	Bytes  uint64        `json:",omitempty"`
}

// fleet is a machine with everything around it: what it asks for is done at
// once, and comes back to it.
type fleet struct {
	size
	m        *mind.Machine
	now      time.Time
	revision int64
	ids      uint64
	spent    time.Duration // within the machine
	placed   int
	table    int64 // newest generation published
	all      map[string]miosa.Instance
	env      map[string]int // by environment ID: its number
	queue    []mind.Event
	commits  int
	beat     int64 // newest of the hosts'
	gaveUp   bool
}

func (f *fleet) tenantOf(env int) string { return fmt.Sprintf("ten_%05d", env/10) }

const region = "eu"

func (f *fleet) host(n int) miosa.Host {
	return miosa.Host{
		ID: fmt.Sprintf("host_%05d", n), Region: region, Zone: string(rune('a' + n%3)), Liveness: miosa.Alive, Schedulable: true,
		Capacity: miosa.Resources{VCPUs: 32, MemoryMB: 64 << 10, DiskMB: 1 << 20}, Overcommit: 4, PublicKey: make([]byte, 32),
	}
}

func (f *fleet) service(env, replicas int) miosa.Service {
	return miosa.Service{
		ID: fmt.Sprintf("svc_%06d", env), TenantID: f.tenantOf(env), DeploymentID: fmt.Sprintf("dep_%06d", env), EnvironmentID: fmt.Sprintf("env_%06d", env),
		Name: "web", Type: miosa.ServiceWeb, DesiredReplicas: replicas,
	}
}

func (f *fleet) spec(env int) miosa.ServiceSpec {
	sum := sha256.Sum256(fmt.Append(nil, "release", env))
	return miosa.ServiceSpec{
		ServiceID: fmt.Sprintf("svc_%06d", env), Name: "web", Type: miosa.ServiceWeb, Port: 8080, ReleaseID: fmt.Sprintf("rel_%06d", env),
		SHA256: fmt.Sprintf("%x", sum), Command: "/app/server", Health: miosa.DefaultHealthCheck(), Resources: miosa.DefaultResources(),
	}
}

// records are the whole fleet's, everything healthy.
func (f *fleet) records() (nouns []any) {
	for n := range f.Hosts {
		nouns = append(nouns, f.host(n))
	}
	left := f.Instances
	for env := range f.Environments {
		ten, dep, id, ver := f.tenantOf(env), fmt.Sprintf("dep_%06d", env), fmt.Sprintf("env_%06d", env), fmt.Sprintf("ver_%06d", env)
		if env%10 == 0 {
			nouns = append(nouns, miosa.Tenant{ID: ten, Slug: ten[4:]})
		}
		replicas := left / (f.Environments - env)
		left -= replicas
		spec := f.spec(env)
		f.env[id] = env
		nouns = append(nouns,
			miosa.Deployment{ID: dep, TenantID: ten, Name: dep, Slug: dep[4:], State: miosa.DeploymentRunning, CreatedAt: f.now},
			miosa.Environment{ID: id, TenantID: ten, DeploymentID: dep, Name: miosa.Production, ActiveVersionID: ver, ActiveSince: f.now, CreatedAt: f.now},
			f.service(env, replicas),
			miosa.Version{ID: ver, TenantID: ten, DeploymentID: dep, EnvironmentID: id, Number: 1, State: miosa.VersionReady, Services: []miosa.ServiceSpec{spec}, CreatedAt: f.now},
		)
		for slot := range replicas {
			f.ids++
			i := miosa.Instance{
				ID: fmt.Sprintf("ri_%07d", f.ids), TenantID: ten, DeploymentID: dep, EnvironmentID: id, ServiceID: spec.ServiceID, VersionID: ver, Slot: slot,
				Spec: spec, Proven: true, Goal: miosa.GoalRun, HostID: fmt.Sprintf("host_%05d", f.ids%uint64(f.Hosts)), Region: region, Generation: 1, BootSpec: make([]byte, 600),
				CreatedAt: f.now, UpdatedAt: f.now, ScheduledAt: f.now,
			}
			o := f.observed(i, miosa.Healthy)
			i.Observed = o
			f.all[i.ID] = i
			nouns = append(nouns, i, o)
		}
	}
	return nouns
}

func (f *fleet) observed(i miosa.Instance, state miosa.InstanceState) miosa.Observation {
	n := binary.BigEndian.Uint32([]byte{0, i.ID[len(i.ID)-3], i.ID[len(i.ID)-2], i.ID[len(i.ID)-1]})
	return miosa.Observation{
		InstanceID: i.ID, TenantID: i.TenantID, DeploymentID: i.DeploymentID, HostID: i.HostID, Generation: i.Generation, Seq: i.Observed.Seq + 1,
		State: state, Boot: 1, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 8080),
		StartedAt: f.now, HealthyAt: f.now, ReportedAt: f.now, LastProbe: "200 OK",
		Phases: []miosa.Phase{{Name: "vm_started", At: f.now}, {Name: "app_started", At: f.now}},
	}
}

// feed gives the machine an event and carries out what it asks for, until
// nothing is left; only what is spent in the machine counts.
func (f *fleet) feed(ev mind.Event) time.Duration {
	before := f.spent
	f.queue = append(f.queue, ev)
	for n := 0; len(f.queue) > 0 && !f.gaveUp; n++ {
		next := f.queue[0]
		f.queue = f.queue[1:]
		begun := clock()
		effects := f.m.Handle(f.now, next)
		f.spent += (clock() - begun)
		f.carryOut(effects)
		if f.spent-before > *patience {
			f.gaveUp = true
		}
	}
	return f.spent - before
}

// clock is time gone by: with -cpu what this process has computed, all of its
// threads, which is what counts where others compute besides.
func clock() time.Duration {
	if !*cpu {
		return time.Since(start)
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var start = time.Now()

// one gives the machine one event, and leaves for later what follows.
func (f *fleet) one(ev mind.Event) time.Duration {
	begun := clock()
	effects := f.m.Handle(f.now, ev)
	took := (clock() - begun)
	f.carryOut(effects)
	return took
}

func (f *fleet) changed(put ...any) mind.Changed {
	f.revision++
	return mind.Changed{Revision: f.revision, Put: put}
}

func (f *fleet) carryOut(effects []mind.Effect) {
	for _, effect := range effects {
		f.published(effect)
		e, ok := effect.(mind.Commit)
		if !ok {
			continue
		}
		f.commits++
		var put []any
		for _, p := range e.Put {
			if i, ok := p.(miosa.Instance); ok {
				if was := f.all[i.ID]; was.HostID == "" && i.HostID != "" {
					f.placed++
				}
				f.all[i.ID] = i
			}
			put = append(put, p)
		}
		for _, i := range e.Create {
			f.ids++
			i.ID = fmt.Sprintf("ri_%07d", f.ids)
			i.BootSpec = make([]byte, 600)
			if i.HostID != "" {
				f.placed++
			}
			f.all[i.ID] = i
			put = append(put, i)
		}
		changed := f.changed(put...)
		f.queue = append(f.queue, changed, mind.Committed{Environment: e.Environment, Revision: changed.Revision})
	}
}

func of(name string, took []time.Duration) figure {
	slices.Sort(took)
	return figure{Name: name, Median: took[len(took)/2], P99: took[len(took)*99/100], Count: len(took)}
}

// newFleet is a machine that has loaded a fleet.
func newFleet(s size) (*fleet, figure) {
	f := &fleet{size: s, now: time.Unix(1_900_000_000, 0).UTC(), all: map[string]miosa.Instance{}, env: map[string]int{}}
	f.m = mind.NewMachine(mind.Config{Hosts: func(t miosa.Tenant, d miosa.Deployment, _ miosa.Environment) []string {
		return []string{d.Slug + "." + t.Slug + ".example"}
	}})
	nouns := f.records()
	f.revision = 1
	f.now = f.now.Add(time.Hour)
	return f, figure{Name: "load and decide all", Median: f.one(mind.Loaded{Revision: 1, Nouns: nouns}), Count: s.Instances}
}

// anyInstance is the n-th of some that are spread over the fleet.
func (f *fleet) anyInstance(n int) miosa.Instance {
	return f.all[fmt.Sprintf("ri_%07d", 1+n*7919%f.Instances)]
}

func (f *fleet) report(i miosa.Instance, state miosa.InstanceState) mind.Changed {
	o := f.observed(i, state)
	i.Observed = o
	f.all[i.ID] = i
	return f.changed(o)
}

// run measures one fleet.
func run(s size, tell func(figure)) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f, first := newFleet(s)
	f.feed(mind.Tick{})
	runtime.GC()
	runtime.ReadMemStats(&after)
	first.Bytes = after.HeapAlloc - before.HeapAlloc
	tell(first)
	f.now = f.now.Add(time.Second)
	f.feed(mind.Reported{Report: routing.Report{RouterID: "router-1", Generation: f.table, At: f.now}})

	again := f.one(mind.Loaded{Revision: f.revision, Nouns: f.nouns()})
	tell(figure{Name: "load anew and decide all", Median: again})

	var environments []any
	for _, n := range f.nouns() {
		if env, ok := n.(miosa.Environment); ok {
			environments = append(environments, env)
		}
	}
	var passes []time.Duration
	for range 5 {
		passes = append(passes, f.one(f.changed(environments...)))
	}
	tell(of("all are decided, nothing changes", passes))

	events := *samples
	if s.Instances >= 100_000 && *few {
		events = 20
	}
	var probes, down, acks []time.Duration
	for n := range events {
		i := f.anyInstance(n)
		probes = append(probes, f.one(f.report(i, miosa.Healthy)))
		f.feed(mind.Tick{})
	}
	tell(of("an instance reports, nothing changes", probes))
	for n := range events {
		i := f.anyInstance(n)
		f.now = f.now.Add(100 * time.Millisecond)
		down = append(down, f.one(f.report(i, miosa.Starting)))
		f.feed(mind.Tick{})
		ack := mind.Reported{Report: routing.Report{RouterID: "router-1", Generation: f.table, At: f.now}}
		acks = append(acks, f.one(ack))
		f.feed(mind.Tick{})
		down = append(down, f.one(f.report(f.all[i.ID], miosa.Healthy)))
		f.feed(mind.Tick{})
		f.feed(mind.Reported{Report: routing.Report{RouterID: "router-1", Generation: f.table, At: f.now}})
	}
	tell(of("an instance leaves or enters the routes", down))
	tell(of("a router acknowledges", acks))
	f.connects(tell)

	f.settle()
	f.placed = 0
	replicas := min(4000, s.Hosts*8)
	scaled := f.feed(f.changed(f.service(0, replicas)))
	if had := s.Instances / s.Environments; f.placed != replicas-had && !f.gaveUp {
		fmt.Fprintf(os.Stderr, "cell: of %d more replicas %d were placed\n", replicas-had, f.placed)
		os.Exit(1)
	}
	tell(f.whole(figure{Name: fmt.Sprintf("a service scaled to %d", replicas), Median: scaled, Count: f.placed}))

	f.placed = 0
	n := max(1, s.Hosts/20)
	healed := f.lose(n)
	tell(f.whole(figure{Name: fmt.Sprintf("%d hosts lost, all replaced", n), Median: healed, Count: f.placed}))
}

// hostsToLose are n hosts, spread over the fleet.
func (f *fleet) hostsToLose(n int) (out []miosa.Host) {
	for i := range n {
		out = append(out, f.host(i*19%f.Hosts))
	}
	return out
}

func (f *fleet) whole(g figure) figure {
	if f.gaveUp {
		g.Name += " (given up)"
		f.gaveUp, f.queue = false, nil
	}
	return g
}

// nouns are all records as they are now.
func (f *fleet) nouns() []any {
	g := &fleet{size: f.size, now: f.now.Add(-time.Hour), all: map[string]miosa.Instance{}, env: map[string]int{}}
	return g.records()
}

func child(sizes []size) {
	out := json.NewEncoder(os.Stdout)
	for _, s := range sizes {
		run(s, func(g figure) {
			if err := out.Encode(struct {
				size
				figure
			}{s, g}); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		})
	}
}

func sizesOf(instances []int) (out []size) {
	for _, n := range instances {
		out = append(out, size{Hosts: max(3, n/20), Environments: max(1, n/4), Instances: n})
	}
	slices.SortFunc(out, func(a, b size) int { return cmp.Compare(a.Instances, b.Instances) })
	return out
}
