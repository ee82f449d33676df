package sim

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

// DialExec connects to an exec port of the simulated guest.
func (m *machine) DialExec(ctx context.Context) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return nil, fmt.Errorf("dial vm %s: %w", m.handle.ID, vmm.ErrGone)
	}
	if m.execs >= guest.ExecPorts {
		return nil, miosa.Errorf(miosa.Conflict, "all exec ports of vm %s are in use", m.handle.ID)
	}
	m.execs++
	host, inside := net.Pipe()
	stop := context.AfterFunc(m.ctx, func() { inside.Close() }) // the machine's end
	port := &execPort{m: m, end: inside, conn: guest.NewConn(inside)}
	go port.serve()
	return &channel{Conn: host, hangUp: func() {
		stop()
		inside.Close()
		m.mu.Lock()
		defer m.mu.Unlock()
		m.execs--
	}}, nil
}

// execPort is the guest's side of a port.
type execPort struct {
	m    *machine
	end  net.Conn
	conn *guest.Conn
	now  *execSession // nil: none
}

// serve has one session after the other until the host has gone.
func (p *execPort) serve() {
	defer func() { p.now.cut() }()
	for {
		m, err := p.conn.ReadMessage()
		if err != nil {
			return
		}
		switch s := p.now; {
		case m.ExecOpen != nil:
			s.cut()
			p.now = p.open(*m.ExecOpen)
		case s == nil:
		case m.ExecInput != nil && m.ExecInput.Nonce == s.o.Nonce:
			s.feed(*m.ExecInput)
		case m.ExecResize != nil && m.ExecResize.Nonce == s.o.Nonce:
			s.resize(m.ExecResize.Rows, m.ExecResize.Cols)
		case m.ExecSignal != nil && m.ExecSignal.Nonce == s.o.Nonce:
			s.signal(m.ExecSignal.Signal)
		}
	}
}

// execSession is a command that runs.
type execSession struct {
	port   *execPort
	o      guest.ExecOpen
	cutOff chan struct{}
	once   sync.Once
	killed chan int // by this signal

	mu         sync.Mutex // guards what follows
	input      []guest.ExecInput
	rows, cols int
	changed    chan struct{} // closed and replaced whenever something above changes
}

func (p *execPort) open(o guest.ExecOpen) *execSession {
	s := &execSession{port: p, o: o, cutOff: make(chan struct{}), killed: make(chan int, 1), rows: o.Rows, cols: o.Cols, changed: make(chan struct{})}
	if len(o.Argv) == 0 {
		s.o.Argv = []string{"cat"} // the shell of a machine without programs
	}
	go s.run()
	return s
}

func (s *execSession) cut() {
	if s != nil {
		s.once.Do(func() { close(s.cutOff) })
	}
}

func (s *execSession) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *execSession) feed(in guest.ExecInput) { s.change(func() { s.input = append(s.input, in) }) }

func (s *execSession) resize(rows, cols int) { s.change(func() { s.rows, s.cols = rows, cols }) }

func (s *execSession) signal(number int) {
	select {
	case s.killed <- number:
	default:
	}
}

// say reports whether the host took it, and the session goes on.
func (s *execSession) say(m guest.Message) bool {
	select {
	case <-s.cutOff:
		return false
	default:
		return s.port.conn.WriteMessage(m) == nil
	}
}

func (s *execSession) print(text []byte) bool {
	for chunk := range slices.Chunk(text, guest.ExecChunk) {
		if !s.say(guest.Message{ExecOutput: &guest.ExecOutput{Nonce: s.o.Nonce, Stream: guest.Stdout, Data: chunk}}) {
			return false
		}
	}
	return true
}

func (s *execSession) ends(code int, message string) {
	s.say(guest.Message{ExecEnded: &guest.ExecEnded{Nonce: s.o.Nonce, Code: code, Message: message}})
}

// run knows these words, with or without "sim" before them:
//
//	true, false, exit N   end with that code
//	echo TEXT             write TEXT
//	env                   write the environment, one entry a line
//	cat                   write what the input brings, up to its end
//	size                  write the terminal's size, whenever it changes
//	flood                 write for ever
//	sleep DURATION        end after it
func (s *execSession) run() {
	words := s.o.Argv
	if words[0] == "sim" && len(words) > 1 {
		words = words[1:]
	}
	argument := strings.Join(words[1:], " ")
	run := map[string]func() int{
		"true": func() int { return 0 }, "false": func() int { return 1 },
		"exit":  func() int { n, _ := strconv.Atoi(argument); return n & 0xff },
		"echo":  func() int { s.print([]byte(argument + "\n")); return 0 },
		"env":   s.env,
		"cat":   s.cat,
		"size":  s.size,
		"flood": s.flood,
		"sleep": func() int { return s.sleep(argument) },
	}[words[0]]
	if run == nil {
		s.ends(127, fmt.Sprintf("The command %s was not found in the image.", words[0]))
		return
	}
	if s.say(guest.Message{ExecOpened: &guest.ExecOpened{Nonce: s.o.Nonce}}) {
		s.ends(run(), "")
	}
}

func (s *execSession) env() int {
	s.port.m.mu.Lock()
	all := append(slices.Clone(s.port.m.boot.Env), s.o.Env...)
	s.port.m.mu.Unlock()
	s.print([]byte(strings.Join(all, "\n") + "\n"))
	return 0
}

// wait waits for a change; a code that is not negative ends the command.
func (s *execSession) wait(changed <-chan struct{}) (code int) {
	select {
	case <-changed:
		return -1
	case n := <-s.killed:
		return 128 + n
	case <-s.cutOff:
		return 129
	}
}

func (s *execSession) cat() int {
	for {
		s.mu.Lock()
		input, changed := s.input, s.changed
		s.input = nil
		s.mu.Unlock()
		for _, in := range input {
			if n := len(in.Data); n > 0 && (!s.print(in.Data) || !s.say(guest.Message{ExecTaken: &guest.ExecTaken{Nonce: s.o.Nonce, Bytes: n}})) {
				return 1
			}
			if in.EOF {
				return 0
			}
		}
		if code := s.wait(changed); code >= 0 {
			return code
		}
	}
}

func (s *execSession) size() int {
	for {
		s.mu.Lock()
		text, changed := fmt.Sprintf("%dx%d\r\n", s.rows, s.cols), s.changed
		s.mu.Unlock()
		if !s.print([]byte(text)) {
			return 1
		}
		if code := s.wait(changed); code >= 0 {
			return code
		}
	}
}

func (s *execSession) flood() int {
	text := []byte(strings.Repeat("y\n", guest.ExecChunk/2))
	for s.print(text) {
		select {
		case n := <-s.killed:
			return 128 + n
		default:
		}
	}
	return 1
}

func (s *execSession) sleep(argument string) int {
	d, err := time.ParseDuration(argument)
	if err != nil {
		return 1
	}
	over := make(chan struct{})
	defer time.AfterFunc(d, func() { close(over) }).Stop()
	if code := s.wait(over); code >= 0 {
		return code
	}
	return 0
}
