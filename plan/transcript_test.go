package plan_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/plan"
	"github.com/miosa/miosa/schedule"
	"github.com/miosa/miosa/transcript"
)

var update = flag.Bool("update", false, "accept the transcripts' new output")

func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", *update, func() transcript.Player {
		s := &stage{}
		return s.line
	})
}

// stage is a fleet that plans are made on.
type stage struct {
	nouns []any
	apps  []app
	f     *fleet
}

// line carries out one line of a script:
//
//	host NAME REGION/ZONE memory=2048 [gpu=1]
//	app TENANT/DEPLOYMENT NAME replicas=2 memory=512 [gpu=1] [regions=eu] [worker]
//	scale TENANT/DEPLOYMENT N
//	publish TENANT/DEPLOYMENT replicas=2 memory=512
//	lose-host NAME | lose-zone ZONE | drain NAME
//	… as=TENANT                           what that tenant is shown of it
//
// Hosts and apps come first; each of the others prints its plan, and changes
// nothing.
func (s *stage) line(l transcript.Line) (string, error) {
	size := miosa.Resources{VCPUs: 1, MemoryMB: l.Int("memory", 512), DiskMB: 100, GPU: l.Int("gpu", 0)}
	var regions []string
	if r := l.Text("regions", ""); r != "" {
		regions = strings.Split(r, ",")
	}
	switch l.Word(0) {
	case "host":
		region, zone, _ := strings.Cut(l.Word(2), "/")
		size.VCPUs, size.DiskMB = 8, 10_000
		s.nouns = append(s.nouns, host(l.Word(1), region, zone, size))
		return "", nil
	case "app":
		tenant, deployment, _ := strings.Cut(l.Word(1), "/")
		a := app{tenant: tenant, deployment: deployment, name: l.Word(2), replicas: l.Int("replicas", 1), size: size, regions: regions, worker: l.Has("worker")}
		s.apps = append(s.apps, a)
		s.nouns = append(s.nouns, a.records()...)
		return "", nil
	}
	if s.f == nil {
		s.f = start(schedule.Spread, s.nouns...)
		s.f.rest()
	}
	change, err := s.change(l, size)
	if err != nil {
		return "", err
	}
	p, err := plan.Make(s.f.now, s.f.loaded(), cell.Config{}, change)
	if err != nil {
		return "", err
	}
	if tenant := l.Text("as", ""); tenant != "" {
		p = p.For("ten_"+tenant, func(string) bool { return true })
	}
	verdict := "ok"
	if !p.OK() {
		verdict = "not ok"
	}
	return strings.Join(append([]string{p.What + ": " + verdict, p.Summary()}, p.Lines()...), "\n"), nil
}

func (s *stage) change(l transcript.Line, size miosa.Resources) (plan.Change, error) {
	loaded := s.f.loaded()
	switch l.Word(0) {
	case "lose-host":
		return plan.LoseHost(loaded, l.Word(1))
	case "lose-zone":
		return plan.LoseZone(loaded, l.Word(1))
	case "drain":
		return plan.Drain(loaded, l.Word(1))
	}
	n := slices.IndexFunc(s.apps, func(a app) bool { return a.tenant+"/"+a.deployment == l.Word(1) })
	if n < 0 {
		return plan.Change{}, fmt.Errorf("there is no %s", l.Word(1))
	}
	a := s.apps[n]
	switch l.Word(0) {
	case "scale":
		var to int
		_, err := fmt.Sscan(l.Word(2), &to)
		return plan.Scale(a.service(), to), err
	case "publish":
		return a.publish(s.f.now, size, l.Int("replicas", a.replicas)), nil
	}
	return plan.Change{}, fmt.Errorf("what is %q?", l.Word(0))
}
