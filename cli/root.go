// Package cli is the commands that talk to a platform: publish, ps, scale and
// the rest. They stand on the public API alone, through the client package.
package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/client"
)

// Config is what the commands have of the world.
type Config struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string // nil: os.Getenv
	Version        string
	Now            func() time.Time       // nil: time.Now; for ages
	Terminal       func(w io.Writer) bool // nil: asks the system
}

// The exit codes, as --help has them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitNotLive     = 4
	exitNoPlatform  = 5
	exitInterrupted = 130
)

const long = `Publish packaged apps into microVMs and run them.

Start a platform on this machine with "miosa up"; the other commands find the
last one that this user started, or the one named by --context or MIOSA_CONTEXT.

Exit codes:
  0    done
  1    failed, or its output could not be written; the message says why; of
       "miosa plan": it would not be well
  2    the command line is wrong, or a value in it
  3    there is no such thing
  4    the publish, promote, rollback or restart did not go live; what was
       live before goes on serving
  5    no platform answers
  130  interrupted`

// app is one run of a command.
type app struct {
	cfg     Config
	context string // --context
	json    bool   // --json
	out     *output
}

// New makes the root command; the caller adds its own and has Run execute it.
func New(cfg Config) *cobra.Command {
	if cfg.Getenv == nil {
		cfg.Getenv = os.Getenv
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Terminal == nil {
		cfg.Terminal = isTerminal
	}
	out := &output{to: cfg.Stdout}
	cfg.Stdout = out
	a := &app{cfg: cfg, out: out}
	root := &cobra.Command{
		Use: "miosa", Short: "Publish packaged apps into microVMs and run them", Long: long, Version: cfg.Version,
		SilenceErrors: true, SilenceUsage: true,
	}
	root.SetIn(cfg.Stdin)
	root.SetOut(cfg.Stdout)
	root.SetErr(cfg.Stderr)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{fmt.Sprintf("%v\nSee: %s --help", err, cmd.CommandPath())}
	})
	root.PersistentFlags().StringVar(&a.context, "context", "", "context `FILE` of the platform (default: MIOSA_CONTEXT, or the last \"miosa up\" of this user)")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print JSON")
	root.AddCommand(
		a.publishCommand(), a.initCommand(), a.schemaCommand(), a.psCommand(), a.scaleCommand(), a.planCommand(), a.servicesCommand(), a.restartCommand(), a.versionsCommand(), a.rollbackCommand(), a.promoteCommand(),
		a.envCommand(), a.eventsCommand(), a.logsCommand(), a.logLimitCommand(), a.drainsCommand(), a.topCommand(), a.whyCommand(), a.execCommand(), a.shellCommand(), a.cpCommand(), a.usageCommand(), a.removeCommand(), a.deploymentsCommand(), a.instancesCommand(), a.webhooksCommand(), a.registryCommand(), a.hostsCommand(),
	)
	return root
}

// usageError is a wrong command line.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Sprintf(format, args...)}
}

// outcomeError is a version that did not go live. Its words may have been
// printed with the progress.
type outcomeError struct{ message string }

func (e *outcomeError) Error() string { return e.message }

// platformError is a platform that does not answer.
type platformError struct{ message string }

func (e *platformError) Error() string { return e.message }

// Run executes the command line, says on standard error what went wrong, and
// returns the code to exit with. root is New's, with the caller's commands.
func Run(ctx context.Context, root *cobra.Command) int {
	strict(root)
	err := root.ExecuteContext(ctx)
	if out, ok := root.OutOrStdout().(*output); ok {
		_, unwritten := errors.AsType[*outputError](err)
		switch failed := out.failed(); {
		case failed == nil, err != nil && !unwritten: // it has a reason of its own
		case failed.left():
			err = nil
		default:
			err = failed
		}
	}
	if err != nil && err.Error() != "" && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(root.ErrOrStderr(), "miosa: "+err.Error())
	}
	return ExitCode(err)
}

// strict has every command refuse what it does not know: cobra shows its help
// instead, and calls that a success.
func strict(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	var walk func(cmd *cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, sub := range cmd.Commands() {
			walk(sub)
			switch {
			case cmd == root && sub.Name() == "help":
				sub.Run, sub.RunE = nil, help
			case !sub.Runnable():
				sub.Args, sub.RunE = noSuchCommand, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			}
		}
	}
	walk(root)
}

// help shows that of the command which is named.
func help(cmd *cobra.Command, args []string) error {
	found, rest, err := cmd.Root().Find(args)
	if err != nil || len(rest) > 0 {
		return usagef("unknown command %q\nSee: %s --help", strings.Join(args, " "), cmd.Root().CommandPath())
	}
	found.InitDefaultHelpFlag()
	found.InitDefaultVersionFlag()
	return found.Help()
}

// ExitCode is the code with which the process should end for an error that a
// command returned, 0 for nil.
func ExitCode(err error) int {
	if ran, ok := errors.AsType[*codeError](err); ok {
		return ran.code
	}
	var (
		usage    *usageError
		outcome  *outcomeError
		platform *platformError
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage), miosa.CodeOf(err) == miosa.Invalid, client.Code(err) == "validation_failed", strings.HasPrefix(err.Error(), "unknown command "):
		return exitUsage
	case errors.As(err, &outcome), strings.HasPrefix(client.Code(err), "rollout_") && client.Code(err) != "rollout_in_progress":
		return exitNotLive
	case errors.As(err, &platform), errors.Is(err, client.ErrNoPlatform), client.NotAPI(err), client.Unreachable(err) && !errors.Is(err, context.Canceled):
		return exitNoPlatform
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case client.Status(err) == 404, miosa.CodeOf(err) == miosa.NotFound:
		return exitNotFound
	}
	return exitFailed
}

// explainError turns an error of a call into what a person can use.
func (a *app) explainError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return err
	case client.Unreachable(err):
		return &platformError{fmt.Sprintf("%v\nIs the platform running? Start it with: miosa up", err)}
	case client.Status(err) == 401:
		return fmt.Errorf("%w\nThe context's key is not valid any more: \"miosa up\" mints new ones at every start", err)
	case client.Status(err) >= 500:
		if e, ok := errors.AsType[*client.Error](err); ok {
			return fmt.Errorf("%w (request %s)", err, e.RequestID)
		}
	}
	return err
}

// run wraps a command's function: arguments checked, client made, errors put in words.
func (a *app) run(low, high int, fn func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return a.runAs(a.client, low, high, fn)
}

// runOperator does so with the operator's key.
func (a *app) runOperator(low, high int, fn func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return a.runAs(a.operator, low, high, fn)
}

func (a *app) runAs(who func() (*client.Client, error), low, high int, fn func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low || high >= 0 && len(args) > high {
			return usagef("wrong number of arguments: %s\nSee: %s --help", cmd.UseLine(), cmd.CommandPath())
		}
		c, err := who()
		if err != nil {
			// What is wrong with the command line comes first, as if there were one.
			c = client.Broken(err)
		}
		return a.explainError(fn(cmd.Context(), c, args))
	}
}

// client is made from the context file.
func (a *app) client() (*client.Client, error) {
	return a.clientWith(func(c client.Context) string { return c.APIKey })
}

// operator is a client with the operator's key.
func (a *app) operator() (*client.Client, error) {
	return a.clientWith(func(c client.Context) string { return c.AdminKey })
}

func (a *app) clientWith(key func(client.Context) string) (*client.Client, error) {
	path := a.context
	if path == "" {
		path = a.cfg.Getenv("MIOSA_CONTEXT")
	}
	if path == "" {
		remembered, err := client.RememberedContext()
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(remembered); errors.Is(err, os.ErrNotExist) {
			return nil, client.ErrNoPlatform
		}
		path = remembered
	}
	known, err := client.ReadContext(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &platformError{fmt.Sprintf("there is no context file %s: is the platform running?", path)}
	}
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{URL: known.APIURL, Key: key(known), UserAgent: "miosa-cli/" + a.cfg.Version, Renew: func() (string, error) {
		known, err := client.ReadContext(path)
		return key(known), err
	}})
}

// typed reads something from standard input. Ctrl-C ends the wait for it; the
// read itself goes on until the process ends.
func typed[T any](ctx context.Context, read func() (T, error)) (T, error) {
	type input struct {
		v   T
		err error
	}
	done := make(chan input, 1)
	go func() {
		v, err := read()
		done <- input{v, err}
	}()
	select {
	case in := <-done:
		return in.v, in.err
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

// stdin is all of standard input, as far as it is not too long.
func (a *app) stdin(ctx context.Context) ([]byte, error) {
	return typed(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(a.cfg.Stdin, maxStdin)) })
}

// secret is what standard input brings without the line's end. At a terminal it
// is one line, asked for, and not shown while it is typed.
func (a *app) secret(ctx context.Context, what string) (string, error) {
	f, ok := a.cfg.Stdin.(*os.File)
	if !ok || !isTerminal(f) {
		raw, err := a.stdin(ctx)
		return strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r"), err
	}
	shown, err := silence(f)
	if err != nil {
		return "", fmt.Errorf("stop the terminal from showing what is typed: %w", err)
	}
	fmt.Fprintf(a.cfg.Stderr, "%s (it is not shown): ", what)
	line, err := typed(ctx, func() (string, error) { return bufio.NewReader(f).ReadString('\n') })
	shown()
	fmt.Fprintln(a.cfg.Stderr)
	if errors.Is(err, io.EOF) && line != "" {
		err = nil
	}
	return strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"), err
}

// silence has a terminal show nothing that is typed until the function it returns.
func silence(f *os.File) (shown func(), err error) {
	before, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	quiet := *before
	quiet.Lflag &^= unix.ECHO
	quiet.Lflag |= unix.ICANON | unix.ISIG
	// What was typed before, and shown, is none of it.
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETSF, &quiet); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, before) }, nil
}

// steers: it is a terminal that understands more than text.
func (a *app) steers(w io.Writer) bool { return a.cfg.Terminal(w) && a.cfg.Getenv("TERM") != "dumb" }

// isTerminal asks the system.
func isTerminal(w io.Writer) bool {
	f, ok := file(w)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
