package miosa

import "time"

// DrainType says how a log drain speaks to its receiver.
type DrainType string

const (
	DrainHTTPS  DrainType = "https"  // NDJSON, gzip
	DrainSyslog DrainType = "syslog" // RFC 5424 over TLS
	DrainOTLP   DrainType = "otlp"   // OTLP/HTTP logs, protobuf
)

// LogDrain forwards a tenant's log lines as they come, to a receiver that the
// customer names.
type LogDrain struct {
	ID       string
	TenantID string
	Name     string
	Type     DrainType
	// Target is the receiver's URL as it may be shown: the values of its query
	// are dots. URL is the whole of it, sealed: see DrainAAD.
	Target  string
	URL     []byte
	Headers []DrainHeader // sorted by name; of https and otlp
	Token   []byte        // sealed; nil: none
	CA      string        // PEM: the certificates that the receiver's must be signed by; "": the system's
	// Which lines: those of all that are set. Attribution.WorkspaceID is one
	// of them: a drain of a workspace forwards that workspace's lines only.
	DeploymentID string
	ServiceID    string
	Stream       string
	Search       string // as in reading logs
	Paused       bool
	OwnerID      string // the key that created it
	Attribution
	CreatedAt time.Time
	UpdatedAt time.Time
	Revision  int64
}

// DrainHeader is one header of a drain's requests, its value sealed.
type DrainHeader struct {
	Name   string
	Sealed []byte
}

// DrainAAD is the additional data that a secret of a drain is sealed with:
// part is "url", "token", or "header/" and the header's name.
func DrainAAD(drainID, part string) string { return drainID + "/" + part }

// DrainState says how a drain's delivery goes.
type DrainState string

const (
	DrainDelivering DrainState = "delivering" // every line so far, or nothing to deliver yet
	DrainRetrying   DrainState = "retrying"   // the receiver fails in passing; nothing is lost
	DrainFailed     DrainState = "failed"     // somebody has to mend something; tried again all the same
	DrainPaused     DrainState = "paused"     // by its owner
)

// DrainStatus is how a drain's delivery goes.
type DrainStatus struct {
	State       DrainState
	Error       string // the last one, in words; "": none since the last delivery
	ErrorAt     time.Time
	NextAttempt time.Time // when retrying or failed
	DeliveredAt time.Time
	Delivered   uint64 // lines that the receiver took
	Dropped     uint64 // dead letters: lines that it refused for good
	Lag         time.Duration
	// GapFrom and GapUntil, when set: lines between may be missing, their
	// number is unknown; the plan did not keep them as long as the receiver
	// was away.
	GapFrom, GapUntil time.Time
}

// DrainAnswer is what a receiver said to a test line.
type DrainAnswer struct {
	Delivered bool
	Status    int // of HTTP; 0: none
	Message   string
	Took      time.Duration
}
