package cli

import (
	"context"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

func (a *app) logLimitCommand() *cobra.Command {
	service, environment, burst := "", "", 0
	cmd := &cobra.Command{
		Use: "log-limit DEPLOYMENT [LINES|unlimited|default]", Short: "Show or set how many log lines a second an instance may write",
		Long: `Show or set how many log lines a second each instance of a service may write.
What is over it is dropped, with a line in its place that counts it. A change
applies to running instances at once, without a restart.

Bytes are limited with it: 256 for each line a second (1,280,000 at least), and
in a day an hour of that. What a day has left comes back bit by bit, so that an
instance that wrote too much is slowed down, not silent.`,
		Example: "  miosa log-limit shop\n  miosa log-limit shop 20000 --burst 100000\n  miosa log-limit shop default",
	}
	cmd.Flags().StringVar(&service, "service", "", "service (default: the one that requests go to)")
	cmd.Flags().StringVar(&environment, "environment", "production", "environment")
	cmd.Flags().IntVar(&burst, "burst", 0, "lines at once, after a silence (default: four seconds' worth)")
	cmd.RunE = a.run(1, 2, func(ctx context.Context, c *client.Client, args []string) error {
		var in resource.LogLimitPatch
		number := func(n int) resource.Nullable[int] { return resource.Nullable[int]{Set: true, Null: n == 0, Value: n} }
		in.Burst = number(burst)
		switch {
		case len(args) == 1 && cmd.Flags().Changed("burst"):
			return usagef("--burst goes with a number of lines a second")
		case len(args) == 1:
		case args[1] == "unlimited" || args[1] == "default":
			if burst != 0 {
				return usagef("--burst goes with a number of lines a second")
			}
			in.Unlimited = new(args[1] == "unlimited")
			in.LinesPerSecond = number(0)
		default:
			n, err := strconv.Atoi(args[1])
			if err != nil || n < 1 {
				return usagef("%q is no number of lines a second: write one, or unlimited, or default", args[1])
			}
			in.LinesPerSecond = number(n)
		}
		dep, err := find(ctx, c, args[0])
		if err != nil {
			return err
		}
		s, err := serviceOf(ctx, c, dep, environment, service)
		if err != nil {
			return err
		}
		if len(args) == 2 {
			if s, err = c.UpdateService(ctx, s.ID, resource.ServicePatch{Logs: &in}); err != nil {
				return err
			}
		}
		return a.show(s, func() { a.printf("Each instance of %s of %s may write %s.\n", s.Name, dep.Slug, limitWords(s.Logs)) })
	})
	return cmd
}

func limitWords(l resource.LogLimit) string {
	out := "as many log lines as the platform allows by default (5000 a second, unless the operator says otherwise)"
	switch {
	case l.Unlimited:
		return "any number of log lines"
	case l.LinesPerSecond != nil:
		out = fmt.Sprintf("%d log lines a second", *l.LinesPerSecond)
	}
	if l.Burst != nil {
		out += fmt.Sprintf(", and %d at once", *l.Burst)
	}
	return out
}

// serviceOf finds a deployment's service by name or ID; "" is the one that
// requests go to, or the first where all are workers.
func serviceOf(ctx context.Context, c *client.Client, dep resource.Deployment, environment, name string) (resource.Service, error) {
	services, err := client.Collect(c.Services(ctx, dep.ID, client.Query("environment", environment)))
	if err != nil {
		return resource.Service{}, err
	}
	if len(services) == 0 {
		return resource.Service{}, fmt.Errorf("nothing was published to %s of %s yet", environment, dep.Slug)
	}
	if s, ok := serviceNamed(services, name); ok {
		return s, nil
	}
	if name != "" {
		return resource.Service{}, &client.Error{Status: 404, Code: "service_not_found", Message: fmt.Sprintf("%s of %s has no service %q", environment, dep.Slug, name)}
	}
	return services[0], nil
}

// serviceNamed finds a service by name or ID; "" is the one that requests go
// to. Of several that have a name, the live one is meant.
func serviceNamed(services []resource.Service, name string) (found resource.Service, ok bool) {
	for _, s := range services {
		is := name == "" && s.Routed || name != "" && (s.Name == name || s.ID == name)
		if is && (!ok || found.VersionID == nil) {
			found, ok = s, true
		}
	}
	return found, ok
}
