package cli

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

func (a *app) eventsCommand() *cobra.Command {
	follow, n := false, 0
	cmd := &cobra.Command{
		Use: "events [DEPLOYMENT]", Short: "Show what happened, and follow it",
		Long: "Show the latest events of a deployment, or of everything, oldest first.\nWith --json and -f: one object a line.",
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with each as it happens")
	cmd.Flags().IntVarP(&n, "limit", "n", 20, "how many to begin with")
	cmd.RunE = a.run(0, 1, func(ctx context.Context, c *client.Client, args []string) error {
		if n < 1 {
			return usagef("--limit must be at least 1")
		}
		deployment := ""
		if len(args) == 1 {
			dep, err := find(ctx, c, args[0])
			if err != nil {
				return err
			}
			deployment = dep.ID
		}
		if follow {
			return a.followEvents(ctx, c, deployment, n)
		}
		found := []resource.Event{}
		for e, err := range c.Events(ctx, deployment) {
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

func (a *app) followEvents(ctx context.Context, c *client.Client, deployment string, n int) error {
	out := json.NewEncoder(a.cfg.Stdout)
	for e, err := range c.Follow(ctx, deployment, n) {
		if err != nil {
			return err
		}
		if !a.json {
			a.event(e)
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
