// Command publish changes an app's version over and over under load: three
// publishes, one publish that never becomes healthy, one rollback, and again
// until so many requests were made meanwhile, with WebSockets held open all the
// time. Not one may fail.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miosa/miosa/bench/load"
	"github.com/miosa/miosa/bench/rig"
)

func main() {
	requests := flag.Int64("requests", 100_000, "at least so many requests while versions change")
	sockets := flag.Int("websockets", 50, "WebSockets held open")
	workers := flag.Int("workers", 8, "clients sending requests")
	replicas := flag.Int("replicas", 2, "instances of each version")
	driver := flag.String("driver", "", "vmm driver; empty: the default")
	flag.Parse()
	if err := rig.Isolate(); err != nil {
		fail(err)
	}
	if err := run(*requests, *sockets, *workers, *replicas, *driver); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "publish:", err)
	os.Exit(1)
}

func run(requests int64, sockets, workers, replicas int, driver string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	r, err := rig.Start(ctx, rig.Options{Driver: driver})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()

	one, err := r.Hello(ctx, "load", body("", replicas, "/app/server"))
	if err != nil {
		return err
	}
	dep := one.Deployment.ID
	releases := map[string]string{}
	for _, name := range []string{"hello", "hello-2", "five-hundred"} {
		file, err := rig.Example(name)
		if err != nil {
			return err
		}
		if releases[name], err = r.Upload(ctx, dep, file); err != nil {
			return err
		}
	}
	fmt.Printf("version 1 live with %d instances; load begins: %d clients, %d WebSockets\n", replicas, workers, sockets)

	loading, stop := context.WithCancel(ctx)
	defer stop()
	reports := make(chan result, 1)
	var made atomic.Int64
	go func() {
		report, err := load.Run(loading, load.Config{
			Addr: strings.TrimPrefix(r.Context.HTTPURL, "http://"), Host: "load.default.localhost",
			Workers: workers, Made: &made, WebSockets: sockets, WSEcho: true,
		})
		reports <- result{report, err}
	}()
	for round := 1; round == 1 || made.Load() < requests; round++ {
		fmt.Printf("round %d\n", round)
		if err := change(ctx, r, dep, releases, replicas); err != nil {
			stop()
			<-reports
			return err
		}
	}
	stop()
	done := <-reports
	if done.err != nil {
		return done.err
	}
	fmt.Printf("\n%s\n", done.report)
	switch {
	case !done.report.Clean() || done.report.During < requests:
		return errors.New("something was lost")
	case done.report.WSOpened < int64(sockets) || len(done.report.Versions) < 2:
		return fmt.Errorf("it shows nothing: %d WebSockets were opened, versions %v answered", done.report.WSOpened, slices.Sorted(maps.Keys(done.report.Versions)))
	}
	return nil
}

type result struct {
	report load.Report
	err    error
}

// change is what goes on under the load.
func change(ctx context.Context, r *rig.Rig, dep string, releases map[string]string, replicas int) error {
	for _, s := range []struct {
		name, release, command string
		live                   bool
	}{
		{"publish", "hello-2", "/app/server", true},
		{"publish", "hello", "/app/server", true},
		{"failing publish", "five-hundred", "/app/server", false},
		{"publish", "hello-2", "/app/server", true},
	} {
		began := time.Now()
		b := rig.HelloBody(releases[s.release], body(releases[s.release], replicas, s.command))
		p, err := r.Publish(ctx, dep, b)
		if err != nil {
			return err
		}
		fmt.Printf("%-16s version %d %s after %.1f s %s\n", s.name, p.Version.Number, p.Version.State, time.Since(began).Seconds(), p.Version.ErrorMessage)
		if p.Promoted != s.live {
			return fmt.Errorf("%s of %s: promoted %t", s.name, s.release, p.Promoted)
		}
	}
	began := time.Now()
	var back struct {
		Active string `json:"active_version_id"`
	}
	if err := r.Call(ctx, "POST", "/deployments/"+dep+"/rollback", map[string]any{}, &back); err != nil {
		return err
	}
	fmt.Printf("%-16s live after %.1f s\n", "rollback", time.Since(began).Seconds())
	// The old side drains under load too: its last WebSockets are closed here.
	_, err := r.AwaitHealthy(ctx, dep, replicas)
	return err
}

// body is one small web service; its grace is short where it must fail.
func body(release string, replicas int, command string) map[string]any {
	out := map[string]any{"services": []map[string]any{{
		"name": "web", "type": "web", "run_command": command, "port": 8080,
		"health_check":     map[string]any{"path": "/healthz", "grace_period_seconds": 20},
		"desired_replicas": replicas, "resources": map[string]any{"memory_mb": 128, "disk_mb": 64},
	}}}
	if release != "" {
		out["release_id"] = release
	}
	return out
}
