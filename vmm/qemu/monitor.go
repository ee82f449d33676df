package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// monitor is our end of QEMU's machine protocol (QMP). A VM has one only while
// it becomes a template or a copy of one: a pair of sockets that nobody else
// can reach, closed before a customer's code runs.
type monitor struct {
	conn *net.UnixConn
	dec  *json.Decoder
	seen map[string]bool // events so far
}

// monitorPair makes the two ends; the second is for QEMU to inherit.
func monitorPair() (*monitor, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, -1, os.NewSyscallError("socketpair", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "monitor")
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		unix.Close(fds[1])
		return nil, -1, err
	}
	return &monitor{conn: conn.(*net.UnixConn), dec: json.NewDecoder(conn), seen: map[string]bool{}}, fds[1], nil
}

func (m *monitor) close() { _ = m.conn.Close() }

// within bounds all that follows by the context; call the result at the end.
func (m *monitor) within(ctx context.Context) func() bool {
	return context.AfterFunc(ctx, func() { _ = m.conn.SetDeadline(time.Unix(1, 0)) })
}

// reply is one message of QEMU's: a greeting, an answer or an event.
type reply struct {
	Event  string          `json:"event"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Desc string `json:"desc"`
	} `json:"error"`
}

// call runs one command and decodes what it returns into out, unless nil. It
// hands over what files the command is about.
func (m *monitor) call(command string, arguments map[string]any, out any, files ...*os.File) error {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	text, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	var rights []byte
	for _, f := range files {
		rights = append(rights, unix.UnixRights(int(f.Fd()))...)
	}
	if _, _, err := m.conn.WriteMsgUnix(append(text, '\n'), rights, nil); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	for {
		r, err := m.read()
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", command, err)
		case r.Error != nil:
			return fmt.Errorf("%s: %s", command, r.Error.Desc)
		case r.Return != nil && out != nil:
			return json.Unmarshal(r.Return, out)
		case r.Return != nil:
			return nil
		}
	}
}

func (m *monitor) read() (reply, error) {
	var r reply
	if err := m.dec.Decode(&r); err != nil {
		return r, err
	}
	if r.Event != "" {
		m.seen[r.Event] = true
	}
	return r, nil
}

// await returns once the event has come.
func (m *monitor) await(event string) error {
	for !m.seen[event] {
		if _, err := m.read(); err != nil {
			return fmt.Errorf("await %s: %w", event, err)
		}
	}
	return nil
}

// prepare makes both sides of a migration agree: memory is not sent, it lies
// in the file that the machine was started with.
func (m *monitor) prepare() error {
	if err := m.call("qmp_capabilities", nil, nil); err != nil {
		return err
	}
	return m.call("migrate-set-capabilities", map[string]any{
		"capabilities": []map[string]any{{"capability": "x-ignore-shared", "state": true}},
	}, nil)
}

// stateName is what QEMU calls the file with the devices' state.
const stateName = "state"

// save writes the devices' state to the file and leaves the machine stopped.
func (m *monitor) save(state *os.File) error {
	if err := m.prepare(); err != nil {
		return err
	}
	if err := m.call("getfd", map[string]any{"fdname": stateName}, nil, state); err != nil {
		return err
	}
	if err := m.call("migrate", map[string]any{"uri": "fd:" + stateName}, nil); err != nil {
		return err
	}
	for {
		var status struct {
			Status string `json:"status"`
			Reason string `json:"error-desc"`
		}
		if err := m.call("query-migrate", nil, &status); err != nil {
			return err
		}
		switch status.Status {
		case "completed":
			return nil
		case "failed", "cancelled":
			return errors.New("the machine could not be saved: " + status.Reason)
		}
		time.Sleep(time.Millisecond) //nolint:forbidigo // QEMU's own events of it come no sooner
	}
}

// resume lets a machine go on from the devices' state in the file.
func (m *monitor) resume(state *os.File) error {
	if err := m.prepare(); err != nil {
		return err
	}
	// Nobody on the network needs to learn where a machine is that is new.
	if err := m.call("migrate-set-parameters", map[string]any{"announce-rounds": 0}, nil); err != nil {
		return err
	}
	if err := m.call("getfd", map[string]any{"fdname": stateName}, nil, state); err != nil {
		return err
	}
	if err := m.call("migrate-incoming", map[string]any{"uri": "fd:" + stateName}, nil); err != nil {
		return err
	}
	return m.await("RESUME")
}
