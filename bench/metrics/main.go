// Command metrics measures the built-in history: what a day of instances takes
// on disk, how long a day of a service takes to draw, and what sampling and
// keeping adds to the platform's memory. The day is played into the store as
// the platform would; the memory is that of a real `miosa up` with simulated
// VMs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/miosa/miosa/bench/rig"
	"github.com/miosa/miosa/metrics"
	historydb "github.com/miosa/miosa/metrics/pebble"
)

const (
	diskLimitKB  = 160.0
	queryLimit   = 500 * time.Millisecond
	memoryLimit  = 1.0 // MB an instance, of all that the platform keeps of it
	replicas     = 50  // the most that a plan allows by default
	settleLonger = 65 * time.Second
)

func main() {
	instances := flag.Int("instances", 200, "instances")
	up := flag.Int("up", 200, "instances of a real platform with simulated VMs; 0: skip it")
	flag.Parse()
	if err := rig.Isolate(); err != nil {
		fail(err)
	}
	if err := errors.Join(day(*instances), platform(*up)); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "metrics:", err)
	os.Exit(1)
}

// day plays a day of instances, 50 a service, and looks at it.
func day(instances int) (err error) {
	dir, err := os.MkdirTemp("", "miosa-history-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := historydb.Open(historydb.Config{Dir: dir, Log: slog.New(slog.DiscardHandler), MinFree: 1 << 20})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)

	crowd := newCrowd(instances)
	begin := time.Now().Add(-metrics.Kept).Truncate(metrics.Interval)
	passes := int(metrics.Kept / metrics.Interval)
	var took []time.Duration
	for n := range passes {
		pass := crowd.pass(begin.Add(time.Duration(n) * metrics.Interval))
		began := time.Now()
		if err := s.Append(context.Background(), pass); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	size, err := bytesIn(dir)
	if err != nil {
		return err
	}
	perDay := float64(size) / 1024 / float64(instances)
	p50, p99 := quantiles(took)
	fmt.Printf("a day of %d instances, every %s:  %.1f MB on disk, %.1f KB an instance (limit %.0f)\n", instances, metrics.Interval, float64(size)/(1<<20), perDay, diskLimitKB)
	fmt.Printf("keeping a pass:                   p50 %.1f ms, p99 %.1f ms\n", ms(p50), ms(p99))
	fmt.Printf("on the heap:                      %.1f MB\n", float64(after.HeapAlloc-min(after.HeapAlloc, before.HeapAlloc))/(1<<20))

	one, many := crowd.owners[0], metrics.Scope{TenantID: crowd.owners[0].TenantID, DeploymentID: crowd.owners[0].DeploymentID}
	slowest := time.Duration(0)
	for _, q := range []struct {
		what  string
		scope metrics.Scope
	}{
		{"an instance's day in 288 points", metrics.Scope(one)},
		{fmt.Sprintf("a service's day, of %d instances", min(replicas, instances)), many},
	} {
		took = nil
		for range 20 {
			began := time.Now()
			if err := draw(s, q.scope, begin); err != nil {
				return err
			}
			took = append(took, time.Since(began))
		}
		p50, p99 := quantiles(took)
		fmt.Printf("%-34sp50 %.1f ms, most %.1f ms\n", q.what+":", ms(p50), ms(p99))
		slowest = max(slowest, p50)
	}
	fmt.Printf("limit of a query's median:        %d ms\n", queryLimit.Milliseconds())
	if perDay >= diskLimitKB || slowest >= queryLimit {
		return errors.New("over a limit")
	}
	return nil
}

func draw(s *historydb.Store, scope metrics.Scope, since time.Time) error {
	grid := metrics.NewGrid(since, since.Add(metrics.Kept), metrics.Step(metrics.Kept, 300))
	shaper := metrics.NewShaper(metrics.Want{Grid: grid, Figures: metrics.Figures(), Sources: 100})
	rows := 0
	for r, err := range s.Read(context.Background(), scope, since, since.Add(metrics.Kept)) {
		if err != nil {
			return err
		}
		shaper.Add(r)
		rows++
	}
	out := shaper.Done()
	if rows == 0 || len(out.Sources) == 0 || math.IsNaN(out.Total[metrics.CPU].Values[100]) {
		return fmt.Errorf("of %d rows nothing is drawn", rows)
	}
	return nil
}

// crowd is instances that work as apps do: with a load that comes and goes,
// memory that creeps and falls, traffic in bursts.
type crowd struct {
	owners []metrics.Owner
	state  [][9]float64
	random *rand.Rand
}

func newCrowd(n int) *crowd {
	c := &crowd{random: rand.New(rand.NewPCG(1, 2)), state: make([][9]float64, n)}
	for i := range n {
		c.owners = append(c.owners, metrics.Owner{
			TenantID: fmt.Sprintf("ten_%026d", 1), DeploymentID: fmt.Sprintf("dep_%026d", i/replicas),
			ServiceID: fmt.Sprintf("svc_%026d", i/replicas), SourceID: fmt.Sprintf("ri_%026d", i),
		})
		c.state[i][1], c.state[i][2] = 120<<10, 60<<10
	}
	return c
}

func (c *crowd) pass(at time.Time) metrics.Pass {
	pass := metrics.Pass{At: at.Add(time.Duration(c.random.IntN(3)) * time.Millisecond)}
	daily := 1 + math.Sin(float64(at.Unix()%86400)/86400*2*math.Pi)
	for i, o := range c.owners {
		s := &c.state[i]
		busy := daily * (0.5 + c.random.Float64()) * float64(1+i%5)
		s[0] += busy * 300
		s[1] += c.random.NormFloat64() * 200
		s[2] += c.random.NormFloat64() * 400
		if s[2] > 100<<10 || s[2] < 20<<10 {
			s[2] = 60 << 10
		}
		if c.random.IntN(8) == 0 {
			s[3] += float64(c.random.IntN(64))
			s[4] += float64(c.random.IntN(16))
		}
		s[5] += busy * 4000 * (0.5 + c.random.Float64())
		s[6] += busy * 40000 * (0.5 + c.random.Float64())
		if c.random.IntN(20000) == 0 {
			s[7]++
		}
		s[8] = 800 + c.random.ExpFloat64()*700
		sample := metrics.Sample{Owner: o}
		for f := range s {
			sample.Values.Set(metrics.Figure(f), int64(s[f])) //nolint:gosec // nine of them
		}
		pass.Samples = append(pass.Samples, sample)
	}
	return pass
}

// platform measures what each instance adds to a real one that samples it.
func platform(instances int) error {
	if instances == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	// So many take more than this machine has: what a simulated VM is promised costs nothing.
	r, err := rig.Start(ctx, rig.Options{Driver: "sim", Flags: []string{"--cpu-overcommit", "512"}})
	if err != nil {
		return err
	}
	err = grow(ctx, r, instances)
	return errors.Join(err, r.Close())
}

func grow(ctx context.Context, r *rig.Rig, instances int) error {
	before, err := r.ResidentMB()
	if err != nil {
		return err
	}
	for n := 0; n*replicas < instances; n++ {
		count := min(replicas, instances-n*replicas)
		p, err := r.Hello(ctx, fmt.Sprintf("metrics-%d", n), map[string]any{"services": []map[string]any{{
			"name": "web", "type": "web", "run_command": "sim serve", "port": 8080, "health_check_path": "/",
			"desired_replicas": 1, "resources": map[string]any{"memory_mb": 64, "disk_mb": 64},
		}}})
		if err != nil {
			return err
		}
		// A publish counts twice against the plan, a scale does not.
		res, err := r.Do(ctx, "POST", "/deployments/"+p.Deployment.ID+"/scale", map[string]any{"instances": count})
		if err != nil || res.Status != http.StatusOK {
			return fmt.Errorf("scale to %d: %d %s, %w", count, res.Status, res.Body, err)
		}
		if _, err := r.AwaitHealthy(ctx, p.Deployment.ID, count); err != nil {
			return err
		}
	}
	select { // a few passes with what guests say of themselves
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settleLonger):
	}
	after, err := r.ResidentMB()
	if err != nil {
		return err
	}
	each := (after - before) / float64(instances)
	fmt.Printf("a platform with %d instances:    %.1f MB resident before, %.1f MB after: %.2f MB each, all that is kept of it (limit %.0f)\n", instances, before, after, each, memoryLimit)
	if each >= memoryLimit {
		return errors.New("over the limit")
	}
	return nil
}

func bytesIn(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}

func quantiles(took []time.Duration) (p50, p99 time.Duration) {
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
