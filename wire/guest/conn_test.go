package guest

import (
	"bytes"
	"errors"
	"io"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// stream is both ends' bytes: what is written can be read.
type stream struct{ bytes.Buffer }

func frame(t interface{ Fatal(...any) }, m Message) []byte {
	var s stream
	if err := NewConn(&s).WriteMessage(m); err != nil {
		t.Fatal(err)
	}
	return s.Bytes()
}

// oneByOne gives a reader's bytes in the smallest pieces.
type oneByOne struct{ io.Reader }

func (r oneByOne) Read(p []byte) (int, error)  { return r.Reader.Read(p[:1]) }
func (r oneByOne) Write(p []byte) (int, error) { return len(p), nil }

func messages() *rapid.Generator[Message] {
	return rapid.OneOf(
		rapid.Custom(func(t *rapid.T) Message {
			return Message{Lines: &Lines{Gap: rapid.Uint64().Draw(t, "gap"), Lines: []Line{{
				N: rapid.Uint64().Draw(t, "n"), Stream: Stdout, T: rapid.Int64().Draw(t, "t"),
				Text: rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "text"),
			}}}}
		}),
		rapid.Custom(func(t *rapid.T) Message {
			return Message{Boot: &Boot{Version: 1, Env: rapid.SliceOfN(rapid.String(), 1, 3).Draw(t, "env"), Command: rapid.String().Draw(t, "command")}}
		}),
		rapid.Custom(func(t *rapid.T) Message { return Message{Ping: &Ping{Seq: rapid.Uint64().Draw(t, "seq")}} }),
	)
}

func TestConnReturnsWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(messages(), 1, 5).Draw(t, "messages")
		var s stream
		c := NewConn(&s)
		for _, m := range want {
			if err := c.WriteMessage(m); err != nil {
				t.Fatal(err)
			}
		}
		r := NewConn(oneByOne{&s})
		for _, m := range want {
			got, err := r.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, m) {
				t.Fatalf("got %+v, want %+v", got, m)
			}
		}
		if _, err := r.ReadMessage(); !errors.Is(err, io.EOF) {
			t.Fatalf("after the last: %v, want EOF", err)
		}
		if r.Skipped() != 0 {
			t.Fatalf("skipped %d bytes of a whole stream", r.Skipped())
		}
	})
}

// Whatever an earlier connection left behind, cut at any byte, the next
// connection's frames all arrive, without a byte more being needed.
func TestConnFindsTheFrameAfterARemnant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		old := frame(t, messages().Draw(t, "old"))
		head := old[:rapid.IntRange(0, len(old)-1).Draw(t, "cut")]
		tail := old[rapid.IntRange(1, len(old)).Draw(t, "from"):]
		want := messages().Draw(t, "new")
		for _, remnant := range [][]byte{head, tail, append(append([]byte{}, tail...), head...), append(append([]byte{}, head...), head...)} {
			s := bytes.NewBuffer(append(append([]byte{}, remnant...), frame(t, want)...))
			got, err := NewConn(oneByOne{s}).ReadMessage()
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("after %d bytes of remnant: %+v, %v", len(remnant), got, err)
			}
		}
	})
}

func TestConnFindsFramesInNoise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		noise := rapid.SliceOf(rapid.SampledFrom([]byte{0xFF, 'M', 'G', 'F', 0, 1, 'x'})).Draw(t, "noise")
		want := messages().Draw(t, "message")
		got, err := NewConn(oneByOne{bytes.NewBuffer(append(noise, frame(t, want)...))}).ReadMessage()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, %v", got, err)
		}
	})
}

func TestConnSkipsADamagedFrame(t *testing.T) {
	damaged := frame(t, Message{Ping: &Ping{Seq: 1}})
	damaged[len(damaged)-4] ^= 1
	got, err := NewConn(bytes.NewBuffer(append(damaged, frame(t, Message{Ping: &Ping{Seq: 2}})...))).ReadMessage()
	if err != nil || got.Ping == nil || got.Ping.Seq != 2 {
		t.Errorf("got %+v, %v; want the second ping", got, err)
	}
}

func TestConnGoesOnAfterAnInvalidMessage(t *testing.T) {
	for name, body := range map[string]string{
		"empty": `{}`, "two": `{"ping":{"seq":1},"ack":{"n":1}}`, "unknown": `{"party":{}}`, "no JSON": `party`, "null": `null`,
	} {
		raw := append(make([]byte, headerLen), body...)
		putHeader(raw, raw[headerLen:])
		c := NewConn(bytes.NewBuffer(append(raw, frame(t, Message{Ack: &Ack{N: 7}})...)))
		_, err := c.ReadMessage()
		if _, ok := errors.AsType[*InvalidMessageError](err); !ok {
			t.Errorf("%s: error %v, want InvalidMessageError", name, err)
		}
		if m, err := c.ReadMessage(); err != nil || m.Ack == nil || m.Ack.N != 7 {
			t.Errorf("%s: then %+v, %v", name, m, err)
		}
	}
}

func TestConnRefusesToWrite(t *testing.T) {
	var s stream
	c := NewConn(&s)
	if err := c.WriteMessage(Message{}); err == nil {
		t.Error("an empty message was written")
	}
	if err := c.WriteMessage(Message{Ping: &Ping{}, Ack: &Ack{}}); err == nil {
		t.Error("two messages in one frame were written")
	}
	big := Message{Boot: &Boot{Env: []string{strings.Repeat("x", MaxFrame)}}}
	if err := c.WriteMessage(big); !errors.Is(err, ErrFrameTooLarge) {
		t.Errorf("oversized: %v", err)
	}
	if s.Len() != 0 {
		t.Errorf("%d bytes reached the stream", s.Len())
	}
}

func TestConnDoesNotTrustALength(t *testing.T) {
	head := make([]byte, headerLen)
	putHeader(head, nil)
	for i := range 4 {
		head[4+i] = 0x7F
	}
	// Even with a right checksum a length beyond the limit is no frame.
	copy(head[12:], []byte{0, 0, 0, 0})
	sum := checksum(head[:12])
	head[12], head[13], head[14], head[15] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
	c := NewConn(bytes.NewBuffer(append(head, frame(t, Message{Ack: &Ack{N: 1}})...)))
	if m, err := c.ReadMessage(); err != nil || m.Ack == nil {
		t.Errorf("got %+v, %v", m, err)
	}
	if cap(c.buf) > 64<<10 {
		t.Errorf("buffer of %d bytes for a few", cap(c.buf))
	}
}

func TestConnTellsACutStream(t *testing.T) {
	whole := frame(t, Message{Ack: &Ack{N: 1}})
	if _, err := NewConn(bytes.NewBuffer(whole[:len(whole)-1])).ReadMessage(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v, want unexpected EOF", err)
	}
}

// A maximal line fits into a frame of its own.
func TestMaxLineFits(t *testing.T) {
	m := Message{Lines: &Lines{Gap: math.MaxUint64, Lines: []Line{{N: math.MaxUint64, Stream: Stdout, T: math.MaxInt64, Text: make([]byte, MaxLine), Partial: true}}}}
	if n := len(frame(t, m)); n > MaxFrame {
		t.Errorf("%d bytes", n)
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add(frame(f, Message{Ping: &Ping{Seq: 1}}))
	f.Add([]byte{0xFF, 'M', 'G', 'F', 0, 0, 0, 1})
	f.Add(append(frame(f, Message{Ack: &Ack{N: 1}})[:20], frame(f, Message{Ack: &Ack{N: 2}})...))
	f.Fuzz(func(t *testing.T, data []byte) {
		want := Message{Ack: &Ack{N: 424242}}
		c := NewConn(bytes.NewBuffer(append(data, frame(t, want)...)))
		for {
			m, err := c.ReadMessage()
			if _, invalid := errors.AsType[*InvalidMessageError](err); invalid {
				continue
			}
			if err != nil {
				t.Fatalf("the last frame was not found: %v", err)
			}
			if reflect.DeepEqual(m, want) {
				return
			}
		}
	})
}

// A frame full of empty lines is refused before it is decoded; one with as many
// variables is not.
func TestLinesOfAFrameAreCounted(t *testing.T) {
	send := func(body string) error {
		frame := append(make([]byte, headerLen), body...)
		putHeader(frame, frame[headerLen:])
		_, err := NewConn(bytes.NewBuffer(frame)).ReadMessage()
		return err
	}
	for _, empty := range []string{"{},", "null,"} {
		many := strings.Repeat(empty, 100_000)
		for _, body := range []string{
			`{"lines":{"lines":[` + many + `{}]}}`,
			`{"LINES":{"lines":[` + many + `{}]}}`,
			`{"lines":{"lines":[` + many + `{}]},"lines":null}`,
			`{"lines":{"lines":[` + many + `{}]}} {}`,
		} {
			if _, invalid := errors.AsType[*InvalidMessageError](send(body)); !invalid {
				t.Errorf("%.40s… was taken", body)
			}
		}
	}
	line := `{"n":1,"s":"stdout","t":1,"b":"YQ==","p":true},`
	if err := send(`{"lines":{"lines":[` + strings.Repeat(line, MaxLines-1) + strings.TrimSuffix(line, ",") + `]}}`); err != nil {
		t.Errorf("%d lines: %v", MaxLines, err)
	}
	if err := send(`{"boot":{"env":["A=` + strings.Repeat("{},", 100_000) + `"]}}`); err != nil {
		t.Errorf("a variable with commas: %v", err)
	}
}
