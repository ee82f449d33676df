package pebble

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/logs/logstest"
)

func openIn(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(Config{Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), MinFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	logstest.Run(t, func(t *testing.T) logstest.Fixture {
		dir := t.TempDir()
		var s *Store
		shut := func() {
			if s != nil {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		}
		t.Cleanup(shut)
		return logstest.Fixture{
			Open: func(t *testing.T) logs.Store {
				shut()
				s = openIn(t, dir)
				return s
			},
			Forget: func(t *testing.T, s logs.Store) {
				if err := s.Expire(t.Context(), time.Now().Add(25*time.Hour)); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

func kept(instance string, first uint64, at time.Time, texts ...string) logs.Kept {
	b := logs.Kept{Days: 30, Batch: logs.Batch{
		Origin: logs.Origin{TenantID: "ten", DeploymentID: "dep", ServiceID: "svc", InstanceID: instance, VersionID: "ver", HostID: "hst"},
		Epoch:  1, First: first,
	}}
	for _, text := range texts {
		b.Lines = append(b.Lines, logs.Line{Time: at, Stream: logs.Stdout, Text: []byte(text)})
	}
	return b
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	before := runtime.NumGoroutine()
	s := openIn(t, t.TempDir())
	if _, err := s.Append(t.Context(), []logs.Kept{kept("ins", 1, time.Now(), "a")}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Append(t.Context(), nil); miosa.CodeOf(err) != miosa.Unavailable {
		t.Errorf("append to a closed store: %v", err)
	}
	for _, err := range s.Read(t.Context(), logs.Query{Scope: logs.Scope{TenantID: "ten"}}) {
		if miosa.CodeOf(err) != miosa.Unavailable {
			t.Errorf("read of a closed store: %v", err)
		}
	}
	deadline := time.After(10 * time.Second)
	for runtime.NumGoroutine() > before {
		select {
		case <-deadline:
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, were %d\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
		default:
			runtime.Gosched()
		}
	}
}

func TestBreaksOffInTheMiddleOfAReadWhenClosed(t *testing.T) {
	s := openIn(t, t.TempDir())
	var b logs.Kept
	for i := range 1000 {
		b = kept("ins", uint64(i)+1, time.Unix(int64(i)*60, 0), "text")
		if _, err := s.Append(t.Context(), []logs.Kept{b}); err != nil {
			t.Fatal(err)
		}
	}
	var last error
	n := 0
	for _, err := range s.Read(t.Context(), logs.Query{Scope: logs.Scope{TenantID: "ten"}}) {
		if last = err; err != nil {
			break
		}
		if n++; n == 1 {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if miosa.CodeOf(last) != miosa.Unavailable {
		t.Errorf("after %d lines: %v", n, last)
	}
}

func TestBacksOffBeforeTheDiskIsFull(t *testing.T) {
	var said strings.Builder
	s, err := Open(Config{Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&said, nil)), MinFree: 1000})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	free := uint64(1000)
	s.room.Stat = func(string) (uint64, uint64, error) { return free, 1 << 40, nil }
	seq := uint64(1)
	try := func(want miosa.Code) {
		t.Helper()
		s.room.Every = -1
		_, err := s.Append(t.Context(), []logs.Kept{kept("ins", seq, time.Unix(int64(seq), 0), "text")})
		if miosa.CodeOf(err) != want {
			t.Errorf("%d bytes free: %v", free, err)
		}
		if err == nil {
			seq++
		}
		n := 0
		for _, err := range s.Read(t.Context(), logs.Query{Scope: logs.Scope{TenantID: "ten"}}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != int(seq)-1 {
			t.Errorf("%d lines can be read, want %d", n, seq-1)
		}
	}
	try("")
	for _, free = range []uint64{999, 10, 1010} {
		try(miosa.NoSpace)
	}
	free = 1100
	try("")
	try("")
	if full, over := strings.Count(said.String(), "nearly full"), strings.Count(said.String(), "room again"); full != 1 || over != 1 {
		t.Errorf("said %d times that the disk is full, %d times that it is not:\n%s", full, over, said.String())
	}
}

func TestDamagedChunks(t *testing.T) {
	b := kept("ins", 1, time.Unix(1000, 0), "one", "two", "three")
	whole := encode(nil, &b.Origin, b.Lines, b.Lines[0].Time.UnixMicro())
	rapid.Check(t, func(r *rapid.T) {
		value := slices.Clone(whole)
		for range rapid.IntRange(1, 4).Draw(r, "bytes") {
			value[rapid.IntRange(0, len(value)-1).Draw(r, "at")] = rapid.Byte().Draw(r, "byte")
		}
		value = value[:rapid.IntRange(0, len(value)).Draw(r, "size")]
		if c, err := open(value); err == nil {
			_, _ = c.lines(nil, 0) // an error or lines, but no panic
		}
	})
}

// acked is what the child says it has been promised.
type acked struct {
	Instance string
	Seq      uint64
}

const childEnv = "MIOSA_TEST_LOGS_DIR"

// TestKilled kills a process by SIGKILL in the middle of its appends, several
// times: what was acknowledged is there, once.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(childEnv); dir != "" {
		writeUntilKilled(t, dir)
		return
	}
	dir := t.TempDir()
	promised := map[string]uint64{}
	for round := range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestKilled$")
		child.Env = append(os.Environ(), childEnv+"="+dir)
		child.Stderr = t.Output()
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			var a acked
			if json.Unmarshal(lines.Bytes(), &a) != nil {
				continue // cut off by the kill, or not ours
			}
			promised[a.Instance] = max(promised[a.Instance], a.Seq)
			if n == 100+70*round {
				_ = child.Process.Kill()
			}
		}
		err = child.Wait()
		cancel()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Exited() {
			t.Fatalf("the child ended by itself: %v", err)
		}
		check(t, dir, promised)
	}
}

func check(t *testing.T, dir string, promised map[string]uint64) {
	t.Helper()
	s := openIn(t, dir)
	defer s.Close()
	if len(promised) == 0 {
		t.Fatal("nothing was promised")
	}
	total := 0
	for instance, seq := range promised {
		p, err := s.Held(t.Context(), "ten", instance)
		if err != nil || p.Seq < seq {
			t.Errorf("%s holds %v, %v; %d was promised", instance, p, err, seq)
		}
		next := uint64(1)
		for e, err := range s.Read(t.Context(), logs.Query{Scope: logs.Scope{TenantID: "ten", InstanceID: instance}}) {
			if err != nil {
				t.Fatal(err)
			}
			if e.Position.Seq != next || string(e.Text) != fmt.Sprintf("%s line %d", instance, next) {
				t.Fatalf("%s: line %d is %v %q", instance, next, e.Position, e.Text)
			}
			next++
		}
		if next-1 != p.Seq {
			t.Errorf("%s has %d lines and holds %v", instance, next-1, p)
		}
		total += int(p.Seq)
	}
	arrived := 0
	for a, err := range s.Arrivals(t.Context(), 0, logs.Scope{TenantID: "ten"}) {
		if err != nil {
			t.Fatal(err)
		}
		arrived += len(a.Batch.Lines)
	}
	u, err := s.Usage(t.Context(), "ten", time.Time{}, time.Time{})
	if err != nil || int(u.Lines) != total || arrived != total {
		t.Errorf("%d lines, %d arrived, usage %v, %v", total, arrived, u, err)
	}
}

// writeUntilKilled is the child.
func writeUntilKilled(t *testing.T, dir string) {
	s, err := Open(Config{Dir: dir, Log: slog.New(slog.DiscardHandler), MinFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	var wg sync.WaitGroup
	for w := range 6 {
		wg.Go(func() {
			instance := fmt.Sprintf("ins_%d", w)
			p, err := s.Held(t.Context(), "ten", instance)
			if err != nil {
				t.Error(err)
				return
			}
			for seq := p.Seq + 1; ; seq += 3 {
				// Two lines again, three new.
				first := max(1, int(seq)-2)
				b := kept(instance, uint64(first), time.Unix(0, 0))
				for n := uint64(first); n < seq+3; n++ {
					b.Lines = append(b.Lines, logs.Line{
						Time: time.Unix(1_800_000_000+int64(n), 0), Stream: logs.Stdout, Text: fmt.Appendf(nil, "%s line %d", instance, n),
					})
				}
				if _, err := s.Append(t.Context(), []logs.Kept{b}); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				err := out.Encode(acked{instance, seq + 2})
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}
