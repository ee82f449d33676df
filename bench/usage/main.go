// Command usage shows that what is billed is what was used: VMs send bytes and
// write lines while the platform's process is killed and started again, an app
// crashes, and at last everything is stopped and started, taps and all. The
// kernel's own counters of the taps are the truth; it ends with an error when
// the bill says more, or less than they said ten seconds ago. It also measures
// what resources.egress_mbps lets through.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/miosa/miosa/bench/rig"
)

const (
	// lag is how long after its use an amount may be missing from the bill.
	lag = 10 * time.Second
	// lastWords is what a VM may send between our last look and its end.
	lastWords = 256 << 10
)

func main() {
	instances := flag.Int("instances", 2, "VMs that send")
	kills := flag.Int("kills", 6, "times that the platform is killed")
	megabytes := flag.Int64("mb", 8, "MB that each VM is asked for between two kills")
	limit := flag.Int("egress-mbps", 8, "the limit that is measured")
	flag.Parse()
	if err := rig.Isolate(); err != nil {
		fail(err)
	}
	if os.Geteuid() != 0 {
		fail(errors.New("bytes are counted on taps, which need root"))
	}
	if err := run(*instances, *kills, *megabytes, *limit); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "usage:", err)
	os.Exit(1)
}

// bench is a platform with one deployment whose usage is compared.
type bench struct {
	rig   *rig.Rig
	dep   string
	list  []rig.Instance
	begun time.Time
	gone  uint64 // what taps that are gone had counted when last looked at
	slack uint64 // what they may have counted after that
	asked int64  // bytes that the apps were asked for and sent
	bad   int
}

func run(instances, kills int, megabytes int64, limit int) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	r, err := rig.Start(ctx, rig.Options{Flags: []string{"--log-rate", "-1"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	b := &bench{rig: r, begun: time.Now()}
	p, err := r.Hello(ctx, "metered", map[string]any{"services": service(instances, 0)})
	if err != nil {
		return err
	}
	b.dep = p.Deployment.ID
	if b.list, err = r.AwaitHealthy(ctx, b.dep, instances); err != nil {
		return err
	}
	fmt.Printf("%-34s %15s %15s %15s\n", "", "truth", "billed", "later truth")
	if err := b.compare(ctx, "healthy"); err != nil {
		return err
	}
	for n := range kills {
		if err := b.killWhileSending(ctx, megabytes<<20, n); err != nil {
			return err
		}
		if err := b.compare(ctx, fmt.Sprintf("kill %d, ready after %s", n+1, r.Ready.Round(time.Millisecond))); err != nil {
			return err
		}
	}
	for _, step := range []func(context.Context) error{b.logLines, b.compute, b.crash, b.downAndUp} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := b.limited(ctx, limit); err != nil {
		return err
	}
	if b.bad > 0 {
		return fmt.Errorf("%d comparisons are not as they should be", b.bad)
	}
	fmt.Printf("the bill was never more than the truth, and never less than it was %s ago; apps were asked for %d bytes in all\n", lag, b.asked)
	return nil
}

func service(replicas, mbps int) []map[string]any {
	resources := map[string]any{"vcpus": 1, "memory_mb": 128, "disk_mb": 256}
	if mbps > 0 {
		resources["egress_mbps"] = mbps
	}
	return []map[string]any{{
		"name": "web", "type": "web", "run_command": "/app/server", "port": 8080, "health_check_path": "/healthz",
		"desired_replicas": replicas, "resources": resources,
	}}
}

// taps are the bytes that the kernel counted from the instances, now.
func (b *bench) taps() (sum uint64, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return 0, err
	}
	for _, l := range links {
		for _, i := range b.list {
			if a := l.Attrs(); a.Alias == i.ID {
				sum += a.Statistics.RxBytes
			}
		}
	}
	return sum, nil
}

// amounts is what the API says of the deployment.
type amounts struct {
	EgressBytes    uint64  `json:"egress_bytes"`
	LogBytes       uint64  `json:"log_bytes"`
	LogLines       uint64  `json:"log_lines"`
	ComputeSeconds float64 `json:"compute_seconds"`
}

func (b *bench) billed(ctx context.Context) (a amounts, err error) {
	err = b.rig.Get(ctx, "/usage/summary?deployment_id="+b.dep+"&since="+url.QueryEscape(b.begun.UTC().Format(time.RFC3339)), &a)
	return a, err
}

// compare waits until all of a truth is billed, no longer than lag; at no time
// may more be billed.
func (b *bench) compare(ctx context.Context, what string) error {
	first, err := b.taps()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(lag)
	for {
		a, err := b.billed(ctx)
		if err != nil {
			return err
		}
		then, err := b.taps()
		if err != nil {
			return err
		}
		truth, most, verdict := b.gone+first, b.gone+then+b.slack, ""
		switch {
		case a.EgressBytes > most:
			verdict = "  MORE THAN THE TRUTH"
		case a.EgressBytes >= truth:
		case time.Now().Before(deadline):
			if err := pause(ctx, 200*time.Millisecond); err != nil {
				return err
			}
			continue
		default:
			verdict = "  LESS THAN THE TRUTH"
		}
		if verdict != "" {
			b.bad++
		}
		fmt.Printf("%-34s %15d %15d %15d%s\n", what, truth, a.EgressBytes, most, verdict)
		return nil
	}
}

// fetch asks an instance, at its own address, for bytes.
func (b *bench) fetch(ctx context.Context, ip string, n int64) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:8080/bytes?n=%d", ip, n), nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	got, err := io.Copy(io.Discard, resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || got != n) {
		err = fmt.Errorf("asked for %d bytes: %s, %d bytes", n, resp.Status, got)
	}
	return got, err
}

// killWhileSending kills the platform while every VM sends, lets them go on
// without it for a while, and starts it again.
func (b *bench) killWhileSending(ctx context.Context, n int64, turn int) error {
	var wg sync.WaitGroup
	errs := make([]error, len(b.list))
	got := make([]int64, len(b.list))
	for k, i := range b.list {
		wg.Go(func() { got[k], errs[k] = b.fetch(ctx, i.IP, n) })
	}
	if err := pause(ctx, time.Duration(50+170*(turn%5))*time.Millisecond); err != nil {
		return err
	}
	if err := b.rig.Kill(); err != nil {
		return err
	}
	if turn%2 == 1 {
		wg.Wait() // nobody is there to see it
	}
	if err := b.rig.Up(ctx); err != nil {
		return err
	}
	wg.Wait()
	for k := range b.list {
		b.asked += got[k]
	}
	return errors.Join(errs...)
}

// logLines compares the text that the log store has with what is billed. What
// was logged within seconds of a kill may be missing from the bill.
func (b *bench) logLines(ctx context.Context) error {
	const lines = 20_000
	if err := pause(ctx, lag); err != nil {
		return err
	}
	before, err := b.billed(ctx)
	if err != nil {
		return err
	}
	_, missing, err := b.logged(ctx)
	if err != nil {
		return err
	}
	missing -= min(before.LogBytes, missing)
	for _, i := range b.list {
		resp, err := http.Post(fmt.Sprintf("http://%s:8080/log?lines=%d", i.IP, lines), "", nil) //nolint:noctx // ends at once
		if err != nil {
			return err
		}
		resp.Body.Close()
	}
	deadline := time.Now().Add(2 * lag)
	for {
		// The bill comes after the store, so that it is read first.
		a, err := b.billed(ctx)
		if err != nil {
			return err
		}
		count, bytes, err := b.logged(ctx)
		if err != nil {
			return err
		}
		more := a.LogLines > count || a.LogBytes > bytes
		done := count >= uint64(lines*len(b.list)) && a.LogBytes+missing == bytes
		if more || done || time.Now().After(deadline) {
			verdict := ""
			if more || !done {
				verdict = "  NOT THE SAME"
				b.bad++
			}
			fmt.Printf("%-34s %15d %15d%s (%d bytes of lines just before kills are missing)\n", fmt.Sprintf("log text of %d lines", count), bytes, a.LogBytes, verdict, missing)
			return nil
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// logged adds up the log store's lines, the platform's own left out.
func (b *bench) logged(ctx context.Context) (lines, bytes uint64, err error) {
	for cursor := ""; ; {
		var page struct {
			Data []struct {
				Stream string `json:"stream"`
				Line   string `json:"line"`
			} `json:"data"`
			Page struct {
				Next string `json:"next_cursor"`
			} `json:"page"`
		}
		if err := b.rig.Get(ctx, "/deployments/"+b.dep+"/logs?direction=forward&limit=1000&cursor="+url.QueryEscape(cursor), &page); err != nil {
			return 0, 0, err
		}
		for _, l := range page.Data {
			if l.Stream != "system" {
				lines++
				bytes += uint64(len(l.Line))
			}
		}
		if cursor = page.Page.Next; cursor == "" {
			return lines, bytes, nil
		}
	}
}

// compute compares how long the VMs have run, all in their first boot, with
// what is billed.
func (b *bench) compute(ctx context.Context) error {
	list, err := b.rig.Instances(ctx, b.dep, false)
	if err != nil {
		return err
	}
	a, err := b.billed(ctx)
	if err != nil {
		return err
	}
	truth := 0.0
	for _, i := range list {
		truth += time.Since(i.Reached("vmm_started")).Seconds()
	}
	verdict := ""
	if a.ComputeSeconds > truth+0.1 || a.ComputeSeconds < truth-lag.Seconds()*float64(len(list)) {
		verdict = "  WRONG"
		b.bad++
	}
	fmt.Printf("%-34s %15.1f %15.1f%s\n", "vCPU-seconds", truth, a.ComputeSeconds, verdict)
	return nil
}

// crash lets one app die; its instance boots again in its place.
func (b *bench) crash(ctx context.Context) error {
	resp, err := http.Post(fmt.Sprintf("http://%s:8080/crash", b.list[0].IP), "", nil) //nolint:noctx // ends at once
	if err == nil {
		resp.Body.Close()
	}
	for booted := false; !booted; {
		list, err := b.rig.AwaitHealthy(ctx, b.dep, len(b.list))
		if err != nil {
			return err
		}
		for _, i := range list {
			booted = booted || i.RestartCount > 0
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return b.compare(ctx, "an app crashed")
}

// downAndUp stops everything, taps and all, and starts it again.
func (b *bench) downAndUp(ctx context.Context) error {
	for _, i := range b.list {
		n, err := b.fetch(ctx, i.IP, 1<<20)
		if err != nil {
			return err
		}
		b.asked += n
	}
	last, err := b.taps()
	if err != nil {
		return err
	}
	if err := b.rig.Signal(os.Interrupt); err != nil {
		return err
	}
	if left, err := b.taps(); err != nil || left != 0 {
		return fmt.Errorf("taps are left: %d bytes, %w", left, err)
	}
	b.gone, b.slack = b.gone+last, b.slack+lastWords
	if err := b.rig.Up(ctx); err != nil {
		return err
	}
	if b.list, err = b.rig.AwaitHealthy(ctx, b.dep, len(b.list)); err != nil {
		return err
	}
	return b.compare(ctx, "all stopped and started")
}

// limited measures what a limit lets through.
func (b *bench) limited(ctx context.Context, mbps int) error {
	p, err := b.rig.Hello(ctx, "limited", map[string]any{"services": service(1, mbps)})
	if err != nil {
		return err
	}
	list, err := b.rig.AwaitHealthy(ctx, p.Deployment.ID, 1)
	if err != nil {
		return err
	}
	const seconds = 8
	begun := time.Now()
	n, err := b.fetch(ctx, list[0].IP, int64(mbps)*1_000_000/8*seconds)
	if err != nil {
		return err
	}
	took := time.Since(begun).Seconds()
	// The kernel's bucket holds one second's worth at the beginning.
	most := float64(mbps) * (took + 1) / took
	rate := float64(n) * 8 / 1e6 / took
	verdict := ""
	if rate > most {
		verdict = "  OVER THE LIMIT"
		b.bad++
	}
	fmt.Printf("egress_mbps %d: %d bytes in %.1f s, %.2f Mbit/s; with the first second's burst at most %.2f%s\n", mbps, n, took, rate, most, verdict)
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
