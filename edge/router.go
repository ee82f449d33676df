package edge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/balance"
	"github.com/miosa/miosa/routing"
)

// Config is what a router is told at its start. Zero durations and numbers
// take the defaults named.
type Config struct {
	RouterID string
	Addr     string       // to listen on, where Listener is nil
	Listener net.Listener // taken over; Run closes it
	TLS      *tls.Config  // nil: plain HTTP

	AccessLog      io.Writer      // a JSON object a line; nil: none
	Traffic        Traffic        // takes what is counted of services, every 15 s; nil: nobody
	TrustedProxies []netip.Prefix // whose word about their clients is taken
	ProxyProtocol  bool           // connections of TrustedProxies begin with a PROXY protocol header
	// Greet begins a connection to a backend, before its first byte; nil: nothing
	// has to.
	Greet     func(ctx context.Context, conn net.Conn, to netip.AddrPort) error
	StickyKey []byte // makes the cookies; the same on every router and at every start; at least 16 bytes

	HeadTimeout     time.Duration // for a request's head; 10 s
	KeepAlive       time.Duration // a client's connection between requests; 75 s
	DialTimeout     time.Duration // to a backend; 2 s
	ResponseTimeout time.Duration // from the request sent to the answer's head, up to a quarter more, where a pool says nothing; 120 s
	StallTimeout    time.Duration // without a byte while sending, either way; 60 s
	IdleTimeout     time.Duration // of a stream or tunnel without a byte; 1 h
	RestTimeout     time.Duration // a backend's connection between requests; 55 s
	BackendWait     time.Duration // for a backend to come, before 502 or 503; 1 s
	StopGrace       time.Duration // for requests in flight when the router stops; 10 s

	// PortHost is the address, without a port, at which the ports of raw TCP
	// services are listened on; "": all of the machine.
	PortHost        string
	MaxConnsPerPort int // at once, of a raw TCP service; 4096
	// MaxConnsPerClient is how many of those one address may have, of IPv6 one
	// network of 64 bits: a quarter of MaxConnsPerPort, at least 16. Addresses
	// of TrustedProxies may have all.
	MaxConnsPerClient int
	// MaxRawConns is how many connections all raw TCP services may have at once.
	// Each may take six open files (two sockets and what the kernel moves bytes
	// through): so many that half of the process's (RLIMIT_NOFILE) are left.
	MaxRawConns int

	MaxHeadBytes      int   // of a request; 64 KiB
	MaxIdlePerBackend int   // connections at rest; 256
	MaxWaiting        int32 // requests per host name that wait for a backend; 1000
}

// Router takes requests in and brings each to an instance of what its host
// name is routed to.
type Router struct {
	cfg       Config
	feed      Feed
	log       *slog.Logger
	table     *table
	ports     *ports
	h2c       *http.Transport
	accessLog *accessLog

	applied    atomic.Bool                        // a table has been applied
	refetch    atomic.Pointer[context.CancelFunc] // ends the present subscription, for a whole table
	ready      chan struct{}
	events     chan balance.Event   // to the loop; whoever sends also watches stopped
	idle       chan routing.Backend // retired backends with nothing in flight
	stopped    chan struct{}        // the loop takes no more events
	lastTunnel atomic.Uint64

	mu      sync.Mutex // guards tunnels
	tunnels map[balance.TunnelID]*tunnel

	addr atomic.Pointer[net.Addr]
}

// New checks the configuration. It opens nothing; Run does. The feed gives
// the tables.
func New(cfg Config, feed Feed, log *slog.Logger) (*Router, error) {
	if cfg.RouterID == "" {
		return nil, miosa.Errorf(miosa.Invalid, "a router needs an ID")
	}
	if cfg.Addr == "" && cfg.Listener == nil {
		return nil, miosa.Errorf(miosa.Invalid, "a router needs an address to listen on")
	}
	if feed == nil || log == nil {
		return nil, miosa.Errorf(miosa.Invalid, "a router needs a feed and a log")
	}
	if cfg.ProxyProtocol && len(cfg.TrustedProxies) == 0 {
		return nil, miosa.Errorf(miosa.Invalid, "the PROXY protocol needs trusted proxies: from anybody else it would be a way to pose as others")
	}
	if len(cfg.StickyKey) < 16 {
		return nil, miosa.Errorf(miosa.Invalid, "the sticky key has %d bytes, it needs at least 16, the same ones on every router and at every start", len(cfg.StickyKey))
	}
	cfg.setDefaults()
	rt := &Router{
		cfg:     cfg,
		feed:    feed,
		log:     log,
		table:   newTable(),
		ready:   make(chan struct{}),
		events:  make(chan balance.Event, 256),
		idle:    make(chan routing.Backend, 256),
		stopped: make(chan struct{}),
		tunnels: map[balance.TunnelID]*tunnel{},
	}
	rt.ports, rt.h2c = newPorts(rt), newH2C(&cfg)
	if cfg.AccessLog != nil {
		rt.accessLog = newAccessLog(cfg.AccessLog, log)
	}
	return rt, nil
}

func (c *Config) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.HeadTimeout, 10 * time.Second},
		{&c.KeepAlive, 75 * time.Second},
		{&c.DialTimeout, 2 * time.Second},
		{&c.ResponseTimeout, miosa.DefaultResponseTimeout},
		{&c.StallTimeout, 60 * time.Second},
		{&c.IdleTimeout, time.Hour},
		{&c.RestTimeout, 55 * time.Second},
		{&c.BackendWait, time.Second},
		{&c.StopGrace, 10 * time.Second},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if c.MaxHeadBytes <= 0 {
		c.MaxHeadBytes = 64 << 10
	}
	if c.MaxConnsPerPort <= 0 {
		c.MaxConnsPerPort = 4096
	}
	if c.MaxConnsPerClient <= 0 {
		c.MaxConnsPerClient = max(16, c.MaxConnsPerPort/4)
	}
	if c.MaxRawConns <= 0 {
		c.MaxRawConns = rawConnsFor(openFiles())
	}
	if c.MaxIdlePerBackend <= 0 {
		c.MaxIdlePerBackend = 256
	}
	if c.MaxWaiting <= 0 {
		c.MaxWaiting = 1000
	}
}

// Ready is closed when the router listens and has applied its first table.
func (rt *Router) Ready() <-chan struct{} { return rt.ready }

// Addr is what the router listens on, nil before Run does.
func (rt *Router) Addr() net.Addr {
	if a := rt.addr.Load(); a != nil {
		return *a
	}
	if rt.cfg.Listener != nil {
		return rt.cfg.Listener.Addr()
	}
	return nil
}

// AccessLogDropped is how many lines the access log has lost because its
// writer was too slow.
func (rt *Router) AccessLogDropped() uint64 {
	if rt.accessLog == nil {
		return 0
	}
	return rt.accessLog.lost.Load()
}

// Run serves until ctx is done; then it takes no more connections, closes
// upgraded ones in order, and gives the requests in flight StopGrace to end.
// It returns nil when ctx ended it. A router that has run is used up.
func (rt *Router) Run(ctx context.Context) error {
	listener := rt.cfg.Listener
	if listener == nil {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", rt.cfg.Addr)
		if err != nil {
			return fmt.Errorf("listen for requests: %w", err)
		}
		listener = l
	}
	addr := listener.Addr()
	rt.addr.Store(&addr)
	release, err := keepDates()
	if err != nil {
		_ = listener.Close()
		return fmt.Errorf("have the kernel date what it receives: %w", err)
	}
	defer release()
	server := rt.server()
	listener = stallListener{listener, rt.cfg.StallTimeout}
	if rt.cfg.ProxyProtocol {
		listener = &proxiedListener{Listener: listener, rt: rt}
	}
	if rt.cfg.TLS != nil {
		listener = tls.NewListener(listener, server.TLSConfig)
	}

	// The loop and the log outlive the server: they see its requests out.
	after, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var background sync.WaitGroup
	if rt.accessLog != nil {
		background.Go(func() { rt.accessLog.run(after) })
	}
	reports := make(chan routing.Report, 1)
	background.Go(func() { rt.send(after, reports) })
	background.Go(func() { rt.follow(ctx) })
	loop := newLoop(rt, reports)
	background.Go(func() { loop.run(after) })
	if rt.cfg.Traffic != nil {
		background.Go(func() { rt.measure(ctx) })
	}

	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err = <-served:
		err = fmt.Errorf("serve requests: %w", err)
	case <-ctx.Done():
		rt.post(balance.Stopping{})
		rt.ports.close()
		grace, cancel := context.WithTimeout(after, rt.cfg.StopGrace)
		loop.cutAll(true)
		if server.Shutdown(grace) != nil {
			// Each ends as cleanly as it can.
			loop.cutAll(false)
			last, stop := context.WithTimeout(after, time.Second)
			_ = server.Shutdown(last)
			stop()
			_ = server.Close()
		}
		rt.awaitTunnels(grace)
		rt.ports.await(grace, loop)
		cancel()
		if e := <-served; !errors.Is(e, http.ErrServerClosed) {
			rt.log.Warn("listener ended with an error", "err", e)
		}
	}
	end()
	background.Wait()
	return err
}

func (rt *Router) server() *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(rt.cfg.TLS != nil)
	protocols.SetUnencryptedHTTP2(rt.cfg.TLS == nil)
	s := &http.Server{
		Handler:           rt,
		ReadHeaderTimeout: rt.cfg.HeadTimeout,
		IdleTimeout:       rt.cfg.KeepAlive,
		MaxHeaderBytes:    rt.cfg.MaxHeadBytes,
		Protocols:         &protocols,
		ErrorLog:          slog.NewLogLogger(rt.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return rt.withPeer(ctx, c)
		},
		DisableGeneralOptionsHandler: true, // "OPTIONS *" is for the app to answer
	}
	if rt.cfg.TLS != nil {
		s.TLSConfig = rt.cfg.TLS.Clone()
		if len(s.TLSConfig.NextProtos) == 0 {
			s.TLSConfig.NextProtos = []string{"h2", "http/1.1"}
		}
	}
	return s
}

// post hands an event to the loop, unless that is gone.
func (rt *Router) post(ev balance.Event) {
	select {
	case rt.events <- ev:
	case <-rt.stopped:
	}
}

// complain has it said in the app's own log what is wrong with it. It may be
// called from the loop itself.
func (rt *Router) complain(b routing.Backend, why string) {
	rt.log.Info("the app at a backend misbehaves", "instance", b.InstanceID, "why", why)
	go rt.post(balance.Faulted{Backend: b, Why: why})
}

// follow takes updates from the feed for as long as ctx lasts. A lost feed is
// taken up again, as is one of which something is missing; meanwhile the router
// routes by what it has.
func (rt *Router) follow(ctx context.Context) {
	const first, longest = 100 * time.Millisecond, 5 * time.Second
	pause := first
	for {
		sub, cancel := context.WithCancel(ctx)
		rt.refetch.Store(&cancel)
		for u := range rt.feed.Updates(sub) {
			pause = first
			rt.post(balance.Updated{Update: u})
		}
		gap := sub.Err() != nil
		cancel()
		if ctx.Err() != nil {
			return
		}
		if gap {
			continue
		}
		rt.log.Warn("route feed lost", "again_in", pause)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		pause = min(longest, pause*2)
	}
}

// send sends reports, one at a time.
func (rt *Router) send(ctx context.Context, reports <-chan routing.Report) {
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case r := <-reports:
			err := rt.feed.Report(ctx, r)
			if err != nil && !failing && !errors.Is(err, context.Canceled) {
				rt.log.Warn("router report not delivered", "generation", r.Generation, "err", err)
			}
			failing = err != nil
		}
	}
}

func (rt *Router) openTunnel(t *tunnel, b *backend) {
	rt.mu.Lock()
	rt.tunnels[t.id] = t
	rt.mu.Unlock()
	rt.post(balance.Opened{Tunnel: t.id, Backend: b.Backend})
}

func (rt *Router) closeTunnel(t *tunnel) {
	rt.mu.Lock()
	delete(rt.tunnels, t.id)
	rt.mu.Unlock()
	rt.post(balance.Closed{Tunnel: t.id})
}

// askTunnel asks a tunnel's ends to close; a stuck one does not hold up the
// loop.
func (rt *Router) askTunnel(id balance.TunnelID) {
	rt.mu.Lock()
	t := rt.tunnels[id]
	rt.mu.Unlock()
	if t != nil {
		go t.ask(closeGoingAway)
	}
}

// expireTunnels ends what is left of the tunnels to a backend.
func (rt *Router) expireTunnels(b routing.Backend) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	for _, t := range rt.tunnels {
		if t.app.backend.Backend == b {
			go t.expire()
		}
	}
}

// markApplied lets Ready know of the first table.
func (rt *Router) markApplied() {
	if rt.applied.CompareAndSwap(false, true) {
		close(rt.ready)
	}
}

// awaitTunnels waits for the upgraded connections, of which the server knows
// nothing, and ends those that are left when ctx is done.
func (rt *Router) awaitTunnels(ctx context.Context) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	killed := false
	for {
		rt.mu.Lock()
		left := len(rt.tunnels)
		if ctx.Err() != nil && !killed {
			killed = true
			for _, t := range rt.tunnels {
				t.app.interrupt(endedByStop)
				t.kill()
			}
		}
		rt.mu.Unlock()
		if left == 0 {
			return
		}
		<-tick.C
	}
}
