package agent_test

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/agent"
	"github.com/miosa/miosa/agent/spool"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/network"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/vmm/sim"
	"github.com/miosa/miosa/wire/cell"
)

// patience bounds every wait of these tests; all end at the event itself.
const patience = 30 * time.Second

// control is a Link with one instance.
type control struct {
	mu       sync.Mutex // guards in and observed
	in       miosa.Instance
	observed miosa.Observation
	changed  chan struct{} // closed, and made anew, by every change
	// registers is called before there are assignments.
	registers func()
	sessions  atomic.Int64
	beats     atomic.Int64 // of one session
	wrong     atomic.Int64 // beats that should not have come
	deaf      atomic.Bool  // beats do not arrive
}

func (c *control) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *control) assign(f func(*miosa.Instance)) {
	c.change(func() { f(&c.in); c.in.Generation++ })
}

func (c *control) Register(context.Context, miosa.Host) (int64, error) {
	if c.registers != nil {
		c.registers()
	}
	c.beats.Store(0)
	return c.sessions.Add(1), nil
}

func (c *control) Beat(_ context.Context, _ string, session, seq int64) error {
	if c.deaf.Load() {
		return miosa.Errorf(miosa.Unavailable, "nobody is there")
	}
	defer c.change(func() {})
	if session != c.sessions.Load() || seq != c.beats.Add(1) {
		c.wrong.Add(1)
	}
	return nil
}

func (c *control) Assignments(ctx context.Context, _ string) iter.Seq2[[]miosa.Instance, error] {
	return func(yield func([]miosa.Instance, error) bool) {
		for seen := int64(-1); ; {
			c.mu.Lock()
			in, changed := c.in, c.changed
			in.Observed = c.observed
			c.mu.Unlock()
			if in.Generation > seen {
				if seen = in.Generation; !yield([]miosa.Instance{in}, nil) {
					return
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}
}

func (c *control) Observe(_ context.Context, _ string, o miosa.Observation) error {
	c.change(func() { c.observed = o })
	return nil
}

// until waits for an observed state.
func (c *control) until(t *testing.T, want miosa.InstanceState) {
	t.Helper()
	c.untilBoot(t, want, 0)
}

// untilBoot waits for an observed state of that boot, or a later one.
func (c *control) untilBoot(t *testing.T, want miosa.InstanceState, boot int) {
	t.Helper()
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		observed, changed := c.observed, c.changed
		c.mu.Unlock()
		if observed.State == want && observed.Boot >= boot {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("it is %s in boot %d, not %s", observed.State, observed.Boot, want)
		case <-changed:
		}
	}
}

// last is what was observed last.
func (c *control) last() miosa.Observation {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.observed
}

// untilBeats waits for so many beats of the present session.
func (c *control) untilBeats(t *testing.T, n int64) {
	t.Helper()
	deadline := time.After(patience)
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if c.beats.Load() >= n {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%d beats", c.beats.Load())
		case <-changed:
		}
	}
}

// store keeps one instance's lines by number.
type store struct {
	mu      sync.Mutex // guards all below
	t       *testing.T
	lines   []logs.Line
	epoch   uint64
	changed chan struct{}
}

func (s *store) Ship(_ context.Context, hostID string, batches []logs.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range batches {
		if want := (logs.Origin{TenantID: "ten_1", DeploymentID: "dep_1", ServiceID: "svc_1", InstanceID: instanceID, VersionID: "ver_1", HostID: "host_1", WorkspaceID: "ws"}); hostID != "host_1" || b.Origin != want {
			s.t.Errorf("from %s: %+v", hostID, b.Origin)
		}
		if b.First > uint64(len(s.lines))+1 || s.epoch != 0 && b.Epoch != s.epoch {
			s.t.Errorf("%d lines of epoch %d, then number %d of %d", len(s.lines), s.epoch, b.First, b.Epoch)
		}
		s.epoch = b.Epoch
		if known := uint64(len(s.lines)) + 1 - b.First; known < uint64(len(b.Lines)) {
			s.lines = append(s.lines, b.Lines[known:]...)
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// until waits for a line.
func (s *store) until(t *testing.T, want string) {
	t.Helper()
	s.wait(t, "a line "+want, func() bool {
		return slices.ContainsFunc(s.lines, func(l logs.Line) bool { return string(l.Text) == want })
	})
}

// untilSome waits for a line with the words.
func (s *store) untilSome(t *testing.T, words string) {
	t.Helper()
	s.wait(t, "a line with "+words, func() bool {
		return slices.ContainsFunc(s.lines, func(l logs.Line) bool { return strings.Contains(string(l.Text), words) })
	})
}

func (s *store) untilCount(t *testing.T, n int) {
	t.Helper()
	s.wait(t, fmt.Sprint(n, " lines"), func() bool { return len(s.lines) >= n })
}

// untilMore waits for more lines to be lost.
func (s *store) untilMore(t *testing.T, than uint64) {
	t.Helper()
	s.wait(t, "another marker", func() bool { return s.sum() > than })
}

func (s *store) sum() (lost uint64) {
	for _, l := range s.lines {
		lost += l.Lost
	}
	return lost
}

func (s *store) lost() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sum()
}

// limited reports whether a marker tells of lines over a limit.
func (s *store) limited() bool {
	return slices.ContainsFunc(s.texts(logs.System), func(text string) bool { return strings.Contains(text, "lines a second") })
}

func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lines)
}

func (s *store) wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		changed, done := s.changed, ok()
		s.mu.Unlock()
		if done {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("not %s among %d lines", what, s.count())
		case <-changed:
		}
	}
}

func (s *store) texts(stream logs.Stream) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, l := range s.lines {
		if l.Stream == stream {
			out = append(out, string(l.Text))
		}
	}
	return out
}

type wires struct{ addr netip.AddrPort }

func (w wires) Attach(context.Context, string, int, int) (network.Attachment, error) {
	return network.Attachment{Index: 1, Address: w.addr, NIC: vmm.NIC{
		MAC: network.GuestMAC, Guest: netip.MustParsePrefix("10.0.2.15/24"), Forward: w.addr, GuestPort: 8080,
	}}, nil
}
func (wires) Detach(context.Context, string) error             { return nil }
func (wires) Reclaim(context.Context, func(string) bool) error { return nil }
func (wires) Close(context.Context) error                      { return nil }

type images struct{ path string }

func (i images) Ensure(context.Context, string, miosa.Kind) (string, error) { return i.path, nil }

type open struct{}

func (open) Open(sealed, _ []byte) ([]byte, error) { return sealed, nil }

const instanceID = "ri_01jz0000000000000000000000"

// rig is a host with one instance and a store.
type rig struct {
	dir     string
	control *control
	store   *store
	logs    spool.Shipper // store, unless it is another
	start   func() (stop func())
	agent   *agent.Agent // the one started last
	driver  *sim.Driver
	counts  bool  // its network does
	figures taken // nil: nobody takes what is sampled
	network network.Network
	usage   agent.UsageTaker // nil: nothing is counted
	link    agent.Link       // control, unless there is more to it
	vmm     vmm.Driver       // driver, unless there is more to it
}

// From the app to the store over two crashes of the agent and one of the app:
// every line once, in order, and the platform's words between them.
func TestLogsReachTheStore(t *testing.T) {
	r := newRig(t, "sim serve log=3000 every=2ms")
	dir, c, s, start := r.dir, r.control, r.store, r.start
	stop := start()
	s.until(t, "line 1500")
	stop()
	stop = start()
	s.until(t, "line 3000")
	c.until(t, miosa.Healthy)
	s.until(t, "healthy")
	stop()
	stop = start()
	s.until(t, fmt.Sprintf("line %d", len(s.texts(logs.Stdout))+50))
	c.assign(func(in *miosa.Instance) { in.RestartNonce++ })
	s.until(t, "boot 2 began")
	c.untilBoot(t, miosa.Healthy, 2)
	stop()
	if err := r.agent.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	stop = start()
	s.until(t, "stopping: its host goes down")
	s.until(t, "boot 3 began")
	c.untilBoot(t, miosa.Healthy, 3)
	c.assign(func(in *miosa.Instance) { in.Goal, in.GoalReason = miosa.GoalStop, "the service was scaled down" })
	c.until(t, miosa.Stopped)
	s.until(t, "stopped")
	stop()
	stop = start() // whatever is left goes now
	defer stop()
	deadline := time.After(patience)
	for {
		entries, err := os.ReadDir(filepath.Join(dir, "agent", "spool"))
		if err == nil && len(entries) == 0 {
			break
		}
		select {
		case <-deadline:
			t.Fatalf("the spool is not empty: %v, %v", entries, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	next, boots := 1, 1
	for _, text := range s.texts(logs.Stdout) {
		if text == "line 1" && next > 3000 {
			next = 1
			boots++
		}
		if want := fmt.Sprintf("line %d", next); text != want {
			t.Fatalf("%q, want %q, in boot %d", text, want, boots)
		}
		next++
	}
	if boots != 3 || next <= 3000 {
		t.Errorf("%d boots, then %d lines", boots, next-1)
	}
	t.Logf("%q", s.texts(logs.System))
}

func newRig(t *testing.T, command string) *rig {
	dir := t.TempDir()
	// The app listens only later, and again after each restart: on an address
	// where nobody else's test asks for just any port.
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	spec, err := cell.BootSpec{Command: command}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c := &control{changed: make(chan struct{}), in: miosa.Instance{
		ID: instanceID, TenantID: "ten_1", DeploymentID: "dep_1", ServiceID: "svc_1", VersionID: "ver_1", HostID: "host_1",
		Attribution: miosa.Attribution{WorkspaceID: "ws"}, Goal: miosa.GoalRun, Generation: 1, BootSpec: spec, Proven: true,
		Spec: miosa.ServiceSpec{Name: "web", Command: command, Port: 8080, Resources: miosa.Resources{VCPUs: 1, MemoryMB: 128, DiskMB: 16}},
	}}
	s := &store{t: t, changed: make(chan struct{})}
	base := filepath.Join(dir, "base.img")
	if err := os.WriteFile(base, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	driver, err := sim.New(sim.Config{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{dir: dir, control: c, store: s, logs: s, driver: driver, network: wires{addr}, link: c, vmm: driver}
	r.start = func() (stop func()) {
		cfg := agent.Config{
			Dir: filepath.Join(dir, "agent"), Host: miosa.Host{ID: "host_1"}, Driver: r.vmm, Network: r.network, Usage: r.usage, Images: images{base},
			Opener: open{}, Link: r.link, Logs: r.logs, Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
		}
		if r.counts {
			cfg.Network = counted{wires{addr}}
		}
		if r.figures != nil {
			cfg.Figures = r.figures
		}
		a, err := agent.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		r.agent = a
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	return r
}

// A spool that takes nothing for a while stops neither the instance nor the
// lines: its guest keeps them.
func TestSpoolThatFails(t *testing.T) {
	r := newRig(t, "sim serve log=500 every=5ms")
	blocked := filepath.Join(r.dir, "agent", "spool", instanceID)
	r.control.registers = func() {
		if err := os.WriteFile(blocked, nil, 0o600); err != nil {
			t.Error(err)
		}
	}
	stop := r.start()
	defer stop()
	r.control.until(t, miosa.Healthy)
	if n := len(r.store.texts(logs.Stdout)); n > 0 {
		t.Fatalf("%d lines in the store", n)
	}
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	r.store.until(t, "line 600")
	for i, text := range r.store.texts(logs.Stdout) {
		if want := fmt.Sprintf("line %d", i+1); text != want {
			t.Fatalf("%q, want %q", text, want)
		}
	}
	r.control.assign(func(in *miosa.Instance) { in.Goal = miosa.GoalStop })
	r.store.until(t, "stopped")
}

// What a service may log is changed while its instances run, and told with what
// was over it; what control has to say stands between the lines.
func TestALimitChangesWhileItRuns(t *testing.T) {
	r := newRig(t, "sim serve log=30000 every=2ms")
	r.control.in.Logs = miosa.LogLimit{Unlimited: true}
	stop := r.start()
	defer func() { stop() }()
	r.store.until(t, "line 30000")
	r.control.until(t, miosa.Healthy)
	if r.store.limited() {
		t.Error("lines were dropped without a limit")
	}
	r.control.assign(func(in *miosa.Instance) {
		in.Logs = miosa.LogLimit{LinesPerSecond: 10, Burst: 10}
		in.Notices = []miosa.Notice{{ID: "rol_1/live", Text: "version 1 is live"}}
	})
	r.store.untilSome(t, "more than 10 lines a second")
	stop()
	stop = r.start() // which finds the limit again
	before := r.store.lost()
	r.store.untilMore(t, before)
	r.control.assign(func(in *miosa.Instance) { in.Logs = miosa.LogLimit{} })
	last := r.store.count()
	r.store.untilCount(t, last+500) // not at ten a second
	r.control.assign(func(in *miosa.Instance) { in.Goal = miosa.GoalStop })
	r.store.until(t, "stopped")
	said := r.store.texts(logs.System)
	if n := slices.Index(said, "version 1 is live"); n < 0 || slices.Contains(said[n+1:], "version 1 is live") || slices.Contains(said, "boot 2 began") {
		t.Errorf("%q", said)
	}
}

// What a virtual machine still had to say when it ended unseen is lost, nobody
// knows how much: the log says so.
func TestAnUnseenEndIsToldOf(t *testing.T) {
	r := newRig(t, "sim serve log=10")
	stop := r.start()
	r.control.until(t, miosa.Healthy)
	r.store.until(t, "healthy")
	stop()
	if _, err := r.driver.Reclaim(t.Context(), func(string) bool { return false }); err != nil {
		t.Fatal(err)
	}
	stop = r.start()
	defer func() { stop() }()
	r.store.until(t, "boot 2 began")
	said := r.store.texts(logs.System)
	if n := slices.Index(said, "… lines may be missing here: the virtual machine ended while the platform was away …"); n < 0 || n > slices.Index(said, "boot 2 began") {
		t.Errorf("%q", said)
	}
	r.control.assign(func(in *miosa.Instance) { in.Goal = miosa.GoalStop })
	r.store.until(t, "stopped")
}

const unsaid = "… lines may be missing here: the virtual machine ended before it had said all …"

// A virtual machine that ends without a word may have had lines to say: the log
// says so, once, before it tells of the end. One that said how its app ended had
// none.
func TestASuddenEndIsToldOf(t *testing.T) {
	r := newRig(t, "sim serve every=10ms")
	stop := r.start()
	defer func() { stop() }()
	var want []string
	told := func() (out []string) {
		for _, s := range r.store.texts(logs.System) {
			if s == unsaid || strings.Contains(s, "killed (SIGKILL)") {
				out = append(out, s)
			}
		}
		return out
	}
	for boot := 1; boot <= 2; boot++ {
		r.control.untilBoot(t, miosa.Healthy, boot)
		if boot == 2 { // the same of one that was adopted
			stop()
			stop = r.start()
			r.store.untilCount(t, r.store.count()+100)
		}
		if _, err := r.driver.Reclaim(t.Context(), func(string) bool { return false }); err != nil {
			t.Fatal(err)
		}
		r.store.until(t, fmt.Sprintf("boot %d began", boot+1))
		want = append(want, unsaid, "the virtual machine was killed (SIGKILL); the next boot comes in "+[]string{1: "1 s", 2: "2 s"}[boot])
		if said := told(); !slices.Equal(said, want) {
			t.Fatalf("%q", said)
		}
	}
	r.control.untilBoot(t, miosa.Healthy, 3)
	r.control.assign(func(in *miosa.Instance) { in.RestartNonce++ })
	r.control.untilBoot(t, miosa.Healthy, 4)
	r.control.assign(func(in *miosa.Instance) { in.Goal = miosa.GoalStop })
	r.store.until(t, "stopped")
	if said := told(); !slices.Equal(said, want) {
		t.Errorf("%q", said)
	}
}

// One that is killed because its app never answered may have had lines to say
// as well.
func TestOneThatIsKilledIsToldOf(t *testing.T) {
	r := newRig(t, "sim never-listen log=10")
	r.control.in.Spec.Health = miosa.HealthCheck{Path: "/", Interval: 100 * time.Millisecond, Timeout: 50 * time.Millisecond, Grace: 300 * time.Millisecond, Threshold: 1}
	stop := r.start()
	defer func() { stop() }()
	r.store.until(t, unsaid)
	r.control.assign(func(in *miosa.Instance) { in.Goal = miosa.GoalStop })
	r.control.until(t, miosa.Stopped)
}
