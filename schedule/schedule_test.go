package schedule_test

import (
	"flag"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/schedule"
	"github.com/miosa/miosa/transcript"
)

var update = flag.Bool("update", false, "accept the transcripts' new output")

func TestTranscripts(t *testing.T) {
	transcript.Run(t, "testdata/*.txt", *update, func() transcript.Player { return (&fleet{peers: map[string]int{}}).line })
}

// fleet is what a script has set up.
type fleet struct {
	hosts []schedule.Host
	peers map[string]int
}

// line carries out one line of a script:
//
//	host NAME [region=eu] [zone=a] [cpu=8] [memory=16384] [disk=65536] [gpu=0] [overcommit=1] [label=gpu:h100,disk:nvme] [image=app] [lost] [cordoned]
//	place [size=small] [gpu=1] [disk=1024] [region=eu,us] [label=gpu:h100] [avoid=a,b] [failed=a,b] [image=app] [apart] [alone] [policy=pack] [times=3]
func (f *fleet) line(l transcript.Line) (string, error) {
	switch l.Word(0) {
	case "host":
		h := schedule.Host{Host: miosa.Host{
			ID: l.Word(1), Region: l.Text("region", "eu"), Zone: l.Text("zone", "a"), Liveness: miosa.Alive, Schedulable: !l.Has("cordoned"),
			Capacity:   miosa.Resources{VCPUs: l.Int("cpu", 8), MemoryMB: l.Int("memory", 16384), DiskMB: l.Int("disk", 65536), GPU: l.Int("gpu", 0)},
			Overcommit: float64(l.Int("overcommit", 1)), Labels: labels(l),
		}, Images: map[string]int{l.Text("image", "its own"): 1}}
		if l.Has("lost") {
			h.Liveness = miosa.Lost
		}
		f.hosts = append(f.hosts, h)
		return "", nil
	case "place":
		return f.place(l)
	}
	return "", fmt.Errorf("no such command")
}

func (f *fleet) place(l transcript.Line) (string, error) {
	r := schedule.Request{Peers: f.peers, Labels: labels(l), Apart: l.Has("apart"), Image: l.Text("image", "")}
	for _, s := range miosa.Sizes() {
		if s.Slug == l.Text("size", "small") {
			r.Resources = s.Resources
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
	policy := schedule.Policy(l.Text("policy", string(schedule.Spread)))
	var out []string
	for range l.Int("times", 1) {
		a := schedule.Place(policy, r, f.hosts)
		if a.HostID == "" {
			out = append(out, "nowhere: "+strings.Join(a.Reasons, "; "))
			continue
		}
		out = append(out, fmt.Sprintf("%s in %s/%s", a.HostID, a.Region, a.Zone))
		if !l.Has("alone") { // else it is of a service of its own
			f.peers[a.HostID]++
		}
		for n := range f.hosts {
			if f.hosts[n].ID == a.HostID {
				f.hosts[n].Used = schedule.Add(f.hosts[n].Used, r.Resources)
				f.hosts[n].Images[r.Image]++
			}
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
	for _, pair := range strings.Split(text, ",") {
		k, v, _ := strings.Cut(pair, ":")
		m[k] = v
	}
	return m
}

func drawFleet(t *rapid.T) []schedule.Host {
	hosts := make([]schedule.Host, rapid.IntRange(0, 8).Draw(t, "hosts"))
	for n := range hosts {
		hosts[n] = schedule.Host{
			Host: miosa.Host{
				ID: fmt.Sprint("host_", n), Region: rapid.SampledFrom([]string{"eu", "us"}).Draw(t, "region"), Zone: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "zone"),
				Liveness:    rapid.SampledFrom([]miosa.Liveness{miosa.Alive, miosa.Alive, miosa.Alive, miosa.Suspect, miosa.Lost}).Draw(t, "liveness"),
				Schedulable: rapid.IntRange(0, 4).Draw(t, "schedulable") > 0,
				Capacity:    drawResources(t, "capacity", 16),
				Overcommit:  rapid.SampledFrom([]float64{0, 1, 1.5, 4}).Draw(t, "overcommit"),
				Labels:      drawLabels(t),
			},
			Used:   drawResources(t, "used", 8),
			Images: map[string]int{"app": rapid.IntRange(0, 1).Draw(t, "image")},
		}
	}
	return hosts
}

var drawSomeLabels = rapid.MapOfN(rapid.SampledFrom([]string{"gpu", "disk"}), rapid.SampledFrom([]string{"h100", "nvme"}), 0, 2)

func drawLabels(t *rapid.T) map[string]string { return drawSomeLabels.Draw(t, "labels") }

func drawResources(t *rapid.T, label string, most int) miosa.Resources {
	n := rapid.IntRange(0, most)
	return miosa.Resources{VCPUs: n.Draw(t, label+" cpu"), MemoryMB: 256 * n.Draw(t, label+" memory"), DiskMB: 1024 * n.Draw(t, label+" disk"), GPU: n.Draw(t, label+" gpu") / 6}
}

func drawRequest(t *rapid.T, hosts []schedule.Host) schedule.Request {
	r := schedule.Request{Resources: drawResources(t, "wanted", 4), Peers: map[string]int{}}
	if rapid.Bool().Draw(t, "somewhere") {
		r.Regions = rapid.SliceOfN(rapid.SampledFrom([]string{"eu", "us", "mars"}), 1, 2).Draw(t, "regions")
	}
	if rapid.IntRange(0, 3).Draw(t, "labelled") == 0 {
		r.Labels = drawLabels(t)
	}
	r.Apart = rapid.IntRange(0, 3).Draw(t, "apart") == 0
	r.Image = rapid.SampledFrom([]string{"", "app"}).Draw(t, "image")
	for _, h := range hosts {
		if rapid.IntRange(0, 5).Draw(t, "avoid") == 0 {
			r.Avoid = append(r.Avoid, h.ID)
		}
		if rapid.IntRange(0, 3).Draw(t, "failed") == 0 {
			r.Failed = append(r.Failed, h.ID)
		}
		r.Peers[h.ID] = rapid.IntRange(0, 3).Draw(t, "peers")
	}
	return r
}

// fits is said here once more, plainly: what the filters must come to.
func fits(r schedule.Request, h schedule.Host) bool {
	free := schedule.Free(h)
	return h.Liveness == miosa.Alive && h.Schedulable && !slices.Contains(r.Avoid, h.ID) &&
		(len(r.Regions) == 0 || slices.Contains(r.Regions, h.Region)) && (!r.Apart || r.Peers[h.ID] == 0) &&
		!slices.ContainsFunc(slices.Collect(maps.Keys(r.Labels)), func(k string) bool { have, ok := h.Labels[k]; return !ok || have != r.Labels[k] }) &&
		free.VCPUs >= r.Resources.VCPUs && free.MemoryMB >= r.Resources.MemoryMB && free.DiskMB >= r.Resources.DiskMB && free.GPU >= r.Resources.GPU
}

// score is, as plainly, what a host is judged by, in order of weight: less is better.
func score(policy schedule.Policy, r schedule.Request, hosts []schedule.Host, n int) []int {
	h := hosts[n]
	s := []int{0, r.Peers[h.ID], 1, 0, 0}
	for _, o := range hosts {
		if o.Region == h.Region && o.Zone == h.Zone {
			s[0] += r.Peers[o.ID]
		}
	}
	if r.Image != "" && h.Images[r.Image] > 0 {
		s[2] = 0
	}
	if slices.Contains(r.Failed, h.ID) {
		s[3] = 1
	}
	if h.Capacity.MemoryMB > 0 {
		s[4] = schedule.Free(h).MemoryMB * 1000 / h.Capacity.MemoryMB
	}
	if policy == schedule.Spread {
		s[4] = -s[4]
	}
	return s
}

func TestPlace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := drawFleet(t)
		r := drawRequest(t, hosts)
		policy := rapid.SampledFrom([]schedule.Policy{schedule.Spread, schedule.Pack}).Draw(t, "policy")
		a := schedule.Place(policy, r, hosts)
		shuffled := rapid.Permutation(hosts).Draw(t, "order")
		if b := schedule.Place(policy, r, shuffled); !reflect.DeepEqual(a, b) {
			t.Fatalf("%+v in one order, %+v in another", a, b)
		}
		if a.HostID == "" {
			if len(a.Reasons) == 0 {
				t.Fatal("nowhere, and no reason")
			}
			for _, h := range hosts {
				if fits(r, h) {
					t.Fatalf("nowhere (%s), though %s fits", strings.Join(a.Reasons, "; "), h.ID)
				}
			}
			return
		}
		if len(a.Reasons) > 0 {
			t.Fatalf("placed, and yet %q", a.Reasons)
		}
		won := score(policy, r, hosts, slices.IndexFunc(hosts, func(h schedule.Host) bool { return h.ID == a.HostID }))
		for n, h := range hosts {
			if h.ID == a.HostID && !fits(r, h) {
				t.Fatalf("%s does not fit", a.HostID)
			}
			if s := score(policy, r, hosts, n); fits(r, h) && slices.Compare(s, won) < 0 {
				t.Fatalf("%s has %v, which is better than %v of %s", h.ID, s, won, a.HostID)
			}
		}
	})
}

// One after the other, hosts are filled to the brim and never beyond; over
// equal ones replicas differ by one at most, and so do zones of equal size.
func TestSpread(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		room := rapid.IntRange(1, 6).Draw(t, "room")
		per := rapid.IntRange(1, 3).Draw(t, "hosts in a zone")
		size := miosa.DefaultResources()
		var hosts []schedule.Host
		for n := range 2 * per {
			hosts = append(hosts, schedule.Host{Host: miosa.Host{
				ID: fmt.Sprint("host_", n), Zone: fmt.Sprint("z", n%2), Liveness: miosa.Alive, Schedulable: true,
				Capacity: miosa.Resources{VCPUs: room, MemoryMB: room * size.MemoryMB, DiskMB: room * size.DiskMB},
			}})
		}
		peers := map[string]int{}
		total := rapid.IntRange(0, 2*per*room+2).Draw(t, "replicas")
		placed := 0
		for range total {
			a := schedule.Place(schedule.Spread, schedule.Request{Resources: size, Peers: peers}, rapid.Permutation(hosts).Draw(t, "order"))
			if a.HostID == "" {
				continue
			}
			placed++
			peers[a.HostID]++
			n := slices.IndexFunc(hosts, func(h schedule.Host) bool { return h.ID == a.HostID })
			hosts[n].Used = schedule.Add(hosts[n].Used, size)
			if free := schedule.Free(hosts[n]); free.VCPUs < 0 || free.MemoryMB < 0 || free.DiskMB < 0 {
				t.Fatalf("%s promises more than it has: %+v", a.HostID, free)
			}
			zones, least, most := map[string]int{}, room, 0
			for _, h := range hosts {
				zones[h.Zone] += peers[h.ID]
				least, most = min(least, peers[h.ID]), max(most, peers[h.ID])
			}
			if most-least > 1 || zones["z0"]-zones["z1"] > 1 || zones["z1"]-zones["z0"] > 1 {
				t.Fatalf("uneven: %v", peers)
			}
		}
		if want := min(total, 2*per*room); placed != want {
			t.Fatalf("%d of %d placed", placed, want)
		}
	})
}
