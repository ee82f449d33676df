// Command heal measures how long the platform takes from the death of a VM to
// its next VMM process, less the crash ladder's delay: VMs of at least 10
// slots are ended by SIGKILL, 20 in all, and every one must be under the limit.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/miosa/miosa/bench/rig"
)

// ladder is the documented delay before the n-th restart in a row.
var ladder = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 30 * time.Second}

const limit = 100 * time.Millisecond

func main() {
	slots := flag.Int("slots", 10, "instances")
	kills := flag.Int("kills", 20, "VMs to end, one after the other")
	driver := flag.String("driver", "", "vmm driver; empty: the default")
	flag.Parse()
	if err := rig.Isolate(); err != nil {
		fail(err)
	}
	if err := run(*slots, *kills, *driver); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "heal:", err)
	os.Exit(1)
}

func run(slots, kills int, driver string) (err error) {
	if slots < 1 || kills < 1 || kills > slots*len(ladder) {
		return fmt.Errorf("%d kills over %d slots: from 1 to %d a slot", kills, slots, len(ladder))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	r, err := rig.Start(ctx, rig.Options{Driver: driver})
	if err != nil {
		return err
	}
	defer func() {
		if e := r.Close(); err == nil {
			err = e
		}
	}()
	p, err := r.Hello(ctx, "heal", map[string]any{"services": []map[string]any{{
		"name": "web", "type": "web", "run_command": "/app/server", "port": 8080, "health_check_path": "/healthz",
		"desired_replicas": slots, "resources": map[string]any{"memory_mb": 128, "disk_mb": 64},
	}}})
	if err != nil {
		return err
	}
	fmt.Printf("%d instances healthy\n", slots)
	var took []time.Duration
	killed := map[string]int{}
	for n := range kills {
		list, err := r.AwaitHealthy(ctx, p.Deployment.ID, slots)
		if err != nil {
			return err
		}
		slices.SortFunc(list, func(a, b rig.Instance) int { return killed[a.ID] - killed[b.ID] })
		victim := list[0]
		d, err := one(ctx, r, p.Deployment.ID, victim, ladder[killed[victim.ID]])
		if err != nil {
			return fmt.Errorf("kill %d: %w", n+1, err)
		}
		killed[victim.ID]++
		took = append(took, d)
		fmt.Printf("kill %2d  %s  restart %d  %7.1f ms after the ladder's %s\n", n+1, victim.ID, killed[victim.ID], ms(d), ladder[killed[victim.ID]-1])
	}
	slices.Sort(took)
	fmt.Printf("\nfrom SIGKILL to the next VMM process, less the ladder's delay: %d kills over %d slots\n  median %.1f ms   worst %.1f ms   limit %.0f ms\n",
		len(took), len(killed), ms(took[len(took)/2]), ms(took[len(took)-1]), ms(limit))
	if worst := took[len(took)-1]; worst >= limit {
		return fmt.Errorf("the worst, %s, is over the limit of %s", worst, limit)
	}
	return nil
}

// one ends a VM and waits for the next boot's VMM to run.
func one(ctx context.Context, r *rig.Rig, deployment string, victim rig.Instance, delay time.Duration) (time.Duration, error) {
	pid, ok := r.VM(victim.VMID)
	if !ok {
		return 0, fmt.Errorf("no process of %s", victim.VMID)
	}
	at := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-tick.C:
		}
		list, err := r.Instances(ctx, deployment, false)
		if err != nil {
			return 0, err
		}
		for _, i := range list {
			if i.ID == victim.ID && i.RestartCount == victim.RestartCount+1 {
				if started := i.Reached("vmm_started"); !started.IsZero() {
					if started.Before(at.Add(delay)) {
						return 0, fmt.Errorf("%s booted %s after its end: the ladder says %s", i.ID, started.Sub(at), delay)
					}
					return started.Sub(at) - delay, nil
				}
			}
		}
	}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
