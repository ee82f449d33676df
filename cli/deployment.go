package cli

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

func (a *app) deploymentsCommand() *cobra.Command {
	list := a.run(0, 0, func(ctx context.Context, c *client.Client, _ []string) error { return a.deployments(ctx, c) })
	cmd := &cobra.Command{Use: "deployments", Short: "List, show and make deployments", Args: noSuchCommand, RunE: list}
	ls := &cobra.Command{Use: "ls", Short: "List deployments, newest first", RunE: list}
	get := &cobra.Command{Use: "get DEPLOYMENT", Short: "Show a deployment"}
	get.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		dep, err := find(ctx, c, args[0])
		if err != nil {
			return err
		}
		return a.show(dep, func() { a.showDeployment(ctx, c, dep) })
	})
	create := &cobra.Command{
		Use: "create NAME", Short: "Make a deployment, to set its variables before the first publish",
		Long: "Make a deployment that has nothing in it yet. A publish makes it too: this is for\nvariables that the app needs at its first start.",
		Example: "  miosa deployments create shop\n" +
			"  miosa env set shop DATABASE_URL --secret\n" +
			"  miosa publish ./shop.tar --name shop",
	}
	create.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		dep, err := c.CreateDeployment(ctx, resource.DeploymentCreate{Name: args[0], SourceType: "upload"})
		if err != nil {
			return err
		}
		return a.show(dep, func() { a.printf("%s is made. Publish to it with: miosa publish FILE --name %s\n", dep.Slug, dep.Slug) })
	})
	cmd.AddCommand(ls, get, create)
	return cmd
}

func (a *app) deployments(ctx context.Context, c *client.Client) error {
	found, err := client.Collect(c.Deployments(ctx))
	if err != nil {
		return err
	}
	return a.show(found, func() {
		if len(found) == 0 {
			a.printf("No deployments. Publish an app with: miosa publish FILE --name NAME\n")
			return
		}
		rows := [][]string{}
		for _, d := range found {
			rows = append(rows, []string{d.Slug, d.State, text(d.Health), a.age(d.CreatedAt), d.PublicURL})
		}
		a.table([]string{"DEPLOYMENT", "STATE", "HEALTH", "AGE", "URL"}, rows)
		a.sayUnwell(found)
	})
}

// unwell reports whether what is live of it is not ok.
func unwell(d resource.Deployment) bool { return d.Health != nil && *d.Health != "ok" }

// sayUnwell says of deployments that are not ok why, one a line.
func (a *app) sayUnwell(found []resource.Deployment) {
	for _, d := range found {
		if !unwell(d) {
			continue
		}
		why := ""
		if len(d.Reasons) > 0 {
			why = ": " + d.Reasons[0]
		}
		if more := len(d.Reasons) - 1; more > 0 {
			why += fmt.Sprintf(" (and %d more)", more)
		}
		a.printf("%s is %s%s. See: miosa why %s\n", d.Slug, *d.Health, printable(why), d.Slug)
	}
}

func (a *app) showDeployment(ctx context.Context, c *client.Client, d resource.Deployment) {
	a.fields([][2]string{
		{"deployment", d.Slug}, {"name", d.Name}, {"id", d.ID}, {"state", d.State}, {"url", d.PublicURL},
		{"health", text(d.Health)}, {"version", text(d.ActiveVersionID)}, {"rollout", text(d.RolloutID)},
	})
	for _, r := range d.Reasons {
		a.printf("  because: %s\n", printable(r))
	}
	for s, err := range c.Services(ctx, d.ID) {
		if err != nil {
			return
		}
		a.printf("  service %s: %s, %d of %d instances ready\n", s.Name, s.State, s.ReadyReplicas, s.DesiredReplicas)
	}
}

func (a *app) removeCommand() *cobra.Command {
	yes, purge := false, false
	cmd := &cobra.Command{
		Use: "rm DEPLOYMENT", Short: "Delete a deployment with everything in it",
		Long: "Delete a deployment with everything in it. Its logs stay for the days of the plan and\nare read by its ID; with --purge-logs they go too, also of one deleted before.",
	}
	cmd.Flags().BoolVar(&purge, "purge-logs", false, "its logs, too")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		dep, err := find(ctx, c, args[0])
		if purge && client.Status(err) == 404 && miosa.IDPrefix(args[0]) == miosa.PrefixDeployment {
			dep, err = resource.Deployment{ID: args[0], Slug: args[0]}, nil // its logs may be left
		}
		if err != nil {
			return err
		}
		if !yes {
			if err := a.sure(ctx, dep); err != nil {
				return err
			}
		}
		var options []client.Option
		if purge {
			options = append(options, client.Query("purge_logs", "true"))
		}
		gone, err := c.DeleteDeployment(ctx, dep.ID, options...)
		if err != nil {
			return err
		}
		return a.show(gone, func() { a.printf("%s is deleted.\n", dep.Slug) })
	})
	return cmd
}

// sure asks the person at the terminal to write the name.
func (a *app) sure(ctx context.Context, dep resource.Deployment) error {
	if !a.cfg.Terminal(a.cfg.Stdout) {
		return usagef("deleting %s needs --yes where nobody can be asked", dep.Slug)
	}
	fmt.Fprintf(a.cfg.Stderr, "This deletes %s, its versions and variables for good.\nWrite its name to go on: ", dep.Slug)
	line, err := typed(ctx, func() (string, error) { return bufio.NewReader(a.cfg.Stdin).ReadString('\n') })
	if err != nil && line == "" {
		return fmt.Errorf("read answer: %w", err)
	}
	if strings.TrimSpace(line) != dep.Slug {
		return fmt.Errorf("not deleted: that is not its name")
	}
	return nil
}

// noSuchCommand refuses arguments of a command that only has others below it.
func noSuchCommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unknown command %q for %q\nSee: %s --help", args[0], cmd.CommandPath(), cmd.CommandPath())
	}
	return nil
}
