package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/network"
)

// counter is a network that counts what it is told to.
type counter struct {
	network.Network
	traffic network.Traffic
	err     error
}

func (c *counter) Traffic(string) (network.Traffic, error) { return c.traffic, c.err }

func (c *counter) send(n uint64) { c.traffic.SentBytes += n }

var two = miosa.Resources{VCPUs: 2, MemoryMB: 128, DiskMB: 16}

func newMeters(t *testing.T, dir string, c *counter) (*meters, *bytes.Buffer) {
	t.Helper()
	var said bytes.Buffer
	m, err := openMeters(dir, c, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.close() })
	return m, &said
}

// A process that is killed leaves its file as it is.
func TestMetersSurviveAKill(t *testing.T) {
	dir, c := t.TempDir(), &counter{traffic: network.Traffic{Counter: "tap", SentBytes: 10}}
	m, _ := newMeters(t, dir, c)
	m.idle("ri_a") // what is there already is not this meter's
	m.running("ri_a", "vm-1", two)
	c.send(5)
	m.tick()
	c.send(7) // nobody reads it
	m, _ = newMeters(t, dir, c)
	m.running("ri_a", "vm-1", two)
	if got := m.all["ri_a"].Total; got.SentBytes != 12 {
		t.Errorf("%+v", got)
	}
	m.ended("ri_a", "vm-0") // an older one, late
	if m.all["ri_a"].VM != "vm-1" {
		t.Error("the VM is taken for ended")
	}
	m.ended("ri_a", "vm-1")
	total := m.all["ri_a"].Total
	m.ended("ri_a", "vm-1")
	m.tick()
	if m.all["ri_a"].VM != "" || m.all["ri_a"].Total != total {
		t.Error("it goes on after its end")
	}
}

func TestATornFileIsReadUpToThere(t *testing.T) {
	dir, c := t.TempDir(), &counter{traffic: network.Traffic{Counter: "tap"}}
	m, _ := newMeters(t, dir, c)
	m.idle("ri_a")
	c.send(5)
	m.tick()
	path := filepath.Join(dir, metersFile)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c.send(5)
	m.tick()
	longer, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := len(whole); n < len(longer); n++ {
		if err := os.WriteFile(path, longer[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		m, _ := newMeters(t, dir, c)
		if got := m.all["ri_a"].Total.SentBytes; got != 5 || m.file.size != int64(len(whole)) {
			t.Fatalf("%d of %d bytes: total %d, %d bytes are whole", n, len(longer), got, m.file.size)
		}
		m.tick()
		if got := m.all["ri_a"].Total.SentBytes; got != 10 {
			t.Fatalf("then: %d", got)
		}
	}
	for n := range len(longer) { // any byte broken
		broken := bytes.Clone(longer)
		broken[n] ^= 1
		if err := os.WriteFile(path, broken, 0o600); err != nil {
			t.Fatal(err)
		}
		if m, _ := newMeters(t, dir, c); m.all["ri_a"] != nil && m.all["ri_a"].Total.SentBytes > 10 {
			t.Fatalf("byte %d broken: %+v", n, m.all["ri_a"])
		}
	}
}

func TestTheFileStaysSmall(t *testing.T) {
	dir, c := t.TempDir(), &counter{traffic: network.Traffic{Counter: "tap"}}
	m, _ := newMeters(t, dir, c)
	for _, id := range []string{"ri_a", "ri_b", "ri_gone"} {
		m.idle(id)
	}
	epoch := m.epoch
	m.answered(metering.Report{InstanceID: "ri_gone"}, metering.Outcome{Verdict: metering.Refused})
	most := int64(0)
	for range 800 {
		c.send(1)
		m.tick()
		most = max(most, m.file.size)
	}
	if most > 2*compactBytes {
		t.Errorf("it grew to %d bytes", most)
	}
	again, _ := newMeters(t, dir, c)
	if len(again.all) != 2 || again.all["ri_b"].Total.SentBytes != 800 || again.epoch < epoch {
		t.Errorf("read again: %d meters, %+v, epoch %d of %d", len(again.all), again.all["ri_b"], again.epoch, epoch)
	}
	again.idle("ri_gone")
	if again.all["ri_gone"].Epoch <= epoch {
		t.Error("an epoch is given out twice")
	}
}

// taker answers as it is told.
type taker struct {
	outcome metering.Outcome
	err     error
	got     []metering.Report
}

func (x *taker) Report(_ context.Context, _ string, r []metering.Report) ([]metering.Outcome, error) {
	x.got = append(x.got, r...)
	if x.err != nil {
		return nil, x.err
	}
	out := make([]metering.Outcome, len(r))
	for i := range out {
		out[i] = x.outcome
	}
	return out, nil
}

func TestAnswersToReports(t *testing.T) {
	c := &counter{traffic: network.Traffic{Counter: "tap"}}
	m, said := newMeters(t, t.TempDir(), c)
	m.idle("ri_a")
	x := &taker{outcome: metering.Outcome{Verdict: metering.Taken}}
	report := func(want int) {
		t.Helper()
		x.got = nil
		due, _ := m.tick()
		if err := m.report(t.Context(), "host", x, due); !errors.Is(err, x.err) {
			t.Fatal(err)
		}
		if len(x.got) != want {
			t.Errorf("%d reports, want %d", len(x.got), want)
		}
	}
	report(1) // it is there, though it used nothing
	report(0)
	c.send(5)
	m.tick()
	x.err = errors.New("away")
	report(1)
	x.err = nil
	report(1)
	report(0)
	// The account knows a later epoch: counting goes on from here.
	c.send(5)
	m.tick()
	x.outcome = metering.Outcome{Verdict: metering.Behind, Epoch: m.epoch + 10}
	report(1)
	c.send(3)
	m.tick()
	x.outcome = metering.Outcome{Verdict: metering.Taken}
	report(1)
	if r := x.got[0]; r.Points[0].Total.SentBytes != 3 || r.Epoch != m.epoch {
		t.Errorf("after a renewal: %+v", r)
	}
	m.finish("ri_a")
	x.err = errors.New("away")
	report(1)
	x.err = nil
	report(1)
	if !x.got[0].Final || len(m.all) != 0 {
		t.Errorf("%+v, %d meters", x.got[0], len(m.all))
	}
	m.finish("ri_a") // it is forgotten
	report(0)
	m.idle("ri_b")
	x.outcome = metering.Outcome{Verdict: metering.Refused, Reason: "not yours"}
	report(1)
	report(0)
	if !strings.Contains(said.String(), "not yours") {
		t.Errorf("said: %s", said)
	}
}

// Counters that can't be read, and a disk that takes nothing: said once, and
// nothing is lost when they work again.
func TestMetersThatFail(t *testing.T) {
	dir, c := t.TempDir(), &counter{traffic: network.Traffic{Counter: "tap"}}
	m, said := newMeters(t, dir, c)
	m.idle("ri_a")
	c.send(5)
	c.err = errors.New("no such link")
	held := c.traffic
	c.traffic = network.Traffic{}
	for range 3 {
		m.tick()
	}
	c.traffic, c.err = held, nil
	file := m.file.f
	broken, err := os.Open(filepath.Join(dir, metersFile)) // not for writing
	if err != nil {
		t.Fatal(err)
	}
	defer broken.Close()
	m.file.f = broken
	for range 2 {
		if _, ok := m.tick(); ok {
			t.Error("what is not written is said to be safe")
		}
	}
	m.file.f = file
	c.send(2)
	if _, ok := m.tick(); !ok || m.all["ri_a"].Total.SentBytes != 7 {
		t.Errorf("%+v", m.all["ri_a"])
	}
	if n := strings.Count(said.String(), "level=ERROR"); n != 1 || !strings.Contains(said.String(), "work again") {
		t.Errorf("said: %s", said)
	}
	again, _ := newMeters(t, dir, c)
	if again.all["ri_a"].Total.SentBytes != 7 {
		t.Errorf("read again: %+v", again.all["ri_a"])
	}
}
