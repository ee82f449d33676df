package pebble_test

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/usage"
	"github.com/miosa/miosa/usage/pebble"
	"github.com/miosa/miosa/usage/usagetest"
)

func open(t *testing.T, dir string) *pebble.Store {
	t.Helper()
	s, err := pebble.Open(pebble.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	usagetest.Run(t, func(t *testing.T) usage.Store { return open(t, t.TempDir()) })
}

var of = usage.Subject{TenantID: "ten_a", DeploymentID: "dep_a", ServiceID: "svc_a"}

// TestCommittedSurvivesSIGKILL: a process is killed while it commits; all that
// it said was committed is there afterwards, row and account together.
func TestCommittedSurvivesSIGKILL(t *testing.T) {
	if dir := os.Getenv("USAGE_STORE_TO_FILL"); dir != "" {
		s := open(t, dir)
		for n := uint64(1); ; n++ {
			err := s.Commit(context.Background(), usage.Change{
				Add:      []usage.Row{{Hour: 1, Subject: of, Amount: metering.Amount{SentBytes: 1}}},
				Accounts: []usage.Account{{InstanceID: "ri_a", LogSeq: n}},
			})
			if err != nil {
				t.Fatal(err)
			}
			fmt.Println(n)
		}
	}
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCommittedSurvivesSIGKILL$")
	cmd.Env = append(os.Environ(), "USAGE_STORE_TO_FILL="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := uint64(0)
	for said < 50 {
		if _, err := fmt.Fscanln(out, &said); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := fmt.Fscanln(out, &said); err != nil {
			break
		}
	}
	_ = cmd.Wait() // killed
	s := open(t, dir)
	a, err := s.Account(t.Context(), "ri_a")
	if err != nil || a.LogSeq < said {
		t.Fatalf("the account is at %d of %d: %v", a.LogSeq, said, err)
	}
	for r, err := range s.Rows(t.Context(), usage.Query{Until: 9}) {
		if err != nil || r.SentBytes != a.LogSeq {
			t.Errorf("the row has %d, the account %d: %v", r.SentBytes, a.LogSeq, err)
		}
	}
}

func TestANewerFormatIsNotTouched(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if err := s.SetFormat(2); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := pebble.Open(pebble.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("it was opened")
	}
}

func TestANearlyFullDiskIsRefused(t *testing.T) {
	s, err := pebble.Open(pebble.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler), MinFree: 1 << 62})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Commit(t.Context(), usage.Change{Add: []usage.Row{{Hour: 1, Subject: of}}}); miosa.CodeOf(err) != miosa.NoSpace {
		t.Errorf("commit: %v", err)
	}
}

func TestAClosedStoreSaysSo(t *testing.T) {
	s := open(t, t.TempDir())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(t.Context(), usage.Change{}); miosa.CodeOf(err) != miosa.Unavailable {
		t.Errorf("commit: %v", err)
	}
	for _, err := range s.Rows(t.Context(), usage.Query{}) {
		if miosa.CodeOf(err) != miosa.Unavailable {
			t.Errorf("rows: %v", err)
		}
	}
}

// BenchmarkGrowth says how many bytes a row takes on disk, and how long a
// tenant's month takes to read among those of others.
func BenchmarkGrowth(b *testing.B) {
	dir := b.TempDir()
	s, err := pebble.Open(pebble.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const tenants, services, hours = 50, 20, 744
	id := func(prefix string, n int) string { return fmt.Sprintf("%s_%026d", prefix, n*7919) }
	for h := range metering.Hour(hours) {
		c := usage.Change{}
		for n := range tenants * services {
			c.Add = append(c.Add, usage.Row{
				Hour: 492_000 + h, Name: "a-deployment",
				Subject: usage.Subject{
					TenantID: id("ten", n/services), DeploymentID: id("dep", n/2), ServiceID: id("svc", n),
					Attribution: miosa.Attribution{WorkspaceID: fmt.Sprint("workspace-", n/4)},
				},
				Amount: metering.Amount{
					RunMS: 3_600_000, VCPUMS: 7_200_000, MemoryMBMS: 3_600_000 * 512, DiskMBMS: 3_600_000 * 1024,
					SentBytes: uint64(n) * 7_654_321 * uint64(h), ReceivedBytes: uint64(n) * 1_234_567 * uint64(h), LogLines: uint64(n), LogBytes: uint64(n) * 123,
				},
			})
		}
		if err := s.Commit(b.Context(), c); err != nil {
			b.Fatal(err)
		}
	}
	size := int64(0)
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			info, err := e.Info()
			if err != nil {
				return err
			}
			size += info.Size()
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		n = 0
		for _, err := range s.Rows(b.Context(), usage.Query{TenantID: id("ten", 25), Since: 492_000, Until: 492_000 + hours}) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
	}
	if n != services*hours {
		b.Fatalf("%d rows", n)
	}
	b.ReportMetric(float64(size)/(tenants*services*hours), "B/row")
}
