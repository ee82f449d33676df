package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"time"

	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/features"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
)

const defaultRetain = 10 * time.Minute

// Open starts an etcd in this process and waits until it answers. A
// *miosa.Error Conflict says that another process has the directory, NoSpace
// that its disk is full. The caller ends it with Close.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Retain == 0 {
		cfg.Retain = defaultRetain
	}
	if cfg.Quota == 0 {
		cfg.Quota = defaultQuota
	}
	if cfg.Reserve == 0 {
		cfg.Reserve = defaultReserve
	}
	if cfg.Dir == "" || cfg.Retain < time.Second || cfg.Quota < 0 || cfg.Reserve < 0 {
		return nil, fmt.Errorf("open the database: dir %q, retain %s, quota %d, reserve %d", cfg.Dir, cfg.Retain, cfg.Quota, cfg.Reserve)
	}
	if err := makePrivate(cfg.Dir); err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	lock, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Store{
		log: cfg.Log, local: true, lock: lock, quota: cfg.Quota, health: newHealth(),
		space: &space{dir: cfg.Dir, reserve: uint64(cfg.Reserve)},
	}
	if err := s.start(ctx, cfg); err != nil {
		return nil, errors.Join(fmt.Errorf("open the database: %w", err), lock.Close())
	}
	return s, nil
}

// makePrivate makes a directory that nobody else can read.
func makePrivate(dir string) error {
	if err := disk.MakeDir(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700) //nolint:gosec // a directory
}

func (s *Store) start(ctx context.Context, cfg Config) error {
	if err := s.space.admit(true); err != nil {
		return err
	}
	engineConfig, err := engineConfig(cfg, s.fatal)
	if err != nil {
		return err
	}
	type result struct {
		engine *embed.Etcd
		err    error
	}
	started := make(chan result, 1)
	go func() {
		// In a goroutine of its own: the engine panics on files it cannot
		// use, and what it holds for fatal ends the goroutine.
		defer func() {
			if p := recover(); p != nil {
				started <- result{err: fmt.Errorf("the database's files cannot be used: %v", p)}
			}
		}()
		engine, err := embed.StartEtcd(engineConfig)
		started <- result{engine, err}
	}()
	var engine *embed.Etcd
	select {
	case r := <-started:
		if r.err != nil {
			return r.err
		}
		engine = r.engine
	case <-s.health.ctx.Done():
		return s.health.err()
	}
	select {
	case <-engine.Server.ReadyNotify():
	case <-s.health.ctx.Done():
		return s.health.err()
	case <-engine.Server.StopNotify():
		engine.Close()
		return errors.New("the engine stopped while it was starting")
	case <-ctx.Done():
		engine.Close()
		return ctx.Err()
	}
	s.engine = engine
	s.client = v3client.New(engine.Server)
	return nil
}

func engineConfig(cfg Config, fatal func(string, map[string]any)) (*embed.Config, error) {
	c := embed.NewConfig()
	c.Name, c.Dir = "miosa", cfg.Dir
	c.ListenPeerUrls, c.ListenClientUrls = nil, nil
	// It wants to have an address; nobody listens there.
	nowhere := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	c.AdvertisePeerUrls, c.AdvertiseClientUrls = []url.URL{nowhere}, []url.URL{nowhere}
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	c.StrictReconfigCheck = false
	c.EnableGRPCGateway = false
	c.AuthToken = ""
	// With nobody to vote against, an election need not wait.
	c.TickMs, c.ElectionMs = 10, 100
	c.QuotaBackendBytes = cfg.Quota
	c.AutoCompactionMode = embed.CompactorModePeriodic
	c.AutoCompactionRetention = cfg.Retain.String()
	c.BootstrapDefragThresholdMegabytes = 256
	c.MaxSnapFiles, c.MaxWalFiles = 2, 2
	c.SnapshotCount = 10_000
	c.SnapshotCatchUpEntries = 1 // there is no follower to catch up
	c.WarningApplyDuration, c.WarningUnaryRequestDuration = time.Second, 3*time.Second
	// Otherwise every start would give all leases their whole TTL again, and
	// what lives for 30 days would live for ever.
	gate, ok := c.ServerFeatureGate.(featuregate.MutableFeatureGate)
	if !ok {
		return nil, errors.New("the engine's features cannot be set")
	}
	if err := gate.SetFromMap(map[string]bool{
		string(features.LeaseCheckpoint): true, string(features.LeaseCheckpointPersist): true,
	}); err != nil {
		return nil, err
	}
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(engineLogger(cfg.Log, fatal))
	return c, nil
}

// fatal is what the engine calls instead of ending the process.
func (s *Store) fatal(message string, fields map[string]any) {
	cause := fmt.Errorf("etcd: %s: %v", message, fields["error"])
	err := &miosa.Error{Code: miosa.Unavailable, Message: "the platform's database failed and must be started anew", Err: cause}
	s.space.forget()
	if full := s.space.admit(true); full != nil {
		err = noSpace("the platform's disk is full and its database stopped; free some space, then start it anew", cause)
	}
	s.health.fail(err)
}

// Wait blocks until ctx ends, then it returns nil, or until the engine has
// failed for good: then nothing works any more and the process should end.
func (s *Store) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-s.health.ctx.Done():
		return s.health.err()
	}
}

// Close stops the engine, if it is inside the process, and frees the
// directory. Calls and watches that go on then end with an error; it waits
// for them. A second Close does nothing.
func (s *Store) Close() error {
	if s.engine == nil {
		return nil
	}
	closed := &miosa.Error{Code: miosa.Unavailable, Message: "the platform's database was closed"}
	if !s.health.fail(closed) {
		// Closed before, or broken down: then stopping would wait for what
		// will never come, and the directory is taken until the process ends.
		return nil
	}
	s.health.inside.Wait()
	err := s.client.Close()
	if errors.Is(err, context.Canceled) {
		err = nil // which is how it says that it was closed
	}
	s.engine.Close()
	return errors.Join(err, s.lock.Close())
}

// Backup writes the database as it is now, as etcdctl's snapshot commands
// read it (without their checksum). Only of an engine inside the process.
func (s *Store) Backup(ctx context.Context, w io.Writer) (int64, error) {
	if s.engine == nil {
		return 0, &miosa.Error{Code: miosa.Unsupported, Message: "the database is an external cluster; back it up there"}
	}
	if err := s.health.enter(); err != nil {
		return 0, err
	}
	defer s.health.leave()
	snapshot := s.engine.Server.Backend().Snapshot()
	n, err := snapshot.WriteTo(w)
	if err := errors.Join(ctx.Err(), err, snapshot.Close()); err != nil {
		return n, fmt.Errorf("back up the database: %w", err)
	}
	return n, nil
}
