// Command logs measures the log store that is built in: durable lines a
// second, bytes a line on disk, how long readers wait, how long a word over
// everything takes, and the memory of it all, each beside its limit. Beside the
// writing stands what the disk does with the same bytes in one synced file.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/logs/pebble"
)

// The limits, for 10 million lines on two processors.
const (
	minRate   = 150_000
	maxOnDisk = 80.0 // bytes a line
	maxLast   = 5 * time.Millisecond
	maxPage   = 20 * time.Millisecond
	maxSearch = 3 * time.Second
	maxMemory = 300 << 20
)

const (
	tenantID = "ten_01k3benchbenchbenchbenchbe"
	hosts    = 10
	each     = 15 // lines of an instance in one append of its host's
	perDep   = 10 // instances of a deployment
	rareWord = "xylophone"
)

// rare is one in how many lines that have the rare word, common that have the
// other.
const (
	rare   = 1_000_000
	common = 1_000
)

func main() {
	lines := flag.Int("lines", 10_000_000, "lines to store")
	instances := flag.Int("instances", 1000, "instances that they come from, at least 100")
	hours := flag.Int("hours", 12, "hours that they are spread over")
	growth := flag.String("growth", "", "millions of lines, as 1,10,50: a table of one row each, without limits")
	dir := flag.String("dir", "", "where to store; empty: a temporary directory in the current one")
	profile := flag.String("profile", "", "write CPU profiles to FILE.write and FILE.search")
	flag.Parse()
	if err := run(*lines, *instances, *hours, *growth, *dir, *profile); err != nil {
		fmt.Fprintln(os.Stderr, "logs:", err)
		os.Exit(1)
	}
}

func run(lines, instances, hours int, growth, dir, profile string) error {
	if instances < 100 || lines < instances*each || hours < 1 {
		return fmt.Errorf("at least 100 instances, %d lines of each, and one hour", each)
	}
	if growth == "" {
		f, err := measure(lines, instances, hours, dir, profile)
		if err != nil {
			return err
		}
		return f.report()
	}
	var rows []*figures
	for word := range strings.SplitSeq(growth, ",") {
		millions, err := strconv.Atoi(strings.TrimSpace(word))
		if err != nil || millions < 1 {
			return fmt.Errorf("growth: %q is no number of millions", word)
		}
		f, err := measure(millions*1_000_000, instances, hours, dir, "")
		if err != nil {
			return err
		}
		rows = append(rows, f)
	}
	fmt.Printf("%9s %10s %7s %10s %18s %18s %10s %10s %9s\n", "lines", "lines/s", "of raw", "bytes/line", "last 100 p50/p99", "page 100 p50/p99", "rare word", "word, 100", "memory")
	for _, f := range rows {
		fmt.Printf("%8dM %10.0f %6.0f%% %10.1f %8.2f / %5.2f ms %8.2f / %5.2f ms %8.2f s %7.0f ms %6d MB\n", f.lines/1_000_000, f.rate(), 100*f.ratio(), f.perLine(),
			ms(quantile(f.last, .5)), ms(quantile(f.last, .99)), ms(quantile(f.page, .5)), ms(quantile(f.page, .99)), f.search.Seconds(), ms(f.word), f.memory>>20)
	}
	return nil
}

// figures are what was measured.
type figures struct {
	lines      int
	text       uint64 // bytes
	wrote      time.Duration
	raw        time.Duration
	disk       int64
	appendTook []time.Duration
	last, page []time.Duration
	search     time.Duration // the rare word, over everything
	found      int
	word       time.Duration // the common word, its newest 100
	memory     int64         // resident, at most
}

func (f *figures) rate() float64    { return float64(f.lines) / f.wrote.Seconds() }
func (f *figures) ratio() float64   { return f.raw.Seconds() / f.wrote.Seconds() }
func (f *figures) perLine() float64 { return float64(f.disk) / float64(f.lines) }

func (f *figures) report() error {
	fmt.Printf("%d lines of %.0f bytes\n\n", f.lines, float64(f.text)/float64(f.lines))
	var over []string
	row := func(what, got, limit string, ok bool) {
		mark := ""
		if !ok {
			mark = "   over the limit"
			over = append(over, what)
		}
		fmt.Printf("  %-52s %16s   limit %s%s\n", what, got, limit, mark)
	}
	row("stored durably", fmt.Sprintf("%.0f lines/s", f.rate()), fmt.Sprintf("≥ %d", minRate), f.rate() >= minRate)
	fmt.Printf("  %-52s %16s\n", "one append of 1,500 lines, p50 / p99", fmt.Sprintf("%.1f / %.1f ms", ms(quantile(f.appendTook, .5)), ms(quantile(f.appendTook, .99))))
	fmt.Printf("  %-52s %16s\n", "the same bytes in one file, synced as often", fmt.Sprintf("%.0f lines/s", float64(f.lines)/f.raw.Seconds()))
	fmt.Printf("  %-52s %16s\n", "of that, the store does", fmt.Sprintf("%.0f %%", 100*f.ratio()))
	row("on disk", fmt.Sprintf("%.1f bytes/line", f.perLine()), fmt.Sprintf("≤ %.0f", maxOnDisk), f.perLine() <= maxOnDisk)
	latency := func(what string, all []time.Duration, limit time.Duration) {
		p99 := quantile(all, .99)
		row(what+", p50 / p99", fmt.Sprintf("%.2f / %.2f ms", ms(quantile(all, .5)), ms(p99)), fmt.Sprintf("< %.0f ms", ms(limit)), p99 < limit)
	}
	latency("last 100 lines of an instance", f.last, maxLast)
	latency("first 100 of a deployment's last hour", f.page, maxPage)
	row(fmt.Sprintf("a rare word over everything (%d found)", f.found), fmt.Sprintf("%.2f s", f.search.Seconds()), fmt.Sprintf("< %.0f s", maxSearch.Seconds()), f.search < maxSearch)
	fmt.Printf("  %-52s %16s\n", "the newest 100 with a word of 1 in 1,000 lines", fmt.Sprintf("%.0f ms", ms(f.word)))
	row("resident memory at most", fmt.Sprintf("%d MB", f.memory>>20), fmt.Sprintf("< %d MB", maxMemory>>20), f.memory < maxMemory)
	if len(over) > 0 {
		return fmt.Errorf("over the limit: %s", strings.Join(over, "; "))
	}
	return nil
}

func measure(lines, instances, hours int, dir, profile string) (f *figures, err error) {
	if dir == "" {
		dir = "."
	}
	if dir, err = os.MkdirTemp(dir, ".bench-logs-"); err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	f = &figures{lines: lines}
	raw := filepath.Join(dir, "raw")
	var memory peak
	var wg sync.WaitGroup
	wg.Go(func() { memory.watch(ctx) })
	defer wg.Wait()
	defer cancel()

	s, err := pebble.Open(pebble.Config{Dir: filepath.Join(dir, "store"), Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	load := newLoad(lines, instances, hours)
	stop, err := profiled(profile, "write")
	if err != nil {
		return nil, err
	}
	if err := load.write(ctx, s, f); err != nil {
		return nil, err
	}
	stop()
	fmt.Fprintf(os.Stderr, "written in %.1f s\n", f.wrote.Seconds())
	if err := f.writeRaw(raw, load.appends); err != nil {
		return nil, err
	}
	if f.disk, err = settled(filepath.Join(dir, "store")); err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "reading\n")
	if err := load.read(ctx, s, f); err != nil {
		return nil, err
	}
	if stop, err = profiled(profile, "search"); err != nil {
		return nil, err
	}
	if err := load.search(ctx, s, f); err != nil {
		return nil, err
	}
	stop()
	f.memory = memory.most.Load()
	if want := (lines + rare - 1) / rare; f.found != want {
		return nil, fmt.Errorf("the rare word was found %d times, it is there %d times", f.found, want)
	}
	return f, nil
}

func profiled(name, what string) (stop func(), err error) {
	if name == "" {
		return func() {}, nil
	}
	file, err := os.Create(name + "." + what)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, err
	}
	return func() {
		pprof.StopCPUProfile()
		file.Close()
	}, nil
}

// load is who logs what.
type load struct {
	instances []logs.Origin
	rounds    int // appends of each host
	appends   int
	lines     int
	begin     time.Time
	step      time.Duration // between two lines of an instance
	number    atomic.Int64  // of lines made so far
}

func newLoad(lines, instances, hours int) *load {
	l := &load{lines: lines, begin: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
	for i := range instances {
		l.instances = append(l.instances, logs.Origin{
			TenantID: tenantID, DeploymentID: fmt.Sprintf("dep_01k3bench%016d", i/perDep), ServiceID: fmt.Sprintf("svc_01k3bench%016d", i/perDep*2+i%2),
			InstanceID: fmt.Sprintf("ins_01k3bench%016d", i), VersionID: fmt.Sprintf("ver_01k3bench%016d", i/perDep), HostID: fmt.Sprintf("hst_01k3bench%016d", i%hosts),
			WorkspaceID: fmt.Sprintf("workspace-%d", i/perDep/5),
		})
	}
	per := (lines + instances - 1) / instances
	l.rounds = (per + each - 1) / each
	l.appends = l.rounds * hosts
	l.step = time.Duration(hours) * time.Hour / time.Duration(l.rounds*each)
	return l
}

// write lets every host append its instances' lines, as its spool would: the
// next append begins when the last is acknowledged.
func (l *load) write(ctx context.Context, s logs.Store, f *figures) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	var wg sync.WaitGroup
	start := time.Now()
	for host := range hosts {
		wg.Go(func() {
			took, text, err := l.host(ctx, s, host, start)
			mu.Lock()
			defer mu.Unlock()
			f.appendTook = append(f.appendTook, took...)
			f.text += text
			if err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	f.wrote = time.Since(start)
	return context.Cause(ctx)
}

func (l *load) host(ctx context.Context, s logs.Store, host int, start time.Time) (took []time.Duration, text uint64, err error) {
	made := generator{state: uint64(host)*0x9e3779b97f4a7c15 + 1}
	var buffer []byte
	var batches []logs.Kept
	for round := range l.rounds {
		buffer, batches = buffer[:0], batches[:0]
		for i := host; i < len(l.instances); i += hosts {
			b := logs.Kept{Days: 30, Batch: logs.Batch{Origin: l.instances[i], Epoch: 1, First: uint64(round*each) + 1}}
			for n := range each {
				number := l.number.Add(1) - 1
				if number >= int64(l.lines) {
					break
				}
				at := l.begin.Add(time.Duration(round*each+n)*l.step + time.Duration(made.below(1000))*l.step/2000).Truncate(time.Microsecond)
				from := len(buffer)
				buffer = made.line(buffer, number, at, i)
				stream := logs.Stdout
				if n%8 == 7 {
					stream = logs.Stderr
				}
				b.Lines = append(b.Lines, logs.Line{Time: at, Stream: stream, Text: buffer[from:len(buffer):len(buffer)]})
				text += uint64(len(buffer) - from)
			}
			batches = append(batches, b)
		}
		at := time.Now()
		if _, err := s.Append(ctx, batches); err != nil {
			return took, text, err
		}
		took = append(took, time.Since(at))
		if host == 0 && round%(l.rounds/10+1) == 0 {
			n := l.number.Load()
			fmt.Fprintf(os.Stderr, "%d lines, %.0f a second\n", n, float64(n)/time.Since(start).Seconds())
		}
	}
	return took, text, nil
}

// writeRaw writes as many bytes to a file, synced as often as there were
// appends: no store that syncs each append alone could be faster.
func (f *figures) writeRaw(name string, appends int) error {
	file, err := os.Create(name)
	if err != nil {
		return err
	}
	defer os.Remove(name)
	defer file.Close()
	block := make([]byte, int(f.text)/appends)
	made := generator{state: 1}
	for i := range block {
		block[i] = byte(made.next())
	}
	start := time.Now()
	for range appends {
		if _, err := file.Write(block); err != nil {
			return err
		}
		if err := file.Sync(); err != nil {
			return err
		}
	}
	f.raw = time.Since(start)
	return nil
}

// settled is the size of a directory once it has stopped changing.
func settled(dir string) (size int64, err error) {
	was, calm := int64(-1), 0
	for range 240 {
		size = 0
		err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := e.Info()
			if err == nil && info.Mode().IsRegular() {
				size += info.Size()
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return 0, err
		}
		if calm++; err != nil || size != was {
			calm = 0
		}
		if calm == 4 {
			return size, nil
		}
		was = size
		time.Sleep(500 * time.Millisecond)
	}
	return size, nil
}

// read asks what people ask, of many instances and deployments.
func (l *load) read(ctx context.Context, s logs.Store, f *figures) error {
	made := generator{state: 99}
	end := l.begin.Add(time.Duration(l.rounds*each) * l.step)
	for range 1000 {
		o := l.instances[made.below(len(l.instances))]
		took, err := page(ctx, s, logs.Query{Scope: logs.Scope{TenantID: tenantID, InstanceID: o.InstanceID}, Backward: true})
		if err != nil {
			return err
		}
		f.last = append(f.last, took)
	}
	for range 300 {
		o := l.instances[made.below(len(l.instances))]
		took, err := page(ctx, s, logs.Query{Scope: logs.Scope{TenantID: tenantID, DeploymentID: o.DeploymentID}, Since: end.Add(-time.Hour)})
		if err != nil {
			return err
		}
		f.page = append(f.page, took)
	}
	return nil
}

// page is how long 100 lines take.
func page(ctx context.Context, s logs.Store, q logs.Query) (time.Duration, error) {
	start := time.Now()
	n := 0
	for _, err := range s.Read(ctx, q) {
		if err != nil {
			return 0, err
		}
		if n++; n == 100 {
			return time.Since(start), nil
		}
	}
	return 0, fmt.Errorf("a page had %d lines only", n)
}

func (l *load) search(ctx context.Context, s logs.Store, f *figures) error {
	word, err := logs.ParseSearch(rareWord)
	if err != nil {
		return err
	}
	start := time.Now()
	for _, err := range s.Read(ctx, logs.Query{Scope: logs.Scope{TenantID: tenantID, Search: word}}) {
		if err != nil {
			return err
		}
		f.found++
	}
	f.search = time.Since(start)
	if word, err = logs.ParseSearch("deadline"); err != nil {
		return err
	}
	f.word, err = page(ctx, s, logs.Query{Scope: logs.Scope{TenantID: tenantID, Search: word}, Backward: true})
	return err
}

// peak is the most memory that was resident.
type peak struct{ most atomic.Int64 }

func (p *peak) watch(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if b, err := os.ReadFile("/proc/self/statm"); err == nil {
			if fields := strings.Fields(string(b)); len(fields) > 1 {
				pages, _ := strconv.ParseInt(fields[1], 10, 64)
				p.most.Store(max(p.most.Load(), pages*int64(os.Getpagesize())))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func quantile(all []time.Duration, q float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
