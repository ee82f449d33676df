package cli

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/text/unicode/norm"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

const drainsLong = `Forward log lines, as they come, to a receiver of yours:

  https://HOST/PATH       a POST of newline-delimited JSON, gzip
  https://HOST/v1/logs    OpenTelemetry: OTLP/HTTP logs in protobuf, gzip
  syslog+tls://HOST:6514  RFC 5424 over TLS

Every line is delivered at least once, each instance's in their order. While the
receiver is away, or refuses the credentials, lines are kept and tried again with
growing pauses, for as long as the plan keeps logs. Lines that it refuses for
good (a status of 400, say) are dropped and counted. Each line has an id, and
each batch over HTTP an Idempotency-Key, by which a receiver knows what it has.

DRAIN is a drain's name or ID.`

func (a *app) drainsCommand() *cobra.Command {
	list := a.run(0, 0, func(ctx context.Context, c *client.Client, _ []string) error { return a.listDrains(ctx, c) })
	cmd := &cobra.Command{Use: "drains", Short: "Forward logs to receivers of yours", Long: drainsLong, Args: noSuchCommand, RunE: list}
	ls := &cobra.Command{Use: "ls", Short: "List log drains, and how their delivery goes", RunE: list}
	show := &cobra.Command{Use: "show DRAIN", Short: "Show a log drain, and what is wrong with it"}
	show.RunE = a.drain(func(_ context.Context, _ *client.Client, d resource.LogDrain) error {
		return a.show(d, func() { a.showDrain(d) })
	})
	rm := &cobra.Command{Use: "rm DRAIN", Short: "Delete a log drain: nothing more is forwarded"}
	rm.RunE = a.drain(func(ctx context.Context, c *client.Client, d resource.LogDrain) error {
		gone, err := c.DeleteLogDrain(ctx, d.ID)
		if err != nil {
			return err
		}
		return a.show(gone, func() { a.printf("%s is deleted.\n", printable(d.Name)) })
	})
	pause := &cobra.Command{Use: "pause DRAIN", Short: "Forward nothing until it is resumed"}
	pause.RunE = a.drain(func(ctx context.Context, c *client.Client, d resource.LogDrain) error {
		return a.pauseDrain(ctx, c, d, true, "%s is paused. What comes now is delivered after: miosa drains resume %s\n")
	})
	resume := &cobra.Command{Use: "resume DRAIN", Short: "Forward again, from where it was paused"}
	resume.RunE = a.drain(func(ctx context.Context, c *client.Client, d resource.LogDrain) error {
		return a.pauseDrain(ctx, c, d, false, "%s goes on where it was paused, as far as lines are still kept. See: miosa drains show %s\n")
	})
	test := &cobra.Command{Use: "test DRAIN", Short: "Send one marked test line, and say what the receiver answers"}
	test.RunE = a.drain(a.testDrain)
	cmd.AddCommand(ls, a.addDrainCommand(), show, test, pause, resume, rm)
	return cmd
}

// drain wraps a command about one drain.
func (a *app) drain(fn func(ctx context.Context, c *client.Client, d resource.LogDrain) error) func(*cobra.Command, []string) error {
	return a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		d, err := findDrain(ctx, c, args[0])
		if err != nil {
			return err
		}
		return fn(ctx, c, d)
	})
}

// findDrain takes an ID or a name; a name must be one drain's alone.
func findDrain(ctx context.Context, c *client.Client, name string) (resource.LogDrain, error) {
	if strings.HasPrefix(name, "ldr_") {
		return c.LogDrain(ctx, name)
	}
	var found []resource.LogDrain
	for d, err := range c.LogDrains(ctx) {
		if err != nil {
			return d, err
		}
		if norm.NFC.String(d.Name) == norm.NFC.String(name) {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		return resource.LogDrain{}, &client.Error{Status: 404, Code: "log_drain_not_found", Message: fmt.Sprintf("no log drain %q; see: miosa drains", name)}
	case 1:
		return found[0], nil
	}
	return resource.LogDrain{}, usagef("%d log drains are called %q: name one by its ID (miosa drains ls --json)", len(found), name)
}

func (a *app) addDrainCommand() *cobra.Command {
	in := resource.LogDrainCreate{}
	var headers []string
	var ca string
	var token bool
	cmd := &cobra.Command{
		Use: "add URL", Short: "Add a log drain: it forwards what is written from now on",
		Long: `Add a log drain. It forwards what is written from now on; then try it with
"miosa drains test".

The URL is shown in lists, but for the values of its query. Credentials go into
--header or --token, which are stored sealed and never shown; a single --header
NAME without a value, and --token, are read from standard input, which keeps
them out of the shell's history and the list of processes.`,
		Example: `  miosa drains add https://logs.example/ingest --header X-Api-Key < key.txt
  miosa drains add https://otel.example/v1/logs --token < token.txt --deployment shop
  miosa drains add syslog+tls://logs.example:6514 --ca ca.pem --stream stderr`,
	}
	fl := cmd.Flags()
	fl.StringVar(&in.Type, "type", "", "https, syslog or otlp (default: by the URL)")
	fl.StringVar(&in.Name, "name", "", "name to call it by (default: the receiver's host)")
	fl.StringVar(&in.DeploymentID, "deployment", "", "only lines of this `DEPLOYMENT`")
	fl.StringVar(&in.ServiceID, "service", "", "only lines of this service: its ID, or with --deployment its name")
	fl.StringVar(&in.Stream, "stream", "", "only stdout, stderr or system")
	fl.StringVar(&in.Q, "grep", "", "only lines that hold this, as in: miosa logs --grep")
	fl.StringArrayVar(&headers, "header", nil, "header of each request, `NAME=VALUE`; may be repeated")
	fl.BoolVar(&token, "token", false, "read a token from standard input: Authorization: Bearer, or for syslog an element of the structured data")
	fl.StringVar(&ca, "ca", "", "`FILE` with the certificate (PEM) that the receiver's is signed by")
	fl.StringVar(&in.ExternalWorkspaceID, "workspace", "", "only lines of this external_workspace_id")
	fl.BoolVar(&in.Paused, "paused", false, "forward nothing until it is resumed")
	cmd.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		in.URL = args[0]
		if err := a.drainSecrets(ctx, &in, headers, token); err != nil {
			return err
		}
		if ca != "" {
			raw, err := os.ReadFile(ca)
			if err != nil {
				return fmt.Errorf("read the certificate: %w", err)
			}
			in.CACertificate = string(raw)
		}
		if err := narrowDrain(ctx, c, &in); err != nil {
			return err
		}
		d, err := c.CreateLogDrain(ctx, in)
		if err != nil {
			return err
		}
		return a.show(d, func() {
			a.printf("%s forwards to %s (%s).\nTry it: miosa drains test %s\n", printable(d.Name), printable(d.URL), d.Type, printable(d.Name))
		})
	})
	return cmd
}

// drainSecrets reads headers and token, at most one of them from standard input.
func (a *app) drainSecrets(ctx context.Context, in *resource.LogDrainCreate, headers []string, token bool) error {
	waiting := ""
	if token {
		waiting = "--token"
	}
	in.Headers = map[string]string{}
	for _, h := range headers {
		name, value, ok := strings.Cut(h, "=")
		if !ok {
			if waiting != "" {
				return usagef("%s and --header %s both wait for standard input: only one can be read from it", waiting, name)
			}
			waiting = "--header " + name
		}
		in.Headers[name] = value
	}
	if waiting == "" {
		return nil
	}
	value, err := a.secret(ctx, "Value of "+waiting)
	if err != nil {
		return fmt.Errorf("read %s: %w", waiting, err)
	}
	value = strings.TrimRight(value, "\r\n")
	if value == "" {
		return usagef("%s is read from standard input, and nothing came", waiting)
	}
	if token {
		in.Token = value
		return nil
	}
	in.Headers[strings.TrimPrefix(waiting, "--header ")] = value
	return nil
}

// narrowDrain turns names into IDs.
func narrowDrain(ctx context.Context, c *client.Client, in *resource.LogDrainCreate) error {
	if in.DeploymentID != "" {
		dep, err := find(ctx, c, in.DeploymentID)
		if err != nil {
			return err
		}
		in.DeploymentID = dep.ID
	}
	if in.ServiceID == "" || strings.HasPrefix(in.ServiceID, "svc_") {
		return nil
	}
	if in.DeploymentID == "" {
		return usagef("--service %q is a name: say with --deployment of which deployment", in.ServiceID)
	}
	// One that has left may have lines still to come, and be live again.
	services, err := client.Collect(c.Services(ctx, in.DeploymentID, client.Query("all", "true")))
	if err != nil {
		return err
	}
	if s, ok := serviceNamed(services, in.ServiceID); ok {
		in.ServiceID = s.ID
		return nil
	}
	return &client.Error{Status: 404, Code: "service_not_found", Message: fmt.Sprintf("the deployment has no service %q", in.ServiceID)}
}

func (a *app) pauseDrain(ctx context.Context, c *client.Client, d resource.LogDrain, paused bool, words string) error {
	d, err := c.UpdateLogDrain(ctx, d.ID, resource.LogDrainPatch{Paused: &paused})
	if err != nil {
		return err
	}
	return a.show(d, func() { a.printf(words, printable(d.Name), printable(d.Name)) })
}

func (a *app) testDrain(ctx context.Context, c *client.Client, d resource.LogDrain) error {
	said, err := c.TestLogDrain(ctx, d.ID)
	if err != nil {
		return err
	}
	if a.json {
		if err := a.show(said, nil); err != nil {
			return err
		}
		if !said.Delivered {
			return fmt.Errorf("the test line was not delivered")
		}
		return nil
	}
	if !said.Delivered {
		return fmt.Errorf("the test line was not delivered: %s", printable(said.Message))
	}
	a.printf("Delivered in %d ms: %s.\n", said.DurationMS, printable(said.Message))
	return nil
}

func (a *app) listDrains(ctx context.Context, c *client.Client) error {
	drains, err := client.Collect(c.LogDrains(ctx))
	if err != nil {
		return err
	}
	return a.show(drains, func() {
		if len(drains) == 0 {
			a.printf("No log drains. Add one with: miosa drains add URL\n")
			return
		}
		rows := [][]string{}
		for _, d := range drains {
			last := ""
			if d.LastDeliveredAt != nil {
				last = a.age(*d.LastDeliveredAt)
			}
			rows = append(rows, []string{d.Name, d.Type, d.State, fmt.Sprint(d.DeliveredLines), fmt.Sprint(d.DroppedLines), last, d.URL})
		}
		a.table([]string{"NAME", "TYPE", "STATE", "DELIVERED", "DROPPED", "LAST", "URL"}, rows)
	})
}

func (a *app) showDrain(d resource.LogDrain) {
	line := func(name, value string) {
		if value != "" {
			a.printf("%-11s %s\n", name, printable(value))
		}
	}
	line("name", d.Name)
	line("id", d.ID)
	line("url", d.URL+" ("+d.Type+")")
	var only []string
	for _, p := range []struct {
		name  string
		value *string
	}{{"deployment", d.DeploymentID}, {"service", d.ServiceID}, {"stream", d.Stream}, {"workspace", d.ExternalWorkspaceID}, {"lines with", d.Q}} {
		if p.value != nil {
			only = append(only, p.name+" "+*p.value)
		}
	}
	line("only", strings.Join(only, ", "))
	line("state", d.State)
	if d.LastError != nil {
		line("error", *d.LastError)
	}
	if d.NextAttemptAt != nil {
		line("next try", a.in(*d.NextAttemptAt))
	}
	delivered := plural(int(d.DeliveredLines), "line")
	if d.LastDeliveredAt != nil {
		delivered += ", the last " + a.age(*d.LastDeliveredAt) + " ago"
	}
	line("delivered", delivered)
	line("dropped", plural(int(d.DroppedLines), "line"))
	if d.LagSeconds > 0 {
		line("behind", fmt.Sprintf("about %ds", d.LagSeconds))
	}
	if d.GapSince != nil && d.GapUntil != nil {
		line("gap", fmt.Sprintf("lines between %s and %s may be missing", d.GapSince.Format("2006-01-02 15:04:05"), d.GapUntil.Format("2006-01-02 15:04:05")))
	}
}
