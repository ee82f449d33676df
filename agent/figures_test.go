package agent

import (
	"math"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metrics"
	"github.com/miosa/miosa/wire/guest"
)

// A guest can lie about itself, but not beyond what it was given.
func TestGuestsAreBounded(t *testing.T) {
	f := newFigures(miosa.Instance{Spec: miosa.ServiceSpec{Resources: miosa.Resources{MemoryMB: 128, DiskMB: 64}}})
	f.said(time.Now(), guest.Stats{MemUsed: math.MaxUint64, DiskUsed: math.MaxUint64, CPUMS: math.MaxUint64})
	if f.guest.MemUsed != 128<<20 || f.guest.DiskUsed != 64<<20 || f.guest.CPUMS != 0 {
		t.Errorf("%+v", f.guest)
	}
	f.said(time.Now(), guest.Stats{MemUsed: 5, DiskUsed: 7})
	if f.guest.MemUsed != 5 || f.guest.DiskUsed != 7 {
		t.Errorf("%+v", f.guest)
	}
}

// Without a VM there is nothing to measure but how often it was restarted.
func TestBetweenBootsThereAreNoFigures(t *testing.T) {
	x := &actor{a: &Agent{}, figures: newFigures(miosa.Instance{ID: "ri_1"})}
	x.figures.observed(miosa.Observation{State: miosa.Pending, RestartCount: 3})
	x.figures.said(time.Now(), guest.Stats{MemUsed: 5})
	x.figures.probed(time.Now(), time.Second)
	v := x.sample(time.Now())
	for _, f := range metrics.OfInstances() {
		n, ok := v.Get(f.Figure)
		if ok != (f.Figure == metrics.Restarts) || ok && n != 3 {
			t.Errorf("%s is %d, %v", f.Name, n, ok)
		}
	}
}
