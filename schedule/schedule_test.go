package schedule_test

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/schedule"
	"github.com/miosa/miosa/transcript"
)

var update = flag.Bool("update", false, "accept the transcripts' new output")

func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", *update, func() transcript.Player { return newScript().line })
}

// script is what a script has set up.
type script struct {
	policy map[schedule.Policy]*schedule.Fleet // the same one, by either policy
	peers  *schedule.Peers
}

func newScript() *script {
	return &script{
		policy: map[schedule.Policy]*schedule.Fleet{schedule.Spread: schedule.NewFleet(schedule.Spread), schedule.Pack: schedule.NewFleet(schedule.Pack)},
		peers:  new(schedule.Peers),
	}
}

// line carries out one line of a script:
//
//	host NAME [region=eu] [zone=a] [cpu=8] [memory=16384] [disk=65536] [gpu=0] [overcommit=1] [label=gpu:h100,disk:nvme] [image=app] [lost] [failing] [cordoned]
//	place [size=small] [gpu=1] [disk=1024] [region=eu,us] [label=gpu:h100] [avoid=a,b] [failed=a,b] [image=app] [apart] [alone] [policy=pack] [times=3]
func (s *script) line(l transcript.Line) (string, error) {
	switch l.Word(0) {
	case "host":
		h := miosa.Host{
			ID: l.Word(1), Region: l.Text("region", "eu"), Zone: l.Text("zone", "a"), Liveness: miosa.Alive, Schedulable: !l.Has("cordoned"), Failing: l.Has("failing"),
			Capacity:   miosa.Resources{VCPUs: l.Int("cpu", 8), MemoryMB: l.Int("memory", 16384), DiskMB: l.Int("disk", 65536), GPU: l.Int("gpu", 0)},
			Overcommit: float64(l.Int("overcommit", 1)), Labels: labels(l),
		}
		if l.Has("lost") {
			h.Liveness = miosa.Lost
		}
		for _, f := range s.policy {
			f.Put(h)
			f.AddImage(h.ID, l.Text("image", "its own"))
		}
		return "", nil
	case "place":
		return s.place(l)
	}
	return "", fmt.Errorf("no such command")
}

func (s *script) place(l transcript.Line) (string, error) {
	r := schedule.Request{Peers: s.peers, Labels: labels(l), Apart: l.Has("apart"), Image: l.Text("image", "")}
	for _, size := range miosa.Sizes() {
		if size.Slug == l.Text("size", "small") {
			r.Resources = size.Resources
		}
	}
	r.Resources.GPU = l.Int("gpu", 0)
	r.Resources.DiskMB = l.Int("disk", r.Resources.DiskMB)
	if v, ok := l.Value("region"); ok {
		r.Regions = strings.Split(v, ",")
	}
	if v, ok := l.Value("avoid"); ok {
		r.Avoid = strings.Split(v, ",")
	}
	if v, ok := l.Value("failed"); ok {
		r.Failed = strings.Split(v, ",")
	}
	if l.Has("alone") {
		r.Peers = nil
	}
	var out []string
	for range l.Int("times", 1) {
		a := s.policy[schedule.Policy(l.Text("policy", string(schedule.Spread)))].Place(r)
		if a.HostID == "" {
			out = append(out, "nowhere: "+strings.Join(a.Reasons, "; "))
			continue
		}
		out = append(out, fmt.Sprintf("%s in %s/%s", a.HostID, a.Region, a.Zone))
		if !l.Has("alone") { // else it is of a service of its own
			s.peers.Add(a.HostID)
		}
		for _, f := range s.policy {
			f.Promise(a.HostID, r.Resources)
			f.AddImage(a.HostID, r.Image)
		}
	}
	return strings.Join(out, "\n"), nil
}

// labels reads label=k:v,k:v.
func labels(l transcript.Line) map[string]string {
	text, ok := l.Value("label")
	if !ok {
		return nil
	}
	m := map[string]string{}
	for pair := range strings.SplitSeq(text, ",") {
		k, v, _ := strings.Cut(pair, ":")
		m[k] = v
	}
	return m
}

// One after the other, hosts are filled to the brim and never beyond; over
// equal ones replicas differ by one at most, and so do zones of equal size.
func TestSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		room := rapid.IntRange(1, 6).Draw(t, "room")
		per := rapid.IntRange(1, 3).Draw(t, "hosts in a zone")
		size := miosa.DefaultResources()
		var hosts []plainHost
		for n := range 2 * per {
			hosts = append(hosts, plainHost{Host: miosa.Host{
				ID: fmt.Sprint("host_", n), Zone: fmt.Sprint("z", n%2), Liveness: miosa.Alive, Schedulable: true,
				Capacity: miosa.Resources{VCPUs: room, MemoryMB: room * size.MemoryMB, DiskMB: room * size.DiskMB},
			}})
		}
		f := modelOf(schedule.Spread, rapid.Permutation(hosts).Draw(t, "order")).fleet
		peers, on := new(schedule.Peers), map[string]int{}
		total := rapid.IntRange(0, 2*per*room+2).Draw(t, "replicas")
		placed := 0
		for range total {
			a := f.Place(schedule.Request{Resources: size, Peers: peers})
			if a.HostID == "" {
				continue
			}
			placed++
			peers.Add(a.HostID)
			on[a.HostID]++
			f.Promise(a.HostID, size)
			if free, ok := f.Free(a.HostID); !ok || free.VCPUs < 0 || free.MemoryMB < 0 || free.DiskMB < 0 {
				t.Fatalf("%s promises more than it has: %+v", a.HostID, free)
			}
			zones, least, most := map[string]int{}, room, 0
			for _, h := range hosts {
				zones[h.Zone] += on[h.ID]
				least, most = min(least, on[h.ID]), max(most, on[h.ID])
			}
			if most-least > 1 || zones["z0"]-zones["z1"] > 1 || zones["z1"]-zones["z0"] > 1 {
				t.Fatalf("uneven: %v", on)
			}
		}
		if want := min(total, 2*per*room); placed != want {
			t.Fatalf("%d of %d placed", placed, want)
		}
	})
}
