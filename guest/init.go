// Package guest is PID 1 of every microVM: it brings the machine up in named
// phases, runs one command, forwards what it writes, and reports how it ended.
package guest

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

// Run boots the machine, says hello to the host and answers its pings until
// it is told to stop.
func Run(ctx context.Context, start time.Time) error {
	for _, m := range []struct{ source, target, fstype string }{
		{"dev", "/dev", "devtmpfs"}, {"proc", "/proc", "proc"}, {"sys", "/sys", "sysfs"},
	} {
		if err := unix.Mount(m.source, m.target, m.fstype, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	modules, err := newModuleLoader("/modules", "/sys")
	if err != nil {
		return fmt.Errorf("read the module list: %w", err)
	}
	if err := modules.loadUntil(func(kernelModule) bool { return false }); err != nil {
		return err
	}
	link := transport(vsockDialer{vsockPort})
	if path := findSerial("/sys", "/dev"); path != "" {
		if link, err = openSerial(path); err != nil {
			return err
		}
	}
	for {
		conn, err := link.Dial(ctx)
		if err != nil {
			return err
		}
		if stop := talk(wire.NewConn(conn), start); stop {
			return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
		}
	}
}

func talk(conn *wire.Conn, start time.Time) (stop bool) {
	hello := wire.Hello{Min: wire.MinVersion, Max: wire.MaxVersion, State: "waiting", UptimeMS: time.Since(start).Milliseconds()}
	if err := conn.WriteMessage(wire.Message{Hello: &hello}); err != nil {
		return false
	}
	for {
		m, err := conn.ReadMessage()
		switch {
		case err != nil:
			return false
		case m.Stop != nil:
			return true
		case m.Ping != nil:
			_ = conn.WriteMessage(wire.Message{Pong: m.Ping})
		}
	}
}
