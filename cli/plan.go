package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

const planWords = `A dry run: what decides in earnest decides on a copy of the records, with hosts
that do as they are told at once. Nothing is changed. What is under way is let end
first, and is none of the plan; what fails to start, or is slow to, is not foreseen.

Exit code 1 says that it is not well: an instance finds no host, a service ends up
with fewer instances that serve than it wants, one is down on the way (none serves,
where one did), what is to be drained stays, or the publish does not go live. A
service that has fewer for a while is listed, and no reason for it; nor is what was
not well before.`

func (a *app) planCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "plan", Short: "Say what a change would lead to, without making it",
		Long: "Say what a change would lead to: what moves where, what finds no host and why,\nwhich services have fewer that serve than they want, and how full hosts are.\n\n" + planWords,
		Example: `  miosa plan scale shop 12
  miosa plan publish shop --memory 2048 --replicas 4
  miosa plan lose-zone eu/a
  miosa plan drain h3 --json`,
	}
	cmd.AddCommand(a.planScaleCommand(), a.planPublishCommand(),
		a.planHostsCommand("lose-host HOST", "Say what the loss of a host would lead to",
			`The host is gone at once, with all that runs there: HOST is its name or ID. Who has
no other instance is down until a new one is healthy elsewhere.`, "  miosa plan lose-host h3",
			func(of string) resource.FleetChange { return resource.FleetChange{LoseHost: of} }),
		a.planHostsCommand("lose-zone ZONE", "Say what the loss of a whole zone would lead to",
			`All hosts of the zone are gone at once. ZONE is its name; with the region before it,
as eu/a, where two have one of that name.`, "  miosa plan lose-zone eu/a",
			func(of string) resource.FleetChange { return resource.FleetChange{LoseZone: of} }),
		a.planHostsCommand("drain HOST", "Say where a host's instances would go if it were emptied",
			`The host is given nothing more, and each of its instances is replaced elsewhere,
make before break: HOST is its name or ID. What finds no other host would stay.`, "  miosa plan drain h3",
			func(of string) resource.FleetChange { return resource.FleetChange{DrainHost: of} }),
	)
	return cmd
}

func (a *app) planScaleCommand() *cobra.Command {
	service, environment := "", ""
	cmd := &cobra.Command{
		Use: "scale DEPLOYMENT|SERVICE N", Short: "Say what another number of instances would lead to",
		Long:    "Say whether that many instances of a service find hosts, and in which regions. It\nis named by its ID, or by its deployment.\n\n" + planWords,
		Example: "  miosa plan scale shop 12\n  miosa plan scale shop 3 --service jobs\n  miosa plan scale shop 3 --json",
	}
	cmd.Flags().StringVar(&service, "service", "", "service to scale (default: the one that requests go to)")
	cmd.Flags().StringVar(&environment, "environment", "production", "environment")
	cmd.RunE = a.run(2, 2, func(ctx context.Context, c *client.Client, args []string) error {
		n, err := strconv.Atoi(args[1])
		if err != nil || n < 0 {
			return usagef("%q is no number of instances", args[1])
		}
		name := args[0]
		if miosa.IDPrefix(name) == miosa.PrefixService {
			s, err := c.Service(ctx, name)
			if err != nil {
				return err
			}
			name, service, environment = s.DeploymentID, s.ID, s.EnvironmentID
		}
		dep, err := find(ctx, c, name)
		if err != nil {
			return err
		}
		out, err := c.Plan(ctx, dep.ID, resource.DeploymentChange{Scale: &resource.Scale{Instances: &n, Service: service, Environment: environment}})
		if err != nil {
			return err
		}
		return a.planned(out)
	})
	return cmd
}

func (a *app) planPublishCommand() *cobra.Command {
	f := publishFlags{promote: true, noConfig: true}
	release := ""
	cmd := &cobra.Command{
		Use: "publish DEPLOYMENT", Short: "Say whether a publish of that size would find room and go live",
		Long: `Say whether the new instances of a publish find hosts beside the old ones, so that
it goes live. What is not said stays as in the version that is live. It stands for a
release that no host has yet, unless --release names one that was uploaded.

` + planWords,
		Example: "  miosa plan publish shop --memory 2048\n  miosa plan publish shop --replicas 6 --cpus 2 --region eu\n  miosa plan publish shop --service jobs --gpu 1",
	}
	what := newFlagGroup("What is published, and where")
	what.StringVar(&release, "release", "", "`ID` of an uploaded release")
	what.StringVar(&f.environment, "environment", "production", "environment to publish to")
	what.StringVar(&f.of, "service", "", "the service that the flags below are for (default: the one that requests go to)")
	what.BoolVar(&f.worker, "worker", false, "it has no port: healthy while its process runs")
	what.BoolVar(&f.promote, "promote", true, "make it live; with --promote=false it is only proven to become healthy")
	group(cmd, append([]flagGroup{what}, f.groups()...)...)
	cmd.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		body, err := f.body()
		if err != nil {
			return err
		}
		dep, err := find(ctx, c, args[0])
		if err != nil {
			return err
		}
		if err := f.beside(ctx, c, dep, &body); err != nil {
			return err
		}
		body.ReleaseID = release
		out, err := c.Plan(ctx, dep.ID, resource.DeploymentChange{Publish: &body})
		if err != nil {
			return err
		}
		return a.planned(out)
	})
	return cmd
}

// planHostsCommand is a plan of something that becomes of hosts: the operator's.
func (a *app) planHostsCommand(use, short, long, example string, change func(of string) resource.FleetChange) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long + "\n\n" + planWords, Example: example}
	cmd.RunE = a.run(1, 1, func(ctx context.Context, _ *client.Client, args []string) error {
		operator, err := a.operator()
		if err != nil {
			return err
		}
		out, err := operator.PlanFleet(ctx, change(args[0]))
		if err != nil {
			return err
		}
		return a.planned(out)
	})
	return cmd
}

// planned prints a plan. One that is not well is no success.
func (a *app) planned(out resource.DryRun) error {
	err := a.show(out, func() {
		a.printf("%s\n", printable(out.Summary))
		for _, line := range out.Words {
			a.printf("%s\n", printable(line))
		}
	})
	if err == nil {
		err = a.written()
	}
	if err == nil && !out.OK {
		err = notWellError{}
	}
	return err
}

// notWellError is a plan that is not well: all was said.
type notWellError struct{}

func (notWellError) Error() string { return "" }
