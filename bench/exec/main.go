// Command exec measures exec sessions: how long `true` takes from a client's call to
// its exit code, beside what it takes a shell in the same machine, and how fast
// input and output are, beside a pipe in the machine.
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/bench/rig"
	"github.com/miosa/miosa/client"
)

const limit = 150 * time.Millisecond

func main() {
	runs := flag.Int("runs", 100, "sessions to take the median of")
	megabytes := flag.Int("mb", 16, "megabytes to send each way")
	flag.Parse()
	if err := rig.Isolate(); err != nil {
		fail(err)
	}
	if err := run(*runs, *megabytes); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "exec:", err)
	os.Exit(1)
}

func run(runs, megabytes int) (err error) {
	if runs < 1 || megabytes < 1 {
		return errors.New("-runs and -mb must be at least 1")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	r, err := rig.Start(ctx, rig.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	instance, err := publish(ctx, r)
	if err != nil {
		return err
	}
	c, err := client.New(client.Config{URL: r.Context.APIURL, Key: r.Context.APIKey})
	if err != nil {
		return err
	}
	s := sessions{c, instance}

	if _, err := s.run(ctx, nil, io.Discard, "/bin/true"); err != nil { // its pages are read in
		return err
	}
	var took []time.Duration
	for range runs {
		d, err := s.run(ctx, nil, io.Discard, "/bin/true")
		if err != nil {
			return err
		}
		took = append(took, d)
	}
	slices.Sort(took)
	loop := func(n int, what string) (time.Duration, error) {
		return s.run(ctx, nil, io.Discard, "/bin/sh", "-c", "i=0; while [ $i -lt "+strconv.Itoa(n)+" ]; do "+what+"; i=$((i+1)); done")
	}
	with, err := loop(runs, "/bin/true")
	if err != nil {
		return err
	}
	without, err := loop(runs, ":")
	if err != nil {
		return err
	}
	inside := (with - without) / time.Duration(runs)
	p50, p99 := took[len(took)/2], took[len(took)*99/100]
	fmt.Printf("exec of true, %d sessions, from the call to the exit code:\n", runs)
	fmt.Printf("  p50 %.1f ms   p99 %.1f ms   limit of p50 %.0f ms\n", ms(p50), ms(p99), ms(limit))
	fmt.Printf("  a shell in the same machine takes %.1f ms to run it: %.1f times that\n", ms(inside), float64(p50)/float64(inside))

	size := megabytes << 20
	out, err := s.run(ctx, nil, io.Discard, "/usr/bin/head", "-c", strconv.Itoa(size), "/dev/zero")
	if err != nil {
		return err
	}
	in, err := s.run(ctx, bytes.NewReader(make([]byte, size)), io.Discard, "/bin/sh", "-c", "/bin/cat >/dev/null")
	if err != nil {
		return err
	}
	pipe, err := s.run(ctx, nil, io.Discard, "/bin/sh", "-c", "/usr/bin/head -c "+strconv.Itoa(size)+" /dev/zero | /bin/cat >/dev/null")
	if err != nil {
		return err
	}
	rate := func(d time.Duration) float64 { return float64(megabytes) / (d - p50).Seconds() }
	fmt.Printf("%d MB: output %.1f MB/s, input %.1f MB/s; a pipe in the machine %.1f MB/s\n", megabytes, rate(out), rate(in), rate(pipe))
	if p50 >= limit {
		return fmt.Errorf("p50, %s, is over the limit of %s (on a noisy machine: look at the load, and run it again)", p50, limit)
	}
	return nil
}

func ms(d time.Duration) float64 { return d.Seconds() * 1000 }

// sessions are opened in one instance.
type sessions struct {
	client   *client.Client
	instance string
}

// run runs a command to its end.
func (s sessions) run(ctx context.Context, in io.Reader, out io.Writer, command ...string) (time.Duration, error) {
	began := time.Now()
	e, err := s.client.Exec(ctx, s.instance, resource.ExecCommand{Command: command})
	if err != nil {
		return 0, err
	}
	defer e.Close()
	go func() {
		if in != nil {
			if _, err := io.Copy(e, in); err != nil {
				return // Copy says why
			}
		}
		_ = e.CloseWrite()
	}()
	ended, err := e.Copy(out, os.Stderr, nil)
	if err != nil {
		return 0, err
	}
	if *ended.ExitCode != 0 {
		return 0, fmt.Errorf("%v ended with %d: %s", command, *ended.ExitCode, ended.Message)
	}
	return time.Since(began), nil
}

// publish brings a worker with a few of this machine's programs to life.
func publish(ctx context.Context, r *rig.Rig) (instance string, err error) {
	dir, err := os.MkdirTemp("", "miosa-exec")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "app.tar.zst")
	if err := pack(file); err != nil {
		return "", err
	}
	dep, err := r.Create(ctx, "exec")
	if err != nil {
		return "", err
	}
	release, err := r.Upload(ctx, dep, file)
	if err != nil {
		return "", err
	}
	p, err := r.Publish(ctx, dep, map[string]any{"release_id": release, "services": []map[string]any{{
		"name": "worker", "type": "worker", "run_command": "/bin/sleep infinity",
	}}})
	if err != nil {
		return "", err
	}
	if !p.Promoted {
		return "", fmt.Errorf("publish: version %s: %s", p.Version.State, p.Version.ErrorMessage)
	}
	list, err := r.AwaitHealthy(ctx, dep, 1)
	if err != nil {
		return "", err
	}
	return list[0].ID, nil
}

// programs are what the app is made of, where Debian has it.
var programs = []string{
	"/bin/true", "/bin/cat", "/bin/sleep", "/bin/sh", "/usr/bin/head", "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6",
}

// pack writes them as a root file system.
func pack(file string) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := zstd.NewWriter(f)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	for _, path := range programs {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		err = t.WriteHeader(&tar.Header{Name: path[1:], Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg})
		if err == nil {
			_, err = t.Write(content)
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}
