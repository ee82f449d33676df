package etcd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/etcd"
	"github.com/miosa/miosa/store/storetest"
)

func open(t testing.TB, cfg etcd.Config) *etcd.Store {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	s, err := etcd.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Store { return open(t, etcd.Config{}) })
}

func put(t testing.TB, s store.Store, key, value string) int64 {
	t.Helper()
	revision, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: key, Value: []byte(value)}}})
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func TestWhatWasCommittedIsThereAfterAReopen(t *testing.T) {
	dir := t.TempDir()
	var revision int64
	for i := range 3 {
		s, err := etcd.Open(t.Context(), etcd.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		e, err := s.Get(t.Context(), "/a")
		if err != nil || e.Revision != revision || i > 0 && string(e.Value) != strconv.Itoa(i-1) {
			t.Errorf("opened for the %d. time: %+v, %v", i+1, e, err)
		}
		revision = put(t, s, "/a", strconv.Itoa(i))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(t.Context(), "/a"); miosa.CodeOf(err) != miosa.Unavailable {
			t.Errorf("get after close: %v", err)
		}
	}
}

func TestOneProcessOwnsTheDirectory(t *testing.T) {
	dir := t.TempDir()
	open(t, etcd.Config{Dir: dir})
	_, err := etcd.Open(t.Context(), etcd.Config{Dir: dir})
	if miosa.CodeOf(err) != miosa.Conflict || !strings.Contains(err.Error(), fmt.Sprint("pid ", os.Getpid())) {
		t.Errorf("err %v", err)
	}
}

func TestNobodyElseCanReadTheDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "db")
	open(t, etcd.Config{Dir: dir})
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestABrokenDatabaseIsAnError(t *testing.T) {
	for name, breaks := range map[string]func(t *testing.T, dir string){
		"database": func(t *testing.T, dir string) {
			overwrite(t, filepath.Join(dir, "member", "snap", "db"))
		},
		"log": func(t *testing.T, dir string) {
			files, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
			if err != nil || len(files) == 0 {
				t.Fatal(files, err)
			}
			overwrite(t, files[0])
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := etcd.Open(t.Context(), etcd.Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			put(t, s, "/a", "x")
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			breaks(t, dir)
			if s, err := etcd.Open(t.Context(), etcd.Config{Dir: dir}); err == nil {
				t.Errorf("it opened")
				_ = s.Close()
			}
		})
	}
}

// overwrite replaces a file's first pages with garbage.
func overwrite(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(bytes.Repeat([]byte("garbage."), 2048))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// Writes fail with a clear error before the disk is full; reads go on, and
// room can be made.
func TestAFullDiskIsNoSpace(t *testing.T) {
	if _, err := etcd.Open(t.Context(), etcd.Config{Dir: t.TempDir(), Reserve: 1 << 60}); miosa.CodeOf(err) != miosa.NoSpace {
		t.Errorf("open: %v", err)
	}
}

// The quota fills with history, which goes to make room; then with records,
// which are refused, until some are deleted.
func TestTheQuota(t *testing.T) {
	s := open(t, etcd.Config{Quota: 8 << 20})
	big := strings.Repeat("x", 512<<10)
	for range 60 { // several quotas' worth of history
		put(t, s, "/same", big)
	}
	// The engine looks at its file ten times a second, so some more may fit.
	full := store.Txn{Delete: []string{"/same"}}
	for i := range 100 {
		key := fmt.Sprint("/more/", i)
		_, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: key, Value: []byte(big)}}})
		if err != nil {
			if miosa.CodeOf(err) != miosa.NoSpace || i < 5 {
				t.Fatalf("the %d. record of 0.5 MB: %v", i, err)
			}
			break
		}
		full.Delete = append(full.Delete, key)
	}
	if len(full.Delete) == 101 {
		t.Error("50 MB went into 8")
	}
	for range 3 { // again and again, without another attempt at making room
		_, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: "/again", Value: []byte(big)}}})
		if miosa.CodeOf(err) != miosa.NoSpace {
			t.Errorf("put when full: %v", err)
		}
	}
	if e, err := s.Get(t.Context(), "/same"); err != nil || len(e.Value) != len(big) {
		t.Errorf("read when full: %d bytes, %v", len(e.Value), err)
	}
	if _, err := s.Commit(t.Context(), full); err != nil {
		t.Fatalf("delete when full: %v", err)
	}
	put(t, s, "/again", big)
}

func TestTooLargeARecord(t *testing.T) {
	s := open(t, etcd.Config{})
	_, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: "/a", Value: make([]byte, 2<<20)}}})
	if miosa.CodeOf(err) != miosa.TooLarge {
		t.Errorf("err %v", err)
	}
}

func TestABackupIsADatabase(t *testing.T) {
	s := open(t, etcd.Config{})
	put(t, s, "/a", "x")
	file, err := os.Create(filepath.Join(t.TempDir(), "backup"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := s.Backup(t.Context(), file)
	if err := errors.Join(err, file.Close()); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	db, err := bbolt.Open(file.Name(), 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.View(func(tx *bbolt.Tx) error {
		if keys := tx.Bucket([]byte("key")); keys == nil || keys.Stats().KeyN == 0 {
			t.Error("there are no keys in it")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestWatchesEndWithTheStore(t *testing.T) {
	s, err := etcd.Open(t.Context(), etcd.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	revision := put(t, s, "/a", "1")
	got := make(chan error, 1)
	first := make(chan struct{})
	go func() {
		for _, err := range s.Watch(context.Background(), "/", revision-1) {
			if err != nil {
				got <- err
				return
			}
			close(first)
		}
		got <- nil
	}()
	<-first
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-got; miosa.CodeOf(err) != miosa.Unavailable {
		t.Errorf("err %v", err)
	}
}

// Leases live on in the store, and what is left of them.
func TestTTLGoesOnAfterAReopen(t *testing.T) {
	dir := t.TempDir()
	s, err := etcd.Open(t.Context(), etcd.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	revision, err := s.Commit(t.Context(), store.Txn{Put: []store.Put{{Key: "/a", Value: []byte("x"), TTL: time.Second}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, etcd.Config{Dir: dir})
	for b, err := range s.Watch(t.Context(), "/", revision) {
		if err != nil || !b.Changes[0].Deleted {
			t.Errorf("%+v, %v", b, err)
		}
		break
	}
}

func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		s, err := etcd.Open(b.Context(), etcd.Config{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkPut is durable puts of 256 bytes by 64 writers.
func BenchmarkPut(b *testing.B) {
	s := open(b, etcd.Config{})
	value := make([]byte, 256)
	var n atomic.Int64
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			key := fmt.Sprintf("/bench/%09d", n.Add(1))
			if _, err := s.Commit(b.Context(), store.Txn{Put: []store.Put{{Key: key, Value: value}}}); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
	b.ReportMetric(float64(rss(b))/(1<<20), "MB-rss")
}

// BenchmarkList lists 100,000 records of 256 bytes.
func BenchmarkList(b *testing.B) {
	s := open(b, etcd.Config{})
	for i := 0; i < 100_000; {
		var txn store.Txn
		for range store.MaxOps {
			txn.Put = append(txn.Put, store.Put{Key: fmt.Sprintf("/bench/%09d", i), Value: make([]byte, 256)})
			i++
		}
		if _, err := s.Commit(b.Context(), txn); err != nil {
			b.Fatal(err)
		}
	}
	for _, descending := range []bool{false, true} {
		b.Run(fmt.Sprint("descending=", descending), func(b *testing.B) {
			for b.Loop() {
				for _, err := range s.Scan(b.Context(), "/bench/", store.ScanOptions{Descending: descending}) {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkIdleMemory(b *testing.B) {
	before := rss(b)
	open(b, etcd.Config{})
	for b.Loop() {
		_ = before
	}
	b.ReportMetric(float64(before)/(1<<20), "MB-before")
	b.ReportMetric(float64(rss(b))/(1<<20), "MB-rss")
}

// rss is the resident memory of this process, in bytes.
func rss(b *testing.B) int64 {
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Skip(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(status))[1], 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}
