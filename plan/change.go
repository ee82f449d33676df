package plan

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
)

// Change is what is tried.
type Change struct {
	What string // in words, as a title: "scale web to 5"
	// Put are the records that it writes, as they are after it.
	Put []any

	lose, drain []string // IDs of hosts
}

// Scale has a service want n instances.
func Scale(s miosa.Service, n int) Change {
	s.DesiredReplicas = n
	return Change{What: fmt.Sprintf("scale %s to %d", s.Name, n), Put: []any{s}}
}

// LoseHost is the loss of one host, named by its ID or its name.
func LoseHost(loaded cell.Loaded, host string) (Change, error) {
	h, err := hostBy(loaded, host)
	return Change{What: "lose host " + nameOf(h), lose: []string{h.ID}}, err
}

// LoseZone is the loss of all hosts of a zone at once: "a" where one region alone
// has such a zone, or "eu/a".
func LoseZone(loaded cell.Loaded, zone string) (Change, error) {
	hosts, err := hostsBy(loaded, func(h miosa.Host) bool { return h.Zone == zone || h.Region+"/"+h.Zone == zone }, "zone", zone)
	if err != nil {
		return Change{}, err
	}
	c := Change{What: "lose zone " + hosts[0].Region + "/" + hosts[0].Zone}
	for _, h := range hosts {
		if h.Region != hosts[0].Region {
			return Change{}, ambiguous("%s and %s both have a zone %q: name it with its region, as %s/%s", hosts[0].Region, h.Region, zone, h.Region, h.Zone)
		}
		c.lose = append(c.lose, h.ID)
	}
	return c, nil
}

// Drain takes all instances off a host, named by its ID or its name, each once
// another one has taken over.
func Drain(loaded cell.Loaded, host string) (Change, error) {
	h, err := hostBy(loaded, host)
	return Change{What: "drain host " + nameOf(h), drain: []string{h.ID}}, err
}

// drained is the record of a host that is being emptied: it is given nothing more,
// and its instances leave it.
func drained(now time.Time, host miosa.Host) miosa.Host {
	host.Schedulable = false
	host.Drain = miosa.HostDrain{Since: now}
	return host
}

// lost is the record of a host that is gone.
func lost(host miosa.Host) miosa.Host {
	host.Liveness, host.Reasons = miosa.Lost, []string{"it is supposed to be lost"}
	return host
}

func hostBy(loaded cell.Loaded, name string) (miosa.Host, error) {
	hosts, err := hostsBy(loaded, func(h miosa.Host) bool { return h.ID == name || h.Name == name }, "host", name)
	if err != nil {
		return miosa.Host{}, err
	}
	if len(hosts) > 1 {
		return miosa.Host{}, ambiguous("%d hosts are called %q: name one by its ID", len(hosts), name)
	}
	return hosts[0], nil
}

// hostsBy are the hosts that are meant, in order of ID; those that are lost
// already are not.
func hostsBy(loaded cell.Loaded, meant func(miosa.Host) bool, noun, name string) ([]miosa.Host, error) {
	var hosts []miosa.Host
	gone := false
	for _, n := range loaded.Nouns {
		switch h, ok := n.(miosa.Host); {
		case !ok || !meant(h):
		case h.Liveness == miosa.Lost:
			gone = true
		default:
			hosts = append(hosts, h)
		}
	}
	switch {
	case len(hosts) == 0 && gone:
		return nil, &miosa.Error{Code: miosa.Conflict, Public: noun + "_lost", Message: fmt.Sprintf("%s %q is lost already", noun, name)}
	case len(hosts) == 0:
		return nil, &miosa.Error{Code: miosa.NotFound, Public: noun + "_not_found", Message: fmt.Sprintf("no %s %q", noun, name)}
	}
	slices.SortFunc(hosts, func(a, b miosa.Host) int { return cmp.Compare(a.ID, b.ID) })
	return hosts, nil
}

func ambiguous(format string, args ...any) error {
	return &miosa.Error{Code: miosa.Invalid, Public: "validation_failed", Message: fmt.Sprintf(format, args...)}
}

func nameOf(h miosa.Host) string { return cmp.Or(h.Name, h.ID) }
