package cli

import (
	"context"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

func (a *app) webhooksCommand() *cobra.Command {
	list := a.run(0, 0, func(ctx context.Context, c *client.Client, _ []string) error { return a.webhooks(ctx, c) })
	cmd := &cobra.Command{
		Use: "webhooks", Short: "Send events to receivers of yours", Args: noSuchCommand, RunE: list,
		Long: `Send events, as they happen, to a receiver of yours over HTTPS. Deliveries are
signed after the Standard Webhooks convention: see docs/webhooks.md.`,
	}
	ls := &cobra.Command{Use: "ls", Short: "List webhooks, newest first", RunE: list}
	cmd.AddCommand(ls, a.addWebhookCommand())
	one := func(use, short string, high int, fn func(ctx context.Context, c *client.Client, args []string) error) {
		sub := &cobra.Command{Use: use, Short: short}
		sub.RunE = a.run(high, high, fn)
		cmd.AddCommand(sub)
	}
	one("rm WEBHOOK", "Delete a webhook", 1, func(ctx context.Context, c *client.Client, args []string) error {
		done, err := c.DeleteWebhook(ctx, args[0])
		if err != nil {
			return err
		}
		return a.show(done, func() { a.printf("Deleted %s.\n", done.ID) })
	})
	one("test WEBHOOK", "Send a test event", 1, func(ctx context.Context, c *client.Client, args []string) error {
		sent, err := c.TestWebhook(ctx, args[0])
		if err != nil {
			return err
		}
		return a.show(sent, func() {
			a.printf("Event %s is on its way; see how it went with: miosa webhooks deliveries %s\n", sent.EventID, sent.WebhookID)
		})
	})
	one("deliveries WEBHOOK", "Show how the latest deliveries went", 1, func(ctx context.Context, c *client.Client, args []string) error {
		return a.deliveries(ctx, c, args[0])
	})
	one("redeliver WEBHOOK EVENT", "Send an event again", 2, func(ctx context.Context, c *client.Client, args []string) error {
		sent, err := c.Redeliver(ctx, args[0], args[1])
		if err != nil {
			return err
		}
		return a.show(sent, func() { a.printf("Event %s is on its way.\n", sent.EventID) })
	})
	one("rotate WEBHOOK", "Replace the secret; for 24 hours both sign", 1, func(ctx context.Context, c *client.Client, args []string) error {
		made, err := c.RotateWebhookSecret(ctx, args[0], resource.WebhookRotate{})
		if err != nil {
			return err
		}
		return a.show(made, func() { a.showSecret(made) })
	})
	for verb, enabled := range map[string]bool{"enable": true, "disable": false} {
		short := map[bool]string{true: "Go on where it stood", false: "Send nothing until it is enabled"}[enabled]
		one(verb+" WEBHOOK", short, 1, func(ctx context.Context, c *client.Client, args []string) error {
			hook, err := c.UpdateWebhook(ctx, args[0], resource.WebhookPatch{Enabled: &enabled})
			if err != nil {
				return err
			}
			return a.show(hook, func() { a.printf("%s is %sd.\n", hook.ID, verb) })
		})
	}
	return cmd
}

func (a *app) addWebhookCommand() *cobra.Command {
	in, deployment := resource.WebhookCreate{}, ""
	cmd := &cobra.Command{
		Use: "add URL", Short: "Send events to a URL",
		Example: "  miosa webhooks add https://example.com/events --type rollout,instance.crashed --deployment hello",
	}
	cmd.Flags().StringSliceVar(&in.Types, "type", nil, "only these `BEGINNINGS` of event types, by commas")
	cmd.Flags().StringVar(&deployment, "deployment", "", "only this deployment's events")
	cmd.Flags().StringVar(&in.Description, "description", "", "what it is for")
	cmd.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		in.URL = args[0]
		if deployment != "" {
			dep, err := find(ctx, c, deployment)
			if err != nil {
				return err
			}
			in.DeploymentID = dep.ID
		}
		made, err := c.CreateWebhook(ctx, in)
		if err != nil {
			return err
		}
		return a.show(made, func() { a.showSecret(made) })
	})
	return cmd
}

func (a *app) showSecret(w resource.WebhookSecret) {
	a.printf("%s sends to %s\nIts secret, shown this once: %s\n", w.ID, printable(w.URL), w.Secret)
}

func (a *app) webhooks(ctx context.Context, c *client.Client) error {
	found, err := client.Collect(c.Webhooks(ctx))
	if err != nil {
		return err
	}
	return a.show(found, func() {
		if len(found) == 0 {
			a.printf("No webhooks. Make one with: miosa webhooks add URL\n")
			return
		}
		rows := [][]string{}
		for _, w := range found {
			state := "ok"
			switch {
			case w.DisabledReason != nil:
				state = "disabled: " + *w.DisabledReason
			case !w.Enabled:
				state = "disabled"
			case w.FailingSince != nil:
				state = "failing for " + a.age(*w.FailingSince)
			}
			rows = append(rows, []string{w.ID, strings.Join(w.Types, ","), text(w.DeploymentID), w.URL, state})
		}
		a.table([]string{"WEBHOOK", "TYPES", "DEPLOYMENT", "URL", "STATE"}, rows)
	})
}

func (a *app) deliveries(ctx context.Context, c *client.Client, id string) error {
	found, err := client.Collect(c.Deliveries(ctx, id))
	if err != nil {
		return err
	}
	return a.show(found, func() {
		rows := [][]string{}
		for _, d := range found {
			status, outcome := "", d.State
			if d.Status != nil {
				status = strconv.Itoa(*d.Status)
			}
			if d.NextAttemptAt != nil {
				outcome += ", again " + a.in(*d.NextAttemptAt)
			}
			rows = append(rows, []string{
				a.age(d.LastAttemptAt), d.EventID, d.EventType, strconv.Itoa(d.Attempts), status, strconv.FormatInt(d.LatencyMS, 10) + " ms", outcome, text(d.Error),
			})
		}
		a.table([]string{"AGE", "EVENT", "TYPE", "ATTEMPTS", "STATUS", "LATENCY", "STATE", "ERROR"}, rows)
	})
}
