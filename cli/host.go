package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

func (a *app) hostsCommand() *cobra.Command {
	list := a.runOperator(0, 0, func(ctx context.Context, c *client.Client, _ []string) error { return a.hosts(ctx, c) })
	cmd := &cobra.Command{
		Use: "hosts", Short: "See to the machines of the fleet, for operators", Args: noSuchCommand, RunE: list,
		Long: `See to the machines that instances run on, for operators: with the context's
admin key. HOST is a name or an ID.

To take one out of service for a while: "miosa hosts drain HOST", work on it,
"miosa hosts uncordon HOST". For good: drain it, stop its agent, then
"miosa hosts rm HOST".`,
	}
	one := func(use, short string, fn func(ctx context.Context, c *client.Client, h resource.Host) error) *cobra.Command {
		sub := &cobra.Command{Use: use, Short: short}
		sub.RunE = a.runOperator(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
			h, err := a.findHost(ctx, c, args[0])
			if err != nil {
				return err
			}
			return fn(ctx, c, h)
		})
		cmd.AddCommand(sub)
		return sub
	}
	cmd.AddCommand(&cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List the hosts, newest first", RunE: list})
	one("show HOST", "Show one, and how its drain stands", func(_ context.Context, _ *client.Client, h resource.Host) error {
		return a.show(h, func() { a.showHost(h) })
	})
	one("cordon HOST", "Give it no more instances; those that it has stay", func(ctx context.Context, c *client.Client, h resource.Host) error {
		h, err := c.CordonHost(ctx, h.ID)
		if err != nil {
			return err
		}
		return a.show(h, func() { a.printf("%s is given no more instances.\n", printable(h.Name)) })
	})
	one("uncordon HOST", "Give it instances again; that ends its drain, too", func(ctx context.Context, c *client.Client, h resource.Host) error {
		h, err := c.UncordonHost(ctx, h.ID)
		if err != nil {
			return err
		}
		return a.show(h, func() { a.printf("%s is given instances again.\n", printable(h.Name)) })
	})
	lost := one("lost HOST", "Say that a silent one is gone: what it ran is replaced at once", func(ctx context.Context, c *client.Client, h resource.Host) error {
		h, err := c.LoseHost(ctx, h.ID)
		if err != nil {
			return err
		}
		return a.show(h, func() { a.printf("%s is lost; what it ran is replaced.\n", printable(h.Name)) })
	})
	lost.Long = `Say that a silent host is gone. What it ran counts as ended and is replaced at
once, also where most hosts are silent and nothing is replaced for that: then the
platform takes it for a fault of its own until somebody says otherwise, host by
host. It must be certain: a host that runs on behind a broken network runs its
instances a second time until it is back.`
	a.addDrainHost(one)
	force := false
	rm := one("rm HOST", "Forget one that is gone", func(ctx context.Context, c *client.Client, h resource.Host) error {
		done, err := c.DeleteHost(ctx, h.ID, force)
		if err != nil {
			return err
		}
		return a.show(done, func() { a.printf("%s has left the fleet.\n", printable(h.Name)) })
	})
	rm.Flags().BoolVar(&force, "force", false, "also one that fell silent a moment ago: it must be certain that it runs nothing")
	return cmd
}

// addDrainHost adds hosts drain.
func (a *app) addDrainHost(one func(use, short string, fn func(ctx context.Context, c *client.Client, h resource.Host) error) *cobra.Command) {
	deadline, in, detach := time.Hour, resource.HostDrainStart{}, false
	var cmd *cobra.Command
	cmd = one("drain HOST", "Have all instances leave it, each replaced elsewhere first", func(ctx context.Context, c *client.Client, h resource.Host) error {
		if deadline < 0 || deadline%time.Second != 0 {
			return usagef("--deadline is a number of whole seconds, as 30m, or 0 for none")
		}
		in.DeadlineSeconds = new(int(deadline / time.Second))
		if in.Force && !cmd.Flags().Changed("deadline") {
			in.DeadlineSeconds = new(0)
		}
		h, err := c.DrainHost(ctx, h.ID, in)
		if err != nil {
			return err
		}
		if detach {
			return a.show(h, func() {
				a.printf("%s is drained; see how it goes with: miosa hosts show %s\n", printable(h.Name), printable(h.Name))
			})
		}
		return a.followDrain(ctx, c, h)
	})
	cmd.Long = `Have all instances leave a host: it is given no more, each of those that it has is
started elsewhere, and stops once its successor is healthy. No service has fewer
serving than its max_unavailable allows, so a drain waits where there is no room;
it says for what. Ctrl-C ends the watching, not the drain: "miosa hosts uncordon
HOST" does.

Exits with 1 when some are left at the deadline. Asked for again it changes the
deadline and force of the drain under way.`
	cmd.Example = "  miosa hosts drain host-3\n  miosa hosts drain host-3 --deadline 30m --force"
	fl := cmd.Flags()
	fl.DurationVar(&deadline, "deadline", deadline, "`TIME` after which what is left is told of; 0: never (with --force: at once)")
	fl.BoolVar(&in.Force, "force", false, "stop what is left at the deadline, or at once without one, whatever becomes of its service")
	fl.BoolVar(&detach, "detach", false, "do not wait until it is drained")
}

// drainEvery is how often it is asked how far a drain has come.
const drainEvery = time.Second

// followDrain shows how a drain goes until it is done or late.
func (a *app) followDrain(ctx context.Context, c *client.Client, h resource.Host) error {
	p := a.progress()
	defer p.end()
	said := ""
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for h.Drain != nil {
		if words := h.Drain.Progress; words != "" && words != said {
			said = words
			p.step("  %s", words)
		}
		p.wait("%d of %d instances are left on %s", h.Drain.Left, h.Drain.Total, h.Name)
		if h.Drain.State == "drained" {
			p.end()
			return a.show(h, func() { a.printf("%s is drained.\n", printable(h.Name)) })
		}
		if h.Drain.State == "late" && !h.Drain.Force {
			return fmt.Errorf("%s is not drained by its deadline, and goes on: %s", h.Name, h.Drain.Progress)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w\nthe drain goes on; see how with: miosa hosts show %s", ctx.Err(), h.Name)
		case <-tick.C:
		}
		next, err := c.Host(ctx, h.ID)
		if err != nil {
			return err
		}
		h = next
	}
	return fmt.Errorf("the drain of %s was ended by somebody else", h.Name)
}

// findHost is a host by its name or ID.
func (a *app) findHost(ctx context.Context, c *client.Client, ref string) (resource.Host, error) {
	if miosa.IDPrefix(ref) == miosa.PrefixHost {
		return c.Host(ctx, ref)
	}
	var found []resource.Host
	for h, err := range c.Hosts(ctx) {
		if err != nil {
			return resource.Host{}, err
		}
		if h.Name == ref {
			found = append(found, h)
		}
	}
	switch len(found) {
	case 0:
		return resource.Host{}, &client.Error{Status: 404, Code: "host_not_found", Message: fmt.Sprintf("no host %q; see: miosa hosts", ref)}
	case 1:
		return found[0], nil
	}
	return resource.Host{}, usagef("%d hosts have the name %q: say which by its ID, as %s", len(found), ref, found[0].ID)
}

func (a *app) hosts(ctx context.Context, c *client.Client) error {
	found, err := client.Collect(c.Hosts(ctx))
	if err != nil {
		return err
	}
	return a.show(found, func() {
		rows := [][]string{}
		for _, h := range found {
			rows = append(rows, []string{
				h.Name, h.ID, hostState(h), h.Region + "/" + h.Zone, strconv.Itoa(h.Capacity.VCPUs), strconv.Itoa(h.Capacity.MemoryMB) + " MB", h.Version, hostNote(h),
			})
		}
		a.table([]string{"NAME", "ID", "STATE", "ZONE", "VCPUS", "MEMORY", "VERSION", "NOTE"}, rows)
	})
}

// hostState is what matters most about a host, in a word.
func hostState(h resource.Host) string {
	switch {
	case h.Liveness != string(miosa.Alive):
		return h.Liveness
	case h.Drain != nil:
		return h.Drain.State
	case h.Failing:
		return "failing"
	case !h.Schedulable:
		return "cordoned"
	}
	return h.Liveness
}

func hostNote(h resource.Host) string {
	if len(h.Reasons) > 0 {
		return strings.Join(h.Reasons, "; ")
	}
	if h.Drain != nil {
		return fmt.Sprintf("%d of %d instances left", h.Drain.Left, h.Drain.Total)
	}
	return ""
}

func (a *app) showHost(h resource.Host) {
	a.printf("%s (%s) in %s/%s is %s\n", printable(h.Name), h.ID, printable(h.Region), printable(h.Zone), hostState(h))
	for _, reason := range h.Reasons {
		a.printf("  %s\n", printable(reason))
	}
	a.printf("  %d vCPUs, %d MB of memory, %d MB of disk, %d GPUs; version %s\n", h.Capacity.VCPUs, h.Capacity.MemoryMB, h.Capacity.DiskMB, h.Capacity.GPU, printable(h.Version))
	if d := h.Drain; d != nil {
		a.printf("  drain: %s\n", printable(d.Progress))
		if d.Deadline != nil && d.DoneAt == nil {
			a.printf("  its deadline comes in %s\n", a.in(*d.Deadline))
		}
	}
}
