// Command idle measures an idle platform: how soon it is ready, how much it
// keeps resident, and what each instance adds to the platform's own process.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/miosa/miosa/bench/rig"
)

const (
	readyLimit   = 1500 * time.Millisecond
	rssLimitMB   = 150.0
	eachLimitMB  = 1.0
	settle       = 5 * time.Second
	settleLonger = 20 * time.Second
)

func main() {
	instances := flag.Int("instances", 20, "instances to add, real VMs: what the platform keeps of each is measured, not the VMM")
	flag.Parse()
	if err := rig.Isolate(); err != nil {
		fail(err)
	}
	if err := run(*instances); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "idle:", err)
	os.Exit(1)
}

func run(instances int) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	ready, rss, _, err := measure(ctx, "", 0)
	if err != nil {
		return err
	}
	fmt.Printf("idle, real driver:   ready after %.0f ms (limit %.0f), %.1f MB resident (limit %.0f)\n", ms(ready), ms(readyLimit), rss, rssLimitMB)
	_, before, after, err := measure(ctx, "", instances)
	if err != nil {
		return err
	}
	each := (after - before) / float64(instances)
	fmt.Printf("%d instances:        %.1f MB before, %.1f MB after: %.2f MB each besides the VMM (limit %.0f)\n", instances, before, after, each, eachLimitMB)
	if ready >= readyLimit || rss >= rssLimitMB || each >= eachLimitMB {
		return fmt.Errorf("over a limit")
	}
	return nil
}

func measure(ctx context.Context, driver string, instances int) (ready time.Duration, before, after float64, err error) {
	// Twice: the first start makes the directory, keys and records.
	r, err := rig.Start(ctx, rig.Options{Driver: driver, Flags: []string{"--cpu-overcommit", "64"}})
	if err != nil {
		return 0, 0, 0, err
	}
	defer func() {
		if e := r.Close(); err == nil {
			err = e
		}
	}()
	if err := r.Signal(os.Interrupt); err != nil {
		return 0, 0, 0, err
	}
	if err := r.Up(ctx); err != nil {
		return 0, 0, 0, err
	}
	time.Sleep(settle)
	if before, err = r.ResidentMB(); err != nil || instances == 0 {
		return r.Ready, before, before, err
	}
	p, err := r.Hello(ctx, "idle", map[string]any{"services": []map[string]any{{
		"name": "web", "type": "web", "run_command": "/app/server", "port": 8080, "health_check_path": "/healthz",
		"desired_replicas": instances, "resources": map[string]any{"memory_mb": 128, "disk_mb": 64},
	}}})
	if err != nil {
		return 0, 0, 0, err
	}
	if _, err := r.AwaitHealthy(ctx, p.Deployment.ID, instances); err != nil {
		return 0, 0, 0, err
	}
	time.Sleep(settleLonger)
	after, err = r.ResidentMB()
	return r.Ready, before, after, err
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
