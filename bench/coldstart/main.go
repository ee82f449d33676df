// Command coldstart measures a publish with the base image cached, from its
// acceptance to its place in the route table, phase by phase, and holds our
// own shares of it against their limits.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/miosa/miosa/bench/rig"
)

// phases in their order; each is measured from the one before.
var phases = []struct{ name, until string }{
	{"accepted → scheduled", "scheduled"},
	{"scheduled → boot decided", "boot_decided"},
	{"boot decided → image ready", "image_ready"},
	{"image ready → boot slot free", "slot_free"},
	{"boot slot free → VMM started", "vmm_started"},
	{"VMM started → PID 1 (kernel)", "pid1_started"},
	{"PID 1 → app started", "app_started"},
	{"app started → listening", "listening"},
	{"listening → healthy", "healthy"},
	{"healthy → in the route table", "routed"},
}

const (
	hostLimit = 100 * time.Millisecond
	pid1Limit = 350 * time.Millisecond
)

func main() {
	runs := flag.Int("runs", 5, "publishes to take the median of")
	driver := flag.String("driver", "", "vmm driver; empty: the default")
	flag.Parse()
	if err := rig.Isolate(); err != nil {
		fail(err)
	}
	if err := run(*runs, *driver); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "coldstart:", err)
	os.Exit(1)
}

func run(runs int, driver string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
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
	first, err := r.Hello(ctx, "coldstart", nil)
	if err != nil {
		return err
	}
	took := make([][]time.Duration, len(phases))
	var host, pid1, total []time.Duration
	for range runs {
		moments, err := one(ctx, r, first.Deployment.ID)
		if err != nil {
			return err
		}
		before := moments["accepted"]
		for n, p := range phases {
			at, ok := moments[p.until]
			if !ok {
				return fmt.Errorf("the boot never came to %q", p.until)
			}
			took[n] = append(took[n], at.Sub(before))
			before = at
		}
		host = append(host, moments["vmm_started"].Sub(moments["accepted"])+moments["routed"].Sub(moments["listening"]))
		pid1 = append(pid1, moments["app_started"].Sub(moments["pid1_started"]))
		total = append(total, moments["routed"].Sub(moments["accepted"]))
	}
	fmt.Printf("cold start, median of %d, base image cached\n\n", runs)
	for n, p := range phases {
		fmt.Printf("  %-32s %8.1f ms\n", p.name, ms(median(took[n])))
	}
	fmt.Printf("\n  %-32s %8.1f ms\n", "all", ms(median(total)))
	fmt.Printf("  %-32s %8.1f ms   limit %.0f\n", "ours on the host", ms(median(host)), ms(hostLimit))
	fmt.Printf("  %-32s %8.1f ms   limit %.0f\n", "ours in PID 1", ms(median(pid1)), ms(pid1Limit))
	if median(host) >= hostLimit || median(pid1) >= pid1Limit {
		return fmt.Errorf("over a limit (on a noisy machine: look at the load, and run it again)")
	}
	return nil
}

// one restarts the service, which publishes a new version of the same
// release, and collects the moments of its instance's boot. The acceptance is
// the version's own time of creation, the route's is the event of the flip.
func one(ctx context.Context, r *rig.Rig, deployment string) (map[string]time.Time, error) {
	rel := []struct {
		ID string `json:"id"`
	}{}
	if err := r.Call(ctx, "GET", "/deployments/"+deployment+"/releases", nil, &rel); err != nil {
		return nil, err
	}
	p, err := r.Publish(ctx, deployment, rig.HelloBody(rel[0].ID, nil))
	if err != nil {
		return nil, err
	}
	if !p.Promoted {
		return nil, fmt.Errorf("publish failed: %s", p.Version.ErrorMessage)
	}
	list, err := r.Instances(ctx, deployment, false)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(list, func(i rig.Instance) bool { return i.VersionID == p.Version.ID })
	if at < 0 {
		return nil, fmt.Errorf("no instance of version %d is listed", p.Version.Number)
	}
	moments := map[string]time.Time{"scheduled": list[at].Scheduled}
	for _, ph := range list[at].Phases {
		moments[ph.Name] = ph.At
	}
	var version struct {
		CreatedAt  time.Time `json:"created_at"`
		PromotedAt time.Time `json:"promoted_at"`
	}
	if err := r.Call(ctx, "GET", "/deployments/"+deployment+"/versions/"+p.Version.ID, nil, &version); err != nil {
		return nil, err
	}
	moments["accepted"], moments["routed"] = version.CreatedAt, version.PromotedAt
	return moments, nil
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
