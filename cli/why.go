package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

func (a *app) whyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "why SUBJECT [VERSION]", Short: "Explain why something is as it is",
		Long: `Explain in words the state of a deployment (by name), a version, a service, a
rollout or an instance (by ID). With VERSION, a number, that version of the
deployment.`,
		Example: "  miosa why hello\n  miosa why hello 4\n  miosa why ri_01m84z7zsvd0053bpgqh026v41",
	}
	cmd.RunE = a.run(1, 2, func(ctx context.Context, c *client.Client, args []string) error {
		subject := args[0]
		if len(args) == 2 || miosa.IDPrefix(subject) == "" {
			dep, err := find(ctx, c, subject)
			if err != nil {
				return err
			}
			subject = dep.ID
			if len(args) == 1 {
				return a.why(ctx, c, subject)
			}
			v, err := version(ctx, c, dep, args[1])
			if err != nil {
				return err
			}
			subject = v.ID
		}
		return a.why(ctx, c, subject)
	})
	return cmd
}

func (a *app) why(ctx context.Context, c *client.Client, subject string) error {
	e, err := c.Explain(ctx, subject)
	if err != nil {
		return err
	}
	return a.show(e, func() { a.explain(e) })
}

func (a *app) explain(e resource.Explanation) {
	a.printf("%s\n", printable(e.Summary))
	for _, r := range e.Reasons {
		a.printf("  • %s\n", printable(r))
	}
	if e.NextStep != "" {
		a.printf("%s\n", printable(e.NextStep))
	}
	if len(e.LogLines) > 0 {
		a.printf("\nIts last lines:\n")
		for _, line := range e.LogLines {
			a.printf("  | %s\n", printable(line))
		}
	}
	if len(e.Events) > 0 {
		a.printf("\nWhat happened:\n")
		for _, ev := range e.Events {
			a.printf("  %s  %s\n", ev.CreatedAt.Local().Format("15:04:05"), printable(told(ev)))
		}
	}
}
