package guest

import (
	"context"
	"fmt"
	"time"

	wire "github.com/miosa/miosa/wire/guest"
)

// A template is a machine that booted up to waiting for Boot and was then
// stopped and copied by the VMM, memory and devices. Each copy goes on from
// there as an instance's machine, without a kernel boot of its own.
//
// What a template does before it is copied must hold for every copy: its disks
// are placeholders, so nothing is read from them; the interface has no address
// yet. What all copies would share and must not (the random number generator's
// state, the clock) is set anew by configure, before any code of a customer's
// runs.

// templateVar, in the environment that the kernel hands to PID 1, asks for a
// template.
const templateVar = wire.TemplateVar

// settleTime is what the kernel needs to be done with what the boot left for
// later: every copy would do it over again.
const settleTime = 500 * time.Millisecond

// offerCopy tells the VMM, on the serial console, that the machine may be
// copied: it waits for the first word of its copy's host now. The VMM is
// connected meanwhile, as the host is in the copy from its first moment on, so
// that the copy need not find out that somebody came.
func (i *Init) offerCopy(ctx context.Context) {
	if pause(ctx, settleTime) == nil {
		fmt.Fprintln(i.console, "miosa-init:", wire.TemplateReady)
	}
}

// getReady does all that does not depend on whose machine it will be.
func (i *Init) getReady() (err error) {
	if err := i.modules.loadUntil(func(kernelModule) bool { return false }); err != nil {
		return err
	}
	if err := mountRest(); err != nil {
		return err
	}
	i.links, err = bringUp("/sys", "/proc")
	return err
}
