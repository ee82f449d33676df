package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

func (a *app) scaleCommand() *cobra.Command {
	service, environment := "", ""
	cmd := &cobra.Command{
		Use: "scale DEPLOYMENT N", Short: "Set how many instances there are to be", Example: "  miosa scale hello 3\n  miosa scale hello 0    # stops it",
	}
	cmd.Flags().StringVar(&service, "service", "", "service to scale (default: the one that requests go to)")
	cmd.Flags().StringVar(&environment, "environment", "production", "environment")
	cmd.RunE = a.run(2, 2, func(ctx context.Context, c *client.Client, args []string) error {
		n, err := strconv.Atoi(args[1])
		if err != nil || n < 0 {
			return usagef("%q is no number of instances", args[1])
		}
		dep, err := find(ctx, c, args[0])
		if err != nil {
			return err
		}
		dep, err = c.Scale(ctx, dep.ID, resource.Scale{Instances: &n, Service: service, Environment: environment})
		if err != nil {
			return err
		}
		return a.show(dep, func() {
			if n == 0 {
				a.printf("%s is scaled to nothing.\n", dep.Slug)
				return
			}
			a.printf("%s is to have %s. See them with: miosa ps %s\n", dep.Slug, plural(n, "instance"), dep.Slug)
		})
	})
	return cmd
}

func (a *app) restartCommand() *cobra.Command {
	service, environment, wait := "", "", true
	cmd := &cobra.Command{
		Use: "restart DEPLOYMENT", Short: "Replace all instances, with the variables as they are now",
		Long: `Roll out the live release once more, as a new version with the variables as they
are now. Every new instance is healthy before an old one goes.`,
	}
	cmd.Flags().StringVar(&service, "service", "", "service (default: the one that requests go to)")
	cmd.Flags().StringVar(&environment, "environment", "production", "environment")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait for the end")
	cmd.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		dep, err := find(ctx, c, args[0])
		if err != nil {
			return err
		}
		s, err := serviceOf(ctx, c, dep, environment, service)
		if err != nil {
			return err
		}
		return a.restart(ctx, c, dep, s, wait)
	})
	return cmd
}

func (a *app) restart(ctx context.Context, c *client.Client, dep resource.Deployment, s resource.Service, wait bool) error {
	if a.json && wait {
		out, err := c.RestartService(ctx, s.ID, client.Wait())
		if err != nil {
			return err
		}
		return a.show(out, nil)
	}
	s, err := c.RestartService(ctx, s.ID)
	if err != nil {
		return err
	}
	if !wait || s.RolloutID == nil {
		return a.show(s, func() {
			a.printf("%s is being restarted. Follow it with: miosa events %s -f\n", dep.Slug, dep.Slug)
		})
	}
	r, err := c.Rollout(ctx, *s.RolloutID)
	if err != nil {
		return err
	}
	return a.end(ctx, c, dep, r)
}

// end follows a rollout of an existing deployment and says how it ended.
func (a *app) end(ctx context.Context, c *client.Client, dep resource.Deployment, r resource.Rollout) error {
	p := a.progress()
	defer p.end()
	r, err := a.follow(ctx, c, p, dep.Slug, r)
	if err != nil {
		return err
	}
	v, err := c.Version(ctx, dep.ID, r.VersionID)
	if err != nil {
		return err
	}
	if err := a.outcome(ctx, c, r, v); err != nil {
		return err
	}
	a.live(ctx, c, dep, v)
	return nil
}
