package store

import (
	"fmt"
	"hash/fnv"
	"strconv"

	"github.com/miosa/miosa"
)

// PortRange are the ports of the routers' that an operator gives to services
// that speak raw TCP: First to Last, both 1–65535. The zero one has none.
type PortRange struct{ First, Last int }

// Size is how many ports there are.
func (r PortRange) Size() int {
	if r.First == 0 {
		return 0
	}
	return r.Last - r.First + 1
}

func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.First, r.Last) }

// ClaimPort finds a port for a service that has none, and makes it the
// service's: no two transactions give the same one away. A port that was given
// back is as a rule not given away at once: somebody's clients may still ask for
// it. The error is a *miosa.Error: Invalid where there is no range, Unavailable
// where all of it is given away.
func ClaimPort(tx *Tx, r PortRange, serviceID string) (port int, err error) {
	n := r.Size()
	if n == 0 {
		return 0, &miosa.Error{
			Code: miosa.Invalid, Public: "no_public_ports",
			Message: "services of protocol tcp need a port of the router's, and this platform has none for them: ask the operator to start it with --tcp-ports FIRST-LAST",
		}
	}
	taken := map[int]bool{}
	for e, err := range tx.store.Scan(tx.ctx, publicPorts, ScanOptions{KeysOnly: true}) {
		if err != nil {
			return 0, err
		}
		port, err := strconv.Atoi(e.Key[len(publicPorts):])
		if err != nil {
			return 0, fmt.Errorf("%s is no place of a port: %w", e.Key, err)
		}
		taken[port] = true
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(serviceID))
	start := int(h.Sum32() % uint32(n)) //nolint:gosec // at most 65,535
	for i := range n {
		port := r.First + (start+i)%n
		if taken[port] {
			continue
		}
		// Also those that this very transaction gives away.
		if _, ok, err := tx.Claim(PublicPortKey(port), serviceID); ok || err != nil {
			return port, err
		}
	}
	return 0, &miosa.Error{
		Code: miosa.Unavailable, Public: "public_ports_exhausted",
		Message: fmt.Sprintf("all %d ports that this platform has for services of protocol tcp are taken: delete a deployment that needs its port no more, or ask the operator for more of them (--tcp-ports)", n),
	}
}

// ReleasePort gives a service's port back; the service's own record is the
// caller's to change.
func ReleasePort(tx *Tx, s miosa.Service) error {
	key := PublicPortKey(s.PublicPort)
	holder, err := tx.Index(key)
	if err == nil && holder == s.ID {
		tx.DropIndex(key)
	}
	return err
}
