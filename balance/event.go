package balance

import "github.com/miosa/miosa/routing"

// TunnelID names one upgraded connection within its router.
type TunnelID uint64

// Event is something that happened to a router.
type Event interface{ event() }

type (
	// Updated: the feed has an update of the table.
	Updated struct{ routing.Update }
	// Counted answers Count: what is in flight, after all effects before the
	// Count were carried out. A backend that is not named has nothing.
	Counted struct{ InFlight map[routing.Backend]int }
	// Idle: nothing is in flight any more at a backend that was retired.
	Idle struct{ Backend routing.Backend }
	// Opened: a connection was upgraded.
	Opened struct {
		Tunnel  TunnelID
		Backend routing.Backend
	}
	// Closed: an upgraded connection has ended.
	Closed struct{ Tunnel TunnelID }
	// Faulted: the app at a backend does what no app should.
	Faulted struct {
		Backend routing.Backend
		Why     string // for the app's own log
	}
	// Stopping: the router shuts down; every tunnel is asked to go.
	Stopping struct{}
	// Tick: nothing but time has passed.
	Tick struct{}
)

func (Updated) event()  {}
func (Counted) event()  {}
func (Idle) event()     {}
func (Opened) event()   {}
func (Closed) event()   {}
func (Faulted) event()  {}
func (Stopping) event() {}
func (Tick) event()     {}

// Effect is something the router is to carry out, in the order given.
type Effect interface{ effect() }

type (
	// SetPool: the host name is served by this pool from now on.
	SetPool struct {
		Host string
		Pool routing.Pool
	}
	// DropHost: the host name is no longer known.
	DropHost struct{ Host string }
	// SetPort: the port leads to this pool from now on.
	SetPort struct {
		Port int
		Pool routing.Pool
	}
	// DropPort: nothing is behind the port any more.
	DropPort struct{ Port int }
	// Admit: a backend that was retired is in the table again.
	Admit struct{ Backend routing.Backend }
	// Retire: no pool holds the backend. Its resting connections go, and when it
	// has nothing in flight, Idle is to be told.
	Retire struct{ Backend routing.Backend }
	// Forget: a retired backend has nothing in flight, and is done with.
	Forget struct{ Backend routing.Backend }
	// Cut: the drain window is over. What is in flight there is ended.
	Cut struct{ Backend routing.Backend }
	// CloseTunnel asks both ends of a tunnel to close.
	CloseTunnel struct{ Tunnel TunnelID }
	// Fetch: an update is missing. Get the whole table from the feed.
	Fetch struct{}
	// Count reads what is in flight. Answered by Counted, before any other event.
	Count struct{}
	// Report tells control.
	Report struct{ routing.Report }
)

func (SetPool) effect()     {}
func (DropHost) effect()    {}
func (SetPort) effect()     {}
func (DropPort) effect()    {}
func (Admit) effect()       {}
func (Retire) effect()      {}
func (Forget) effect()      {}
func (Cut) effect()         {}
func (CloseTunnel) effect() {}
func (Fetch) effect()       {}
func (Count) effect()       {}
func (Report) effect()      {}
