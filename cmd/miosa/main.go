// Command miosa is the whole platform in one binary: `miosa up` runs every
// role on this machine, the other commands are its client. Only wiring is
// here.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/miosa/miosa/cli"
	"github.com/miosa/miosa/descriptors"
)

// version is set at link time.
var version = "dev"

func main() { os.Exit(run()) }

func run() int {
	// Whoever started us may have left files open: our children, virtual machines
	// among them, get none.
	if err := descriptors.CloseOnExec(); err != nil {
		fmt.Fprintln(os.Stderr, "miosa: "+err.Error())
		return cli.ExitCode(err)
	}
	// SIGTERM is handled by `up` alone, where it means: leave the VMs running.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	root := cli.New(cli.Config{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Version: version})
	root.AddCommand(upCommand(), downCommand(), bundleCommand())
	err := root.ExecuteContext(ctx)
	if err != nil && err.Error() != "" && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "miosa: "+err.Error())
	}
	return cli.ExitCode(err)
}
