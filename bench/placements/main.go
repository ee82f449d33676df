// Command placements measures control with the store that it has: the embedded
// etcd, on disk. Services of a whole fleet are scaled at once, and every placement
// is decided, sealed for its host and committed; then every instance's host reports
// on it. Beside both, in the same run, what the store takes of the same records
// written by nobody in particular.
//
//	go run ./bench/placements
//	go run ./bench/placements -hosts 100 -environments 200 -replicas 4
package main

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/control"
	"github.com/miosa/miosa/schedule"
	"github.com/miosa/miosa/secret"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/etcd"
)

// limit is what 5,000 hosts and 100,000 instances need when a zone's third of them
// is to be replaced within ten seconds or so.
const limit = 3750

var (
	hosts        = flag.Int("hosts", 5000, "hosts of the fleet")
	environments = flag.Int("environments", 1000, "environments, of one service each")
	replicas     = flag.Int("replicas", 16, "replicas that each is scaled to, from 1")
	profile      = flag.String("cpuprofile", "", "`FILE` for a profile of the placements")
	reporters    = flag.Int("reporters", 64, "reports of hosts that are under way at once")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "placements:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "placements-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := etcd.Open(ctx, etcd.Config{Dir: filepath.Join(dir, "etcd"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	f := &fleet{Store: s, instances: map[string]miosa.Instance{}}
	if err := f.fill(ctx); err != nil {
		return err
	}
	raw, err := f.raw(ctx)
	if err != nil {
		return err
	}
	c, err := control.New(control.Options{
		Config: cell.Config{Hosts: func(_ miosa.Tenant, d miosa.Deployment, _ miosa.Environment) []string {
			return []string{d.Slug + ".test"}
		}},
		PublicURL: func(miosa.Tenant, miosa.Deployment, miosa.Environment) string { return "" }, Observer: f,
	}, s, none{}, secret.SealTo, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		return err
	}
	var g errgroup.Group
	running, stop := context.WithCancel(ctx)
	g.Go(func() error { return c.Run(running) })
	g.Go(func() error { return f.beat(running, c.Link()) })
	defer func() {
		stop()
		err = errors.Join(err, g.Wait())
	}()
	if err := f.measure(ctx, c, raw); err != nil {
		return err
	}
	return nil
}

func (f *fleet) measure(ctx context.Context, c *control.Control, raw float64) error {
	if err := f.await(ctx, *environments); err != nil { // one of each
		return err
	}
	if *profile != "" {
		file, err := os.Create(*profile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
	}
	begun, cpu := time.Now(), cpuTime()
	if err := f.scale(ctx); err != nil {
		return err
	}
	if err := f.await(ctx, *environments**replicas); err != nil {
		return err
	}
	pprof.StopCPUProfile()
	placed := *environments * (*replicas - 1)
	rate := float64(placed) / time.Since(begun).Seconds()
	fmt.Printf("%d hosts, %d environments of 1 to %d replicas, %d cores\n", *hosts, *environments, *replicas, runtime.NumCPU())
	fmt.Printf("  placements committed         %8.0f /s   %d in %s (%s of CPU); limit %d/s\n", rate, placed, time.Since(begun).Round(time.Millisecond), (cpuTime() - cpu).Round(time.Millisecond), limit)
	fmt.Printf("  the same records, raw        %8.0f /s   placements are %.0f %% of that\n", raw, 100*rate/raw)

	single, err := f.report(ctx, miosa.Starting, func(ctx context.Context, i miosa.Instance, o miosa.Observation) error {
		_, err := store.Update(ctx, f.Store, func(tx *store.Tx) error { return control.Record(tx, i.HostID, o, time.Now().UTC(), rand.Reader) })
		return err
	})
	if err != nil {
		return err
	}
	link := c.Link()
	together, err := f.report(ctx, miosa.Healthy, func(ctx context.Context, i miosa.Instance, o miosa.Observation) error {
		return link.Observe(ctx, i.HostID, o)
	})
	if err != nil {
		return err
	}
	fmt.Printf("  reports one by one           %8.0f /s   %.2f reports a commit\n", single.rate, single.each)
	fmt.Printf("  reports as control takes them %7.0f /s   %.2f reports a commit, %.1f times as fast\n", together.rate, together.each, together.rate/single.rate)
	if rate < limit {
		return fmt.Errorf("%.0f placements/s are less than %d", rate, limit)
	}
	return nil
}

// fleet is everything around control; it observes what control commits.
type fleet struct {
	store.Store
	placed atomic.Int64

	mu        sync.Mutex
	instances map[string]miosa.Instance // guarded by mu
}

// none is the vault of services without variables.
type none struct{}

func (none) Open(context.Context, string, string, []byte) ([]byte, error) {
	return nil, errors.New("there is nothing to open")
}

func (f *fleet) Loaded([]any) {}

func (f *fleet) Changed([]any, []string) {}

func (f *fleet) Placed(i miosa.Instance, _ []string, _ schedule.Answer) {
	f.mu.Lock()
	f.instances[i.ID] = i
	f.mu.Unlock()
	f.placed.Add(1)
}

func (f *fleet) await(ctx context.Context, n int) error {
	for f.placed.Load() < int64(n) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d are placed: %w", f.placed.Load(), n, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}

func hostID(n int) string { return fmt.Sprintf("host_%05d", n) }

func (f *fleet) service(env int) miosa.Service {
	return miosa.Service{
		ID: fmt.Sprintf("svc_%06d", env), TenantID: fmt.Sprintf("ten_%05d", env/10), DeploymentID: fmt.Sprintf("dep_%06d", env), EnvironmentID: fmt.Sprintf("env_%06d", env),
		Name: "web", Type: miosa.ServiceWeb, DesiredReplicas: 1,
	}
}

// fill writes the fleet's records: hosts, and environments with a live version.
func (f *fleet) fill(ctx context.Context) error {
	now := time.Now().UTC()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	var writes []func(tx *store.Tx) error
	for n := range *hosts {
		writes = append(writes, func(tx *store.Tx) error {
			return store.Save(tx, store.Hosts, miosa.Host{
				ID: hostID(n), Name: hostID(n), Region: "eu", Zone: string(rune('a' + n%3)), Liveness: miosa.Alive, Schedulable: true, PublicKey: key.PublicKey().Bytes(),
				Capacity: miosa.Resources{VCPUs: 32, MemoryMB: 64 << 10, DiskMB: 1 << 20}, Overcommit: 4, CreatedAt: now,
			})
		})
	}
	for n := range *environments {
		svc := f.service(n)
		sum := sha256.Sum256(fmt.Append(nil, "release", n))
		spec := miosa.ServiceSpec{
			ServiceID: svc.ID, Name: "web", Type: miosa.ServiceWeb, Port: 8080, ReleaseID: fmt.Sprintf("rel_%06d", n), SHA256: fmt.Sprintf("%x", sum),
			Command: "/app/server", Health: miosa.DefaultHealthCheck(), Resources: miosa.DefaultResources(),
		}
		version := fmt.Sprintf("ver_%06d", n)
		writes = append(writes, func(tx *store.Tx) error {
			return errors.Join(
				store.Save(tx, store.Deployments, miosa.Deployment{ID: svc.DeploymentID, TenantID: svc.TenantID, Name: svc.DeploymentID, Slug: svc.DeploymentID[4:], State: miosa.DeploymentRunning, CreatedAt: now}),
				store.Save(tx, store.Releases, miosa.Release{ID: spec.ReleaseID, TenantID: svc.TenantID, DeploymentID: svc.DeploymentID, SHA256: spec.SHA256, CreatedAt: now}),
				store.Save(tx, store.Services, svc),
				store.Save(tx, store.Versions, miosa.Version{
					ID: version, TenantID: svc.TenantID, DeploymentID: svc.DeploymentID, EnvironmentID: svc.EnvironmentID, Number: 1, State: miosa.VersionReady,
					Services: []miosa.ServiceSpec{spec}, CreatedAt: now,
				}),
				store.Save(tx, store.Environments, miosa.Environment{
					ID: svc.EnvironmentID, TenantID: svc.TenantID, DeploymentID: svc.DeploymentID, Name: miosa.Production, ActiveVersionID: version, ActiveSince: now, CreatedAt: now,
				}),
			)
		})
	}
	return f.writeAll(ctx, writes, 10)
}

// writeAll carries out writes, so many in a transaction.
func (f *fleet) writeAll(ctx context.Context, writes []func(tx *store.Tx) error, each int) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for some := range slices.Chunk(writes, each) {
		g.Go(func() error {
			_, err := store.Update(ctx, f.Store, func(tx *store.Tx) error {
				for _, write := range some {
					if err := write(tx); err != nil {
						return err
					}
				}
				return nil
			})
			return err
		})
	}
	return g.Wait()
}

// scale asks for all replicas.
func (f *fleet) scale(ctx context.Context) error {
	var writes []func(tx *store.Tx) error
	for n := range *environments {
		svc := f.service(n)
		writes = append(writes, func(tx *store.Tx) error {
			v, err := store.Load(tx, store.Services, store.ServiceKey(svc.TenantID, svc.DeploymentID, svc.ID))
			if err != nil {
				return err
			}
			v.DesiredReplicas = *replicas
			return store.Save(tx, store.Services, v)
		})
	}
	return f.writeAll(ctx, writes, 20)
}

// raw is how many instances a second the store takes, each with its event, by
// transactions as large as control's and as many at once.
func (f *fleet) raw(ctx context.Context) (float64, error) {
	svc := f.service(0)
	n := *environments * *replicas / 4
	begun := time.Now()
	var writes []func(tx *store.Tx) error
	for k := range n {
		writes = append(writes, func(tx *store.Tx) error {
			now := time.Now().UTC()
			i := miosa.Instance{
				ID: fmt.Sprintf("ri_raw_%07d", k), TenantID: svc.TenantID, DeploymentID: "dep_raw", EnvironmentID: "env_raw", ServiceID: svc.ID, VersionID: "ver_raw",
				Spec: miosa.ServiceSpec{ServiceID: svc.ID, Name: "web", Type: miosa.ServiceWeb, Port: 8080, Command: "/app/server", Health: miosa.DefaultHealthCheck(), Resources: miosa.DefaultResources()},
				Goal: miosa.GoalStop, Observed: miosa.Observation{}, BootSpec: make([]byte, 600), CreatedAt: now, UpdatedAt: now,
			}
			id, err := miosa.NewID(miosa.PrefixEvent, now, rand.Reader)
			if err != nil {
				return err
			}
			return errors.Join(
				store.Save(tx, store.Instances, i),
				store.Save(tx, store.Events, miosa.Event{ID: id, TenantID: i.TenantID, DeploymentID: i.DeploymentID, InstanceID: i.ID, Type: "instance.created", Message: "an instance is needed", Actor: "bench", At: now}),
			)
		})
	}
	if err := f.writeAll(ctx, writes, 20); err != nil {
		return 0, err
	}
	took := time.Since(begun)
	return float64(n) / took.Seconds(), f.forgetRaw(ctx, n)
}

func (f *fleet) forgetRaw(ctx context.Context, n int) error {
	tenant := f.service(0).TenantID
	for from := 0; from < n; from += store.MaxOps {
		var keys []string
		for k := from; k < min(n, from+store.MaxOps); k++ {
			keys = append(keys, store.InstanceKey(tenant, "dep_raw", fmt.Sprintf("ri_raw_%07d", k)))
		}
		if _, err := f.Commit(ctx, store.Txn{Delete: keys}); err != nil {
			return err
		}
	}
	return nil
}

// beat is every host's sign of life.
func (f *fleet) beat(ctx context.Context, link control.Link) error {
	for seq := int64(1); ; seq++ {
		for n := range *hosts {
			if err := link.Beat(ctx, hostID(n), 1, seq); err != nil && ctx.Err() == nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(2 * time.Second):
		}
	}
}

// reported is how reports were taken.
type reported struct{ rate, each float64 }

// report has every instance's host report a state, several at once.
func (f *fleet) report(ctx context.Context, state miosa.InstanceState, take func(context.Context, miosa.Instance, miosa.Observation) error) (reported, error) {
	f.mu.Lock()
	var all []miosa.Instance
	for _, i := range f.instances {
		all = append(all, i)
	}
	f.mu.Unlock()
	before, err := f.Revision(ctx)
	if err != nil {
		return reported{}, err
	}
	begun := time.Now()
	g, sending := errgroup.WithContext(ctx)
	g.SetLimit(*reporters)
	seq := int64(1)
	if state == miosa.Healthy {
		seq = 2
	}
	for _, i := range all {
		g.Go(func() error {
			return take(sending, i, miosa.Observation{
				InstanceID: i.ID, TenantID: i.TenantID, DeploymentID: i.DeploymentID, Generation: 1, Seq: seq, State: state, Boot: 1,
				Addr: netip.MustParseAddrPort("10.0.0.1:8080"), StartedAt: begun, HealthyAt: begun, ReportedAt: time.Now(), LastProbe: "200 OK",
			})
		})
	}
	if err := g.Wait(); err != nil {
		return reported{}, err
	}
	took := time.Since(begun)
	after, err := f.Revision(ctx)
	if err != nil {
		return reported{}, err
	}
	return reported{rate: float64(len(all)) / took.Seconds(), each: float64(len(all)) / float64(max(1, after-before))}, nil
}
