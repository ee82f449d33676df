// Command real publishes the apps of this directory as a newcomer would: each
// packed by its script, published by the built CLI on a platform of its own,
// and used by its own clients. It prints the table of docs/apps.md, and fails
// unless every one goes live at the first try and serves.
//
//	go run ./examples/real            # all of them
//	go run ./examples/real nginx php  # some
//	go run ./examples/real -packed    # without packing again what is packed
//
// It runs in a network namespace of its own, with the interface of the loopback
// alone; packing, which downloads, is done before.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/miosa/miosa/bench/rig"
)

// ports are what `miosa up` has for TCP services.
const ports = "30000-30099"

func main() {
	packed := flag.Bool("packed", false, "do not pack again what is packed")
	flag.Parse()
	root, err := rig.Root()
	if err != nil {
		fail(err)
	}
	wanted, err := choose(flag.Args())
	if err != nil {
		fail(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Isolate runs this program again, inside.
	if os.Getenv(insideVar) == "" {
		for _, a := range wanted {
			if err := a.pack(ctx, root, *packed); err != nil {
				fail(fmt.Errorf("pack %s: %w", a.name, err))
			}
		}
		_ = os.Setenv(insideVar, "1")
	}
	if err := rig.Isolate(); err != nil {
		fail(err)
	}
	if err := run(ctx, root, wanted); err != nil {
		fail(err)
	}
}

// insideVar says that the apps are packed.
const insideVar = "MIOSA_REAL_PACKED"

func fail(err error) {
	fmt.Fprintln(os.Stderr, "real:", err)
	os.Exit(1)
}

// app is one of the apps.
type app struct {
	name    string
	what    string            // for the table
	secrets map[string]string // set before the publish
	check   func(ctx context.Context, at place) error
}

// place is where a published app answers.
type place struct {
	url  string // of the router, for Host
	host string
	tcp  string // host:port of a TCP service; "" for others
}

func choose(names []string) ([]app, error) {
	if len(names) == 0 {
		return apps, nil
	}
	var wanted []app
	for _, name := range names {
		i := slices.IndexFunc(apps, func(a app) bool { return a.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no app %q here", name)
		}
		wanted = append(wanted, apps[i])
	}
	return wanted, nil
}

func (a app) dir(root string) string { return filepath.Join(root, "examples", "real", a.name) }

func (a app) pack(ctx context.Context, root string, keep bool) error {
	if _, err := os.Stat(filepath.Join(a.dir(root), "build", "app.tar")); err == nil && keep {
		return nil
	}
	cmd := exec.CommandContext(ctx, filepath.Join(a.dir(root), "pack"))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}

// result is a row of the table.
type result struct {
	app
	size    int64         // of what was uploaded, in bytes
	live    time.Duration // from the command to its end
	healthy time.Duration // from the instance's boot to its health
	memory  float64       // MB that its instance uses
	err     error
}

func run(ctx context.Context, root string, wanted []app) error {
	r, err := rig.Start(ctx, rig.Options{Flags: []string{"--tcp-ports", ports}})
	if err != nil {
		return err
	}
	var results []result
	var failed error
	for _, a := range wanted {
		one := try(ctx, r, root, a)
		if one.err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", a.name, one.err))
			fmt.Fprintf(os.Stderr, "%s: %v\n%s\n", a.name, one.err, said(ctx, r, root, "logs", a.name, "-n", "40"))
		} else {
			fmt.Fprintf(os.Stderr, "%s: live in %.1f s, and it serves\n", a.name, one.live.Seconds())
		}
		results = append(results, one)
		// The machine is not asked to run all of them at once.
		_ = said(ctx, r, root, "rm", a.name, "--yes")
	}
	table(results)
	return errors.Join(failed, r.Close())
}

// try publishes one app and uses it.
func try(ctx context.Context, r *rig.Rig, root string, a app) result {
	one := result{app: a}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	info, err := os.Stat(filepath.Join(a.dir(root), "build", "app.tar"))
	if err != nil {
		one.err = err
		return one
	}
	one.size = info.Size()
	if len(a.secrets) > 0 {
		if out, err := cli(ctx, r, a.dir(root), "deployments", "create", a.name); err != nil {
			one.err = fmt.Errorf("%w\n%s", err, out)
			return one
		}
		args := []string{"env", "set", a.name, "--secret"}
		for k, v := range a.secrets {
			args = append(args, k+"="+v)
		}
		if out, err := cli(ctx, r, a.dir(root), args...); err != nil {
			one.err = fmt.Errorf("%w\n%s", err, out)
			return one
		}
	}
	began := time.Now()
	out, err := cli(ctx, r, a.dir(root), "publish", "build/app.tar", "--name", a.name)
	if one.live = time.Since(began); err != nil {
		one.err = fmt.Errorf("%w\n%s", err, out)
		return one
	}
	at, err := where(ctx, r, a.name)
	if err != nil {
		one.err = err
		return one
	}
	if one.err = a.check(ctx, at); one.err != nil {
		return one
	}
	one.healthy, one.memory, one.err = used(ctx, r, a.name)
	return one
}

// cli runs the built binary in a directory, as its user would.
func cli(ctx context.Context, r *rig.Rig, dir string, args ...string) (string, error) {
	root, err := rig.Root()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "bin", "miosa"), args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "MIOSA_CONTEXT="+filepath.Join(r.Dir, "context.json"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func said(ctx context.Context, r *rig.Rig, dir string, args ...string) string {
	out, err := cli(ctx, r, dir, args...)
	if err != nil {
		return out + err.Error()
	}
	return out
}

// where asks the platform for what its user would read off the end of the
// publish: the app's host name, or its port.
func where(ctx context.Context, r *rig.Rig, name string) (place, error) {
	dep, err := find(ctx, r, name)
	if err != nil {
		return place{}, err
	}
	u, err := url.Parse(dep.PublicURL)
	if err != nil {
		return place{}, err
	}
	at := place{url: r.Context.HTTPURL, host: u.Hostname()}
	var services []struct {
		PublicPort int `json:"public_port"`
	}
	if err := r.Call(ctx, http.MethodGet, "/deployments/"+dep.ID+"/services", nil, &services); err != nil {
		return place{}, err
	}
	for _, s := range services {
		if s.PublicPort != 0 {
			at.tcp = net.JoinHostPort("127.0.0.1", strconv.Itoa(s.PublicPort))
		}
	}
	return at, nil
}

type deployment struct {
	ID        string `json:"id"`
	Slug      string `json:"slug"`
	PublicURL string `json:"public_url"`
}

func find(ctx context.Context, r *rig.Rig, name string) (deployment, error) {
	var all []deployment
	if err := r.Call(ctx, http.MethodGet, "/deployments", nil, &all); err != nil {
		return deployment{}, err
	}
	i := slices.IndexFunc(all, func(d deployment) bool { return d.Slug == name })
	if i < 0 {
		return deployment{}, fmt.Errorf("there is no deployment %s", name)
	}
	return all[i], nil
}

// used says how long the instance took from the machine's start to its health,
// and how much memory it uses, once that was measured.
func used(ctx context.Context, r *rig.Rig, name string) (healthy time.Duration, megabytes float64, err error) {
	dep, err := find(ctx, r, name)
	if err != nil {
		return 0, 0, err
	}
	instances, err := r.Instances(ctx, dep.ID, false)
	if err != nil || len(instances) == 0 {
		return 0, 0, fmt.Errorf("%d instances run, %w", len(instances), err)
	}
	healthy = instances[0].Reached("healthy").Sub(instances[0].Reached("vmm_started"))
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		var m struct {
			Series []struct {
				Name   string     `json:"name"`
				Values []*float64 `json:"values"`
			} `json:"series"`
		}
		if err := r.Call(ctx, http.MethodGet, "/deployments/"+dep.ID+"/metrics", nil, &m); err != nil {
			return healthy, 0, err
		}
		for _, s := range m.Series {
			for _, v := range s.Values {
				if s.Name == "memory_used" && v != nil && *v > 0 {
					megabytes = *v / 1e6
				}
			}
		}
		if megabytes > 0 {
			return healthy, megabytes, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return healthy, 0, errors.New("its memory was not measured")
		}
	}
}

// table prints the results as docs/apps.md has them.
func table(results []result) {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	fmt.Fprintln(w, "| App\t| Upload\t| Publish\t| Boot to healthy\t| Memory\t|")
	fmt.Fprintln(w, "|---\t|---:\t|---:\t|---:\t|---:\t|")
	for _, r := range results {
		if r.err != nil {
			fmt.Fprintf(w, "| %s\t| %.0f MB\t| failed\t|\t|\t|\n", r.what, float64(r.size)/1e6)
			continue
		}
		fmt.Fprintf(w, "| %s\t| %.0f MB\t| %.1f s\t| %.1f s\t| %.0f MB\t|\n", r.what, float64(r.size)/1e6, r.live.Seconds(), r.healthy.Seconds(), r.memory)
	}
	_ = w.Flush()
	fmt.Print(b.String())
}
