// Command coldstart measures a publish with the base image cached, from its
// acceptance to its place in the route table, phase by phase, and holds our
// own shares of it against their limits.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
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
	{"VMM started → PID 1 runs", "pid1_runs"},
	{"PID 1 runs → app started", "app_started"},
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
	if *driver == "sim" {
		fail(errors.New("a simulated machine has no process whose start could be measured"))
	}
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

func run(runs int, driver string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	for range 50 {
		pace.measure() // the machine at its best
	}
	cold, err := measure(ctx, runs, rig.Options{Driver: driver, Flags: []string{"--templates", "0"}})
	if err != nil {
		return err
	}
	cold.print("each boots a kernel (--templates 0)")
	warm, err := measure(ctx, runs, rig.Options{Driver: driver})
	if err != nil {
		return err
	}
	warm.print("as `miosa up` does it")
	fmt.Printf("  without templates it takes %.1f times as long\n", float64(median(cold.total))/float64(median(warm.total)))
	if median(warm.host) >= hostLimit || median(warm.pid1) >= pid1Limit {
		return fmt.Errorf("over a limit (on a noisy machine: look at the load, and run it again)")
	}
	return nil
}

// figures are those of some cold starts.
type figures struct {
	took              [][]time.Duration // by phase
	host, pid1, total []time.Duration
	resumed, thrown   int
}

// pace tells how fast this machine is at the moment, by a fixed piece of work:
// on a shared one it changes from second to second.
type machinePace struct{ best time.Duration }

var pace machinePace

// slack is how much slower than at its best a machine may be and still count
// as quiet.
const slack = 1.15

func (p *machinePace) measure() time.Duration {
	took := time.Hour
	for range 5 {
		began, sum := time.Now(), [32]byte{}
		for range 40000 {
			sum = sha256.Sum256(sum[:])
		}
		took = min(took, time.Since(began))
	}
	if p.best == 0 || took < p.best {
		p.best = took
	}
	return took
}

func (p *machinePace) steady(before, after time.Duration) bool {
	return float64(max(before, after)) <= slack*float64(p.best)
}

func measure(ctx context.Context, runs int, opts rig.Options) (f figures, err error) {
	r, err := rig.Start(ctx, opts)
	if err != nil {
		return f, err
	}
	defer func() {
		if e := r.Close(); err == nil {
			err = e
		}
	}()
	first, err := r.Hello(ctx, "coldstart", nil)
	if err != nil {
		return f, err
	}
	f.took = make([][]time.Duration, len(phases))
	for len(f.total) < runs {
		// The version before must be gone: its end is work, too.
		if err := quiet(ctx, r); err != nil {
			return f, err
		}
		before := pace.measure()
		moments, err := one(ctx, r, first.Deployment.ID)
		if err != nil {
			return f, err
		}
		if after := pace.measure(); !pace.steady(before, after) && f.thrown < 4*runs {
			f.thrown++
			continue
		}
		// A copy of a template has its PID 1 running the moment it is resumed;
		// any other machine starts a kernel first.
		moments["pid1_runs"] = moments["pid1_started"]
		if at, ok := moments["resumed"]; ok {
			moments["pid1_runs"] = at
			f.resumed++
		}
		last := moments["accepted"]
		for n, p := range phases {
			at, ok := moments[p.until]
			if !ok {
				return f, fmt.Errorf("the boot never came to %q", p.until)
			}
			f.took[n] = append(f.took[n], at.Sub(last))
			last = at
		}
		f.host = append(f.host, moments["vmm_started"].Sub(moments["accepted"])+moments["routed"].Sub(moments["listening"]))
		f.pid1 = append(f.pid1, moments["app_started"].Sub(moments["pid1_runs"]))
		f.total = append(f.total, moments["routed"].Sub(moments["accepted"]))
	}
	return f, nil
}

// quiet waits until one VM is left, and a moment more.
func quiet(ctx context.Context, r *rig.Rig) error {
	for tick := time.NewTicker(100 * time.Millisecond); ; {
		if len(r.VMs()) == 1 {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Second):
		return nil
	}
}

func (f figures) print(how string) {
	fmt.Printf("cold start, median (least) of %d, base image cached: %s; %d runs went on from a template, %d more did not count: the machine was busy with something else\n\n", len(f.total), how, f.resumed, f.thrown)
	row := func(name string, d []time.Duration, limit time.Duration) {
		fmt.Printf("  %-32s %8.1f ms (%.1f)", name, ms(median(d)), ms(slices.Min(d)))
		if limit > 0 {
			fmt.Printf("   limit %.0f", ms(limit))
		}
		fmt.Println()
	}
	for n, p := range phases {
		row(p.name, f.took[n], 0)
	}
	fmt.Println()
	row("all", f.total, 0)
	row("ours on the host", f.host, hostLimit)
	row("ours in PID 1", f.pid1, pid1Limit)
	fmt.Println()
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
	moments, err := boot(ctx, r, deployment, p.Version.ID)
	if err != nil {
		return nil, err
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

// boot are the moments of the boot of the version's instance. A probe may be
// answered, and the version live, before PID 1 has looked who listens: it is
// waited for, and the answer is what then tells since when somebody does.
func boot(ctx context.Context, r *rig.Rig, deployment, version string) (map[string]time.Time, error) {
	for tries := 0; ; tries++ {
		list, err := r.Instances(ctx, deployment, false)
		if err != nil {
			return nil, err
		}
		at := slices.IndexFunc(list, func(i rig.Instance) bool { return i.VersionID == version })
		if at < 0 {
			return nil, fmt.Errorf("no instance of version %s is listed", version)
		}
		moments := map[string]time.Time{"scheduled": list[at].Scheduled}
		for _, ph := range list[at].Phases {
			moments[ph.Name] = ph.At
		}
		healthy := moments["healthy"]
		switch listening, ok := moments["listening"]; {
		case ok && !listening.After(healthy):
			return moments, nil
		case ok || tries > 50:
			moments["listening"] = healthy
			return moments, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
