package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
	"github.com/miosa/miosa/transfer"
)

const (
	// copyPatience is how long a copy whose connection broke off is tried to be gone
	// on with.
	copyPatience = 2 * time.Minute
	copyPause    = time.Second // at first; longer each time that brings nothing
	copyPauses   = 5           // at most so many of them
	// discardWithin bounds what is done about a copy that is given up.
	discardWithin = 5 * time.Second
	copyWords     = 4 << 10 // of standard error that are kept
)

// copyFlags are what a copy was asked for.
type copyFlags struct {
	execFlags
	quiet bool
}

func (a *app) cpCommand() *cobra.Command {
	var f copyFlags
	cmd := &cobra.Command{
		Use: "cp SOURCE DESTINATION", Short: "Copy files from and to an instance",
		Long: `Copy a file, or a directory with all that is in it, from a running instance or to
one. One of the two is APP:PATH or INSTANCE:PATH, in the app's own file system; a
relative path begins at the app's directory. The other is a path here.

What is copied goes into DESTINATION if that is a directory, else it gets that
name. A SOURCE that ends in "/." is what is in the directory. Permissions, times,
symbolic and hard links are kept, owners are not: files belong to the app's user,
or to the one of --user. Nothing outside of DESTINATION is touched, and a file that
is replaced is replaced as a whole. The image needs no program for it.

A copy whose connection breaks off goes on where it was. An instance's own disk is
gone when it ends.`,
		Example: `  miosa cp shop:/var/log/app.log .
  miosa cp ./fixtures shop:/tmp
  miosa cp ri_01m84z7zsvd0053bpgqh026v41:data/. ./backup --user root`,
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.user, "user", "u", "", "as this `USER` of the image (default: the app's own)")
	flags.BoolVarP(&f.quiet, "quiet", "q", false, "show no progress")
	f.addTarget(cmd)
	cmd.RunE = a.runAs(f.as(a), 2, 2, func(ctx context.Context, c *client.Client, args []string) error {
		return a.cp(ctx, c, args[0], args[1], f)
	})
	return cmd
}

// remote splits APP:PATH. A path here that has a colon is given with a slash before
// it, as with scp.
func remote(argument string) (subject, path string, ok bool) {
	subject, path, ok = strings.Cut(argument, ":")
	return subject, path, ok && subject != "" && !strings.Contains(subject, "/")
}

func (a *app) cp(ctx context.Context, c *client.Client, source, destination string, f copyFlags) error {
	subject, from, pull := remote(source)
	other, to, push := remote(destination)
	switch {
	case pull && push:
		return usagef("one of SOURCE and DESTINATION is a path here: copy in two steps")
	case !pull && !push:
		return usagef("one of SOURCE and DESTINATION is APP:PATH or INSTANCE:PATH\nSee: miosa cp --help")
	case push:
		subject = other
	case destination == "-":
		return usagef("- is no path: what is to be piped is got with miosa exec %s -- cat %s", subject, from)
	}
	at := to
	if pull {
		at = from
	}
	if at == "" {
		at = "."
	}
	// Who is asked to end takes away what is half done, as with Ctrl-C.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	instance, note, err := a.instanceFor(ctx, c, subject, f.execFlags)
	if err != nil {
		return err
	}
	cp := &copying{
		a: a, c: c, instance: instance, flags: f,
		open: resource.ExecCommand{User: f.user, Copy: &resource.ExecCopy{Path: at, From: pull}},
	}
	options := transfer.Options{ID: rand.Text(), Progress: cp.progress()}
	if note != "" && a.cfg.Terminal(a.cfg.Stderr) && !f.quiet {
		fmt.Fprintln(a.cfg.Stderr, note)
	}
	work := func(ctx context.Context, rw io.ReadWriter) (transfer.Result, error) {
		return transfer.Push(ctx, rw, source, at, options)
	}
	if pull {
		work = func(ctx context.Context, rw io.ReadWriter) (transfer.Result, error) {
			return transfer.Pull(ctx, rw, at, destination, options)
		}
	}
	result, err := cp.run(ctx, work)
	cp.clear()
	if err != nil {
		return errors.Join(err, cp.giveUp(ctx, destination, at, options.ID))
	}
	return a.copied(result)
}

// copied shows what came of it.
func (a *app) copied(r transfer.Result) error {
	for _, n := range []struct {
		of   transfer.Notes
		what string
	}{
		{r.Skipped, "left out, as neither files nor directories nor links"},
		{r.Changed, "changed while they were read, so that their copies may hold something of before and something of after"},
	} {
		if n.of.Count > 0 {
			fmt.Fprintf(a.cfg.Stderr, "%d %s: %s\n", n.of.Count, n.what, strings.Join(n.of.First, ", "))
		}
	}
	return a.show(map[string]any{"entries": r.Entries, "bytes": r.Bytes, "skipped": r.Skipped, "changed": r.Changed}, func() {
		a.printf("Copied %d files and directories, %s.\n", r.Entries, size(r.Bytes))
	})
}

// copying is one copy, over as many connections as it takes.
type copying struct {
	a        *app
	c        *client.Client
	instance string
	open     resource.ExecCommand
	flags    copyFlags
	shown    bool // a line of progress
	broke    bool // a connection did, so that something half done may lie about
}

// run works over a connection, and over another where that breaks off and some of it
// may be gone on with.
func (cp *copying) run(ctx context.Context, work func(context.Context, io.ReadWriter) (transfer.Result, error)) (transfer.Result, error) {
	var since time.Time // of the first connection that broke off and brought nothing
	for pauses := 1; ; pauses = min(pauses+1, copyPauses) {
		result, moved, err := cp.once(ctx, work)
		if _, broke := errors.AsType[*transfer.BrokenError](err); broke {
			cp.broke = true
		}
		if !cp.again(err) || ctx.Err() != nil {
			return result, cp.words(err)
		}
		if moved || since.IsZero() {
			since, pauses = time.Now(), 1
		}
		if time.Since(since) > copyPatience {
			return result, cp.words(err)
		}
		if !cp.flags.quiet {
			cp.clear()
			fmt.Fprintf(cp.a.cfg.Stderr, "The connection broke off; going on …\n")
		}
		select {
		case <-time.After(time.Duration(pauses) * copyPause):
		case <-ctx.Done():
			return result, ctx.Err()
		}
	}
}

// once works over one connection. moved: something has been copied over it.
func (cp *copying) once(ctx context.Context, work func(context.Context, io.ReadWriter) (transfer.Result, error)) (result transfer.Result, moved bool, err error) {
	session, err := cp.a.openExec(ctx, cp.c, cp.instance, cp.open, cp.flags.operator)
	if err != nil {
		return result, false, err
	}
	r, w := io.Pipe()
	var said firstWords
	over := make(chan struct{})
	go func() {
		defer close(over)
		ended, err := session.Copy(w, &said, nil)
		if err == nil && *ended.ExitCode != 0 && (ended.Message != "" || said.text() != "") {
			err = &codeError{exitFailed, ended.Message + said.text()}
		}
		_ = w.CloseWithError(err)
	}()
	stream := &countedStream{Reader: r, Writer: session}
	result, err = work(ctx, stream)
	_ = r.Close()
	if _, broke := errors.AsType[*transfer.BrokenError](err); !broke && ctx.Err() == nil {
		// It ends by itself, so that its exit code is known to who asks for it later.
		_ = session.CloseWrite()
		select {
		case <-over:
		case <-time.After(discardWithin):
		}
	}
	_ = session.Close()
	<-over
	return result, stream.moved(), err
}

// again: the connection broke off, and the instance may still be there.
func (cp *copying) again(err error) bool {
	_, broke := errors.AsType[*transfer.BrokenError](err)
	if e, ok := errors.AsType[*client.Error](err); ok {
		switch e.Code {
		case "platform_stopping", "unavailable", "instance_unreachable", "exec_idle_limit", "exec_time_limit":
			return true
		case "exec_sessions_busy": // the session before may not have ended yet
			return cp.broke
		}
		return false
	}
	if _, told := errors.AsType[*codeError](err); told {
		return false
	}
	return broke || client.Unreachable(err)
}

// words are an error's without what is about streams.
func (cp *copying) words(err error) error {
	if told, ok := errors.AsType[*codeError](err); ok {
		return errors.New(told.message)
	}
	if e, ok := errors.AsType[*client.Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*transfer.RemoteError](err); ok {
		return fmt.Errorf("in the instance: %s", e.Message)
	}
	return err
}

// giveUp removes what there is to go on with, after an end that leaves some.
func (cp *copying) giveUp(ctx context.Context, destination, at, id string) error {
	if !cp.broke && ctx.Err() == nil {
		return nil
	}
	if cp.open.Copy.From {
		return transfer.Discard(destination, id)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardWithin)
	defer cancel()
	_, _, _ = cp.once(ctx, func(ctx context.Context, rw io.ReadWriter) (transfer.Result, error) {
		return transfer.Result{}, transfer.DiscardRemote(ctx, rw, at, id)
	}) // it can't be reached, most likely: what is left there goes with the instance
	return nil
}

// progress is a line on a terminal; nil: none is shown.
func (cp *copying) progress() func(transfer.Progress) {
	if cp.flags.quiet || cp.a.json || !cp.a.steers(cp.a.cfg.Stderr) {
		return nil
	}
	return func(p transfer.Progress) {
		cp.shown = true
		total := ""
		if p.Total > 0 {
			total = " of " + size(p.Total)
		}
		fmt.Fprintf(cp.a.cfg.Stderr, "\r\x1b[K%s%s  %.60s", size(p.Bytes), total, p.Path)
	}
}

// clear takes the line of progress away.
func (cp *copying) clear() {
	if cp.shown {
		fmt.Fprint(cp.a.cfg.Stderr, "\r\x1b[K")
		cp.shown = false
	}
}

// firstWords keeps the beginning of what is written to it.
type firstWords struct {
	mu   sync.Mutex // guards kept
	kept bytes.Buffer
}

func (w *firstWords) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kept.Write(b[:min(len(b), copyWords-w.kept.Len())])
	return len(b), nil
}

func (w *firstWords) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return harmless(strings.TrimSpace(w.kept.String()))
}

// countedStream knows whether anything came over it.
type countedStream struct {
	io.Reader
	io.Writer
	n atomic.Int64
}

// enoughMoved is more than what both ends say before they copy.
const enoughMoved = 64 << 10

func (s *countedStream) Read(b []byte) (int, error) {
	n, err := s.Reader.Read(b)
	s.n.Add(int64(n))
	return n, err
}

func (s *countedStream) Write(b []byte) (int, error) {
	n, err := s.Writer.Write(b)
	s.n.Add(int64(n))
	return n, err
}

func (s *countedStream) moved() bool { return s.n.Load() > enoughMoved }
