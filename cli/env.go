package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

// maxStdin bounds a value read from standard input.
const maxStdin = 1 << 20

func (a *app) envCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "env", Short: "Set, list and remove environment variables",
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	environment := ""
	cmd.PersistentFlags().StringVar(&environment, "environment", "production", "environment")

	secret := false
	set := &cobra.Command{
		Use: "set DEPLOYMENT KEY=VALUE…", Short: "Set variables; they take effect at the next publish or restart",
		Long: `Set variables of an environment. They take effect at the next publish or restart.
A single KEY without a value is read from standard input, which keeps it out of
the shell's history and the list of processes; at a terminal it is asked for, and
not shown. A variable that is secret stays so until it is removed.`,
		Example: "  miosa env set hello LOG_LEVEL=debug\n  miosa env set hello API_TOKEN --secret < token.txt\n  miosa env set hello API_TOKEN --secret",
	}
	set.Flags().BoolVar(&secret, "secret", false, "show nothing of the values in lists")
	set.RunE = a.run(2, -1, func(ctx context.Context, c *client.Client, args []string) error {
		values, err := a.values(ctx, args[1:])
		if err != nil {
			return err
		}
		return a.merge(ctx, c, args[0], resource.VarsMerge{Env: values, Environment: environment, IsSecret: secret}, "Set")
	})
	ls := &cobra.Command{Use: "ls DEPLOYMENT", Short: "List variables: previews, never values"}
	ls.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		dep, err := find(ctx, c, args[0])
		if err != nil {
			return err
		}
		vars, err := client.Collect(c.Vars(ctx, dep.ID, environment))
		if err != nil {
			return err
		}
		return a.show(vars, func() { a.showVars(dep, environment, vars) })
	})
	rm := &cobra.Command{Use: "rm DEPLOYMENT KEY…", Short: "Remove variables"}
	rm.RunE = a.run(2, -1, func(ctx context.Context, c *client.Client, args []string) error {
		dep, err := find(ctx, c, args[0])
		if err != nil {
			return err
		}
		vars, err := client.Collect(c.Vars(ctx, dep.ID, environment))
		if err != nil {
			return err
		}
		known := map[string]bool{}
		for _, v := range vars {
			known[v.Key] = true
		}
		values := map[string]*string{}
		for _, key := range args[1:] {
			if !known[key] {
				return &client.Error{Status: 404, Code: "variable_not_found", Message: fmt.Sprintf("%s of %s has no variable %s", environment, dep.Slug, key)}
			}
			values[key] = nil
		}
		return a.merge(ctx, c, dep.ID, resource.VarsMerge{Env: values, Environment: environment}, "Removed")
	})
	cmd.AddCommand(set, ls, rm)
	return cmd
}

func (a *app) values(ctx context.Context, pairs []string) (map[string]*string, error) {
	values := map[string]*string{}
	for _, pair := range pairs {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			if len(pairs) > 1 {
				return nil, usagef("%q has no value: write KEY=VALUE; only a single KEY is read from standard input", pair)
			}
			var err error
			if value, err = a.secret(ctx, "Value of "+key); err != nil {
				return nil, fmt.Errorf("read value of %s: %w", key, err)
			}
		}
		if key == "" {
			return nil, usagef("%q names no variable: write KEY=VALUE", pair)
		}
		values[key] = &value
	}
	return values, nil
}

func (a *app) merge(ctx context.Context, c *client.Client, name string, in resource.VarsMerge, verb string) error {
	dep, err := find(ctx, c, name)
	if missing, ok := errors.AsType[*client.Error](err); ok && missing.Status == http.StatusNotFound && miosa.IDPrefix(name) != miosa.PrefixDeployment {
		missing.Message += "; to make it before its first publish: miosa deployments create " + name
	}
	if err != nil {
		return err
	}
	vars, err := c.SetVars(ctx, dep.ID, in)
	if err != nil {
		return err
	}
	return a.show(vars, func() {
		a.printf("%s %s in %s of %s.\n", verb, plural(len(in.Env), "variable"), in.Environment, dep.Slug)
		if dep.ActiveVersionID != nil {
			a.printf("It takes effect at the next publish, or with: miosa restart %s\n", dep.Slug)
		}
	})
}

func (a *app) showVars(dep resource.Deployment, environment string, vars []resource.Var) {
	if len(vars) == 0 {
		a.printf("%s of %s has no variables.\n", environment, dep.Slug)
		return
	}
	rows := [][]string{}
	for _, v := range vars {
		kind := "plain"
		if v.IsSecret {
			kind = "secret"
		}
		rows = append(rows, []string{v.Key, v.Preview, kind, a.age(v.UpdatedAt)})
	}
	a.table([]string{"KEY", "PREVIEW", "KIND", "CHANGED"}, rows)
}
