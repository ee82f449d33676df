package liveness

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	// FailedApps is how many different apps must have failed to start within
	// FailedWithin, with none that started since, for a host to be failing.
	FailedApps   = 3
	FailedWithin = 10 * time.Minute
	// FailingFor is how long a failing host is given nothing; then it is tried
	// again.
	FailingFor = 30 * time.Minute
)

// failedStart is the last time that an app could not be started.
type failedStart struct {
	app string
	at  time.Duration
}

func (m *Machine) startFailed(e StartFailed) {
	h := m.hosts[e.Host]
	if h == nil || h.failing || !m.judging() {
		return
	}
	h.starts = slices.DeleteFunc(h.starts, func(s failedStart) bool {
		return s.app == e.App || m.clock-s.at > FailedWithin
	})
	h.starts = append(h.starts, failedStart{e.App, m.clock})
	if len(h.starts) < FailedApps || h.place.in == nil {
		return
	}
	apps := make([]string, 0, FailedApps)
	for _, s := range h.starts {
		apps = append(apps, s.app)
	}
	h.starts = nil
	why := fmt.Sprintf("%d different apps could not be started there within %s: %s", len(apps), long(FailedWithin), strings.Join(apps, ", "))
	// When it is so everywhere it is not the host, and something has to go on
	// trying.
	if 2*(m.failing.n+1) > m.fleet {
		m.out = append(m.out, Tell{h.id, "host.start_failed", h.name + " is given instances all the same, because too few hosts would be left: " + why})
		return
	}
	m.setFailing(h, why)
	m.judge(h, "host.start_failed", "is given no more instances: "+why)
}

func (m *Machine) setFailing(h *host, why string) {
	h.failing, h.failingWhy, h.failingUntil = true, why, m.clock+FailingFor
	m.failing.push(&h.rest)
}

func (m *Machine) startSucceeded(e StartSucceeded) {
	if h := m.hosts[e.Host]; h != nil {
		h.starts = nil
		if h.failing {
			m.endFailing(h, "an instance was started there")
		}
	}
}

func (m *Machine) endFailing(h *host, why string) {
	h.failing = false
	h.rest.leave()
	m.judge(h, "host.start_recovered", "is given instances again: "+why)
}
