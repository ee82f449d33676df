package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/agent/spool"
	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

// stopVM ends a VM, its app asked first, and returns how that ended, if it said so.
func stopVM(ctx context.Context, vm vmm.VM, s state, j *journal, log *slog.Logger) (exit *guest.Exit) {
	// Before the app is launched there is nobody to ask.
	if _, launched := lifecycle.PhaseAt(s.Observation, "app_started"); launched {
		told := func(e *guest.Exit) { exit = e }
		if err := askToStop(ctx, vm, s.Observation.Boot, lifecycle.StopGrace(s.Instance.Spec), j, told); err != nil {
			log.Warn("virtual machine did not stop by itself", "vm", s.VM.ID, "err", err)
			j.unsaid(time.Now().UTC())
		}
	}
	if err := vm.Kill(ctx); err != nil {
		log.Error("end virtual machine", "vm", s.VM.ID, "err", err)
	}
	return exit
}

// askToStop asks a guest to stop, with a grace for its app, and waits for its
// VM to end. It tells how the app ended before it returns.
func askToStop(ctx context.Context, vm vmm.VM, boot int, grace time.Duration, j *journal, told func(*guest.Exit)) error {
	ctx, cancel := context.WithTimeout(ctx, grace+lifecycle.KillAfter)
	defer cancel()
	raw, err := vm.Dial(ctx)
	if err != nil {
		return fmt.Errorf("reach the guest: %w", err)
	}
	defer raw.Close()
	conn := guest.NewConn(raw)
	lines := guest.NewSession(j.held(boot))
	if err := conn.WriteMessage(lines.Connect(nonce())); err != nil {
		return fmt.Errorf("reach the guest: %w", err)
	}
	if err := conn.WriteMessage(guest.Message{Stop: &guest.Stop{Deadline: grace}}); err != nil {
		return fmt.Errorf("ask the guest to stop: %w", err)
	}
	full := false // the spool takes nothing; the reader's alone
	var reader sync.WaitGroup
	defer reader.Wait()
	defer raw.Close()
	reader.Go(func() {
		for {
			m, err := conn.ReadMessage()
			_, invalid := errors.AsType[*guest.InvalidMessageError](err)
			if err != nil && !invalid {
				return
			}
			if m.Lines != nil {
				if m, ok, err := lines.Receive(m); err == nil && ok {
					full = full || !j.add(time.Now().UTC(), boot, m.Lines)
					if full { // nobody asks for them again
						j.miss(boot, m.Lines, nil)
					}
				}
				continue
			}
			if m.Hello != nil {
				_, _, _ = lines.Receive(m) // its lines follow
			}
			if m.Exit != nil {
				told(m.Exit)
				j.settled()
				if err := conn.WriteMessage(guest.Message{Ack: &guest.Ack{N: m.Exit.LastLine, Exit: true}}); err != nil {
					return
				}
			}
		}
	})
	select {
	case <-vm.Done():
		return nil
	case <-ctx.Done():
		return errors.New("it did not end in " + (grace + lifecycle.KillAfter).Round(time.Second).String())
	}
}

// away is a store that takes nothing: the next start of an agent ships.
type away struct{}

func (away) Ship(context.Context, string, []logs.Batch) error {
	return miosa.Errorf(miosa.Unavailable, "nothing is shipped while the platform goes down")
}

// lastJournals are the journals of instances that are stopped while no agent
// runs. Without a spool in the directory they keep nothing.
func lastJournals(dir, hostID string, log *slog.Logger) (*Agent, error) {
	a := &Agent{cfg: Config{Host: miosa.Host{ID: hostID}}, log: log}
	dir = filepath.Join(dir, spoolDir)
	_, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return nil, err
	}
	if a.spool, err = spool.New(spool.Config{Dir: dir, HostID: hostID, Shipper: away{}, Log: log}); err != nil {
		return nil, err
	}
	return a, a.spool.Open(time.Now())
}
