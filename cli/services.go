package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

func (a *app) servicesCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "services", Short: "List, show and change the services of a deployment"}
	environment := ""
	cmd.PersistentFlags().StringVar(&environment, "environment", "production", "environment")
	ls := &cobra.Command{Use: "ls DEPLOYMENT", Short: "List the services"}
	ls.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		dep, err := find(ctx, c, args[0])
		if err != nil {
			return err
		}
		found, err := client.Collect(c.Services(ctx, dep.ID, client.Query("environment", environment)))
		if err != nil {
			return err
		}
		return a.show(found, func() { a.listServices(dep, environment, found) })
	})
	get := &cobra.Command{
		Use: "get DEPLOYMENT [SERVICE]", Short: "Show a service with all its settings", Long: "Show a service with all its settings; without SERVICE the one that requests go to.",
	}
	get.RunE = a.run(1, 2, func(ctx context.Context, c *client.Client, args []string) error {
		_, s, err := namedService(ctx, c, environment, args)
		if err != nil {
			return err
		}
		return a.show(s, func() { a.fields(serviceFields(s)) })
	})
	cmd.AddCommand(ls, get, a.setServiceCommand(&environment))
	return cmd
}

func (a *app) setServiceCommand(environment *string) *cobra.Command {
	f, wait := &serviceFlags{}, true
	cmd := &cobra.Command{
		Use: "set DEPLOYMENT [SERVICE]", Short: "Change settings of a service without a publish",
		Long: `Change settings of a service; without SERVICE of the one that requests go to.
What is not said stays as it is.

Replicas, region, label, apart, sticky, restart, max-age, max-unavailable and
stop-after-disconnect apply at once. All others belong to a version: the live release is rolled out once more with them, as a new version,
and every new instance is healthy before an old one goes.

Where the app has a miosa.toml, write them there, too: the next publish with it
sets what it says.`,
		Example: "  miosa services set shop --health-grace 5m --stop-grace 60s\n  miosa services set shop jobs --size medium --restart on_failure",
	}
	how := newFlagGroup("The change")
	how.BoolVar(&wait, "wait", true, "wait for the end of the rollout that it needs")
	group(cmd, append(f.groups(), how)...)
	cmd.RunE = a.run(1, 2, func(ctx context.Context, c *client.Client, args []string) error {
		if len(f.given) == 0 {
			return usagef("nothing is to be changed: name a setting\nSee: miosa services set --help")
		}
		dep, s, err := namedService(ctx, c, *environment, args)
		if err != nil {
			return err
		}
		var options []client.Option
		if a.json && wait {
			options = append(options, client.Wait())
		}
		s, err = c.UpdateService(ctx, s.ID, f.service.Patch(), options...)
		if err != nil {
			return err
		}
		if wait && !a.json && s.RolloutID != nil && f.frozen() {
			r, err := c.Rollout(ctx, *s.RolloutID)
			if err != nil {
				return err
			}
			return a.end(ctx, c, dep, r)
		}
		return a.show(s, func() {
			a.printf("%s of %s is changed. See it with: miosa services get %s %s\n", s.Name, dep.Slug, dep.Slug, s.Name)
		})
	})
	return cmd
}

// frozen reports whether a flag is for what a version holds.
func (f *serviceFlags) frozen() bool {
	for _, g := range f.given {
		switch key, _, _ := strings.Cut(g.key, "."); key {
		case "replicas", "regions", "sticky", "restart", "disruption", "stop_after_disconnect", "placement":
		default:
			return true
		}
	}
	return false
}

// namedService is the one that the arguments DEPLOYMENT [SERVICE] name.
func namedService(ctx context.Context, c *client.Client, environment string, args []string) (resource.Deployment, resource.Service, error) {
	dep, err := find(ctx, c, args[0])
	if err != nil {
		return dep, resource.Service{}, err
	}
	name := ""
	if len(args) > 1 {
		name = args[1]
	}
	s, err := serviceOf(ctx, c, dep, environment, name)
	return dep, s, err
}

func (a *app) listServices(dep resource.Deployment, environment string, found []resource.Service) {
	if len(found) == 0 {
		a.printf("Nothing was published to %s of %s yet.\n", environment, dep.Slug)
		return
	}
	rows := [][]string{}
	for _, s := range found {
		port := ""
		if s.Port != nil {
			port = strconv.Itoa(*s.Port)
		}
		if s.PublicURL != nil {
			port += " at " + *s.PublicURL
		}
		rows = append(rows, []string{s.Name, s.Type, s.State, fmt.Sprintf("%d/%d", s.ReadyReplicas, s.DesiredReplicas), port, s.HealthCheck.Type, text(s.RunCommand)})
	}
	a.table([]string{"SERVICE", "TYPE", "STATE", "READY", "PORT", "HEALTH", "COMMAND"}, rows)
}

// span is a number of seconds as a duration.
func span(seconds float64) string { return time.Duration(seconds * float64(time.Second)).String() }

func serviceFields(s resource.Service) [][2]string {
	port := ""
	if s.Port != nil {
		port = strconv.Itoa(*s.Port)
	}
	egress := "no limit"
	if s.Resources.EgressMbps != nil {
		egress = fmt.Sprintf("%d Mbit/s", *s.Resources.EgressMbps)
	}
	h := s.HealthCheck
	var headers []string
	for _, name := range slices.Sorted(maps.Keys(h.Headers)) {
		headers = append(headers, name+": "+h.Headers[name])
	}
	age := ""
	if s.Restart.MaxAgeSeconds != 0 {
		age = span(float64(s.Restart.MaxAgeSeconds))
	}
	disconnect := "never"
	if s.StopAfterDisconnectSeconds != 0 {
		disconnect = span(float64(s.StopAfterDisconnectSeconds))
	}
	var labels []string
	for _, name := range slices.Sorted(maps.Keys(s.Placement.Labels)) {
		labels = append(labels, name+"="+s.Placement.Labels[name])
	}
	rows := [][2]string{
		{"service", s.Name}, {"id", s.ID}, {"type", s.Type}, {"state", fmt.Sprintf("%s, %d of %d instances ready", s.State, s.ReadyReplicas, s.DesiredReplicas)},
		{"command", text(s.RunCommand)}, {"port", port}, {"protocol", s.Protocol}, {"response timeout", span(s.ResponseTimeoutSeconds)},
		{"health", h.Type},
	}
	switch h.Type {
	case "http":
		rows = append(rows, [][2]string{{"health path", h.Path}, {"health scheme", h.Scheme}, {"health host", text(h.Host)}, {"health headers", strings.Join(headers, ", ")}}...)
	case "grpc":
		rows = append(rows, [2]string{"health path", h.Path})
	case "exec":
		rows = append(rows, [2]string{"health command", text(h.Command)})
	case "none":
		rows = append(rows, [2]string{"health stable", span(h.StableSeconds)})
	}
	if s.PublicURL != nil {
		rows = append(rows, [2]string{"url", *s.PublicURL})
	}
	return append(rows, [][2]string{
		{"health interval", span(h.IntervalSeconds)}, {"health timeout", span(h.TimeoutSeconds)}, {"health grace", span(h.GracePeriodSeconds)},
		{"health threshold", strconv.Itoa(h.UnhealthyThreshold)},
		{"size", fmt.Sprintf("%d vCPU, %d MB memory, %d MB disk, %d GPU", s.Resources.VCPUs, s.Resources.MemoryMB, s.Resources.DiskMB, s.Resources.GPU)},
		{"egress", egress}, {"regions", strings.Join(s.Regions, ", ")},
		{"labels", strings.Join(labels, ", ")}, {"apart", strconv.FormatBool(s.Placement.Apart)}, {"sticky", strings.TrimSpace(s.Sticky.Mode + " " + s.Sticky.Name)},
		{"stop signal", text(s.StopSignal)}, {"stop grace", span(s.StopGraceSeconds)}, {"restart", s.Restart.Policy}, {"max age", age},
		{"max unavailable", s.Disruption.MaxUnavailable}, {"stop after disconnect", disconnect},
	}...)
}
