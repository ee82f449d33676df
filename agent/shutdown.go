package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/miosa/miosa/lifecycle"
	"github.com/miosa/miosa/vmm"
	"github.com/miosa/miosa/wire/guest"
)

// stopVM ends a VM, its app asked first.
func stopVM(ctx context.Context, vm vmm.VM, s state, log *slog.Logger) {
	// Before the app is launched there is nobody to ask.
	if _, launched := lifecycle.PhaseAt(s.Observation, "app_started"); launched {
		if err := askToStop(ctx, vm); err != nil {
			log.Warn("virtual machine did not stop by itself", "vm", s.VM.ID, "err", err)
		}
	}
	if err := vm.Kill(ctx); err != nil {
		log.Error("end virtual machine", "vm", s.VM.ID, "err", err)
	}
}

// askToStop asks a guest to stop and waits for its VM to end.
func askToStop(ctx context.Context, vm vmm.VM) error {
	ctx, cancel := context.WithTimeout(ctx, lifecycle.StopDeadline+lifecycle.KillAfter)
	defer cancel()
	raw, err := vm.Dial(ctx)
	if err != nil {
		return fmt.Errorf("reach the guest: %w", err)
	}
	defer raw.Close()
	conn := guest.NewConn(raw)
	// Nobody wants its last lines any more: after all it holds.
	lines := guest.NewSession(0)
	if err := conn.WriteMessage(lines.Connect(nonce())); err != nil {
		return fmt.Errorf("reach the guest: %w", err)
	}
	if err := conn.WriteMessage(guest.Message{Stop: &guest.Stop{Deadline: lifecycle.StopDeadline}}); err != nil {
		return fmt.Errorf("ask the guest to stop: %w", err)
	}
	go func() {
		for {
			m, err := conn.ReadMessage()
			if _, invalid := errors.AsType[*guest.InvalidMessageError](err); err != nil && !invalid {
				return
			}
			if m.Exit != nil {
				if err := conn.WriteMessage(guest.Message{Ack: &guest.Ack{N: m.Exit.LastLine, Exit: true}}); err != nil {
					return
				}
			}
		}
	}()
	select {
	case <-vm.Done():
		return nil
	case <-ctx.Done():
		return errors.New("it did not end in " + (lifecycle.StopDeadline + lifecycle.KillAfter).Round(time.Second).String())
	}
}
