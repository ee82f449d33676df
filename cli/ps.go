package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

func (a *app) psCommand() *cobra.Command {
	all := false
	cmd := &cobra.Command{
		Use:   "ps [DEPLOYMENT]",
		Short: "List the instances that run",
		Long:  "List the runtime instances, of one deployment or of all.",
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also those that ended")
	cmd.RunE = a.run(0, 1, func(ctx context.Context, c *client.Client, args []string) error {
		return a.instances(ctx, c, args, all)
	})
	return cmd
}

func (a *app) instances(ctx context.Context, c *client.Client, args []string, all bool) error {
	deployment := ""
	if len(args) > 0 {
		dep, err := find(ctx, c, args[0])
		if err != nil {
			return err
		}
		deployment = dep.ID
	}
	options := []client.Option{}
	if all {
		options = append(options, client.Query("all", "true"))
	}
	found, err := client.Collect(c.Instances(ctx, deployment, options...))
	if err != nil {
		return err
	}
	if a.json {
		return a.show(found, nil)
	}
	of, err := client.Collect(c.Deployments(ctx))
	if err != nil {
		return err
	}
	shown := slices.DeleteFunc(slices.Clone(of), func(d resource.Deployment) bool { return deployment != "" && d.ID != deployment })
	if len(found) == 0 && slices.ContainsFunc(shown, unwell) {
		a.printf("No instances.\n")
		a.sayUnwell(shown)
		return nil
	}
	if len(found) == 0 {
		a.printf("No instances. Publish an app with: miosa publish FILE --name NAME\n")
		return nil
	}
	names, numbers, err := a.names(ctx, c, of, found)
	if err != nil {
		return err
	}
	rows := [][]string{}
	for _, i := range found {
		rows = append(rows, []string{
			names[i.DeploymentID], i.ServiceName, i.ID, i.State, "v" + numbers[i.VersionID], strconv.Itoa(i.RestartCount), a.age(i.CreatedAt), a.note(i),
		})
	}
	a.table([]string{"DEPLOYMENT", "SERVICE", "INSTANCE", "STATE", "VERSION", "RESTARTS", "AGE", "NOTE"}, rows)
	a.sayUnwell(shown)
	if deployment == "" {
		return nil
	}
	return a.listRaw(ctx, c, deployment)
}

// listRaw shows where the services of a deployment are reached that speak raw
// TCP, with their environments' names but for production's.
func (a *app) listRaw(ctx context.Context, c *client.Client, deployment string) error {
	var raw []resource.Service
	for s, err := range c.Services(ctx, deployment) {
		if err != nil {
			return err
		}
		if s.PublicURL != nil {
			raw = append(raw, s)
		}
	}
	if len(raw) == 0 {
		return nil
	}
	in := map[string]string{}
	for e, err := range c.Environments(ctx, deployment) {
		if err != nil {
			return err
		}
		if e.Name != miosa.Production {
			in[e.ID] = " of " + e.Name
		}
	}
	for _, s := range raw {
		a.printf("%s%s: %s\n", s.Name, in[s.EnvironmentID], *s.PublicURL)
	}
	return nil
}

// names are the slugs of the deployments and the numbers of the versions that
// instances belong to.
func (a *app) names(ctx context.Context, c *client.Client, of []resource.Deployment, found []resource.Instance) (names, numbers map[string]string, err error) {
	names, numbers = map[string]string{}, map[string]string{}
	for _, d := range of {
		names[d.ID] = d.Slug
	}
	for _, i := range found {
		if numbers[i.VersionID] != "" {
			continue
		}
		numbers[i.VersionID] = "?"
		v, err := c.Version(ctx, i.DeploymentID, i.VersionID)
		if err == nil {
			numbers[i.VersionID] = strconv.Itoa(v.VersionNumber)
		} else if client.Status(err) != 404 {
			return nil, nil, err
		}
	}
	return names, numbers, nil
}

// note says why an instance is not simply healthy.
func (a *app) note(i resource.Instance) string {
	if i.State == "healthy" {
		return ""
	}
	if i.NextRestartAt != nil && i.State == "pending" {
		return strings.TrimSpace(text(i.ErrorMessage) + "; boots again " + a.in(*i.NextRestartAt))
	}
	if len(i.Reasons) > 0 {
		return i.Reasons[0]
	}
	return text(i.ErrorMessage)
}

func (a *app) instancesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "instances", Short: "Look at, restart and stop single instances",
		Args: noSuchCommand,
		RunE: a.run(0, 0, func(ctx context.Context, c *client.Client, _ []string) error { return a.instances(ctx, c, nil, false) }),
	}
	all := false
	ls := &cobra.Command{Use: "ls [DEPLOYMENT]", Short: "List instances"}
	ls.Flags().BoolVarP(&all, "all", "a", false, "also those that ended")
	ls.RunE = a.run(0, 1, func(ctx context.Context, c *client.Client, args []string) error {
		return a.instances(ctx, c, args, all)
	})
	get := &cobra.Command{Use: "get INSTANCE", Short: "Show an instance"}
	get.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		i, err := c.Instance(ctx, args[0])
		if err != nil {
			return err
		}
		return a.show(i, func() { a.showInstance(i) })
	})
	restart := &cobra.Command{Use: "restart INSTANCE", Short: "Replace an instance: the new one is healthy before the old one goes"}
	restart.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		i, err := c.RestartInstance(ctx, args[0])
		if err != nil {
			return err
		}
		return a.show(i, func() { a.printf("A replacement of %s is on its way.\n", i.ID) })
	})
	stop := &cobra.Command{Use: "stop INSTANCE", Short: "Stop an instance gracefully; its service gets another one"}
	stop.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		i, err := c.StopInstance(ctx, args[0])
		if err != nil {
			return err
		}
		return a.show(i, func() { a.printf("%s is %s.\n", i.ID, i.State) })
	})
	cmd.AddCommand(ls, get, restart, stop)
	return cmd
}

func (a *app) showInstance(i resource.Instance) {
	rows := [][2]string{
		{"instance", i.ID}, {"state", i.State}, {"service", i.ServiceName}, {"slot", strconv.Itoa(i.Slot)}, {"version", i.VersionID},
		{"host", text(i.HostID)}, {"region", text(i.Region)}, {"restarts", strconv.Itoa(i.RestartCount)},
		{"size", fmt.Sprintf("%d vCPU, %d MB memory, %d MB disk", i.CPULimitMillicores/1000, i.MemoryLimitMB, i.DiskLimitMB)},
		{"last health check", text(i.LastHealthCheck)}, {"error", text(i.ErrorMessage)},
	}
	a.fields(rows)
	for _, r := range i.Reasons {
		a.printf("  because: %s\n", printable(r))
	}
}

// fields prints names and values, one a line; empty ones are left out.
func (a *app) fields(rows [][2]string) {
	wide := 0
	for _, r := range rows {
		if r[1] != "" {
			wide = max(wide, len(r[0]))
		}
	}
	for _, r := range rows {
		if r[1] != "" {
			a.printf("%-*s  %s\n", wide, r[0], printable(r[1]))
		}
	}
}
