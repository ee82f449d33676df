// Command miosa-init is PID 1 of every microVM, and what copies files in one.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/guest"
	"github.com/miosa/miosa/transfer"
	wire "github.com/miosa/miosa/wire/guest"
)

func main() {
	if os.Args[0] == wire.CopyProgram {
		os.Exit(serveCopy(os.Args[1:]))
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "miosa-init: runs as PID 1 of a microVM only")
		os.Exit(1)
	}
	if err := guest.New(os.Stderr).Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "miosa-init:", err)
	}
	// PID 1's return would be a kernel panic; a reboot is what ends every VMM.
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
		fmt.Fprintln(os.Stderr, "miosa-init: reboot:", err)
	}
}

// serveCopy does what one `miosa cp` asks for, as whoever the session is for.
func serveCopy(args []string) (code int) {
	if len(args) != 2 || args[0] != wire.CopySend && args[0] != wire.CopyReceive {
		fmt.Fprintf(os.Stderr, "%s: what is to be copied is not said: %q\n", wire.CopyProgram, args)
		return 2
	}
	// The end of standard input is what ends it, in its own time.
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	only := transfer.Only{Path: args[1], Send: args[0] == wire.CopySend}
	if err := transfer.Serve(context.Background(), os.Stdin, os.Stdout, &only); err != nil {
		return 1 // which the other end knows
	}
	return 0
}
