package pebble

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
	"github.com/miosa/miosa/events/eventstest"
)

const childEnv = "MIOSA_TEST_EVENTS_DIR"

// nth is the n-th event of the killed writer.
func nth(n int) events.Kept {
	at := time.Unix(1_800_000_000+int64(n), 0).UTC()
	return events.Kept{Days: 30, Event: miosa.Event{
		ID: eventstest.ID(miosa.PrefixEvent, at, 1), TenantID: "ten", DeploymentID: "dep", Type: "rollout.started", Message: strconv.Itoa(n), At: at,
	}}
}

// TestKilled kills a process by SIGKILL in the middle of its appends, several
// times: what was acknowledged is there, once and in order.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(childEnv); dir != "" {
		writeUntilKilled(t, dir)
		return
	}
	dir := t.TempDir()
	promised := 0
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
			if to, err := strconv.Atoi(strings.TrimSuffix(lines.Text(), ".")); err == nil && strings.HasSuffix(lines.Text(), ".") {
				promised = max(promised, to)
			}
			if n == 50+30*round {
				_ = child.Process.Kill()
			}
		}
		err = child.Wait()
		cancel()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Exited() {
			t.Fatalf("the child ended by itself: %v", err)
		}
		s := open(t, dir, time.Now)
		last, err := s.Last(t.Context())
		if err != nil || promised == 0 || int(last) < promised { //nolint:gosec // small
			t.Fatalf("%d events, %v; %d were promised", last, err, promised)
		}
		for _, scope := range []events.Scope{{Operator: true}, {TenantID: "ten"}, {TenantID: "ten", DeploymentID: "dep"}} {
			n := 0
			for e, err := range s.Read(t.Context(), events.Query{Scope: scope}) {
				if n++; err != nil || e.Message != strconv.Itoa(n) || e.Mark != events.Mark(n) {
					t.Fatalf("event %d is %+v, %v", n, e, err)
				}
			}
			if n != int(last) { //nolint:gosec // small
				t.Fatalf("%+v: %d events of %d", scope, n, last)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// writeUntilKilled is the child: it sends the last three of each batch again.
func writeUntilKilled(t *testing.T, dir string) {
	s, err := Open(Config{Dir: dir, Log: slog.New(slog.DiscardHandler), MinFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	last, err := s.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for n := int(last); ; n += 5 { //nolint:gosec // small
		var batch []events.Kept
		for i := max(1, n-2); i <= n+5; i++ {
			batch = append(batch, nth(i))
		}
		if err := s.Append(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("%d.\n", n+5)
	}
}

func TestBacksOffBeforeTheDiskIsFull(t *testing.T) {
	var said strings.Builder
	s := open(t, t.TempDir(), time.Now)
	s.room.Log, s.room.Min = slog.New(slog.NewTextHandler(&said, nil)), 1000
	free := uint64(1000)
	s.room.Stat = func(string) (uint64, uint64, error) { return free, 1 << 40, nil }
	n := 0
	try := func(want miosa.Code) {
		t.Helper()
		s.room.Every = -1
		err := s.Append(t.Context(), []events.Kept{nth(n + 1)})
		if miosa.CodeOf(err) != want {
			t.Errorf("%d bytes free: %v", free, err)
		}
		if err == nil {
			n++
		}
		found := 0
		for _, err := range s.Read(t.Context(), events.Query{Scope: events.Scope{TenantID: "ten"}}) {
			if found++; err != nil {
				t.Fatal(err)
			}
		}
		if found != n {
			t.Errorf("%d events can be read, want %d", found, n)
		}
	}
	try("")
	for _, free = range []uint64{999, 10, 1010} {
		try(miosa.NoSpace)
	}
	free = 1100
	try("")
	if full, over := strings.Count(said.String(), "nearly full"), strings.Count(said.String(), "room again"); full != 1 || over != 1 {
		t.Errorf("said %d times that the disk is full, %d times that it is not:\n%s", full, over, said.String())
	}
}

func TestClosedWhileRead(t *testing.T) {
	s := open(t, t.TempDir(), time.Now)
	var batch []events.Kept
	for n := range 1000 {
		batch = append(batch, nth(n))
	}
	if err := s.Append(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range s.Read(t.Context(), events.Query{Scope: events.Scope{TenantID: "ten"}}) {
		if last = err; last == nil {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if miosa.CodeOf(last) != miosa.Unavailable {
		t.Errorf("the read ended with %v", last)
	}
	if err := s.Append(t.Context(), nil); miosa.CodeOf(err) != miosa.Unavailable {
		t.Errorf("an append to a closed store: %v", err)
	}
}

// A damaged record is told of, with the events before it.
func TestDamagedRecord(t *testing.T) {
	s := open(t, t.TempDir(), time.Now)
	if err := s.Append(t.Context(), []events.Kept{nth(1), nth(2)}); err != nil {
		t.Fatal(err)
	}
	p := place{days: 30, hour: s.hour, seq: 2}
	if err := s.db.Do(func(db *lsm.DB) error { return db.Set(p.key(), []byte("{"), nil) }); err != nil {
		t.Fatal(err)
	}
	n := 0
	var last error
	for _, err := range s.Read(t.Context(), events.Query{Scope: events.Scope{TenantID: "ten"}}) {
		if last = err; err == nil {
			n++
		}
	}
	if n != 1 || last == nil {
		t.Errorf("%d events, then %v", n, last)
	}
}
