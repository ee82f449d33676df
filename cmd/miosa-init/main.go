// Command miosa-init is PID 1 of every microVM.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/guest"
)

func main() {
	start := time.Now()
	if err := guest.Run(context.Background(), start); err != nil {
		fmt.Fprintln(os.Stderr, "miosa-init:", err)
	}
	// The end of PID 1 is a panic; a reboot is what every VMM understands.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
