package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

func (a *app) versionsCommand() *cobra.Command {
	limit := 0
	cmd := &cobra.Command{Use: "versions DEPLOYMENT", Short: "List a deployment's versions, newest first"}
	cmd.Flags().IntVarP(&limit, "limit", "n", 20, "how many")
	cmd.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		if limit < 1 {
			return usagef("--limit must be at least 1")
		}
		dep, err := find(ctx, c, args[0])
		if err != nil {
			return err
		}
		live := map[string]string{}
		environments := map[string]string{}
		for e, err := range c.Environments(ctx, dep.ID) {
			if err != nil {
				return err
			}
			environments[e.ID] = e.Name
			if e.ActiveVersionID != nil {
				live[*e.ActiveVersionID] = e.Name
			}
		}
		found := []resource.Version{}
		for v, err := range c.Versions(ctx, dep.ID) {
			if err != nil {
				return err
			}
			if len(found) == limit {
				break
			}
			found = append(found, v)
		}
		return a.show(found, func() {
			if len(found) == 0 {
				a.printf("Nothing was published yet.\n")
				return
			}
			rows := [][]string{}
			for _, v := range found {
				state := v.State
				if live[v.ID] != "" {
					state = "live"
				}
				rows = append(rows, []string{
					strconv.Itoa(v.VersionNumber), state, environments[v.EnvironmentID], a.age(v.CreatedAt), short(text(v.ReleaseID)), v.ID, text(v.ErrorMessage),
				})
			}
			a.table([]string{"VERSION", "STATE", "ENVIRONMENT", "AGE", "RELEASE", "ID", "NOTE"}, rows)
		})
	})
	return cmd
}

// version finds a version by number ("4", "v4") or ID.
func version(ctx context.Context, c *client.Client, dep resource.Deployment, ref string) (resource.Version, error) {
	if strings.HasPrefix(ref, "ver_") {
		return c.Version(ctx, dep.ID, ref)
	}
	n, err := strconv.Atoi(strings.TrimPrefix(ref, "v"))
	if err != nil {
		return resource.Version{}, usagef("%q is no version: give its number, or its ID (ver_…)", ref)
	}
	for v, err := range c.Versions(ctx, dep.ID) {
		if err != nil {
			return v, err
		}
		if v.VersionNumber == n {
			return v, nil
		}
	}
	return resource.Version{}, &client.Error{Status: 404, Code: "version_not_found", Message: fmt.Sprintf("%s has no version %d; see: miosa versions %s", dep.Slug, n, dep.Slug)}
}

func (a *app) rollbackCommand() *cobra.Command {
	environment, wait := "", true
	cmd := &cobra.Command{
		Use: "rollback DEPLOYMENT [VERSION]", Short: "Make an earlier version live again",
		Long: `Make an earlier version live again: VERSION, or the one that was live before. A
publish that goes on is cancelled; if it has not gone live yet, what is live stays,
which is nothing where it is the first.`,
	}
	cmd.Flags().StringVar(&environment, "environment", "production", "environment")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait for the end")
	cmd.RunE = a.run(1, 2, func(ctx context.Context, c *client.Client, args []string) error {
		dep, err := find(ctx, c, args[0])
		if err != nil {
			return err
		}
		in := resource.Rollback{Environment: environment}
		if len(args) == 2 {
			v, err := version(ctx, c, dep, args[1])
			if err != nil {
				return err
			}
			in.VersionID = v.ID
		}
		return a.move(ctx, c, "rollback", wait, func(o ...client.Option) (resource.Promoted, error) { return c.Rollback(ctx, dep.ID, in, o...) })
	})
	return cmd
}

func (a *app) promoteCommand() *cobra.Command {
	environment, wait := "", true
	cmd := &cobra.Command{
		Use: "promote DEPLOYMENT VERSION", Short: "Make a version live",
		Example: "  miosa promote hello 4\n  miosa promote hello 7 --environment production    # a version made for staging",
	}
	cmd.Flags().StringVar(&environment, "environment", "", "environment (default: the version's own)")
	cmd.Flags().BoolVar(&wait, "wait", true, "wait for the end")
	cmd.RunE = a.run(2, 2, func(ctx context.Context, c *client.Client, args []string) error {
		dep, err := find(ctx, c, args[0])
		if err != nil {
			return err
		}
		v, err := version(ctx, c, dep, args[1])
		if err != nil {
			return err
		}
		in := resource.Promote{Environment: environment}
		return a.move(ctx, c, "promote", wait, func(o ...client.Option) (resource.Promoted, error) { return c.Promote(ctx, dep.ID, v.ID, in, o...) })
	})
	return cmd
}

// move is a rollback or promote.
func (a *app) move(ctx context.Context, c *client.Client, kind string, wait bool, begin func(...client.Option) (resource.Promoted, error)) error {
	var options []client.Option
	if !wait || !a.json {
		options = append(options, client.Async())
	}
	out, err := begin(options...)
	if err != nil {
		return err
	}
	switch {
	case a.json:
		return a.show(out, nil)
	case out.Rollout == nil:
		a.printf("That version of %s is live already.\n", out.Slug)
		return nil
	case out.Rollout.Kind != kind: // another one, which it called off
		return a.calledOff(ctx, c, out, wait)
	case !wait:
		a.printf("The %s of %s has begun. Follow it with: miosa events %s -f\n", out.Rollout.Kind, out.Slug, out.Slug)
		return nil
	}
	return a.end(ctx, c, out.Deployment, *out.Rollout)
}

// calledOff is the end of a rollback to nothing: the first publish is cancelled.
func (a *app) calledOff(ctx context.Context, c *client.Client, out resource.Promoted, wait bool) error {
	r := *out.Rollout
	for wait && r.Live() && r.Step != "draining" {
		var err error
		if r, err = c.Rollout(ctx, r.ID, client.Wait()); err != nil {
			return err
		}
	}
	switch r.Step {
	case "draining", "done":
		return &outcomeError{fmt.Sprintf("the %s of %s went live in this moment, and nothing was live before", r.Kind, out.Slug)}
	case "cancelled", "failed":
		a.printf("The %s of %s is cancelled. Nothing is live, as before.\n", r.Kind, out.Slug)
	default:
		a.printf("The %s of %s is being cancelled. Nothing is live, as before.\n", r.Kind, out.Slug)
	}
	return nil
}
