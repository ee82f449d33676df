package guest

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

const (
	// execHangUp is what the processes of a session that is cut have between the
	// hang-up and SIGKILL.
	execHangUp = 2 * time.Second
	// execRest is how long nothing has come before the output of a command that has
	// ended is complete, though something that it left behind holds it open.
	execRest = 250 * time.Millisecond
)

// execServer runs what hosts ask for on one port, beside the app: as it runs, or as
// another user in the same root.
type execServer struct {
	root     string // of the image
	command  command
	children *children
	proc     string
	silence  time.Duration // 0: wire.ExecSilence
	visited  *atomic.Bool  // set once there has been a session; nil: not told
}

// serve has one host after the other until ctx ends or the transport fails for good.
func (s *execServer) serve(ctx context.Context, t transport) error {
	var last *wire.Conn
	for {
		stream, fresh, err := t.Dial(ctx)
		if err != nil {
			return err
		}
		in, out := framed(stream, fresh, last)
		s.host(ctx, in, out, stream)
		last = in
	}
}

// host has one host's sessions, one at a time, until it has gone. None outlives it.
// Nothing here writes: a host that reads nothing must not keep us from hearing it,
// or that it has gone.
func (s *execServer) host(ctx context.Context, in, out *wire.Conn, stream io.Closer) {
	messages, done := make(chan wire.Message), make(chan struct{})
	go func() {
		defer close(messages)
		defer stream.Close() // ends the writes that wait for a host
		for {
			m, err := next(in)
			if err != nil {
				return
			}
			select {
			case messages <- m:
			case <-done:
				return
			}
		}
	}()
	pongs := make(chan *wire.Ping, 1)
	go func() {
		for p := range pongs {
			_ = out.WriteMessage(wire.Message{Pong: p})
		}
	}()
	var now *execSession
	defer func() {
		close(done)
		close(pongs)
		now.cut()
	}()
	silence := cmp.Or(s.silence, wire.ExecSilence)
	silent := time.NewTimer(silence)
	defer silent.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = stream.Close()
			return
		case <-silent.C:
			select { // it may be we who did not listen
			case m, ok := <-messages:
				if !ok {
					return
				}
				now = s.heard(m, now, out, pongs)
			default:
				now.cutFor("its host was not heard for "+silence.String(), out)
				now = nil
			}
			silent.Reset(silence)
		case m, ok := <-messages:
			if !ok {
				return
			}
			now = s.heard(m, now, out, pongs)
			silent.Reset(silence) // now: the end of a session before may have taken a while
		}
	}
}

// heard does what a host says, and returns the session that there is then.
func (s *execServer) heard(m wire.Message, now *execSession, out *wire.Conn, pongs chan<- *wire.Ping) *execSession {
	switch {
	case m.ExecOpen != nil:
		now.cut()
		return s.open(*m.ExecOpen, out)
	case m.Ping != nil:
		select {
		case pongs <- &wire.Ping{Seq: m.Ping.Seq}:
		default: // it has not read the last one yet
		}
	case now != nil && !now.obey(m):
		now.cutFor("more input came than there was room for", out)
		return nil
	}
	return now
}

// execSession is one command that runs.
type execSession struct {
	nonce uint64
	out   *wire.Conn
	proc  string
	pid   int
	ended <-chan syscall.WaitStatus
	tty   terminal // its File nil: there is none
	stdin *os.File // the terminal too

	mu      sync.Mutex // guards input and waiting
	input   []wire.ExecInput
	waiting int           // bytes of it
	more    chan struct{} // holds a token while there may be input
	outputs sync.WaitGroup
	readers []*os.File
	moved   atomic.Int64  // pieces of output sent
	writing atomic.Int32  // messages before the last that wait for the host
	cutOff  chan struct{} // closed when it is to end
	cutOnce sync.Once
	over    chan struct{} // closed when it has
}

// open starts a session, or tells the host why there is none.
func (s *execServer) open(o wire.ExecOpen, out *wire.Conn) *execSession {
	if s.visited != nil {
		s.visited.Store(true)
	}
	run, err := s.command.exec(s.root, o)
	var session *execSession
	if err == nil {
		session, err = s.start(run, o, out)
	}
	if err == nil {
		session.begin()
		return session
	}
	ended := wire.ExecEnded{Nonce: o.Nonce, Code: shellNotExecutable, Message: err.Error()}
	if why, ok := errors.AsType[*startError](err); ok && why.reason == wire.ExitNotFound {
		ended.Code = shellNotFound
	}
	go func() { _ = out.WriteMessage(wire.Message{ExecEnded: &ended}) }()
	return nil
}

// exec is what a session runs: the command's place, user and environment, but for
// what it asks for. root is prepended to the paths that are looked at.
func (c command) exec(root string, o wire.ExecOpen) (_ command, err error) {
	c.shell, c.warning = false, ""
	if o.User != "" {
		if c.account, err = lookupAccount(root, o.User); err != nil {
			return command{}, cannotStart(wire.ExitImage, "The session's %v.", err)
		}
		c.env = withEnv(c.env, "HOME="+c.account.home)
		if c.account.name != "" {
			c.env = withEnv(c.env, "USER="+c.account.name)
		}
	}
	for n, entry := range o.Env {
		if name, _, ok := strings.Cut(entry, "="); !ok || name == "" || strings.IndexByte(entry, 0) >= 0 {
			return command{}, cannotStart(wire.ExitSetup, "Environment entry %d is not of the form NAME=value.", n+1)
		}
		c.env = withEnv(c.env, entry)
	}
	if o.Dir != "" {
		if !filepath.IsAbs(o.Dir) {
			o.Dir = filepath.Join(c.dir, o.Dir)
		}
		if c.dir = filepath.Clean(o.Dir); !isDir(filepath.Join(root, c.dir)) {
			return command{}, cannotStart(wire.ExitImage, "The directory %s is not in the image.", c.dir)
		}
	}
	if o.Copy != nil {
		// Our own program, which needs nothing of the image's. It is there as long as
		// we run, wherever the root is.
		c.path, c.argv, c.env = "/proc/self/exe", []string{wire.CopyProgram, wire.CopyReceive, o.Copy.Path}, []string{"GOMAXPROCS=1"}
		if o.Copy.Send {
			c.argv[1] = wire.CopySend
		}
		return c, nil
	}
	c.argv = o.Argv
	if len(c.argv) == 0 {
		if c.argv = shellOf(root); len(c.argv) == 0 {
			return command{}, cannotStart(wire.ExitNotFound, "The image has no shell. Run a program that it has: %s.", c.programs(root))
		}
	}
	c.path, err = findProgram(root, c.dir, lookupEnv(c.env, "PATH"), c.argv[0], c.account)
	return c, err
}

// withEnv is an environment with an entry, in place of the one of that name.
func withEnv(env []string, entry string) []string {
	name, _, _ := strings.Cut(entry, "=")
	env = slices.DeleteFunc(slices.Clone(env), func(e string) bool { return strings.HasPrefix(e, name+"=") })
	return append(env, entry)
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// shellOf is the best shell that the image has; nil: it has none.
func shellOf(root string) []string {
	for _, path := range []string{bashPath, shellPath, "/usr/bin/bash", "/usr/bin/sh", "/busybox/sh"} {
		if info, err := os.Stat(filepath.Join(root, path)); err == nil && info.Mode().IsRegular() {
			return []string{path}
		}
	}
	return nil
}

// shownPrograms bounds how many programs are named to who looks for a shell.
const shownPrograms = 10

// programs are some that the image has: the app's own, and what PATH leads to.
func (c command) programs(root string) string {
	names := []string{c.path}
	for dir := range strings.SplitSeq(lookupEnv(c.env, "PATH"), ":") {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil || !filepath.IsAbs(dir) {
			continue
		}
		for _, e := range entries {
			info, err := os.Stat(filepath.Join(root, dir, e.Name())) // of what a link leads to
			if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 || slices.Contains(names, filepath.Join(dir, e.Name())) {
				continue
			}
			if len(names) == shownPrograms {
				return strings.Join(names, ", ") + " …"
			}
			names = append(names, filepath.Join(dir, e.Name()))
		}
	}
	return strings.Join(names, ", ")
}

// start begins the command. Nothing of it is read or waited for yet.
func (s *execServer) start(run command, o wire.ExecOpen, out *wire.Conn) (_ *execSession, err error) {
	e := &execSession{
		nonce: o.Nonce, out: out, proc: s.proc,
		more: make(chan struct{}, 1), cutOff: make(chan struct{}), over: make(chan struct{}),
	}
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
		if err != nil {
			e.close()
		}
	}()
	var attr *syscall.ProcAttr
	if o.TTY {
		var peer *os.File
		if e.tty, peer, err = openTerminal(run.account, o.Rows, o.Cols); err != nil {
			return nil, err
		}
		theirs, e.stdin, e.readers = []*os.File{peer}, e.tty.File, []*os.File{e.tty.File}
		attr = run.attributes([]uintptr{peer.Fd(), peer.Fd(), peer.Fd()})
		onTerminal(attr)
	} else {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		theirs, e.stdin = []*os.File{r}, w
		for range 2 {
			if r, w, err = os.Pipe(); err != nil {
				return nil, err
			}
			theirs, e.readers = append(theirs, w), append(e.readers, r)
		}
		// So that the command may open its own /dev/stdin and /dev/stdout again.
		for _, f := range theirs {
			if err := f.Chown(int(run.account.uid), int(run.account.gid)); err != nil && os.Getuid() == 0 {
				return nil, err
			}
		}
		attr = run.attributes([]uintptr{theirs[0].Fd(), theirs[1].Fd(), theirs[2].Fd()})
	}
	e.pid, e.ended, err = s.children.start(func() (int, error) { return syscall.ForkExec(run.path, run.argv, attr) })
	if err != nil {
		return nil, execError(run, err)
	}
	return e, nil
}

// close closes our side of its files.
func (e *execSession) close() {
	if e.stdin != nil {
		_ = e.stdin.Close()
	}
	for _, f := range e.readers {
		_ = f.Close() // the terminal twice, in vain
	}
}

// begin tells that the command runs, carries what goes in and out, and waits for
// the end.
func (e *execSession) begin() {
	opened := make(chan struct{})
	e.writing.Add(1)
	go func() {
		e.tell(wire.Message{ExecOpened: &wire.ExecOpened{Nonce: e.nonce}})
		close(opened)
		e.writing.Add(-1)
	}()
	for n, stream := range []wire.Stream{wire.Stdout, wire.Stderr}[:len(e.readers)] {
		e.outputs.Go(func() {
			<-opened
			e.carryOut(e.readers[n], stream)
		})
	}
	go e.carryIn()
	go func() {
		select {
		case status := <-e.ended:
			e.drain()
			e.close()
			close(e.over)
			code := status.ExitStatus()
			if status.Signaled() {
				code = 128 + int(status.Signal())
			}
			e.tell(wire.Message{ExecEnded: &wire.ExecEnded{Nonce: e.nonce, Code: code}})
		case <-e.cutOff:
			e.end()
			close(e.over)
		}
	}()
}

// tell writes to the host, unless the session is cut.
func (e *execSession) tell(m wire.Message) {
	select {
	case <-e.cutOff:
	default:
		_ = e.out.WriteMessage(m) // a host that is gone has cut it, or will
	}
}

// carryOut sends what comes on one of the outputs until its end.
func (e *execSession) carryOut(f *os.File, stream wire.Stream) {
	b := make([]byte, wire.ExecChunk)
	for again := false; ; {
		n, err := f.Read(b)
		if n > 0 {
			e.writing.Add(1)
			e.tell(wire.Message{ExecOutput: &wire.ExecOutput{Nonce: e.nonce, Stream: stream, Data: b[:n]}})
			e.writing.Add(-1)
			e.moved.Add(1)
		}
		switch {
		case err == nil:
			again = false
		case errors.Is(err, unix.EIO) && !again:
			// A terminal that nobody has open any more. Of what was written just
			// before that, the kernel may know only after it has said so.
			again = true
		default:
			return
		}
	}
}

// drain waits until all output of a command that has ended is sent. What it left
// behind may hold that open: then until nothing has come for a while.
func (e *execSession) drain() {
	read := make(chan struct{})
	go func() {
		e.outputs.Wait()
		close(read)
	}()
	for before := int64(-1); !within(execRest, read); {
		now := e.moved.Load()
		if now == before && e.writing.Load() == 0 {
			break
		}
		before = now
		select {
		case <-e.cutOff:
			return
		default:
		}
	}
	for _, r := range e.readers {
		_ = r.Close()
	}
	select {
	case <-read:
	case <-e.cutOff:
	}
}

// obey does what the host says about the session, if it is about this one. ok is
// false for a host that does not keep to the window: lost input is worse than an end.
func (e *execSession) obey(m wire.Message) (ok bool) {
	switch {
	case m.ExecInput != nil && m.ExecInput.Nonce == e.nonce:
		e.mu.Lock()
		fits := e.waiting+len(m.ExecInput.Data) <= wire.ExecWindow
		if n := len(e.input); fits && n > 0 && !e.input[n-1].EOF && len(e.input[n-1].Data) < wire.ExecChunk {
			// What is typed comes byte by byte: it is kept as one.
			e.input[n-1].Data = append(e.input[n-1].Data, m.ExecInput.Data...)
			e.input[n-1].EOF = m.ExecInput.EOF
		} else if fits {
			e.input = append(e.input, *m.ExecInput)
		}
		if fits {
			e.waiting += len(m.ExecInput.Data)
		}
		e.mu.Unlock()
		if !fits {
			return false
		}
		select {
		case e.more <- struct{}{}:
		default:
		}
	case m.ExecResize != nil && m.ExecResize.Nonce == e.nonce && e.tty.File != nil:
		_ = e.tty.resize(m.ExecResize.Rows, m.ExecResize.Cols) // it may have ended
	case m.ExecSignal != nil && m.ExecSignal.Nonce == e.nonce:
		group := e.pid
		if e.tty.File != nil {
			if front, err := e.tty.foreground(); err == nil && front > 1 {
				group = front
			}
		}
		if sig := m.ExecSignal.Signal; sig > 0 && sig <= 64 {
			_ = syscall.Kill(-group, syscall.Signal(sig))
		}
	}
	return true
}

// carryIn hands the input on as the command takes it.
func (e *execSession) carryIn() {
	failed := false
	for {
		select {
		case <-e.more:
		case <-e.over:
			return
		}
		for {
			e.mu.Lock()
			if len(e.input) == 0 {
				e.mu.Unlock()
				break
			}
			piece := e.input[0]
			e.input = e.input[1:]
			e.mu.Unlock()
			if !failed { // else it reads no more: what comes is taken, to no effect
				_, err := e.stdin.Write(piece.Data)
				failed = err != nil
			}
			if piece.EOF && !failed {
				failed = e.endInput() != nil
			}
			if len(piece.Data) > 0 {
				e.mu.Lock()
				e.waiting -= len(piece.Data)
				e.mu.Unlock()
				e.tell(wire.Message{ExecTaken: &wire.ExecTaken{Nonce: e.nonce, Bytes: len(piece.Data)}})
			}
		}
	}
}

// endInput is the end of the standard input.
func (e *execSession) endInput() error {
	if e.tty.File == nil {
		return e.stdin.Close()
	}
	char, err := e.tty.endOfInput()
	if err == nil && char != 0 {
		_, err = e.tty.Write([]byte{char})
	}
	return err
}

// cut ends the session, whatever runs in it, and waits for that.
func (e *execSession) cut() {
	if e == nil {
		return
	}
	e.cutOnce.Do(func() { close(e.cutOff) })
	<-e.over
}

// cutFor cuts it, and tells a host that may still be there why.
func (e *execSession) cutFor(why string, out *wire.Conn) {
	if e == nil {
		return
	}
	e.cut()
	go func() {
		_ = out.WriteMessage(wire.Message{ExecEnded: &wire.ExecEnded{Nonce: e.nonce, Code: 128 + int(syscall.SIGHUP), Message: "The session was ended: " + why + "."}})
	}()
}

// end ends all processes of the session: those that a shell has put into groups of
// their own, too.
func (e *execSession) end() {
	e.signal(syscall.SIGHUP)
	e.close()
	timer := time.NewTimer(execHangUp)
	defer timer.Stop()
	select {
	case <-e.ended:
	case <-timer.C:
	}
	e.signal(syscall.SIGKILL)
}

// signal is for every process of the session.
func (e *execSession) signal(sig syscall.Signal) {
	_ = syscall.Kill(-e.pid, sig)
	entries, err := os.ReadDir(e.proc)
	if err != nil {
		return
	}
	for _, p := range entries {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid <= 1 {
			continue
		}
		if sid, err := unix.Getsid(pid); err == nil && sid == e.pid {
			_ = syscall.Kill(pid, sig)
		}
	}
}
