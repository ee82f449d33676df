package cli

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

func (a *app) eventsCommand() *cobra.Command {
	follow, n, host := false, 0, ""
	cmd := &cobra.Command{
		Use: "events [DEPLOYMENT|SERVICE|INSTANCE]", Short: "Show what happened, and follow it",
		Long: `Show the latest events of a deployment (by name), a service or an instance (by
ID), or of everything, oldest first. What was deleted keeps its events, by its
ID, for 30 days. With --json and -f: one object a line.`,
		Example: "  miosa events hello -f\n  miosa events ri_01m84z7zsvd0053bpgqh026v41\n  miosa events --host host_01m84z7zsvd0053bpgqh026v41",
	}
	cmd.Flags().StringVar(&host, "host", "", "what happened on the host with this `ID`, for operators: with the context's admin key")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with each as it happens")
	cmd.Flags().IntVarP(&n, "limit", "n", 20, "how many to begin with")
	cmd.RunE = a.run(0, 1, func(ctx context.Context, c *client.Client, args []string) error {
		if n < 1 {
			return usagef("--limit must be at least 1")
		}
		subject, err := eventSubject(ctx, c, args, host)
		if err != nil {
			return err
		}
		if host != "" {
			if c, err = a.operator(); err != nil {
				return err
			}
		}
		if follow {
			return a.followEvents(ctx, c, subject, n)
		}
		found := []resource.Event{}
		for e, err := range c.Events(ctx, subject) {
			if err != nil {
				return err
			}
			if found = append(found, e); len(found) == n {
				break
			}
		}
		slices.Reverse(found)
		return a.show(found, func() {
			for _, e := range found {
				a.event(e)
			}
		})
	})
	return cmd
}

// eventSubject is whose events are meant; "": everybody's.
func eventSubject(ctx context.Context, c *client.Client, args []string, host string) (string, error) {
	switch {
	case host != "" && len(args) > 0:
		return "", usagef("either --host or a deployment, a service or an instance")
	case host != "" && miosa.IDPrefix(host) != miosa.PrefixHost:
		return "", usagef("--host %q is no host's ID", host)
	case host != "" || len(args) == 0:
		return host, nil
	}
	switch miosa.IDPrefix(args[0]) {
	case miosa.PrefixService, miosa.PrefixInstance, miosa.PrefixDeployment:
		return args[0], nil
	}
	dep, err := find(ctx, c, args[0])
	return dep.ID, err
}

func (a *app) followEvents(ctx context.Context, c *client.Client, subject string, n int) error {
	out := json.NewEncoder(a.cfg.Stdout)
	for e, err := range c.Follow(ctx, subject, n) {
		if err != nil {
			return err
		}
		if !a.json {
			a.event(e)
			if err := a.written(); err != nil {
				return err
			}
			continue
		}
		if err := out.Encode(e); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (a *app) event(e resource.Event) {
	a.printf("%s  %-24s  %s\n", e.CreatedAt.Local().Format("2006-01-02 15:04:05"), printable(e.Type), printable(told(e)))
}

// told is an event's message with the instance it is about: several may be
// doing the same at once.
func told(e resource.Event) string {
	if e.RuntimeInstanceID != nil {
		return short(*e.RuntimeInstanceID) + ": " + e.Message
	}
	return e.Message
}
