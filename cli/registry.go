package cli

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

const registryLong = `Log in to the registries that "miosa publish --image" pulls from. The platform
pulls, not this machine: what "docker login" keeps here is not used.

HOST is the registry's, with its port if it has one; docker.io is Docker Hub.`

func (a *app) registryCommand() *cobra.Command {
	list := a.run(0, 0, func(ctx context.Context, c *client.Client, _ []string) error { return a.registries(ctx, c) })
	cmd := &cobra.Command{Use: "registry", Aliases: []string{"registries"}, Short: "Log in to registries that images are pulled from", Long: registryLong, Args: noSuchCommand, RunE: list}
	ls := &cobra.Command{Use: "ls", Aliases: []string{"list"}, Short: "List the registries and users, never secrets", RunE: list}
	logout := &cobra.Command{Use: "logout HOST", Short: "Forget a login"}
	logout.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		done, err := c.DeleteRegistry(ctx, args[0])
		if client.Status(err) == 404 {
			return &client.Error{Status: 404, Code: "registry_not_found", Message: fmt.Sprintf("no login to %s; see: miosa registry ls", args[0])}
		}
		if err != nil {
			return err
		}
		return a.show(done, func() { a.printf("Logged out of %s.\n", printable(args[0])) })
	})
	cmd.AddCommand(a.registryLoginCommand(), ls, logout)
	return cmd
}

func (a *app) registryLoginCommand() *cobra.Command {
	in := resource.RegistrySet{}
	fromStdin, ca := false, ""
	cmd := &cobra.Command{
		Use: "login HOST --username USER", Short: "Log in to a registry, in place of a former login",
		Long: `Log in to a registry. The password, or a token, is read from standard input,
which keeps it out of the shell's history and the list of processes; at a
terminal it is asked for, and not shown. It is stored sealed. Whether the
registry takes it is seen at the first pull.

With --ca alone nobody is logged in, but the registry is trusted.`,
		Example: `  miosa registry login registry.example --username ann
  miosa registry login ghcr.io --username ann --password-stdin < token.txt
  miosa registry login registry.internal:5000 --username ann --ca ca.pem`,
	}
	fl := cmd.Flags()
	fl.StringVarP(&in.Username, "username", "u", "", "user of the registry (at a terminal: asked for)")
	fl.BoolVar(&fromStdin, "password-stdin", false, "read the password from standard input, whatever that is")
	fl.StringVar(&ca, "ca", "", "`FILE` of certificates (PEM) that the registry is trusted by besides the system's")
	cmd.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		in.Host = args[0]
		if ca != "" {
			raw, err := os.ReadFile(ca)
			if err != nil {
				return err
			}
			in.CACertificate = string(raw)
		}
		if in.Username == "" && !fromStdin && ca == "" {
			var err error
			if in.Username, err = a.asked(ctx, "Username"); err != nil {
				return err
			}
		}
		if in.Username == "" && (fromStdin || ca == "") {
			return usagef("--username is needed: the user of %s\nSee: %s --help", in.Host, cmd.CommandPath())
		}
		if in.Username != "" {
			var err error
			if fromStdin {
				var raw []byte
				raw, err = a.stdin(ctx)
				in.Password = strings.TrimRight(string(raw), "\r\n")
			} else {
				in.Password, err = a.secret(ctx, "Password of "+in.Username)
			}
			if err != nil {
				return fmt.Errorf("read the password: %w", err)
			}
			if in.Password == "" {
				return usagef("the password is empty")
			}
		}
		made, err := c.SetRegistry(ctx, in)
		if err != nil {
			return err
		}
		return a.show(made, func() {
			if made.Username == nil {
				a.printf("%s is trusted by that certificate.\n", made.Host)
				return
			}
			a.printf("Images from %s are pulled as %s.\n", made.Host, printable(*made.Username))
		})
	})
	return cmd
}

// asked is a line that is typed at a terminal; "" where there is none.
func (a *app) asked(ctx context.Context, what string) (string, error) {
	f, ok := a.cfg.Stdin.(*os.File)
	if !ok || !isTerminal(f) {
		return "", nil
	}
	fmt.Fprintf(a.cfg.Stderr, "%s: ", what)
	line, err := typed(ctx, func() (string, error) { return bufio.NewReader(f).ReadString('\n') })
	return strings.TrimSpace(line), err
}

func (a *app) registries(ctx context.Context, c *client.Client) error {
	found, err := client.Collect(c.Registries(ctx))
	if err != nil {
		return err
	}
	return a.show(found, func() {
		if len(found) == 0 {
			a.printf("No logins: images are pulled as nobody. Log in with: miosa registry login HOST\n")
			return
		}
		rows := [][]string{}
		for _, r := range found {
			trust := "system"
			if r.HasCACertificate {
				trust = "system, own CA"
			}
			rows = append(rows, []string{r.Host, text(r.Username), trust, text(r.ExternalWorkspaceID), a.age(r.UpdatedAt)})
		}
		a.table([]string{"REGISTRY", "USER", "TRUSTED BY", "WORKSPACE", "AGE"}, rows)
	})
}
