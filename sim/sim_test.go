package sim_test

import (
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/sim"
)

var (
	seeds = flag.Int("seeds", 60, "how many seeds each simulation runs")
	seed  = flag.Uint64("seed", 0, "run this one seed, traced")
	short = flag.Bool("minimise", false, "with -seed, one that fails: leave out what it does not need to fail, and trace that")
)

// runAll runs every seed, on all cores: a run is one goroutine. One that fails
// is enough to find out why, so no other begins after it.
func runAll(t *testing.T, cfg sim.Config) []sim.Report {
	t.Helper()
	reports := make([]sim.Report, *seeds)
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	var failed atomic.Bool
	for n := range reports {
		g.Go(func() error {
			if failed.Load() {
				return nil
			}
			cfg := cfg
			cfg.Seed = uint64(n + 1)
			var err error
			if reports[n], err = sim.Run(cfg); err != nil {
				failed.Store(true)
				return fmt.Errorf("%w\nrun it again: go test ./sim -run '%s' -seed %d -v", err, t.Name(), cfg.Seed)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	return reports
}

func run(t *testing.T, cfg sim.Config) {
	t.Helper()
	if *seed != 0 {
		cfg.Seed = *seed
		if *short {
			var err error
			if cfg, err = sim.Minimise(cfg, func(left int) { fmt.Printf("\r%d of %d actions are left ", left, cfg.Actions) }); err == nil {
				t.Fatal("the seed does not fail: there is nothing to make shorter")
			}
			fmt.Println()
		}
		cfg.Trace = func(s string) { t.Log(s) }
		report, err := sim.Run(cfg)
		t.Logf("%+v", report)
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	// A run keeps little and makes much garbage.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	total := sim.Report{TaskEnds: map[miosa.TaskState]int{}}
	for _, report := range runAll(t, cfg) {
		total.Events += report.Events
		total.Commits += report.Commits
		total.Conflicts += report.Conflicts
		total.Publishes += report.Publishes
		total.Flips += report.Flips
		total.Failures += report.Failures
		total.Requests += report.Requests
		total.Connections += report.Connections
		total.Tunnels += report.Tunnels
		total.Cuts += report.Cuts
		total.Gaps += report.Gaps
		total.Lost += report.Lost
		total.Excused += report.Excused
		total.Boots += report.Boots
		total.Crashes += report.Crashes
		total.Reloads += report.Reloads
		total.Suspected += report.Suspected
		total.LostHosts += report.LostHosts
		total.Frozen += report.Frozen
		total.Drains += report.Drains
		total.Drained += report.Drained
		total.Refused += report.Refused
		total.Takeovers += report.Takeovers
		total.Singles += report.Singles
		total.Poisoned += report.Poisoned
		total.Tasks += report.Tasks
		total.Attempts += report.Attempts
		total.Denied += report.Denied
		for state, n := range report.TaskEnds {
			total.TaskEnds[state] += n
		}
	}
	t.Logf("%d seeds: %+v", *seeds, total)
	if total.Flips == 0 || total.Failures == 0 || total.Requests == 0 || total.Connections == 0 || total.Tunnels == 0 || total.Cuts == 0 {
		t.Error("the simulation exercised nothing")
	}
	if cfg.Faults && total.Gaps == 0 {
		t.Error("no router missed an update")
	}
	if cfg.Faults && total.Takeovers == 0 {
		t.Error("no control took over from another")
	}
	if cfg.Faults && total.Poisoned == 0 {
		t.Error("no records were poisonous")
	}
	if total.Singles == 0 {
		t.Error("nothing that must never run twice was started")
	}
	ends := []miosa.TaskState{miosa.TaskSucceeded, miosa.TaskFailed, miosa.TaskStopped, miosa.TaskTimedOut}
	if cfg.Faults {
		ends = append(ends, miosa.TaskLost)
	}
	for _, state := range ends {
		if total.TaskEnds[state] == 0 {
			t.Errorf("no task %s", state)
		}
	}
	if total.Attempts <= total.Tasks || cfg.Faults && total.Denied == 0 {
		t.Error("no task was tried again, or no attempt was refused to go on")
	}
	if cfg.Hosts > 1 && (total.Suspected == 0 || total.LostHosts == 0 || total.Drained == 0 || total.Frozen == 0) {
		t.Error("no host was lost, or none was drained, or none froze")
	}
}

// Users publish, scale, roll back and restart; nothing breaks: no request is
// lost and no slot fails.
func TestCalm(t *testing.T) {
	run(t, sim.Config{Deployments: 3, Routers: 2, Hosts: 1, Actions: 30, Span: 40 * time.Minute, Settle: 30 * time.Minute})
}

// The same while apps, VMs, the agent and the control plane die, disks fill up
// or are lost, routers are cut off, commits fail and clocks jump.
func TestFaults(t *testing.T) {
	run(t, sim.Config{Deployments: 3, Routers: 2, Hosts: 1, Actions: 60, Span: 40 * time.Minute, Settle: 60 * time.Minute, Faults: true})
}

// A fleet of three zones, whose hosts are drained, cut off, one way or both, or die
// and come back, or do not.
func TestFleet(t *testing.T) {
	run(t, sim.Config{Deployments: 4, Routers: 2, Hosts: 6, Actions: 90, Span: 40 * time.Minute, Settle: 60 * time.Minute, Faults: true, Swarm: true})
}
