package miosa

import (
	"net/netip"
	"time"
)

// Liveness is control's judgement of a host.
type Liveness string

const (
	Alive   Liveness = "alive"
	Suspect Liveness = "suspect" // silent: its instances stay routed, replacements start
	Lost    Liveness = "lost"
)

// Host is one machine of the fleet. Capacity and attributes are its agent's
// word, schedulable and liveness are control's.
type Host struct {
	ID          string
	Name        string
	Region      string
	Zone        string
	Driver      string // the vmm driver's name
	PublicKey   []byte // X25519: boot specs are sealed to it
	Capacity    Resources
	Addresses   []netip.Addr      // its own, the loopback's aside: no customer's wish leads there
	Overcommit  float64           // how far vCPUs may be promised beyond the cores; 0: 1
	Labels      map[string]string // gpu=h100, disk=nvme: what is placed may require them
	Schedulable bool
	Liveness    Liveness
	Failing     bool     // it answers, and cannot start anything: it is given no more
	Reasons     []string // why it is not alive, or failing, in sentences
	Drain       HostDrain
	Version     string
	CreatedAt   time.Time
	UpdatedAt   time.Time
	Revision    int64
}

// HostDrain is an operator's wish that all instances leave a host, and how that
// stands. The zero value: there is none.
type HostDrain struct {
	Since    time.Time // zero: none
	By       string    // who asked
	Deadline time.Time // zero: none
	// Force: what has not left by the deadline, or at once where there is none, is
	// stopped whatever becomes of its service.
	Force bool

	// What follows is control's, as of ReportedAt.
	Total      int    // instances on the host when control first looked
	Left       int    // that are still there
	Progress   string // how it stands, and what is waited for
	ReportedAt time.Time
	LateAt     time.Time // the deadline passed with some left; zero: it did not
	DoneAt     time.Time // none is left; zero: some are
}

// Draining reports whether the host's instances are to leave it.
func (h Host) Draining() bool { return !h.Drain.Since.IsZero() }

// Region is a place customers can ask for.
type Region struct {
	ID, Name, Slug, Country, City string
	Available                     bool
}
