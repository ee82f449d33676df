// Package guest is the control protocol between an agent and PID 1 of an
// instance: length-prefixed JSON frames over one byte stream (virtio-serial
// on QEMU, vsock on Firecracker). It imports the standard library only: it
// ships inside every VM.
//
// On every connection the host sends Attach first, with a number of its own
// choosing (Nonce) and the last line number it holds; the guest answers with
// Hello, which repeats the Nonce. What the host receives before that Hello is
// the rest of an earlier connection and is thrown away: on virtio-serial the
// guest can't always see that the host changed. After the Hello comes, in
// order, what the host needs: in state "waiting" the guest waits for Boot, the
// whole boot configuration, so that no secret is on a kernel command line or a
// disk; later it sends every Phase since the start, the lines after
// Attach.After, Stats, and at the end Exit. Numbers lost from its ring are
// told by a Gap in Lines. Session keeps the host's side of these rules.
//
// The guest also says Hello, with Nonce 0, when it opens the channel and when
// it sees a host come back: a
// sign of life, and no answer. A host that connects once in the life of a VM
// may answer it with Boot alone.
package guest

import "time"

// The protocol versions this package speaks. Hello offers a range, Boot and
// Attach pick one within it.
const (
	MinVersion = 1
	MaxVersion = 1
)

// HelloTimeout is how long a host should wait for the Hello that answers its
// Attach before it closes the connection and makes another. A machine that
// still boots may need longer, and that is no harm; but a host must not wait
// for ever: with QEMU 7.2, after many quick reconnections under load, a port's
// output was seen to stand still until the next disconnection freed it.
const HelloTimeout = 5 * time.Second

// How a VMM gets a machine that it can copy (see guest/template.go):
// TemplateVar on the kernel's command line asks for it, and a line with
// TemplateReady on the serial console says that the machine waits for its
// copies' hosts. With TemplateDisk the machine has an ephemeral disk, and each
// copy will have what is on that disk then; with TemplateBare it has not.
const (
	TemplateVar   = "MIOSA_TEMPLATE"
	TemplateBare  = "bare"
	TemplateDisk  = "disk"
	TemplateReady = "ready to be copied"
)

// MaxFrame bounds one frame's body in bytes, in both directions.
const MaxFrame = 1 << 20

// MaxLine bounds one log line in bytes; a longer one is split and marked.
const MaxLine = 64 << 10

// MaxLines bounds the lines of one frame; a guest sends fewer.
const MaxLines = 1 << 10

// Message is a frame's body: exactly one field is set.
type Message struct {
	// guest → host
	Hello   *Hello   `json:"hello,omitempty"`
	Phase   *Phase   `json:"phase,omitempty"`
	Lines   *Lines   `json:"lines,omitempty"`
	Stats   *Stats   `json:"stats,omitempty"`
	Exit    *Exit    `json:"exit,omitempty"`
	Pong    *Ping    `json:"pong,omitempty"`
	Checked *Checked `json:"checked,omitempty"`
	// host → guest
	Boot   *Boot   `json:"boot,omitempty"`
	Attach *Attach `json:"attach,omitempty"`
	Ack    *Ack    `json:"ack,omitempty"`
	Ping   *Ping   `json:"ping,omitempty"`
	Stop   *Stop   `json:"stop,omitempty"`
	Adjust *Adjust `json:"adjust,omitempty"`
	Check  *Check  `json:"check,omitempty"`

	// On the ports of exec sessions alone (see exec.go), guest → host
	ExecOpened *ExecOpened `json:"exec_opened,omitempty"`
	ExecOutput *ExecOutput `json:"exec_output,omitempty"`
	ExecTaken  *ExecTaken  `json:"exec_taken,omitempty"`
	ExecEnded  *ExecEnded  `json:"exec_ended,omitempty"`
	// host → guest
	ExecOpen   *ExecOpen   `json:"exec_open,omitempty"`
	ExecInput  *ExecInput  `json:"exec_input,omitempty"`
	ExecResize *ExecResize `json:"exec_resize,omitempty"`
	ExecSignal *ExecSignal `json:"exec_signal,omitempty"`
}

// The states in Hello.
const (
	StateWaiting = "waiting" // for Boot
	StateRunning = "running" // booting, or the command runs
	StateExited  = "exited"
)

// Hello is the guest's answer to Attach, and its first word.
type Hello struct {
	Min        int    `json:"min"`
	Max        int    `json:"max"`
	InstanceID string `json:"instance_id,omitempty"` // once booted
	Boot       int    `json:"boot,omitempty"`        // as Boot told it
	State      string `json:"state"`                 // "waiting" (for Boot) | "running" | "exited"
	UptimeMS   int64  `json:"uptime_ms"`             // since PID 1's first instruction
	KernelMS   int64  `json:"kernel_ms"`             // from kernel start to PID 1
	Exit       *Exit  `json:"exit,omitempty"`        // once exited, until acknowledged
	Nonce      uint64 `json:"nonce,omitempty"`       // of the Attach this answers; 0: sent unasked
}

// Boot is everything the guest needs, once per boot.
type Boot struct {
	Version     int      `json:"version"`
	InstanceID  string   `json:"instance_id"`
	Boot        int      `json:"boot"`
	Command     string   `json:"command,omitempty"` // split into argv, or run by /bin/sh -c where it has shell syntax
	Argv        []string `json:"argv,omitempty"`    // wins over Command; an image's entry point
	Env         []string `json:"env"`               // KEY=value; secrets are here and nowhere else
	User        string   `json:"user,omitempty"`    // name or uid[:gid]; "" is root
	WorkDir     string   `json:"work_dir,omitempty"`
	Hostname    string   `json:"hostname"`
	Network     *Network `json:"network,omitempty"`
	Nameservers []string `json:"nameservers,omitempty"`
	MaxFiles    int      `json:"max_files,omitempty"` // RLIMIT_NOFILE; 0: 65536, which may be raised to 524288
	MaxProcs    int      `json:"max_procs,omitempty"` // RLIMIT_NPROC; 0: unlimited
	UnixNano    int64    `json:"unix_nano"`           // host's clock, set in the guest
	Port        int      `json:"port,omitempty"`      // the guest reports "listening" when something accepts on it
	StatsMS     int      `json:"stats_ms,omitempty"`  // interval of Stats; 0: 15000
	Entropy     []byte   `json:"entropy,omitempty"`   // host randomness credited to the guest's pool
	DiskBytes   int64    `json:"disk_bytes,omitempty"`
	Gate        *Gate    `json:"gate,omitempty"`        // nil: the app's port is reached as it is
	StopSignal  int      `json:"stop_signal,omitempty"` // Linux's number; 0: SIGTERM
	// LimitMS is how long the command may run until all its processes are killed,
	// whatever became of the host that would have stopped it before; 0: for ever.
	LimitMS int64 `json:"limit_ms,omitempty"`
}

// Network is the guest's one interface.
type Network struct {
	MAC     string `json:"mac"`
	Address string `json:"address"` // CIDR
	Gateway string `json:"gateway"` // "" : none
}

// Phase reports a named moment of the boot: "mount", "modules", "channel",
// "configure", "network", "root", "switch_root", "prepare", "start_command",
// "app_started", "listening". "listening" may come twice: the second time when
// an app that only heard loopback, or IPv6, listens on more. "elsewhere" says
// that something listens, but not on the port that it should, for now.
type Phase struct {
	Name     string `json:"name"`
	UptimeMS int64  `json:"uptime_ms"`
	// AddrHint, with "listening": "any", "loopback" or "ipv6", so that an app
	// that only hears 127.0.0.1 can be told so in words.
	AddrHint string `json:"addr_hint,omitempty"`
	// Detached, with "listening": none of the processes that listen is of the
	// command's own session, so that it may be about to leave them behind.
	Detached bool `json:"detached,omitempty"`
	// Ports, with "elsewhere", are at most MaxPorts that something listens on.
	Ports []int `json:"ports,omitempty"`
}

// MaxPorts bounds Phase.Ports.
const MaxPorts = 4

// Stream names where a line came from.
type Stream string

const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
	System Stream = "system" // PID 1's own words
)

// Line is one log line, without its newline.
type Line struct {
	N       uint64 `json:"n"` // counts from 1 per boot, over all streams
	Stream  Stream `json:"s"`
	T       int64  `json:"t"`           // guest's wall clock, Unix nanoseconds: for hosts that know no Mono, believed by none that do
	Mono    int64  `json:"m,omitempty"` // guest's monotonic clock when the line was written, ns; 0: not told
	Text    []byte `json:"b"`           // raw bytes (base64 in JSON): may be any binary
	Partial bool   `json:"p,omitempty"` // a piece of a line longer than MaxLine, not its last
}

// Lines is a batch of consecutive lines.
type Lines struct {
	Gap   uint64 `json:"gap,omitempty"` // lines lost just before the first one
	Lines []Line `json:"lines"`
	Mono  int64  `json:"m,omitempty"` // guest's monotonic clock when the batch was sent, ns; 0: not told
}

// maxAge is the most that a line can be old when it comes. A guest keeps lines
// for as long as no host is there to take them.
const maxAge = 7 * 24 * time.Hour

// Age is how long before the batch was sent its line was written, by the
// guest's monotonic clock: from 0 to 7 days, whatever the guest claims; 0 for a
// guest that does not tell.
func (b *Lines) Age(l Line) time.Duration {
	if l.Mono <= 0 || l.Mono >= b.Mono {
		return 0
	}
	return min(time.Duration(b.Mono-l.Mono), maxAge)
}

// Ack frees the guest's ring up to and including line N: the host holds them
// for good.
type Ack struct {
	N uint64 `json:"n"`
	// Exit acknowledges the guest's Exit too: the guest reboots at once.
	Exit bool `json:"exit,omitempty"`
}

// Attach begins a connection, the first and every later one.
type Attach struct {
	Version int    `json:"version"`
	After   uint64 `json:"after"` // last line number the host holds; 0: none
	Nonce   uint64 `json:"nonce"` // comes back in Hello; not 0, and another one each time
	// Quiet says that Boot follows at once, and asks for no word, not even
	// Hello, before the command runs or has failed, 2 s at most: what the guest
	// writes costs a boot its time. For machines known to wait for Boot.
	Quiet bool `json:"quiet,omitempty"`
}

// Stats are the guest's own figures.
type Stats struct {
	MemTotal  uint64  `json:"mem_total"` // bytes
	MemUsed   uint64  `json:"mem_used"`  // total − available
	CPUMS     uint64  `json:"cpu_ms"`    // busy time since boot, all CPUs
	Load1     float64 `json:"load1"`
	DiskTotal uint64  `json:"disk_total"`
	DiskUsed  uint64  `json:"disk_used"`
	OOMKills  uint64  `json:"oom_kills"` // since boot
}

// Exit reasons that are not the command's own doing.
const (
	ExitNotFound      = "not_found"
	ExitNotExecutable = "not_executable"
	ExitWrongArch     = "wrong_arch"
	ExitImage         = "image" // it lacks what the boot asks for: a user, a directory
	ExitSetup         = "setup" // PID 1 could not prepare the boot
)

// Exit is the guest's last word: how the run command ended. The guest sends
// it after its last line, waits for Ack with Exit set, and reboots, which ends
// the VMM. It waits 5 seconds for a host that is there (a quarter of one after
// the last line was acknowledged without Exit), and 10 minutes for one that is
// away, so that an exit during an agent's restart is not lost.
type Exit struct {
	Code      int    `json:"code"`             // exit code, −1 when killed by a signal
	Signal    string `json:"signal,omitempty"` // "SIGKILL"
	OOM       bool   `json:"oom,omitempty"`    // the kernel's OOM killer took it
	Reason    string `json:"reason,omitempty"` // one of the Exit constants, when it never ran
	Message   string `json:"message,omitempty"`
	Daemon    bool   `json:"daemon,omitempty"`    // it ended by itself, and processes that it had started went on
	Stopped   bool   `json:"stopped,omitempty"`   // in answer to Stop
	TimedOut  bool   `json:"timed_out,omitempty"` // it ran into Boot's LimitMS
	LastLine  uint64 `json:"last_line"`           // number of the last line of this boot
	UptimeMS  int64  `json:"uptime_ms"`
	KilledAll bool   `json:"killed_all,omitempty"` // the deadline passed and SIGKILL was needed
}

// Ping asks for a Pong with the same Seq.
type Ping struct {
	Seq   uint64 `json:"seq"`
	Clock *Clock `json:"clock,omitempty"` // in a Pong; nil from guests that know none
}

// Clock is what a guest's clocks read at one moment.
type Clock struct {
	Wall int64 `json:"wall"` // Unix nanoseconds
	Raw  int64 `json:"raw"`  // ns of the monotonic clock as its source runs, whatever Adjust made of it
	Rate int64 `json:"rate"` // of the last Adjust; 0 before
}

// MostRate bounds, in both directions, how much faster or slower than its
// source a guest's clock is made to run: a tenth, in parts per billion.
const MostRate = 100_000_000

// Adjust is what the guest's clocks are to do from now on; it replaces the
// Adjust before. The monotonic clock runs at the same rate, and never jumps.
type Adjust struct {
	StepNS int64 `json:"step_ns,omitempty"` // is added to the wall clock at once
	Rate   int64 `json:"rate"`              // ppb that the clocks run faster than their source
	// For so long, by the guest's monotonic clock, they run Slew ppb slower
	// than that.
	Slew   int64 `json:"slew,omitempty"`
	SlewNS int64 `json:"slew_ns,omitempty"`
}

// Check has a command run beside the app, as the app's user, where it runs and
// with its environment, and is answered with Checked. A guest runs one at a
// time, and lets those that come meanwhile go by.
type Check struct {
	Seq       uint64 `json:"seq"`
	Command   string `json:"command"` // as in Boot
	TimeoutMS int64  `json:"timeout_ms"`
}

// Checked is how the command ended that the Check of the same Seq asked for.
type Checked struct {
	Seq  uint64 `json:"seq"`
	Code int    `json:"code"`           // exit code; 128 + the signal that ended it; −1: it did not run, or not in time
	Said string `json:"said,omitempty"` // the last line that it wrote, at most MaxSaid bytes
}

// MaxSaid bounds Checked.Said in bytes.
const MaxSaid = 200

// Stop asks for the boot's stop signal to the command's group, SIGKILL after the
// deadline to what is left of it, sync, and a reboot.
type Stop struct {
	Deadline time.Duration `json:"deadline_ns"`
}
