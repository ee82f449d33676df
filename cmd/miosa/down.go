package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/agent"
)

const downDeadline = 60 * time.Second

func downCommand() *cobra.Command {
	data := ""
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the platform and every instance on this machine",
		Long: `Stop a running "miosa up" together with its instances, or, when none runs, the
instances that it left running. Deployments and records stay.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := filepath.Abs(data)
			if err != nil {
				return err
			}
			if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
				return miosa.Errorf(miosa.NotFound, "there is no data directory %s", dir)
			}
			if pid, running := holder(dir); running {
				done, err := interrupt(cmd.Context(), pid, dir, cmd.OutOrStdout())
				if done || err != nil {
					return err
				}
			}
			return stopLeftovers(cmd.Context(), dir, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&data, "data", defaultDataDir(), "data directory of the platform")
	return cmd
}

// holder is the process that holds the directory's lock.
func holder(dir string) (int, bool) {
	f, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return 0, false
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err == nil {
		return 0, false
	}
	pid, err := strconv.Atoi(lockHolder(dir))
	return pid, err == nil && pid > 1 && isUp(pid)
}

// isUp: the process is a `miosa up`. A lock file may name a former one, whose
// number may be somebody else's by now.
func isUp(pid int) bool {
	argv, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	words := strings.Split(string(argv), "\x00")
	return err == nil && len(words) > 1 && filepath.Base(words[0]) == "miosa" && slices.Contains(words[1:], "up")
}

// interrupt is Ctrl-C from afar: the running platform stops its instances. One
// that was on its way out already leaves them running: then it is not done.
func interrupt(ctx context.Context, pid int, dir string, out io.Writer) (done bool, err error) {
	fmt.Fprintf(out, "Stopping miosa (process %d) and its instances …\n", pid)
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil {
		return false, fmt.Errorf("signal process %d: %w", pid, err)
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(downDeadline)
	defer deadline.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-deadline.C:
			return false, miosa.Errorf(miosa.Unavailable, "process %d did not end within %s", pid, downDeadline)
		case <-tick.C:
			if isUp(pid) {
				continue
			}
			left, err := agent.Left(filepath.Join(dir, "agent"), slog.New(slog.DiscardHandler))
			if err != nil || left > 0 {
				return false, err
			}
			fmt.Fprintln(out, "Stopped.")
			return true, nil
		}
	}
}

// stopLeftovers ends what a platform that is gone left running.
func stopLeftovers(ctx context.Context, dir string, out, errOut io.Writer) (err error) {
	p := &platform{
		cfg: platformConfig{data: dir, driver: "auto", accel: "auto"},
		log: slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if p.data, err = openData(dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.data.close()) }()
	if err := p.chooseDriver(nil); err != nil {
		return err
	}
	fmt.Fprintf(out, "No miosa runs on %s; stopping the instances that were left running …\n", dir)
	if err := agent.StopAll(ctx, p.data.path("agent"), p.driver, p.network, p.log); err != nil {
		return err
	}
	if err := p.clearNetwork(ctx); err != nil {
		return err
	}
	fmt.Fprintln(out, "Stopped. The deployments come back with the next `miosa up`.")
	return nil
}
