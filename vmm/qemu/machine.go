package qemu

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

// Machine is one running QEMU process.
type Machine struct {
	driver  *Driver
	handle  vmm.Handle
	process *process
	console *console
	group   group
	done    chan struct{}
	exit    vmm.Exit      // set before done is closed
	cleared chan struct{} // closed after done, when nothing is left of it

	mu    sync.Mutex // guards inUse and ahead
	inUse [1 + guest.ExecPorts]bool
	ahead net.Conn // the connection that the first Dial gets; nil: there is none
}

var _ vmm.VM = (*Machine)(nil)

// watch makes the Machine and waits for its end in the background.
func (d *Driver) watch(h vmm.Handle, p *process, c *console, g group) *Machine {
	m := &Machine{driver: d, handle: h, process: p, console: c, group: g, done: make(chan struct{}), cleared: make(chan struct{})}
	go m.await()
	return m
}

// await sees the process end and clears up after it.
func (m *Machine) await() {
	err := m.process.wait(context.Background())
	exit := vmm.Exit{At: time.Now(), Err: err}
	exit.Code, exit.Signal = m.process.reap()
	m.console.finish()
	if m.group != nil {
		exit.OOM = m.group.oomKilled()
	}
	if exit.Code > 0 && exit.Err == nil {
		exit.Err = fmt.Errorf("qemu ended with code %d: %s", exit.Code, lastLine(m.console.bytes()))
	}
	m.exit = exit
	close(m.done)
	m.process.close() // after done: who finds it closed finds that too
	m.mu.Lock()
	if m.ahead != nil {
		m.ahead.Close()
	}
	m.mu.Unlock()
	// A cgroup can stay busy for a second or two after its last process ended:
	// whoever waits for the end must not wait for that.
	if err := m.driver.removeLeftovers(m.handle.ID); err != nil {
		m.driver.log.Warn("leftovers of a dead vm stay until the next start", "vm", m.handle.ID, "err", err)
	}
	close(m.cleared)
}

// lastLine is QEMU's or the kernel's last word, made printable.
func lastLine(b []byte) string {
	text := strings.TrimSpace(strings.ToValidUTF8(string(b), "?"))
	if i := strings.LastIndexByte(text, '\n'); i >= 0 {
		text = text[i+1:]
	}
	return fmt.Sprintf("%.200q", text)
}

// Handle is what finds the VM again.
func (m *Machine) Handle() vmm.Handle { return m.handle }

// Done is closed when the process has ended; what it left is removed then,
// which Kill waits for.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Exit is how it ended; the zero value before Done.
func (m *Machine) Exit() vmm.Exit {
	select {
	case <-m.done:
		return m.exit
	default:
		return vmm.Exit{}
	}
}

// Dial connects to the control channel. The socket lies in a directory that
// only we can enter and was made by us, not by QEMU: whoever answers on it
// was started by us. miosa.Conflict while the former connection is open.
func (m *Machine) Dial(ctx context.Context) (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inUse[controlPort] {
		return nil, miosa.Errorf(miosa.Conflict, "the control channel of vm %s is in use", m.handle.ID)
	}
	c := m.ahead
	m.ahead = nil
	if c == nil {
		var err error
		if c, err = m.connect(ctx, m.driver.socket(m.handle.ID)); err != nil {
			return nil, err
		}
	}
	m.inUse[controlPort] = true
	return &channel{Conn: c, machine: m, port: controlPort}, nil
}

// DialExec connects to the first exec port that nobody is on.
func (m *Machine) DialExec(ctx context.Context) (net.Conn, error) {
	m.mu.Lock()
	n := slices.Index(m.inUse[firstExecPort:], false)
	if n >= 0 {
		m.inUse[firstExecPort+n] = true
	}
	m.mu.Unlock()
	if n < 0 {
		return nil, miosa.Errorf(miosa.Conflict, "all exec ports of vm %s are in use", m.handle.ID)
	}
	// Not under the lock: a machine that stands still must not keep who comes for
	// the control channel.
	c, err := m.connect(ctx, m.driver.execSocket(m.handle.ID, n))
	if err != nil {
		m.release(firstExecPort + n)
		if errors.Is(err, fs.ErrNotExist) && !m.ended() {
			return nil, miosa.Errorf(miosa.Unavailable, "vm %s was started by a version of ours that knew no exec sessions", m.handle.ID)
		}
		return nil, err
	}
	return &channel{Conn: c, machine: m, port: firstExecPort + n}, nil
}

// release gives a port back.
func (m *Machine) release(port int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.inUse[port] = false
}

// The ports by their number in inUse.
const (
	controlPort = iota
	firstExecPort
)

func (m *Machine) ended() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}

func (m *Machine) connect(ctx context.Context, socket string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("dial vm %s: %w", m.handle.ID, err)
	}
	return c, nil
}

// dialAhead connects before anybody asks: a copy then goes on as its template
// was left, with its host there.
func (m *Machine) dialAhead(ctx context.Context) error {
	c, err := m.connect(ctx, m.driver.socket(m.handle.ID))
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ahead = c
	return nil
}

// channel gives its port back once it is closed.
type channel struct {
	net.Conn
	machine *Machine
	port    int
	once    sync.Once
}

func (c *channel) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { c.machine.release(c.port) })
	return err
}

// Kill ends the process with SIGKILL, and waits until nothing is left of it.
func (m *Machine) Kill(ctx context.Context) error {
	select {
	case <-m.done:
	default:
		if err := m.process.kill(); err != nil {
			select {
			case <-m.done:
			default:
				return fmt.Errorf("kill vm %s: %w", m.handle.ID, err)
			}
		}
	}
	select {
	case <-m.cleared:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("kill vm %s: %w", m.handle.ID, ctx.Err())
	}
}

// Console is the tail of the serial console, at most 64 KB; QEMU's own
// complaints are in it too.
func (m *Machine) Console() []byte { return m.console.bytes() }

// Usage are the process' figures; vmm.ErrGone once it has ended.
func (m *Machine) Usage() (vmm.Usage, error) {
	select {
	case <-m.done:
		return vmm.Usage{}, vmm.ErrGone
	default:
	}
	s, err := readStat(m.handle.PID)
	if err != nil || s.startTime != m.handle.StartTime {
		return vmm.Usage{}, fmt.Errorf("usage of vm %s: %w", m.handle.ID, vmm.ErrGone)
	}
	u := vmm.Usage{CPU: s.cpu, MemoryBytes: s.rssPages * uint64(os.Getpagesize())}
	u.ReadBytes, u.WriteBytes = readIO(m.handle.PID)
	return u, nil
}
