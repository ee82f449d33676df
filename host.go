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
	Version     string
	CreatedAt   time.Time
	UpdatedAt   time.Time
	Revision    int64
}

// Region is a place customers can ask for.
type Region struct {
	ID, Name, Slug, Country, City string
	Available                     bool
}
