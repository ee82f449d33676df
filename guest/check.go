package guest

import (
	"bytes"
	"context"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	wire "github.com/miosa/miosa/wire/guest"
)

// maxCheck bounds how long one check may take, whatever the host says, and
// maxOutput how much of what it writes is kept.
const (
	maxCheck  = 10 * time.Minute
	maxOutput = 4 << 10
)

// carryOutChecks runs what the host asks for, one after the other, until ctx
// ends.
func (s *supervisor) carryOutChecks(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-s.checks:
			s.checking.Store(true)
			done := s.check(ctx, c)
			s.checking.Store(false)
			s.out.send(wire.Message{Checked: &done})
		}
	}
}

// check runs one command beside the app. What it leaves behind in its group is
// ended with it.
func (s *supervisor) check(ctx context.Context, c wire.Check) wire.Checked {
	failed := func(why string) wire.Checked {
		return wire.Checked{Seq: c.Seq, Code: -1, Said: why}
	}
	run, err := s.command.beside(c.Command)
	if err != nil {
		return failed(lastLine([]byte(err.Error())))
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return failed(err.Error())
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return failed(err.Error())
	}
	defer r.Close()
	pid, ended, err := s.children.start(func() (int, error) {
		return syscall.ForkExec(run.path, run.argv, run.attributes([]uintptr{null.Fd(), w.Fd(), w.Fd()}))
	})
	_ = w.Close()
	if err != nil {
		return failed(lastLine([]byte(execError(run, err).Error())))
	}
	said := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(r, maxOutput))
		_, _ = io.Copy(io.Discard, r) // it may write more than anybody reads
		said <- b
	}()
	timer := time.NewTimer(min(max(time.Duration(c.TimeoutMS)*time.Millisecond, 0), maxCheck))
	defer timer.Stop()
	var status syscall.WaitStatus
	late := false
	select {
	case status = <-ended:
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	case <-timer.C:
		late = true
	case <-ctx.Done():
		late = true
	}
	if late {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		return failed("it was ended for taking too long")
	}
	_ = r.SetReadDeadline(time.Now().Add(time.Second)) // somebody outside of the group may hold it open
	out := wire.Checked{Seq: c.Seq, Code: status.ExitStatus(), Said: lastLine(<-said)}
	if status.Signaled() {
		out.Code = 128 + int(status.Signal())
	}
	return out
}

// lastLine is the last line that is not blank, cut to wire.MaxSaid.
func lastLine(b []byte) string {
	b = bytes.TrimRight(b, "\r\n\t ")
	b = b[bytes.LastIndexByte(b, '\n')+1:]
	return strings.ToValidUTF8(string(b[:min(len(b), wire.MaxSaid)]), "\uFFFD")
}
