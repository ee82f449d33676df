// Command miosa is the whole platform in one binary: `miosa up` runs every
// role on this machine, the other commands are its client. Only wiring is
// here.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"

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
	return cli.Run(ctx, rootCommand(cli.Config{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Version: version}))
}

// rootCommand is the whole command line.
func rootCommand(cfg cli.Config) *cobra.Command {
	root := cli.New(cfg)
	root.AddCommand(upCommand(), downCommand(), bundleCommand())
	return root
}
