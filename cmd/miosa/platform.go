package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/agent"
	"github.com/miosa/miosa/agent/spool"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/artifact/erofs"
	"github.com/miosa/miosa/artifact/local"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/control"
	"github.com/miosa/miosa/edge"
	eventpebble "github.com/miosa/miosa/events/pebble"
	"github.com/miosa/miosa/events/timeline"
	"github.com/miosa/miosa/events/webhook"
	"github.com/miosa/miosa/logs/drain"
	"github.com/miosa/miosa/logs/plane"
	historydb "github.com/miosa/miosa/metrics/pebble"
	history "github.com/miosa/miosa/metrics/plane"
	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/network/tap"
	"github.com/miosa/miosa/network/user"
	"github.com/miosa/miosa/outbound"
	"github.com/miosa/miosa/ration"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/registry/pull"
	"github.com/miosa/miosa/schedule"
	"github.com/miosa/miosa/secret"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/etcd"
	"github.com/miosa/miosa/trace"
	"github.com/miosa/miosa/usage/ledger"
	usagestore "github.com/miosa/miosa/usage/pebble"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/vmm/bundle"
	"github.com/miosa/miosa/vmm/qemu"
	vmsim "github.com/miosa/miosa/vmm/sim"
	"github.com/miosa/miosa/wire/guest"
)

// platformConfig is `miosa up`'s flags, checked.
type platformConfig struct {
	data, api, http, metrics, driver, accel, domain string
	templates                                       int // machine sizes kept booted; 0: none
	logRate, logSpoolMB                             int // of one instance; 0: the default
	region, zone                                    string
	bindings                                        []cell.Binding
	overcommit                                      float64
	example, verbose                                bool
	accessLog                                       string
	otlpTraces                                      string         // endpoint; "": none
	victoriaLogs                                    map[int]string // by the days that each keeps lines for; empty: logs are kept here
	allowTargets                                    []netip.Prefix // addresses that customers may name though they are not public
	trustedProxies                                  []netip.Prefix
	tcpPorts                                        store.PortRange
	placement                                       schedule.Policy
	proxyProtocol                                   bool
}

// platform is every role in one process, in the order in which they start.
type platform struct {
	cfg      platformConfig
	log      *slog.Logger
	data     *dataDir
	store    *etcd.Store
	view     *records.View // of what is asked for over and over
	vault    *secret.Box
	blobs    *local.Blobs
	images   *erofs.Images
	memory   *ration.Pool // for all that is read of strangers' bytes
	driver   vmm.Driver
	network  network.Network
	control  *control.Control
	tracer   *trace.Tracer // nil: none
	logs     logStore
	plane    *plane.Plane
	drains   *drain.Forwarder
	events   *eventpebble.Store
	timeline *timeline.Timeline
	webhooks *webhook.Webhooks
	pulls    *pull.Puller
	keeper   pull.Keeper
	sessions interface{ Wait(ctx context.Context) } // of exec, through the API
	figures  *historydb.Store
	history  *history.Plane
	usage    *usagestore.Store
	ledger   *ledger.Ledger
	agent    *agent.Agent
	router   *edge.Router
	api      *http.Server
	public   addresses
	access   io.WriteCloser
	parts    sync.WaitGroup
	closers  []func() error // of what is open, in the order of opening
}

// runPlatform starts everything, says where it is, and blocks until a signal.
// SIGINT also stops the instances; SIGTERM leaves them running.
func runPlatform(cfg platformConfig, signals <-chan os.Signal, out, errOut io.Writer) (err error) {
	began := time.Now()
	level := slog.LevelInfo
	if cfg.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: level}))
	p := &platform{cfg: cfg, log: log}
	// Listening first: a port in use is the commonest reason not to start.
	apiListener, err := listen("--api", cfg.api)
	if err != nil {
		return err
	}
	defer apiListener.Close()
	httpListener, err := listen("--http", cfg.http)
	if err != nil {
		return err
	}
	defer httpListener.Close()
	metricsListener, err := listenMetrics(cfg.metrics, log)
	if err != nil {
		return err
	}
	if metricsListener != nil {
		defer metricsListener.Close()
	}
	p.public = addresses{domain: cfg.domain, port: portOf(httpListener.Addr())}

	if p.data, err = openData(cfg.data); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.data.close()) }()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.assemble(ctx, httpListener); err != nil {
		return err
	}
	failed := p.start(ctx, apiListener, metricsListener)
	stop := func() { cancel(); p.finish() }

	keys, sig, err := p.ready(ctx, signals, failed)
	if err != nil {
		stop()
		return err
	}
	if sig != nil {
		stop()
		return p.end(sig, signals, out)
	}
	if err := p.announce(keys, apiListener.Addr(), httpListener.Addr(), out, time.Since(began)); err != nil {
		stop()
		return err
	}
	if cfg.example {
		go p.publishExample(ctx, out)
	}
	select {
	case err := <-failed.err:
		stop()
		return err
	case sig := <-signals:
		stop()
		return p.end(sig, signals, out)
	}
}

// end is what follows a signal, once every part has ended: SIGTERM leaves the
// instances running, SIGINT stops them.
func (p *platform) end(sig os.Signal, signals <-chan os.Signal, out io.Writer) error {
	if sig == syscall.SIGTERM {
		fmt.Fprintln(out, "\nEnded. The instances keep running; the next `miosa up` takes them over.")
		return nil
	}
	fmt.Fprintln(out, "\nStopping the instances (again Ctrl-C to leave them running) …")
	return p.stopInstances(signals, out)
}

func (p *platform) stopInstances(signals <-chan os.Signal, out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.agent.Shutdown(ctx) }()
	select {
	case err := <-done:
		if err == nil {
			err = p.clearNetwork(ctx)
		}
		if err == nil {
			fmt.Fprintln(out, "Stopped. The deployments come back with the next `miosa up`.")
		}
		return err
	case <-signals:
		fmt.Fprintln(out, "Left as they are: the next `miosa up` or `miosa down` deals with them.")
		return nil
	}
}

// clearNetwork takes away all that instances had of the host's network.
func (p *platform) clearNetwork(ctx context.Context) error {
	if err := p.network.Reclaim(ctx, func(string) bool { return false }); err != nil {
		return err
	}
	return p.network.Close(ctx)
}

func listen(flag, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, miosa.Errorf(miosa.Conflict, "%s %s is in use: end what listens there, or choose another address", flag, addr)
	}
	if err != nil {
		return nil, miosa.Wrap(err, miosa.Invalid, "%s %s", flag, addr)
	}
	return l, nil
}

func portOf(a net.Addr) int {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.Port
	}
	return 0
}

// addresses makes the public names of what is deployed.
type addresses struct {
	domain string
	port   int
}

func (a addresses) host(t miosa.Tenant, d miosa.Deployment, e miosa.Environment) string {
	name := d.Slug
	if e.Name != miosa.Production {
		name += "--" + e.Name
	}
	return name + "." + t.Slug + "." + a.domain
}

func (a addresses) hosts(t miosa.Tenant, d miosa.Deployment, e miosa.Environment) []string {
	return []string{strings.ToLower(a.host(t, d, e))}
}

func (a addresses) url(t miosa.Tenant, d miosa.Deployment, e miosa.Environment) string {
	url := "http://" + a.host(t, d, e)
	if a.port != 80 {
		url += fmt.Sprintf(":%d", a.port)
	}
	return url
}

// opened notes what is to be closed at the end.
func (p *platform) opened(closer io.Closer) { p.closers = append(p.closers, closer.Close) }

// close closes what was opened, the last first.
func (p *platform) close() (err error) {
	for _, c := range slices.Backward(p.closers) {
		err = errors.Join(err, c())
	}
	return err
}

// openStores opens what is kept on disk, and makes the loops that feed it.
func (p *platform) openStores(ctx context.Context) (err error) {
	c := p.data
	if p.store, err = etcd.Open(ctx, etcd.Config{Dir: c.path("etcd"), Log: p.log}); err != nil {
		return err
	}
	p.opened(p.store)
	p.view = records.New(p.store)
	if p.logs, err = p.openLogs(ctx); err != nil {
		return err
	}
	p.opened(p.logs)
	p.plane = plane.New(p.logs, p.view, p.log)
	if p.events, err = eventpebble.Open(eventpebble.Config{Dir: c.path("events"), Log: p.log}); err != nil {
		return err
	}
	p.opened(p.events)
	p.timeline = timeline.New(timeline.Config{}, p.events, p.view, p.log)
	if p.figures, err = historydb.Open(historydb.Config{Dir: c.path("metrics"), Log: p.log}); err != nil {
		return err
	}
	p.opened(p.figures)
	p.history = history.New(p.figures, p.view, p.log)
	if p.usage, err = usagestore.Open(usagestore.Config{Dir: c.path("usage"), Log: p.log}); err != nil {
		return err
	}
	p.opened(p.usage)
	p.ledger = ledger.New(p.usage, p.view, p.log)
	if p.blobs, err = local.New(local.Config{Dir: c.path("blobs")}); err != nil {
		return err
	}
	p.memory = artifact.NewMemory()
	p.images, err = erofs.New(erofs.Config{
		Dir: c.path("images"), Builds: max(1, runtime.NumCPU()/2), Limits: artifact.Limits{Memory: p.memory},
	}, p.blobs)
	return err
}

// openSenders makes what calls the receivers and registries that customers name.
func (p *platform) openSenders(targets outbound.Guard) (err error) {
	if p.drains, err = drain.Open(drain.Config{File: p.data.path("drains.db"), Guard: targets}, p.plane, p.view, p.vault, p.log); err != nil {
		return err
	}
	p.opened(p.drains)
	if p.webhooks, err = webhook.New(webhook.Config{Dir: p.data.path("webhooks"), Guard: targets, Render: api.EventJSON}, p.timeline, p.store, p.vault, p.log); err != nil {
		return err
	}
	if p.pulls, err = pull.New(pull.Config{Dir: p.data.path("pulls"), Guard: targets, Memory: p.memory}, p.store, uploads{p.blobs, p.memory}, p.vault, p.log); err != nil {
		return err
	}
	p.opened(p.pulls)
	return nil
}

// cellAddresses are what the cell's hosts said of themselves: where customers'
// receivers are not. Routers run on hosts.
func (p *platform) cellAddresses(ctx context.Context) ([]netip.Addr, error) {
	var out []netip.Addr
	for h, err := range store.List(ctx, p.store, store.Hosts, store.HostsPrefix(), store.ScanOptions{}) {
		if err != nil {
			return nil, err
		}
		out = append(out, h.Addresses...)
	}
	return out, nil
}

// assemble makes every part; nothing runs yet.
func (p *platform) assemble(ctx context.Context, httpListener net.Listener) error {
	c := p.data
	if err := p.openStores(ctx); err != nil {
		return err
	}
	vault, hostKey, err := p.openKeys(ctx)
	if err != nil {
		return err
	}
	p.vault = vault
	targets := outbound.Guard{Allow: p.cfg.allowTargets, Cell: p.cellAddresses}
	if err := p.openSenders(targets); err != nil {
		return err
	}
	gates, err := hostKey.Derive("gates of user networking")
	if err != nil {
		return err
	}
	if err := p.chooseDriver(gates); err != nil {
		return err
	}
	observer, err := p.trace(ctx)
	if err != nil {
		return err
	}
	if p.control, err = control.New(control.Options{
		Config: cell.Config{Hosts: p.public.hosts, Placement: p.cfg.placement}, PublicURL: p.public.url, Bindings: p.cfg.bindings, Observer: observer,
		PurgeLogs: p.plane.Purge, OpenAccounts: p.ledger.Open,
	}, p.store, p.vault, secret.SealTo, p.log); err != nil {
		return err
	}
	resources, err := capacity(c.dir)
	if err != nil {
		return err
	}
	name, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("name of this machine: %w", err)
	}
	if p.agent, err = agent.New(agent.Config{
		Dir: c.path("agent"), BootsAtOnce: runtime.NumCPU(), Driver: p.driver, Network: p.network, Images: p.images,
		Opener: hostKey, Link: p.control.Link(), Log: p.log,
		Logs: p.ledger.Shipper(p.plane), LogSpool: spool.Config{InstanceBytes: int64(p.cfg.logSpoolMB) << 20, Full: p.plane.Full}, LogLimit: spool.Limit{Rate: p.cfg.logRate},
		Figures: p.history, Usage: p.ledger, Addresses: outbound.Addresses,
		Host: miosa.Host{
			ID: c.hostID, Name: name, Region: p.cfg.region, Zone: p.cfg.zone, Driver: p.driver.Name(),
			PublicKey: hostKey.Public(), Capacity: resources, Overcommit: p.cfg.overcommit, Version: version,
		},
	}); err != nil {
		return err
	}
	if p.access, err = openAccessLog(p.cfg.accessLog); err != nil {
		return err
	}
	sticky, err := p.vault.Derive(ctx, stickyPurpose)
	if err != nil {
		return err
	}
	routerConfig := edge.Config{RouterID: "router-" + c.id, Listener: httpListener, StickyKey: sticky, Traffic: p.history, TrustedProxies: p.cfg.trustedProxies, ProxyProtocol: p.cfg.proxyProtocol}
	if host, _, err := net.SplitHostPort(p.cfg.http); err == nil { // else nobody listens there
		routerConfig.PortHost = host
	}
	if g, ok := p.network.(network.Greeter); ok {
		routerConfig.Greet = g.Greet
	}
	if p.access != nil {
		p.opened(p.access)
		routerConfig.AccessLog = p.access
	}
	if p.router, err = edge.New(routerConfig, p.control, p.log); err != nil {
		return err
	}
	server, err := api.New(api.Config{
		PublicURL: p.public.url, Version: version, MaxLogDays: p.cfg.longestDays(), PublicPorts: p.cfg.tcpPorts,
		Regions: []miosa.Region{{ID: p.cfg.region, Name: p.cfg.region, Slug: p.cfg.region, Available: true}}, Targets: targets,
		Placement: p.cfg.placement,
	}, api.Deps{
		Store: p.store, Uploads: uploads{p.blobs, p.memory}, Memory: p.memory, Secrets: p.vault, Log: p.log, Ready: p.answers,
		Logs: p.plane, Drains: p.drains, Events: p.timeline, Webhooks: p.webhooks, Pulls: p.pulls, Metrics: p.history, Usage: p.ledger,
		Execs: execs{p.agent},
	})
	if err != nil {
		return err
	}
	p.keeper, p.sessions = server, server
	p.api = &http.Server{
		Handler: server, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	return nil
}

// execs brings the API and the one host's agent together.
type execs struct{ agent *agent.Agent }

func (e execs) OpenExec(ctx context.Context, _, instance string, o guest.ExecOpen) (api.ExecSession, error) {
	s, err := e.agent.OpenExec(ctx, instance, o)
	if err != nil {
		return nil, err // no session, not a nil one
	}
	return s, nil
}

// uploads brings the API and the blob store together.
type uploads struct {
	blobs  artifact.Blobs
	memory *ration.Pool
}

func (u uploads) Receive(ctx context.Context, up artifact.Upload) (artifact.Stored, error) {
	return artifact.Receive(ctx, u.blobs, up, artifact.Limits{Memory: u.memory})
}

func openAccessLog(path string) (io.WriteCloser, error) {
	switch path {
	case "":
		return nil, nil
	case "-":
		return nopCloser{os.Stdout}, nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open the access log: %w", err)
	}
	return f, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// chooseDriver finds what boots instances here, and the network that goes
// with it: taps as root, loopback ports otherwise.
func (p *platform) chooseDriver(gates []byte) error {
	if p.cfg.driver == "sim" {
		d, err := vmsim.New(vmsim.Config{}, p.log)
		if err != nil {
			return err
		}
		p.driver = d
		return p.userNetwork(gates)
	}
	b, err := bundle.Find("")
	if err != nil {
		return miosa.Wrap(err, miosa.Unavailable, "the guest bundle (kernel and initrd of the instances) is not built: run `make build`, or `miosa bundle build`")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("find the cache directory: %w", err)
	}
	d, err := qemu.New(qemu.Config{
		DataDir: p.data.dir, CellID: p.data.id, Kernel: b.Kernel, Initrd: b.Initrd, KernelArgs: b.KernelArgs(), Digest: b.Digest,
		CacheDir: filepath.Join(cache, "miosa"), Accel: p.cfg.accel, Templates: p.cfg.templates,
	}, p.log)
	if err != nil {
		return err
	}
	p.driver = d
	if os.Geteuid() != 0 {
		return p.userNetwork(gates)
	}
	n, err := tap.New(tap.Config{CellID: p.data.id}, p.log)
	if err != nil {
		return err
	}
	p.network = n
	return nil
}

// userNetwork is for where there are no taps. key is what its gates' passwords
// are made from; nil: nobody passes them.
func (p *platform) userNetwork(key []byte) error {
	n, err := user.New(user.Config{File: p.data.path("ports.json"), Key: key}, p.log)
	if err != nil {
		return err
	}
	p.network = n
	return nil
}

// failure carries the first error of any part.
type failure struct {
	err  chan error
	once sync.Once
}

func (f *failure) report(part string, err error) {
	if err != nil {
		f.once.Do(func() { f.err <- fmt.Errorf("%s: %w", part, err) })
	}
}

// start runs every part.
func (p *platform) start(ctx context.Context, apiListener, metricsListener net.Listener) *failure {
	f := &failure{err: make(chan error, 1)}
	p.parts.Go(func() {
		// The engine may end by itself, as when its disk is full: nothing can be
		// decided without it, and a restart with room is the way out.
		if err := p.store.Wait(ctx); ctx.Err() == nil {
			f.report("store", err)
		}
	})
	p.parts.Go(func() {
		p.view.Run(ctx, func(err error) { p.log.Warn("follow the records: answers may be a minute old", "err", err) })
	})
	p.parts.Go(func() { f.report("control", p.control.Run(ctx)) })
	p.parts.Go(func() { f.report("agent", p.agent.Run(ctx)) })
	if p.tracer != nil {
		p.parts.Go(func() { f.report("traces", p.tracer.Run(ctx)) })
	}
	p.parts.Go(func() { f.report("log plane", p.plane.Run(ctx)) })
	p.parts.Go(func() { f.report("log drains", p.drains.Run(ctx)) })
	p.parts.Go(func() { f.report("timeline", p.timeline.Run(ctx)) })
	p.parts.Go(func() { f.report("webhooks", p.webhooks.Run(ctx)) })
	p.parts.Go(func() { f.report("images", p.pulls.Run(ctx, p.keeper)) })
	p.parts.Go(func() { f.report("history", p.history.Run(ctx)) })
	p.parts.Go(func() { f.report("usage ledger", p.ledger.Run(ctx)) })
	p.parts.Go(func() { f.report("router", p.router.Run(ctx)) })
	p.parts.Go(func() {
		if err := p.api.Serve(apiListener); !errors.Is(err, http.ErrServerClosed) {
			f.report("api", err)
		}
	})
	if metricsListener != nil {
		p.parts.Go(func() { f.report("metrics", p.serveMetrics(ctx, metricsListener)) })
	}
	p.parts.Go(func() { p.housekeep(ctx) })
	return f
}

// finish ends the API and waits for every part; ctx of start has ended.
func (p *platform) finish() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := p.api.Shutdown(ctx); err != nil {
		p.log.Warn("api requests cut off", "err", err)
		if err := p.api.Close(); err != nil {
			p.log.Warn("close the api", "err", err)
		}
	}
	ending, cancelEnding := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancelEnding()
	p.sessions.Wait(ending)
	p.parts.Wait()
	last, cancelLast := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancelLast()
	if err := p.ledger.Flush(last); err != nil {
		p.log.Warn("log lines that are not billed", "err", err)
	}
}

// answers is the readiness of the whole.
func (p *platform) answers(context.Context) error {
	for name, ready := range map[string]<-chan struct{}{"agent": p.agent.Ready(), "router": p.router.Ready()} {
		select {
		case <-ready:
		default:
			return miosa.Errorf(miosa.Unavailable, "the %s is not ready yet", name)
		}
	}
	return nil
}

const readyDeadline = 2 * time.Minute

// ready waits for every part and makes what a first start needs. A signal that
// comes meanwhile ends the wait and is returned.
func (p *platform) ready(ctx context.Context, signals <-chan os.Signal, failed *failure) (keyPair, os.Signal, error) {
	deadline := time.NewTimer(readyDeadline)
	defer deadline.Stop()
	for _, ready := range []<-chan struct{}{p.agent.Ready(), p.router.Ready()} {
		select {
		case <-ready:
		case err := <-failed.err:
			return keyPair{}, nil, err
		case sig := <-signals:
			return keyPair{}, sig, nil
		case <-deadline.C:
			return keyPair{}, nil, miosa.Errorf(miosa.Unavailable, "not ready within %s; see the log above", readyDeadline)
		}
	}
	keys, err := p.firstRecords(ctx)
	return keys, nil, err
}
