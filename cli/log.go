package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

// logFlags are what `miosa logs` was asked for.
type logFlags struct {
	follow, timestamps                      bool
	since, until, grep, stream, environment string
	n                                       int
	counted                                 bool // -n was given
}

func (a *app) logsCommand() *cobra.Command {
	var f logFlags
	cmd := &cobra.Command{
		Use: "logs SUBJECT", Short: "Show what instances print, and follow it",
		Long: `Show the log of a deployment (by name), a service (svc_…) or an instance
(ri_…), oldest line first: the last 100 lines, or with --since all from then on.

On a terminal each line begins with its time and the end of its instance's ID,
in a colour of its own; "err" marks standard error, and "---" the platform's
own word on boots, crashes and gaps. In a pipe there is the text alone, as the
app wrote it. Lines stay readable after their instance is gone.

--grep takes words that a line must all hold, "phrases", -not, and key:value
for lines that are JSON or logfmt. Upper and lower case are the same. Without a
word of three letters in a row (504, say) every line is read: give --since.`,
		Example: `  miosa logs hello -f
  miosa logs hello --since 15m --grep 'timeout -healthz'
  miosa logs hello --environment staging --grep level:error
  miosa logs ri_01m84z7zsvd0053bpgqh026v41 -n 1000 --stream stderr
  miosa logs hello --since 2026-03-01T12:00 --until 2026-03-01T13:00 --json | jq -r .line`,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&f.follow, "follow", "f", false, "go on with each line as it comes")
	flags.StringVar(&f.since, "since", "", "from `TIME` on: "+resource.MomentForms)
	flags.StringVar(&f.until, "until", "", "before that `TIME`, in the same forms")
	flags.IntVarP(&f.n, "lines", "n", 100, "how many of the last lines")
	flags.StringVar(&f.grep, "grep", "", "only lines that hold the `TEXT`")
	flags.StringVar(&f.stream, "stream", "", "only stdout, stderr or system")
	flags.StringVar(&f.environment, "environment", "", "only this `ENVIRONMENT` of the deployment")
	flags.BoolVar(&f.timestamps, "timestamps", false, "begin each line with its whole time")
	cmd.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		f.counted = flags.Changed("lines")
		return a.logs(ctx, c, args[0], f)
	})
	return cmd
}

func (a *app) logs(ctx context.Context, c *client.Client, name string, f logFlags) error {
	switch {
	case f.n < 1:
		return usagef("--lines must be at least 1")
	case f.follow && f.until != "":
		return usagef("--until has no meaning with --follow: what is still to come has no end")
	case f.stream != "" && f.stream != "stdout" && f.stream != "stderr" && f.stream != "system":
		return usagef("--stream must be stdout, stderr or system, not %q", f.stream)
	}
	if err := a.moments(f.since, f.until); err != nil {
		return err
	}
	subject, only, err := logSubject(ctx, c, name, f.environment)
	if err != nil {
		return err
	}
	out := a.logPrinter(f.timestamps)
	options := []client.Option{client.Query("since", f.since), client.Query("until", f.until), client.Query("q", f.grep), client.Query("stream", f.stream)}
	lines := a.logLines(ctx, c, subject, only, f, options)
	err = func() error {
		for l, err := range lines {
			if err != nil {
				return err
			}
			if only != nil && !slices.Contains(only, l.ServiceID) {
				continue
			}
			if err := out.print(l); err != nil {
				return err
			}
		}
		return out.end()
	}()
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// moments refuses bounds that the platform would not read.
func (a *app) moments(since, until string) error {
	for _, bound := range [][2]string{{"--since", since}, {"--until", until}} {
		if _, ok := resource.ParseMoment(bound[1], a.cfg.Now()); bound[1] != "" && !ok {
			return usagef("%s %q is not %s", bound[0], bound[1], resource.MomentForms)
		}
	}
	return nil
}

// logSubject is what a name stands for. only are the services that are meant
// of a deployment, nil: all.
func logSubject(ctx context.Context, c *client.Client, name, environment string) (subject string, only []string, err error) {
	switch miosa.IDPrefix(name) {
	case miosa.PrefixInstance, miosa.PrefixService:
		if environment != "" {
			return "", nil, usagef("--environment is for a deployment: %s is in one environment only", name)
		}
		return name, nil, nil
	case miosa.PrefixDeployment:
		if environment == "" {
			return name, nil, nil // it may be deleted: its lines still tell
		}
	}
	dep, err := find(ctx, c, name)
	if err != nil || environment == "" {
		return dep.ID, nil, err
	}
	services, err := client.Collect(c.Services(ctx, dep.ID, client.Query("environment", environment), client.Query("all", "true")))
	if err != nil {
		return "", nil, err
	}
	only = []string{}
	for _, s := range services {
		only = append(only, s.ID)
	}
	if len(only) == 1 {
		return only[0], nil, nil
	}
	return dep.ID, only, nil
}

// logLines are the lines that were asked for, oldest first, and others of a
// deployment between them: only says whose are meant.
func (a *app) logLines(ctx context.Context, c *client.Client, subject string, only []string, f logFlags, options []client.Option) func(func(resource.LogLine, error) bool) {
	all := f.since != "" && !f.counted
	if f.follow {
		if !all {
			options = append(options, client.Query("limit", strconv.Itoa(f.n)))
		}
		return c.FollowLogs(ctx, subject, a.lostLogs(), options...)
	}
	return func(yield func(resource.LogLine, error) bool) {
		if !all {
			found, err := lastLogsOf(ctx, c, subject, only, f.n, options)
			for _, l := range found {
				if !yield(l, nil) {
					return
				}
			}
			if err != nil {
				yield(resource.LogLine{}, err)
			}
			return
		}
		options = append(options, client.Query("direction", "forward"), client.Query("limit", "1000"))
		for cursor := ""; ; {
			page, err := c.LogPage(ctx, subject, append(options, client.Query("cursor", cursor))...)
			if err != nil {
				yield(resource.LogLine{}, err)
				return
			}
			for _, l := range page.Data {
				if !yield(l, nil) {
					return
				}
			}
			if page.Page.NextCursor == nil {
				return
			}
			cursor = *page.Page.NextCursor
		}
	}
}

// lastLogsOf are the last n lines of a subject, or of those services only.
func lastLogsOf(ctx context.Context, c *client.Client, subject string, only []string, n int, options []client.Option) ([]resource.LogLine, error) {
	if only == nil {
		return lastLogs(ctx, c, subject, n, options)
	}
	var all []resource.LogLine
	for _, service := range only {
		found, err := lastLogs(ctx, c, service, n, options)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	slices.SortStableFunc(all, func(x, y resource.LogLine) int { return x.TS.Compare(y.TS) })
	return all[max(0, len(all)-n):], nil
}

// lastLogs reads pages back in time until there are n lines.
func lastLogs(ctx context.Context, c *client.Client, subject string, n int, options []client.Option) ([]resource.LogLine, error) {
	var pages [][]resource.LogLine
	for cursor := ""; n > 0; {
		page, err := c.LogPage(ctx, subject, append(options, client.Query("cursor", cursor), client.Query("limit", strconv.Itoa(min(n, 1000))))...)
		if err != nil {
			return nil, err
		}
		pages = append(pages, page.Data)
		n -= len(page.Data)
		if page.Page.NextCursor == nil {
			break
		}
		cursor = *page.Page.NextCursor
	}
	slices.Reverse(pages)
	return slices.Concat(pages...), nil
}

// lostLogs says on standard error that the connection broke, once for each time.
func (a *app) lostLogs() func(error) {
	broken := false
	return func(err error) {
		switch {
		case err == nil:
			broken = false
			fmt.Fprintln(a.cfg.Stderr, "miosa: the connection is back; no line was left out")
		case !broken:
			broken = true
			fmt.Fprintf(a.cfg.Stderr, "miosa: the connection was lost (%s); trying again\n", printable(err.Error()))
		}
	}
}

// logPrinter writes lines to standard output, at once.
type logPrinter struct {
	out        *bufio.Writer
	json       bool
	terminal   bool
	color      bool
	timestamps bool
	open       *resource.LogLine // its text goes on
}

func (a *app) logPrinter(timestamps bool) *logPrinter {
	terminal := a.cfg.Terminal(a.cfg.Stdout)
	return &logPrinter{
		out: bufio.NewWriter(a.cfg.Stdout), json: a.json, terminal: terminal, timestamps: timestamps,
		color: a.steers(a.cfg.Stdout) && a.cfg.Getenv("NO_COLOR") == "",
	}
}

// palette of instances: those that can be read on light and on dark.
var palette = []int{32, 33, 34, 35, 36, 92, 94, 95, 96}

const dim, red, cyan = 2, 31, 36

func (p *logPrinter) print(l resource.LogLine) error {
	if p.json {
		enc := json.NewEncoder(p.out)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(l); err != nil {
			return err
		}
		return p.out.Flush()
	}
	goesOn := p.open != nil && p.open.RuntimeInstanceID == l.RuntimeInstanceID && p.open.Stream == l.Stream
	if p.open != nil && !goesOn {
		p.write("\n")
	}
	if !goesOn {
		p.head(l)
	}
	text := l.Line
	if p.terminal {
		text = harmless(text)
	}
	if l.Stream == "system" {
		text = p.in(cyan, text)
	}
	p.write(text)
	if p.open = nil; l.Partial {
		p.open = &l
	} else {
		p.write("\n")
	}
	return p.out.Flush()
}

// head is what stands before the text.
func (p *logPrinter) head(l resource.LogLine) {
	if p.timestamps {
		p.write(p.in(dim, l.TS.UTC().Format("2006-01-02T15:04:05.000000Z")) + " ")
	}
	if !p.terminal {
		return
	}
	if !p.timestamps {
		p.write(p.in(dim, l.TS.Local().Format("15:04:05.000")) + " ")
	}
	id := printable(l.RuntimeInstanceID)
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	p.write(p.in(palette[int(h.Sum32()%uint32(len(palette)))], id[max(0, len(id)-6):]) + " ")
	switch l.Stream {
	case "stderr":
		p.write(p.in(red, "err") + " ")
	case "system":
		p.write(p.in(cyan, "---") + " ")
	default:
		p.write("    ")
	}
}

// write ends in the buffer, which keeps its error for the flush.
func (p *logPrinter) write(s string) { _, _ = p.out.WriteString(s) }

func (p *logPrinter) in(color int, text string) string {
	if !p.color {
		return text
	}
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", color, text)
}

// end completes a line that was to go on.
func (p *logPrinter) end() error {
	if p.open != nil {
		p.write("\n")
	}
	return p.out.Flush()
}

// paint is what sets colours in a text, and does nothing else to a terminal.
var paint = regexp.MustCompile("\x1b\\[[0-9;:]*m")

// harmless is a text that cannot steer a terminal: without its colours, and
// with other control characters as \x1b. What turns the direction of writing
// counts as such.
func harmless(s string) string {
	ok := func(r rune) bool { return r == '\t' || !unicode.IsControl(r) && !unicode.Is(unicode.Bidi_Control, r) }
	if strings.IndexFunc(s, func(r rune) bool { return !ok(r) }) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range paint.ReplaceAllLiteralString(s, "") {
		switch {
		case ok(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
