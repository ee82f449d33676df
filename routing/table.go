// Package routing is the pure part of the router: the immutable route table,
// how it is built from the records, how a backend is picked.
package routing

import (
	"net/netip"
	"time"

	"github.com/miosa/miosa"
)

// Table is one generation of all routes. Its owner brings it to the next one by
// Apply; its pools are never changed once made.
type Table struct {
	Generation int64           // grows; a router never applies an older one
	Routes     map[string]Pool // by host name: lower case, no port
	Ports      map[int]Pool    // by port of the router's: raw TCP
}

// Pool is what one host name is served by. It is comparable field by field
// through Equal.
type Pool struct {
	TenantID     string
	DeploymentID string
	ServiceID    string         // of the version; "" when it has none that serves HTTP
	VersionID    string         // being served; "" when nothing was ever published
	Protocol     miosa.Protocol // that its backends speak; "": ProtocolHTTP1
	Sticky       miosa.Sticky
	Drain        time.Duration // how long connections of a leaving backend may go on
	// ResponseTimeout is how long an answer may take to begin once the request is
	// sent; 0: as the router has it.
	ResponseTimeout time.Duration
	Backends        []Backend // sorted by instance ID; may be empty: 503
}

// Backend is one instance in a pool.
type Backend struct {
	InstanceID string
	Address    netip.AddrPort
}

// ReportEvery is the longest that a router which has a table is silent. It is the
// contract between routers and control: how long control waits for one is derived
// from it.
const ReportEvery = 2 * time.Second

// Report is what a router tells control about itself.
type Report struct {
	RouterID   string
	Generation int64             // applied: no new request goes to a backend that is not in it
	InFlight   map[string]int    // by instance ID: requests and upgraded connections, also of backends that have left
	Faults     map[string]string // by instance ID: what the router found wrong with its app, for its log; said again in each report
	At         time.Time
}
