package guest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	wire "github.com/miosa/miosa/wire/guest"
)

// hosts is a transport with hosts that come one after the other.
type hosts chan net.Conn

func (h hosts) Dial(ctx context.Context) (io.ReadWriteCloser, bool, error) {
	select {
	case c := <-h:
		return c, true, nil
	case <-ctx.Done():
		return nil, false, ctx.Err()
	}
}

// execHost is the host's side of a port.
type execHost struct {
	*testing.T
	conn  *wire.Conn
	end   net.Conn
	nonce uint64
	ahead string // output that was read and not asked for yet
}

// servePort serves a port as the command of an app would have it, with PATH and
// APP=shop, in a directory of its own. The returned function is the next host.
func servePort(t *testing.T, silence time.Duration) (host func() *execHost, dir string) {
	t.Helper()
	dir = t.TempDir()
	s := &execServer{
		root: "/", proc: "/proc", children: &children{}, silence: silence,
		command: command{dir: dir, env: []string{"PATH=" + os.Getenv("PATH"), "APP=shop", "HOME=/nowhere"}, account: account{uid: uint32(os.Getuid()), gid: uint32(os.Getgid()), home: "/"}},
	}
	ctx, cancel := context.WithCancel(t.Context())
	incoming, ended := make(hosts), make(chan struct{})
	go func() {
		defer close(ended)
		if err := s.serve(ctx, incoming); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	reaping := reapOnly(ctx, s.children)
	t.Cleanup(func() { cancel(); <-ended; <-reaping })
	return func() *execHost {
		guests, hosts := net.Pipe()
		t.Cleanup(func() { hosts.Close() })
		incoming <- guests
		return &execHost{T: t, conn: wire.NewConn(hosts), end: hosts}
	}, dir
}

// reapOnly reaps the children that are expected, and no other test's.
func reapOnly(ctx context.Context, c *children) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(time.Millisecond); ; {
			c.mu.Lock()
			for pid, ended := range c.ends {
				var status syscall.WaitStatus
				if got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil); err == nil && got == pid {
					delete(c.ends, pid)
					ended <- status
				}
			}
			left := len(c.ends)
			c.mu.Unlock()
			select {
			case <-tick.C:
			case <-ctx.Done():
				if left == 0 {
					return
				}
				<-tick.C
			}
		}
	}()
	return done
}

func (h *execHost) say(m wire.Message) {
	h.Helper()
	if err := h.conn.WriteMessage(m); err != nil {
		h.Fatal(err)
	}
}

// open begins a session, and returns the guest's first word of it.
func (h *execHost) open(o wire.ExecOpen) wire.Message {
	h.Helper()
	h.nonce++
	o.Nonce, h.ahead = h.nonce, ""
	h.say(wire.Message{ExecOpen: &o})
	return h.next()
}

// ping shows that the host is there, until the returned function is called.
func (h *execHost) ping() (stop func()) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(100 * time.Millisecond); ; {
			select {
			case <-tick.C:
				_ = h.conn.WriteMessage(wire.Message{Ping: &wire.Ping{Seq: 1}}) // what is read tells of a host that is gone
			case <-over:
				return
			}
		}
	}()
	return func() { close(over); <-done }
}

// next is the next message of the session.
func (h *execHost) next() wire.Message {
	h.Helper()
	for {
		m, err := h.conn.ReadMessage()
		if err != nil {
			h.Fatal(err)
		}
		switch {
		case m.ExecOutput != nil && m.ExecOutput.Nonce != h.nonce, m.ExecEnded != nil && m.ExecEnded.Nonce != h.nonce, m.ExecTaken != nil && m.ExecTaken.Nonce != h.nonce:
		default:
			return m
		}
	}
}

// rest is all output until the end.
func (h *execHost) rest() (stdout, stderr string, ended wire.ExecEnded) {
	h.Helper()
	var out [2]bytes.Buffer
	out[0].WriteString(h.ahead)
	for {
		switch m := h.next(); {
		case m.ExecOutput != nil && m.ExecOutput.Stream == wire.Stdout:
			out[0].Write(m.ExecOutput.Data)
		case m.ExecOutput != nil:
			out[1].Write(m.ExecOutput.Data)
		case m.ExecEnded != nil:
			return out[0].String(), out[1].String(), *m.ExecEnded
		}
	}
}

// until reads output up to the words.
func (h *execHost) until(words string) string {
	h.Helper()
	for {
		if before, after, found := strings.Cut(h.ahead, words); found {
			h.ahead = after
			return before + words
		}
		m := h.next()
		switch {
		case m.ExecOutput != nil:
			h.ahead += string(m.ExecOutput.Data)
		case m.ExecEnded != nil:
			h.Fatalf("ended with %+v after %q, before %q", *m.ExecEnded, h.ahead, words)
		}
	}
}

func (h *execHost) run(o wire.ExecOpen) (stdout, stderr string, ended wire.ExecEnded) {
	h.Helper()
	if m := h.open(o); m.ExecOpened == nil {
		h.Fatalf("%v: %+v", o.Argv, m.ExecEnded)
	}
	return h.rest()
}

func sh(script string, args ...string) []string {
	return append([]string{"sh", "-c", script, "sh"}, args...)
}

// gone waits until a process has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	for range 10_000 {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		<-time.After(time.Millisecond)
	}
	t.Errorf("process %d runs on", pid)
}

func TestExec(t *testing.T) {
	next, dir := servePort(t, 0)
	h := next()
	for _, c := range []struct {
		open           wire.ExecOpen
		stdout, stderr string
		code           int
	}{
		{wire.ExecOpen{Argv: sh(`echo out; echo err >&2; exit 3`)}, "out\n", "err\n", 3},
		{wire.ExecOpen{Argv: sh(`pwd; echo $APP $HOME`)}, dir + "\nshop /nowhere\n", "", 0},
		{wire.ExecOpen{Argv: sh(`echo $APP $MORE`), Env: []string{"APP=other", "MORE=x y"}}, "other x y\n", "", 0},
		{wire.ExecOpen{Argv: sh(`pwd`), Dir: "/usr/../tmp/"}, "/tmp\n", "", 0},
		{wire.ExecOpen{Argv: sh(`kill -9 $$`)}, "", "", 128 + 9},
		{wire.ExecOpen{Argv: sh(`printf '\000\377\n'`)}, "\x00\xff\n", "", 0},
		// What it leaves behind holds its output open, and the session ends.
		{wire.ExecOpen{Argv: sh(`sleep 5 & echo left`)}, "left\n", "", 0},
		{wire.ExecOpen{Argv: sh(`echo > /dev/stdout; head -c 300000 /dev/zero | tr '\000' x`)}, "\n" + strings.Repeat("x", 300000), "", 0},
	} {
		stdout, stderr, ended := h.run(c.open)
		if stdout != c.stdout || stderr != c.stderr || ended.Code != c.code || ended.Message != "" {
			t.Errorf("%q: %.100q, %q, %+v", c.open.Argv, stdout, stderr, ended)
		}
	}
	for want, o := range map[string]wire.ExecOpen{
		`127 The command "nothing-here" was not found`:  {Argv: []string{"nothing-here"}},
		`127 The command /nothing/here was not found`:   {Argv: []string{"/nothing/here"}},
		`126 The session's user "nobody-at-all" is not`: {Argv: []string{"true"}, User: "nobody-at-all"},
		`126 The directory /nothing is not in the`:      {Argv: []string{"true"}, Dir: "/nothing"},
		`126 Environment entry 1 is not of the form`:    {Argv: []string{"true"}, Env: []string{"=x"}},
		`126 The command /etc/passwd is not executable`: {Argv: []string{"/etc/passwd"}},
	} {
		m := h.open(o)
		if m.ExecEnded == nil {
			t.Errorf("%q: %+v", o.Argv, m)
			continue
		}
		if got := strconv.Itoa(m.ExecEnded.Code) + " " + m.ExecEnded.Message; !strings.HasPrefix(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Another user than the app's, in the same root, has a home of its own.
func TestExecAsAnotherUser(t *testing.T) {
	who := "daemon"
	if os.Getuid() != 0 { // who may be nobody but himself
		name, err := exec.Command("id", "-un").Output()
		if err != nil {
			t.Fatal(err)
		}
		who = strings.TrimSpace(string(name))
	}
	next, _ := servePort(t, 0)
	out, _, ended := next().run(wire.ExecOpen{Argv: sh(`id -u; echo $HOME $USER`), User: who, Dir: "/"})
	if want, err := exec.Command("sh", "-c", "id -u "+who+"; echo ~"+who+" "+who).Output(); err != nil || out != string(want) || ended.Code != 0 {
		t.Errorf("%q, %+v; want %q, %v", out, ended, want, err)
	}
}

// Input of any bytes comes whole and in order, no more of it on its way than the
// window; and signals come past a command that does not read it.
func TestExecInput(t *testing.T) {
	next, _ := servePort(t, 0)
	h := next()
	if m := h.open(wire.ExecOpen{Argv: []string{"cat"}}); m.ExecOpened == nil {
		t.Fatalf("%+v", m)
	}
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // any bytes
	sent := make([]byte, 1<<20)
	for n := range sent {
		sent[n] = byte(random.Uint32())
	}
	var got bytes.Buffer
	free := make(chan int, 64)
	ended := make(chan wire.ExecEnded)
	go func() {
		for {
			switch m := h.next(); {
			case m.ExecTaken != nil:
				free <- m.ExecTaken.Bytes
			case m.ExecOutput != nil:
				got.Write(m.ExecOutput.Data)
			case m.ExecEnded != nil:
				ended <- *m.ExecEnded
				return
			}
		}
	}()
	window := wire.ExecWindow
	for left := sent; len(left) > 0; {
		n := min(len(left), 1+random.IntN(wire.ExecChunk))
		for window < n {
			window += <-free
		}
		h.say(wire.Message{ExecInput: &wire.ExecInput{Nonce: h.nonce, Data: left[:n]}})
		left, window = left[n:], window-n
	}
	h.say(wire.Message{ExecInput: &wire.ExecInput{Nonce: h.nonce, EOF: true}})
	if end := <-ended; end.Code != 0 || !bytes.Equal(got.Bytes(), sent) {
		t.Errorf("%d of %d bytes came back, %+v", got.Len(), len(sent), end)
	}

	h.open(wire.ExecOpen{Argv: []string{"sleep", "60"}})
	for range wire.ExecWindow / wire.ExecChunk {
		h.say(wire.Message{ExecInput: &wire.ExecInput{Nonce: h.nonce, Data: make([]byte, wire.ExecChunk)}})
	}
	h.say(wire.Message{ExecSignal: &wire.ExecSignal{Nonce: h.nonce - 1, Signal: int(syscall.SIGKILL)}}) // another session's
	h.say(wire.Message{ExecSignal: &wire.ExecSignal{Nonce: h.nonce, Signal: int(syscall.SIGTERM)}})
	if _, _, end := h.rest(); end.Code != 128+15 {
		t.Errorf("%+v", end)
	}
}

// A command on a terminal sees one: its size and the changes of that, and the keys
// that end input and interrupt.
func TestExecOnATerminal(t *testing.T) {
	next, _ := servePort(t, 0)
	h := next()
	h.open(wire.ExecOpen{TTY: true, Rows: 40, Cols: 100, Argv: sh(`
		test -t 0 && test -t 1 && test -t 2 && stty size
		stty -echo
		trap 'stty size; trapped=1' WINCH
		trap 'echo interrupted; trapped=1' INT
		echo ready
		while trapped=; read -r line || test "$trapped"; do test "$trapped" || echo "read $line"; done
		echo over`)})
	h.until("40 100\r\n")
	h.until("ready\r\n")
	for n := range 1000 {
		h.say(wire.Message{ExecResize: &wire.ExecResize{Nonce: h.nonce, Rows: 1 + n, Cols: 200}})
	}
	input := func(data string, eof bool) {
		h.say(wire.Message{ExecInput: &wire.ExecInput{Nonce: h.nonce, Data: []byte(data), EOF: eof}})
	}
	// A shell runs a trap for what comes just before it reads only once it has read.
	input("line\n", false)
	h.until("1000 200\r\n")
	input("hello\n", false)
	h.until("read hello\r\n")
	input("\x03", false)
	input("line\n", false)
	h.until("interrupted\r\n")
	h.say(wire.Message{ExecSignal: &wire.ExecSignal{Nonce: h.nonce, Signal: int(syscall.SIGINT)}})
	input("line\n", false)
	h.until("interrupted\r\n")
	input("", true)
	if out, _, end := h.rest(); end.Code != 0 || !strings.Contains(out, "over\r\n") {
		t.Errorf("%q, %+v", out, end)
	}
}

// A session ends with its host, with the next one on its port, and with a host that
// says nothing more; its processes end whatever they think of it.
func TestExecIsCut(t *testing.T) {
	next, _ := servePort(t, 2*time.Second)
	stubborn := sh(`trap '' HUP TERM; sleep 300 & echo "pids $$ $!"; wait`)
	job := func(h *execHost, tty bool) (pids []int) {
		t.Helper()
		defer h.ping()()
		h.open(wire.ExecOpen{Argv: stubborn, TTY: tty})
		for _, word := range strings.Fields(h.until("\n"))[1:] {
			pid, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
		return pids
	}
	h := next()
	left := job(h, false)
	h.end.Close()
	h = next()
	left = append(left, job(h, true)...)
	left = append(left, job(h, false)...) // in place of the one before
	if out, _, end := h.run(wire.ExecOpen{Argv: []string{"echo", "next"}}); out != "next\n" || end.Code != 0 {
		t.Errorf("%q, %+v", out, end)
	}
	left = append(left, job(h, true)...)
	for _, pid := range left {
		gone(t, pid) // the last ones' host is silent
	}
	// One that was only slow hears of it.
	if _, _, end := h.rest(); end.Code != 129 || !strings.Contains(end.Message, "not heard") {
		t.Errorf("a host that was silent is told %+v", end)
	}
	// One that goes on asking is not silent.
	defer h.ping()()
	if _, _, end := h.run(wire.ExecOpen{Argv: []string{"sleep", "3"}}); end.Code != 0 {
		t.Errorf("a session with a host that is there: %+v", end)
	}
}

// A host that reads nothing is heard all the same, and that it has gone.
func TestExecUnread(t *testing.T) {
	next, _ := servePort(t, 0)
	for _, argv := range [][]string{{"nothing-here"}, {"true"}, {"yes"}} {
		h := next()
		for n := range 3 {
			h.say(wire.Message{ExecOpen: &wire.ExecOpen{Nonce: uint64(n + 1), Argv: argv}})
			h.say(wire.Message{Ping: &wire.Ping{Seq: 1}})
			h.say(wire.Message{ExecSignal: &wire.ExecSignal{Nonce: uint64(n + 1), Signal: int(syscall.SIGCONT)}})
		}
		h.end.Close()
	}
	if out, _, end := next().run(wire.ExecOpen{Argv: []string{"echo", "heard"}}); out != "heard\n" || end.Code != 0 {
		t.Errorf("%q, %+v", out, end)
	}
}

// A command that floods waits for its host, and ends when that has gone. One whose
// host sends more than the window is cut.
func TestExecFloods(t *testing.T) {
	next, _ := servePort(t, 0)
	h := next()
	h.open(wire.ExecOpen{Argv: sh(`echo "pid $$"; exec yes`)})
	pid, err := strconv.Atoi(strings.Fields(h.until("\n"))[1])
	if err != nil {
		t.Fatal(err)
	}
	h.end.Close()
	gone(t, pid)

	h = next()
	h.open(wire.ExecOpen{Argv: sh(`echo "pid $$"; exec sleep 300`)})
	if pid, err = strconv.Atoi(strings.Fields(h.until("\n"))[1]); err != nil {
		t.Fatal(err)
	}
	for range wire.ExecWindow/wire.ExecChunk + 8 { // some are in the pipe
		h.say(wire.Message{ExecInput: &wire.ExecInput{Nonce: h.nonce, Data: make([]byte, wire.ExecChunk)}})
	}
	gone(t, pid)
}

// A command may open its own input and output again, whoever it runs as.
func TestExecOpensItsOwnFiles(t *testing.T) {
	next, _ := servePort(t, 0)
	h := next()
	defer h.ping()()
	open := wire.ExecOpen{Argv: []string{"sh", "-c", "cat /dev/stdin > /dev/stdout"}, Dir: "/"}
	if os.Getuid() == 0 {
		open.User = "65534"
	}
	if m := h.open(open); m.ExecOpened == nil {
		t.Fatalf("it began with %+v", m)
	}
	h.say(wire.Message{ExecInput: &wire.ExecInput{Nonce: h.nonce, Data: []byte("words"), EOF: true}})
	if out, errs, end := h.rest(); out != "words" || end.Code != 0 {
		t.Errorf("%q, %q, %+v", out, errs, end)
	}
}
