// Command loss shows that no line of a log is lost: VMs write numbered lines
// at full speed while the platform's process is killed and started again, time
// after time; then every line must be there once and in order, per instance.
// With -spool-mb it is the other way round: a spool far too small, and the
// gaps that the log shows must add up to what is missing, exactly.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/miosa/miosa/bench/rig"
)

func main() {
	instances := flag.Int("instances", 3, "VMs that write")
	kills := flag.Int("kills", 20, "times that the platform is killed")
	lines := flag.Int("lines", 600_000, "lines that each VM writes: more than it can before the last kill")
	spool := flag.Int("spool-mb", 0, "size of the host's spool; 0: large enough")
	flag.Parse()
	if err := rig.Isolate(); err != nil {
		fail(err)
	}
	if err := run(*instances, *kills, *lines, *spool); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "loss:", err)
	os.Exit(1)
}

func run(instances, kills, lines, spool int) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	flags := []string{"--log-rate", "-1"}
	if spool > 0 {
		flags = append(flags, "--log-spool-mb", strconv.Itoa(spool))
	}
	r, err := rig.Start(ctx, rig.Options{Flags: flags})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	dep, err := r.Hello(ctx, "loud", map[string]any{
		"services": []map[string]any{{
			"name": "web", "type": "web", "run_command": "/app/server", "port": 8080, "health_check_path": "/healthz",
			"desired_replicas": instances, "resources": map[string]any{"vcpus": 1, "memory_mb": 128, "disk_mb": 256},
		}},
	})
	if err != nil {
		return err
	}
	list, err := r.AwaitHealthy(ctx, dep.Deployment.ID, instances)
	if err != nil {
		return err
	}
	for _, i := range list {
		if err := begin(ctx, i.IP, lines); err != nil {
			return err
		}
	}
	fmt.Printf("%d instances write %d lines each\n", instances, lines)
	var killed time.Time
	for n := range kills {
		if err := pause(ctx, time.Duration(200+70*(n%7))*time.Millisecond); err != nil {
			return err
		}
		killed = time.Now()
		if err := r.Kill(); err != nil {
			return err
		}
		// While it is away the guests keep what they can.
		if err := pause(ctx, time.Duration(20*(n%5))*time.Millisecond); err != nil {
			return err
		}
		if err := r.Up(ctx); err != nil {
			return err
		}
		fmt.Printf("kill %2d: ready again after %s\n", n+1, r.Ready.Round(time.Millisecond))
	}
	bad := 0
	for _, i := range list {
		t, err := awaitLast(ctx, r, i.ID, lines)
		if err != nil {
			return err
		}
		fmt.Printf("%s: %d lines present, %d lost in %d gaps, %d out of order, %d twice\n", i.ID, t.present, t.lost, t.gaps, t.disorder, t.twice)
		if t.lastAt.Before(killed) {
			fmt.Printf("%s had written all before the last kill: ask for more -lines\n", i.ID)
			bad++
			continue
		}
		switch {
		case t.disorder > 0 || t.twice > 0, t.present+t.lost != lines, spool == 0 && t.gaps > 0, spool > 0 && t.gaps == 0:
			bad++
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of %d instances are not as they should be", bad, len(list))
	}
	if spool > 0 {
		fmt.Printf("every gap was counted exactly, over %d kills\n", kills)
	} else {
		fmt.Printf("every line is there, once and in order, over %d kills\n", kills)
	}
	return nil
}

// begin asks an instance, at its own address, to write.
func begin(ctx context.Context, ip string, lines int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s:8080/log?lines=%d", ip, lines), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusAccepted {
		return fmt.Errorf("ask for lines: %s", resp.Status)
	}
	return nil
}

// tally is what an instance's log holds of the numbered lines.
type tally struct {
	present, lost, gaps, disorder, twice int
	last                                 int
	lastAt                               time.Time
}

type line struct {
	Time   time.Time `json:"ts"`
	Stream string    `json:"stream"`
	Line   string    `json:"line"`
	Lost   int       `json:"lost"`
}

// awaitLast waits for the log's last line, and then reads all of it.
func awaitLast(ctx context.Context, r *rig.Rig, instance string, lines int) (tally, error) {
	for {
		var page struct {
			Data []line `json:"data"`
		}
		if err := r.Get(ctx, "/runtime-instances/"+instance+"/logs?limit=100", &page); err != nil {
			return tally{}, err
		}
		var end tally
		for _, l := range page.Data {
			end.count(l)
		}
		if end.last == lines {
			return read(ctx, r, instance)
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return tally{}, fmt.Errorf("%s: the last line that came is %d of %d: %w", instance, end.last, lines, err)
		}
	}
}

func read(ctx context.Context, r *rig.Rig, instance string) (t tally, err error) {
	cursor := ""
	for {
		path := "/runtime-instances/" + instance + "/logs?direction=forward&limit=1000"
		if cursor != "" {
			path += "&cursor=" + url.QueryEscape(cursor)
		}
		var page struct {
			Data []line `json:"data"`
			Page struct {
				Next string `json:"next_cursor"`
			} `json:"page"`
		}
		if err := r.Get(ctx, path, &page); err != nil {
			return t, err
		}
		for _, l := range page.Data {
			t.count(l)
		}
		if cursor = page.Page.Next; cursor == "" || len(page.Data) == 0 {
			return t, nil
		}
	}
}

func (t *tally) count(l line) {
	// A marker that knows no number is a gap, too.
	if l.Lost > 0 || l.Stream == "system" && strings.HasPrefix(l.Line, "… ") {
		t.gaps++
		t.lost += l.Lost
		return
	}
	text, ok := strings.CutPrefix(l.Line, "line ")
	number, _, found := strings.Cut(text, " of ")
	n, err := strconv.Atoi(number)
	if !ok || !found || err != nil || l.Stream != "stdout" {
		return // the app's request log, or a system line
	}
	switch {
	case n == t.last:
		t.twice++
	case n < t.last:
		t.disorder++
	default:
		t.present++
		t.last, t.lastAt = n, l.Time
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
