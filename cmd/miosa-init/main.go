// Command miosa-init is PID 1 of every microVM.
package main

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/guest"
)

func main() {
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
