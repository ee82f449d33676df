package api

import (
	"cmp"
	"fmt"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/store"
)

// How long a drain may take before it is told of as late.
const (
	defaultDrainSeconds = 3600
	maxDrainSeconds     = 7 * 86400
)

func (s *Server) listHosts(c *call) (rows[resource.Host], error) {
	found, err := collect(c, store.Hosts, store.HostsPrefix(), func(h miosa.Host) bool {
		q := c.r.URL.Query()
		return (q.Get("region") == "" || q.Get("region") == h.Region) && c.filter().stateIs(string(h.Liveness))
	})
	return newest(found, func(h miosa.Host) string { return h.ID }, func(h miosa.Host) (resource.Host, error) {
		return hostResource(h), nil
	}), err
}

func (s *Server) getHost(c *call, _ none) (resource.Host, error) {
	id, err := c.pathID("id", miosa.PrefixHost, "host")
	if err != nil {
		return resource.Host{}, err
	}
	h, err := store.Get(c.r.Context(), s.store, store.Hosts, store.HostKey(id))
	c.etag = h.Revision
	return hostResource(h), err
}

// updateHost runs a transaction on the host that the path names, if it is as the
// caller has seen it.
func (c *call) updateHost(fn func(tx *store.Tx, h miosa.Host) error) (id string, err error) {
	if id, err = c.pathID("id", miosa.PrefixHost, "host"); err != nil {
		return "", err
	}
	return id, c.update(func(tx *store.Tx) error {
		h, err := store.Load(tx, store.Hosts, store.HostKey(id))
		if err != nil {
			return err
		}
		if err := c.match(h.Revision); err != nil {
			return err
		}
		return fn(tx, h)
	})
}

// changeHost writes what an operator wants of a host, with the event that tells of it;
// edit says what is told of it, "" where nothing changes.
func (s *Server) changeHost(c *call, kind string, edit func(h *miosa.Host) (message string, err error)) (resource.Host, error) {
	id, err := c.updateHost(func(tx *store.Tx, h miosa.Host) error {
		message, err := edit(&h)
		if err != nil || message == "" {
			return err
		}
		h.UpdatedAt = s.now().UTC()
		if err := store.Save(tx, store.Hosts, h); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{HostID: h.ID, Type: kind, Message: message})
	})
	if err != nil {
		return resource.Host{}, err
	}
	h, err := store.Get(c.r.Context(), s.store, store.Hosts, store.HostKey(id))
	return hostResource(h), err
}

// cordonHost has a host given no more instances. Those that it has stay.
func (s *Server) cordonHost(c *call, _ none) (resource.Host, error) {
	return s.changeHost(c, "host.cordoned", func(h *miosa.Host) (string, error) {
		if !h.Schedulable {
			return "", nil
		}
		h.Schedulable = false
		return "it is given no more instances", nil
	})
}

// uncordonHost has a host given instances again, also one that could not start any,
// and ends its drain: what has not left stays.
func (s *Server) uncordonHost(c *call, _ none) (resource.Host, error) {
	return s.changeHost(c, "host.uncordoned", func(h *miosa.Host) (string, error) {
		if h.Schedulable && !h.Draining() && !h.Failing {
			return "", nil
		}
		words := "it is given instances again"
		if h.Draining() {
			words += ", and is drained no more"
		}
		h.Schedulable, h.Drain, h.Failing = true, miosa.HostDrain{}, false
		if h.Liveness == miosa.Alive {
			h.Reasons = nil
		}
		return words, nil
	})
}

// loseHost is an operator's word that a host which is silent is gone: what it ran is
// replaced at once, however many others are silent.
func (s *Server) loseHost(c *call, _ none) (resource.Host, error) {
	return s.changeHost(c, "host.declared_lost", func(h *miosa.Host) (string, error) {
		switch h.Liveness {
		case miosa.Lost:
			return "", nil
		case miosa.Alive:
			return "", conflict("host_alive", fmt.Sprintf("%s is alive: its agent answers. What it runs leaves it when it is drained", cmp.Or(h.Name, h.ID)))
		}
		h.Liveness, h.Reasons = miosa.Lost, []string{"an operator says so"}
		return "an operator says that it is lost", nil
	})
}

// drainHost has all instances leave a host, make before break. Asked for again it
// changes the deadline and the force of the drain under way.
func (s *Server) drainHost(c *call, in resource.HostDrainStart) (resource.Host, error) {
	var f faults
	f.between("deadline_seconds", in.DeadlineSeconds, 0, maxDrainSeconds)
	if err := f.err(); err != nil {
		return resource.Host{}, err
	}
	return s.changeHost(c, "host.drain_began", func(h *miosa.Host) (string, error) {
		now := s.now().UTC()
		seconds := defaultDrainSeconds
		if in.DeadlineSeconds != nil {
			seconds = *in.DeadlineSeconds
		}
		if !h.Draining() {
			h.Drain = miosa.HostDrain{Since: now, By: c.key.ID}
		}
		h.Schedulable = false
		h.Drain.Force, h.Drain.Deadline, h.Drain.LateAt = in.Force, time.Time{}, time.Time{}
		words := "its instances are to leave it"
		if seconds > 0 {
			h.Drain.Deadline = now.Add(time.Duration(seconds) * time.Second)
			words += " by " + h.Drain.Deadline.Format(time.RFC3339)
		}
		if in.Force {
			words += ", and what has not left then is stopped"
		}
		return words, nil
	})
}

// deleteHost forgets a host that is empty, or whose loss is certain. An agent that
// runs on would only bring it back.
func (s *Server) deleteHost(c *call, _ none) (resource.Deleted, error) {
	force := c.r.URL.Query().Get("force") == "true"
	id, err := c.updateHost(func(tx *store.Tx, h miosa.Host) error {
		name := cmp.Or(h.Name, h.ID)
		switch {
		case h.Liveness == miosa.Alive:
			return conflict("host_alive", fmt.Sprintf("%s is alive, and its agent would bring it back: drain it, stop its agent, then delete it", name))
		case h.Liveness != miosa.Lost && h.Drain.DoneAt.IsZero() && !force:
			return conflict("host_not_empty", fmt.Sprintf("%s is silent, and may still run instances: wait until it is lost, or say force=true if it is certain that it runs nothing", name))
		}
		if err := store.Remove(tx, store.Hosts, h); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{HostID: h.ID, Type: "host.deleted", Message: name + " left the fleet"})
	})
	if err != nil {
		return resource.Deleted{}, err
	}
	return resource.Deleted{ID: id, Deleted: true}, nil
}
