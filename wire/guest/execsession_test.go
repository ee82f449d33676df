package guest

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// port is a stream whose guest has said everything already.
type port struct {
	said bytes.Buffer
	told bytes.Buffer
}

func (p *port) Read(b []byte) (int, error)  { return p.said.Read(b) }
func (p *port) Write(b []byte) (int, error) { return p.told.Write(b) }

func sessionWith(t interface{ Fatal(...any) }, said ...Message) (*ExecSession, *port) {
	p := &port{}
	guest := NewConn(&p.said)
	for _, m := range said {
		if err := guest.WriteMessage(m); err != nil {
			t.Fatal(err)
		}
	}
	s, err := OpenExec(p, ExecOpen{Nonce: 7, Argv: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	return s, p
}

func TestExecSessionPassesOverWhatIsNotItsOwn(t *testing.T) {
	s, _ := sessionWith(t,
		Message{ExecOutput: &ExecOutput{Nonce: 6, Stream: Stdout, Data: []byte("of the one before")}},
		Message{ExecEnded: &ExecEnded{Nonce: 6}},
		Message{ExecOpened: &ExecOpened{Nonce: 7}},
		Message{Pong: &Ping{Seq: 7}},
		Message{ExecTaken: &ExecTaken{Nonce: 6, Bytes: 1 << 20}},
		Message{ExecOutput: &ExecOutput{Nonce: 7, Stream: Stderr, Data: []byte("words")}},
		Message{ExecEnded: &ExecEnded{Nonce: 7, Code: 3, Message: strings.Repeat("\xff", 2*MaxExecMessage)}},
		Message{ExecOutput: &ExecOutput{Nonce: 7, Stream: Stdout, Data: []byte("behind its end")}},
	)
	var got []string
	for {
		m, err := s.Receive()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			break
		}
		switch {
		case m.ExecOpened != nil:
			got = append(got, "opened")
		case m.ExecOutput != nil:
			got = append(got, string(m.ExecOutput.Stream)+":"+string(m.ExecOutput.Data))
		case m.ExecEnded != nil:
			got = append(got, "ended")
			if e := m.ExecEnded; e.Code != 3 || len(e.Message) > 3*MaxExecMessage || !strings.HasPrefix(e.Message, "\uFFFD") {
				t.Errorf("the end is %d %.20q of %d bytes", e.Code, e.Message, len(e.Message))
			}
		}
	}
	if want := "opened stderr:words ended"; strings.Join(got, " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestExecSessionBelievesNoLiar(t *testing.T) {
	opened := Message{ExecOpened: &ExecOpened{Nonce: 7}}
	for name, said := range map[string][]Message{
		"output first":       {{ExecOutput: &ExecOutput{Nonce: 7, Stream: Stdout}}},
		"opened twice":       {opened, opened},
		"too long a message": {opened, {ExecOutput: &ExecOutput{Nonce: 7, Stream: Stdout, Data: make([]byte, ExecChunk+1)}}},
		"another stream":     {opened, {ExecOutput: &ExecOutput{Nonce: 7, Stream: "log"}}},
		"taken unsent":       {opened, {ExecTaken: &ExecTaken{Nonce: 7, Bytes: 1}}},
		"given back":         {opened, {ExecTaken: &ExecTaken{Nonce: 7, Bytes: -1}}},
		"exit code":          {opened, {ExecEnded: &ExecEnded{Nonce: 7, Code: -1}}},
		"large exit code":    {opened, {ExecEnded: &ExecEnded{Nonce: 7, Code: 256}}},
	} {
		s, _ := sessionWith(t, said...)
		var err error
		for range said {
			if _, err = s.Receive(); err != nil {
				break
			}
		}
		if _, lied := errors.AsType[*ExecError](err); !lied {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever is sent and taken, the way never holds more than the window, and the
// guest gets all that was accepted, in order.
func TestExecSessionKeepsToTheWindow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, p := sessionWith(t, Message{ExecOpened: &ExecOpened{Nonce: 7}})
		if _, err := s.Receive(); err != nil {
			t.Fatal(err)
		}
		guest := NewConn(&p.said)
		var sent, got []byte
		way, next := 0, byte(0)
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			if rapid.Bool().Draw(t, "send") {
				data := make([]byte, rapid.IntRange(0, ExecWindow+10).Draw(t, "length"))
				for i := range data {
					data[i], next = next, next+1
				}
				err := s.Input(data, false)
				if fits := way+len(data) <= ExecWindow; fits != (err == nil) || !fits && !errors.Is(err, ErrExecWindow) {
					t.Fatalf("%d bytes with %d on the way: %v", len(data), way, err)
				}
				if err == nil {
					sent, way = append(sent, data...), way+len(data)
				}
			} else if way > 0 {
				n := rapid.IntRange(1, way).Draw(t, "taken")
				if err := guest.WriteMessage(Message{ExecTaken: &ExecTaken{Nonce: 7, Bytes: n}}); err != nil {
					t.Fatal(err)
				}
				if m, err := s.Receive(); err != nil || m.ExecTaken == nil {
					t.Fatal(m, err)
				}
				way -= n
			}
			if s.Room() != ExecWindow-way {
				t.Fatalf("room for %d with %d on the way", s.Room(), way)
			}
		}
		if err := s.Input(nil, true); err != nil {
			t.Fatal(err)
		}
		told, ended := NewConn(&p.told), false
		for {
			m, err := told.ReadMessage()
			if err != nil {
				break
			}
			if m.ExecInput == nil {
				continue
			}
			if len(m.ExecInput.Data) > ExecChunk || ended {
				t.Fatalf("a message of %d bytes, behind the end: %v", len(m.ExecInput.Data), ended)
			}
			got, ended = append(got, m.ExecInput.Data...), m.ExecInput.EOF
		}
		if !ended || !bytes.Equal(sent, got) {
			t.Fatalf("the guest got %d of %d bytes, the end: %v", len(got), len(sent), ended)
		}
	})
}
