package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

// exitBroke is the exit code of a session whose command's own is not known.
const exitBroke = 255

// codeError ends the process with the code of a command that ran elsewhere.
type codeError struct {
	code    int
	message string // "": it has said all that there is to say
}

func (e *codeError) Error() string { return e.message }

// execFlags are what a session was asked for.
type execFlags struct {
	user, dir, environment, service string
	env                             []string
	tty, noTTY, noStdin, operator   bool
}

func (f *execFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVarP(&f.user, "user", "u", "", "`USER` of the image, by name or uid[:gid] (default: the app's own)")
	flags.StringVarP(&f.dir, "dir", "w", "", "in this `DIRECTORY`, relative to the app's own")
	flags.StringArrayVarP(&f.env, "env", "e", nil, "with this variable, `NAME=VALUE`, beside the app's own; may be given again")
	f.addTarget(cmd)
}

// addTarget adds those that say which instance is meant.
func (f *execFlags) addTarget(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.environment, "environment", miosa.Production, "`ENVIRONMENT`, where APP is a deployment")
	flags.StringVar(&f.service, "service", "", "`SERVICE`, where APP is a deployment (default: the one that requests go to)")
	flags.BoolVar(&f.operator, "operator", false, "as the operator, in any tenant's instance; the tenant sees that")
}

func (a *app) execCommand() *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use: "exec APP|INSTANCE COMMAND…", Short: "Run a command in an instance, beside its app",
		Long: `Run a command in a running instance (ri_…), or in one of an app's, in the app's
own file system, as its user, in its directory and with its environment.

It has a terminal if standard input and output are one, else standard input is
piped to it. --tty and --no-tty decide otherwise. On a terminal, "~." at the
beginning of a line ends the session, whatever runs in it.

A session that is left, or whose connection is lost, ends all that was started in
it. A command that ends by itself leaves running what it put into the background.
Who ran what, from where, and how it ended stands in the events of the instance;
what was typed and printed does not.

Exit code: the command's own, 128 and the signal's number if a signal ended it,
127 where it was not found, 126 where it could not be run; 255 if the session could
not be begun or broke off. What is wrong before has the codes of "miosa --help".`,
		Example: `  miosa exec shop -- env
  miosa exec ri_01m84z7zsvd0053bpgqh026v41 --user root -- cat /etc/shadow
  pg_dump mydb | miosa exec shop -- psql "$OTHER"
  miosa exec shop -- tar c data | tar x`,
	}
	f.add(cmd)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%v; COMMAND and its own flags go behind \"--\"\nSee: %s --help", err, cmd.CommandPath())
	})
	flags := cmd.Flags()
	flags.BoolVarP(&f.tty, "tty", "t", false, "on a terminal in any case")
	flags.BoolVarP(&f.noTTY, "no-tty", "T", false, "on no terminal")
	flags.BoolVarP(&f.noStdin, "no-stdin", "n", false, "with empty standard input")
	cmd.RunE = a.runAs(f.as(a), 2, -1, func(ctx context.Context, c *client.Client, args []string) error {
		return a.exec(ctx, c, args[0], args[1:], f)
	})
	return cmd
}

func (a *app) shellCommand() *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use: "shell APP|INSTANCE", Short: "Open a shell in an instance, beside its app",
		Long: `Open the shell that the image has, in a running instance (ri_…) or in one of an
app's, as "miosa exec" does. "exit" leaves it, and so does "~." at the beginning of
a line.`,
		Example: "  miosa shell shop\n  miosa shell shop --user root\n  echo 'ls -l; df -h' | miosa shell shop",
	}
	f.add(cmd)
	cmd.RunE = a.runAs(f.as(a), 1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		return a.exec(ctx, c, args[0], nil, f)
	})
	return cmd
}

// as picks whose key is used, once the flags are known.
func (f *execFlags) as(a *app) func() (*client.Client, error) {
	return func() (*client.Client, error) {
		if f.operator {
			return a.operator()
		}
		return a.client()
	}
}

// exec runs a command in the instance that is meant; none: the image's shell.
func (a *app) exec(ctx context.Context, c *client.Client, subject string, command []string, f execFlags) error {
	switch {
	case f.tty && f.noTTY:
		return usagef("--tty and --no-tty contradict each other")
	case slices.ContainsFunc(f.env, func(e string) bool { return strings.Index(e, "=") < 1 }):
		return usagef("--env takes NAME=VALUE")
	case a.json:
		return usagef("--json has no meaning here: the output is the command's own")
	}
	instance, note, err := a.instanceFor(ctx, c, subject, f)
	if err != nil {
		return err
	}
	keyboard, stdin := a.terminalOf(a.cfg.Stdin)
	screen, stdout := a.terminalOf(a.cfg.Stdout)
	tty := f.tty || !f.noTTY && !f.noStdin && stdin && stdout
	at := attachment{noStdin: f.noStdin, keyboard: keyboard, raw: tty && stdin && !f.noStdin, size: func() (rows, cols int, ok bool) {
		cols, rows, err := term.GetSize(screen)
		return rows, cols, tty && stdout && err == nil
	}}
	open := resource.ExecCommand{Command: command, User: f.user, Dir: f.dir, Env: f.env, TTY: tty}
	if tty {
		open.Env = slices.Insert(slices.Clone(f.env), 0, "TERM="+cmp.Or(a.cfg.Getenv("TERM"), "xterm"))
		open.Rows, open.Cols, _ = at.size()
	}
	session, err := a.openExec(ctx, c, instance, open, f.operator)
	if err != nil {
		return err
	}
	defer session.Close()
	if note != "" && a.cfg.Terminal(a.cfg.Stderr) {
		fmt.Fprintln(a.cfg.Stderr, note)
	}
	return a.attach(session, at)
}

// attachment is what a session has of this process: its streams, and a terminal.
type attachment struct {
	noStdin  bool
	raw      bool // the keyboard is the session's
	keyboard int  // its descriptor
	size     func() (rows, cols int, ok bool)
}

// attach carries what goes in and out until the session ends, or is left.
func (a *app) attach(session *client.ExecSession, at attachment) error {
	input := a.cfg.Stdin
	told := forwardSignals(session, at.size)
	if at.raw {
		// One that is killed for writing to a pipe would leave the terminal as it is.
		signal.Ignore(syscall.SIGPIPE)
		defer signal.Reset(syscall.SIGPIPE)
		before, err := term.MakeRaw(at.keyboard)
		if err != nil {
			return fmt.Errorf("take over the terminal: %w", err)
		}
		defer func() { _ = term.Restore(at.keyboard, before) }()
		input = &escapes{from: input, leave: session.Close}
	}
	if rows, cols, ok := at.size(); ok {
		_ = session.Resize(rows, cols) // it may have changed meanwhile
	}
	unread := make(chan error, 1) // why standard input ended early
	go func() {
		if !at.noStdin {
			in := &failingReader{Reader: input}
			if _, err := io.Copy(session, in); err != nil && in.failed == nil {
				return // it takes no more; who copies its output knows why
			}
			if in.failed != nil {
				unread <- in.failed
			}
		}
		_ = session.CloseWrite()
	}()
	event, ended := a.output(session)
	if e, ok := input.(*escapes); ok && e.left() {
		fmt.Fprint(a.cfg.Stderr, "\r\n")
		return &codeError{exitBroke, "the session was ended"}
	}
	if code := told(); code != 0 && ended != nil {
		return &codeError{code, ""}
	}
	err := a.execEnded(event, ended)
	select {
	case why := <-unread:
		words := fmt.Sprintf("standard input could not be read: %v", why)
		if err == nil { // the command has ended as if that had been all
			return errors.New(words)
		}
		fmt.Fprintln(a.cfg.Stderr, "miosa: "+words)
	default:
	}
	return err
}

// output shows what the command writes, until it ends.
func (a *app) output(session *client.ExecSession) (event resource.ExecEvent, err error) {
	type end struct {
		event resource.ExecEvent
		err   error
	}
	over := make(chan end, 1)
	go func() {
		event, err := session.Copy(a.cfg.Stdout, a.cfg.Stderr, nil)
		over <- end{event, err}
	}()
	select {
	case is := <-over:
		return is.event, is.err
	case <-session.Closed():
	}
	// We have ended it ourselves. Who does not take its output is not waited for.
	select {
	case is := <-over:
		return is.event, is.err
	case <-time.After(execLastOutput):
		return event, client.ErrExecBroke
	}
}

// execLastOutput is how long the rest of the output of a session that was left may
// take.
const execLastOutput = 500 * time.Millisecond

// failingReader keeps why it could not be read.
type failingReader struct {
	io.Reader
	failed error
}

func (r *failingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		r.failed = err
	}
	return n, err
}

// execEnded is the exit code of a session in the error that ends the process with
// it.
func (a *app) execEnded(ended resource.ExecEvent, err error) error {
	_, unwritten := errors.AsType[*outputError](err)
	switch {
	case unwritten:
		return err
	case err != nil:
		return &codeError{exitBroke, a.explainError(err).Error()}
	case ended.Message != "":
		message := ended.Message
		if *ended.ExitCode == 127 && strings.Contains(message, "no shell") {
			message += "\nSee: miosa exec --help"
		}
		return &codeError{*ended.ExitCode, message}
	case *ended.ExitCode != 0:
		return &codeError{*ended.ExitCode, ""}
	}
	return nil
}

func (a *app) openExec(ctx context.Context, c *client.Client, instance string, open resource.ExecCommand, operator bool) (*client.ExecSession, error) {
	if operator {
		return c.ExecAsOperator(ctx, instance, open)
	}
	return c.Exec(ctx, instance, open)
}

// instanceFor is the instance that is meant, and a word on which one was chosen.
func (a *app) instanceFor(ctx context.Context, c *client.Client, subject string, f execFlags) (id, note string, err error) {
	if miosa.IDPrefix(subject) == miosa.PrefixInstance {
		return subject, "", nil
	}
	if f.operator {
		return "", "", usagef("--operator takes an instance (ri_…), as an app's name is its tenant's")
	}
	dep, err := find(ctx, c, subject)
	if err != nil {
		return "", "", err
	}
	service, err := serviceOf(ctx, c, dep, f.environment, f.service)
	if err != nil {
		return "", "", err
	}
	found, err := client.Collect(c.Instances(ctx, dep.ID, client.Query("service_id", service.ID)))
	if err != nil {
		return "", "", err
	}
	// Newest first as they are listed; better a healthy one.
	for _, states := range [][]string{{"healthy"}, {"unhealthy", "starting"}} {
		for _, i := range found {
			if slices.Contains(states, i.State) {
				return i.ID, fmt.Sprintf("In %s of %s.", i.ID, dep.Slug), nil
			}
		}
	}
	return "", "", &client.Error{Status: 404, Code: "instance_not_found", Message: fmt.Sprintf("no instance of %s runs; see: miosa ps %s", dep.Slug, dep.Slug)}
}

// terminalOf is the descriptor of a terminal.
func (a *app) terminalOf(stream any) (fd int, ok bool) {
	if w, isWriter := stream.(io.Writer); isWriter {
		f, isFile := file(w)
		if !isFile {
			return 0, false
		}
		stream = f
	}
	f, isFile := stream.(*os.File)
	return fdOf(f), isFile && term.IsTerminal(fdOf(f))
}

func fdOf(f *os.File) int {
	if f == nil {
		return -1
	}
	return int(f.Fd())
}

// forwardSignals hands what this process is told on to the command, until told is
// called: that returns the exit code of a process which ended the session for it, 0
// for none. Who is asked to end, or is interrupted a third time, does.
func forwardSignals(session *client.ExecSession, size func() (rows, cols int, ok bool)) (told func() int) {
	signals := make(chan os.Signal, 8)
	heard := []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGWINCH}
	// What nohup had us ignore stays ignored.
	signal.Notify(signals, slices.DeleteFunc(heard, signal.Ignored)...)
	code, done, over := 0, make(chan struct{}), make(chan struct{})
	end := func(s syscall.Signal) {
		code = 128 + int(s)
		_ = session.Close()
	}
	go func() {
		defer close(over)
		interrupts := 0
		for {
			var s os.Signal
			select {
			case <-done:
				return
			case s = <-signals:
			}
			switch s {
			case syscall.SIGWINCH:
				if rows, cols, ok := size(); ok {
					_ = session.Resize(rows, cols) // the session's end is told elsewhere
				}
			case syscall.SIGTERM, syscall.SIGHUP:
				end(s.(syscall.Signal))
			case syscall.SIGQUIT:
				_ = session.Signal("QUIT")
			default:
				if interrupts++; interrupts == 3 {
					end(syscall.SIGINT)
				} else {
					_ = session.Signal("INT")
				}
			}
		}
	}()
	return func() int {
		signal.Stop(signals)
		close(done)
		<-over
		return code
	}
}
