package cli

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

const (
	// topEvery is how often the table is drawn anew; samples come every 15 s.
	topEvery = 5 * time.Second
	// topSpan is what a sparkline shows, in topPoints points.
	topSpan   = 10 * time.Minute
	topPoints = 20
	// topFresh is how old a figure may be and still be shown as the present one.
	topFresh = 75 * time.Second
	// roomForIDs is how wide a terminal is that shows whole IDs.
	roomForIDs = 130
)

func (a *app) topCommand() *cobra.Command {
	once := false
	cmd := &cobra.Command{
		Use: "top SUBJECT", Short: "Show what instances use at present, and follow it",
		Long: `Show processor, memory, disk and network of the instances of a deployment (by
name), of a service (svc_…), or of one instance (ri_…), those that use most
processor time first. The bars are the last ten minutes, each against its own
limit, or for traffic its own highest.

On a terminal the table is drawn anew every five seconds until Ctrl-C; in a
pipe, or with --once, it is printed once. Figures are sampled every 15 seconds.
Memory is the guest's own word; the rest is counted on the host. "-" means that
nothing is known: between boots, or of a network that does not count.`,
		Example: `  miosa top hello
  miosa top svc_01m84z7zsvd0053bpgqh026v41 --once
  miosa top hello --json | jq '.instances[].runtime_instance_id'`,
	}
	cmd.Flags().BoolVar(&once, "once", false, "print the table once, also on a terminal")
	cmd.RunE = a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
		subject, _, err := logSubject(ctx, c, args[0], "")
		if err != nil {
			return err
		}
		if a.json || once || !a.cfg.Terminal(a.cfg.Stdout) {
			t, err := readTop(ctx, c, subject, args[0])
			if err != nil {
				return err
			}
			return a.show(t.metrics, func() { a.printf("%s", a.drawTop(t, 0, 0, false)) })
		}
		return a.followTop(ctx, c, subject, args[0])
	})
	return cmd
}

// top is what is shown.
type top struct {
	name      string
	metrics   resource.Metrics
	instances []resource.Instance
	services  map[string]string // by ID
}

// readTop asks for the figures and for what they are of.
func readTop(ctx context.Context, c *client.Client, subject, name string) (top, error) {
	t := top{name: name, services: map[string]string{}}
	options := []client.Option{client.Query("since", "10m"), client.Query("step", "30s")}
	if miosa.IDPrefix(subject) != miosa.PrefixInstance {
		options = append(options, client.Query("by", "instance"))
	}
	var err error
	if t.metrics, err = c.Metrics(ctx, subject, options...); err != nil {
		return t, err
	}
	if id := t.metrics.RuntimeInstanceID; id != nil {
		i, err := c.Instance(ctx, *id)
		if err != nil {
			return t, err
		}
		t.instances = []resource.Instance{i}
		t.metrics.Instances = []resource.InstanceMetrics{{RuntimeInstanceID: i.ID, ServiceID: i.ServiceID, Series: t.metrics.Series}}
	} else if t.instances, err = client.Collect(c.Instances(ctx, t.metrics.DeploymentID)); err != nil {
		return t, err
	}
	for _, i := range t.instances {
		t.services[i.ServiceID] = i.ServiceName
	}
	if t.metrics.ServiceID != nil {
		t.instances = slices.DeleteFunc(t.instances, func(i resource.Instance) bool { return i.ServiceID != *t.metrics.ServiceID })
	}
	return t, nil
}

// followTop draws the table anew until ctx ends, on a screen of its own, so
// that what was on the terminal is there again afterwards.
func (a *app) followTop(ctx context.Context, c *client.Client, subject, name string) error {
	t, err := readTop(ctx, c, subject, name)
	if err != nil {
		return err // said where it can be read
	}
	const enter, leave = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
	a.printf("%s", enter)
	defer a.printf("%s", leave)
	lost := ""
	tick := time.NewTicker(topEvery)
	defer tick.Stop()
	for {
		wide, high := a.screen()
		text := a.drawTop(t, wide, high, true)
		if lost != "" {
			text += "\n" + lost
		}
		// Line by line, so that nothing flickers.
		a.printf("\x1b[H%s\x1b[J", strings.ReplaceAll(text, "\n", "\x1b[K\r\n"))
		if err := a.written(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil // who looks has seen enough
		case <-tick.C:
		}
		next, err := readTop(ctx, c, subject, name)
		switch {
		case err == nil:
			t, lost = next, ""
		case ctx.Err() != nil:
			return nil
		case client.Status(err) == 404 || client.Status(err) == 401 || client.Status(err) == 403:
			return err // it is no more
		default:
			lost = "no new figures: " + printable(err.Error())
			if wide > 0 {
				lost = clipped(lost, wide)
			}
		}
	}
}

// screen is the terminal's size; 0, 0 if it is not known.
func (a *app) screen() (wide, high int) {
	f, ok := file(a.cfg.Stdout)
	if !ok {
		return 0, 0
	}
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0
	}
	return int(ws.Col), int(ws.Row)
}

// column is one of the table's.
type column struct {
	head  string
	right bool
	rank  int // where there is no room for all, the highest ranks go first
}

var topColumns = []column{
	{"INSTANCE", false, 0}, {"SERVICE", false, 8}, {"STATE", false, 3}, {"CPU", true, 1}, {"", false, 4}, {"MEMORY", true, 2}, {"", false, 11},
	{"DISK", true, 7}, {"IN", true, 5}, {"OUT", true, 6}, {"PROBE", true, 10}, {"RESTARTS", true, 9},
}

// topBars are the columns that are pictures.
var topBars = []int{4, 6}

// fit are the columns that there is room for, with the width of each.
func fit(rows []topRow, wide int, live bool) (columns, widths []int) {
	widths = make([]int, len(topColumns))
	total := -2
	for n, c := range topColumns {
		if !live && slices.Contains(topBars, n) {
			continue
		}
		columns = append(columns, n)
		widths[n] = len(c.head)
		for _, r := range rows {
			widths[n] = max(widths[n], utf8.RuneCountInString(r.cells[n]))
		}
		total += widths[n] + 2
	}
	for wide > 0 && total > wide && len(columns) > 1 {
		last := slices.MaxFunc(columns, func(a, b int) int { return topColumns[a].rank - topColumns[b].rank })
		columns = slices.DeleteFunc(columns, func(n int) bool { return n == last })
		total -= widths[last] + 2
	}
	return columns, widths
}

// topRow is one instance's cells.
type topRow struct {
	cpu   float64
	cells []string
}

// drawTop is the table as text. wide and high bound it; 0: they do not.
func (a *app) drawTop(t top, wide, high int, live bool) string {
	color := live && a.cfg.Getenv("NO_COLOR") == "" && a.cfg.Getenv("TERM") != "dumb"
	paint := func(code int, s string) string {
		if !color {
			return s
		}
		return fmt.Sprintf("\x1b[%dm%s\x1b[0m", code, s)
	}
	var b strings.Builder
	for n, line := range topSummary(t, live) {
		if wide > 0 {
			line = clipped(line, wide)
		}
		if n == 0 {
			line = paint(1, line)
		}
		b.WriteString(line + "\n")
	}
	rows := topRows(t)
	if len(rows) == 0 {
		b.WriteString("No instances.\n")
		return b.String()
	}
	shown := rows
	if room := high - 6; high > 0 && len(rows) > max(room, 1) {
		shown = rows[:max(room, 1)]
	}
	if wide > 0 && wide < roomForIDs {
		for n := range shown {
			shown[n].cells[0] = short(shown[n].cells[0])
		}
	}
	columns, widths := fit(shown, wide, live)
	line := func(cells []string) string {
		var parts []string
		for _, n := range columns {
			pad := strings.Repeat(" ", widths[n]-utf8.RuneCountInString(cells[n]))
			if topColumns[n].right {
				parts = append(parts, pad+cells[n])
			} else {
				parts = append(parts, cells[n]+pad)
			}
		}
		s := strings.TrimRight(strings.Join(parts, "  "), " ")
		if wide > 0 {
			s = clipped(s, wide)
		}
		return s
	}
	heads := make([]string, len(topColumns))
	for n, c := range topColumns {
		heads[n] = c.head
	}
	b.WriteString("\n" + paint(dim, line(heads)) + "\n")
	for _, r := range shown {
		b.WriteString(line(r.cells) + "\n")
	}
	switch {
	case len(shown) < len(rows):
		b.WriteString(paint(dim, fmt.Sprintf("… and %s", plural(len(rows)-len(shown), "more instance"))) + "\n")
	case t.metrics.MoreInstances:
		b.WriteString(paint(dim, "… and more, which have no figures here") + "\n")
	}
	return b.String()
}

// topSummary is what stands above the table.
func topSummary(t top, live bool) []string {
	name := t.name
	if t.metrics.ServiceID != nil && t.services[*t.metrics.ServiceID] != "" && t.metrics.RuntimeInstanceID == nil {
		name = t.services[*t.metrics.ServiceID] + " (" + t.name + ")"
	}
	states := map[string]int{}
	for _, i := range t.instances {
		states[i.State]++
	}
	var parts []string
	for _, state := range []string{"healthy", "starting", "pending", "unhealthy", "stopping", "stopped", "failed"} {
		if n := states[state]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	out := []string{printable(name) + "   " + strings.Join(parts, ", ")}
	f := figuresOf(t.metrics, t.metrics.Series)
	if requests, ok := f.now("requests"); ok {
		rate := digits(requests) + " requests/s"
		if live {
			rate += " " + f.bars("requests", 0)
		}
		if errors, ok := f.now("errors"); ok && requests > 0 {
			rate += fmt.Sprintf("   %s %% errors", digits(100*errors/requests))
		}
		if p50, ok := f.now("latency_p50"); ok {
			p99, _ := f.now("latency_p99")
			rate += fmt.Sprintf("   latency %s, p99 %s", seconds(p50), seconds(p99))
		}
		out = append(out, rate)
	}
	cpu, known := f.now("cpu")
	if known && t.metrics.RuntimeInstanceID == nil {
		all := fmt.Sprintf("%s cores", digits(cpu))
		if memory, ok := f.now("memory_used"); ok {
			all += fmt.Sprintf("   %s memory", size(int64(memory)))
		}
		if in, ok := f.now("network_received"); ok {
			sent, _ := f.now("network_sent")
			all += fmt.Sprintf("   in %s/s, out %s/s", size(int64(in)), size(int64(sent)))
		}
		out = append(out, all)
	}
	return out
}

// topRows are the instances, those that use most first.
func topRows(t top) []topRow {
	series := map[string]resource.InstanceMetrics{}
	for _, m := range t.metrics.Instances {
		series[m.RuntimeInstanceID] = m
	}
	var rows []topRow
	for _, i := range t.instances {
		f := figuresOf(t.metrics, series[i.ID].Series)
		cores := float64(i.CPULimitMillicores) / 1000
		memory := float64(i.MemoryLimitMB) * (1 << 20)
		cpu, known := f.now("cpu")
		r := topRow{cpu: -1, cells: []string{
			printable(i.ID), printable(i.ServiceName), printable(i.State), "-", f.bars("cpu", cores), f.of("memory_used", memory), f.bars("memory_used", memory),
			f.of("disk_used", float64(i.DiskLimitMB)*(1<<20)), f.rate("network_received"), f.rate("network_sent"), "-", strconv.Itoa(i.RestartCount),
		}}
		if known {
			r.cpu = cpu
			r.cells[3] = digits(100*cpu) + " %"
		}
		if probe, ok := f.now("probe"); ok {
			r.cells[10] = seconds(probe)
		}
		rows = append(rows, r)
	}
	slices.SortStableFunc(rows, func(x, y topRow) int { return cmp.Or(cmp.Compare(y.cpu, x.cpu), cmp.Compare(x.cells[0], y.cells[0])) })
	return rows
}

// topFigures are series by name.
type topFigures struct {
	byName map[string][]*float64
	step   time.Duration
}

func figuresOf(m resource.Metrics, all []resource.MetricSeries) topFigures {
	f := topFigures{byName: map[string][]*float64{}, step: max(time.Duration(m.StepSeconds)*time.Second, time.Second)}
	for _, s := range all {
		f.byName[s.Name] = s.Values
	}
	return f
}

// now is the newest value, if there is one that is not old.
func (f topFigures) now(name string) (float64, bool) {
	values := f.byName[name]
	for back := range int(topFresh / f.step) {
		if n := len(values) - 1 - back; n >= 0 && values[n] != nil {
			return *values[n], true
		}
	}
	return 0, false
}

// of is the newest value against its limit.
func (f topFigures) of(name string, limit float64) string {
	v, ok := f.now(name)
	if !ok {
		return "-"
	}
	if limit <= 0 {
		return size(int64(v))
	}
	return fmt.Sprintf("%s/%s", size(int64(v)), strings.Replace(size(int64(limit)), ".0 ", " ", 1))
}

func (f topFigures) rate(name string) string {
	v, ok := f.now(name)
	if !ok {
		return "-"
	}
	return size(int64(v)) + "/s"
}

// bars are the last values as little bars against a limit; 0: against the
// highest of them. A gap is a space.
func (f topFigures) bars(name string, limit float64) string {
	steps := []rune("▁▂▃▄▅▆▇█")
	values := f.byName[name]
	values = values[max(0, len(values)-topPoints):]
	if limit <= 0 {
		for _, v := range values {
			if v != nil {
				limit = max(limit, *v)
			}
		}
	}
	out := bytes.NewBuffer(nil)
	for _, v := range values {
		switch {
		case v == nil:
			out.WriteByte(' ')
		case limit <= 0:
			out.WriteRune(steps[0])
		default:
			out.WriteRune(steps[min(max(int(*v/limit*float64(len(steps))), 0), len(steps)-1)])
		}
	}
	return out.String()
}

// digits is a number with as many of them as a person wants.
func digits(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.1:
		return strconv.FormatFloat(v, 'f', 3, 64)
	case v < 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

// seconds is a duration at a glance.
func seconds(v float64) string {
	switch ms := v * 1000; {
	case ms < 10:
		return strconv.FormatFloat(ms, 'f', 1, 64) + " ms"
	case ms < 1000:
		return strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
	}
	return strconv.FormatFloat(v, 'f', 1, 64) + " s"
}

// clipped is the text in at most so many columns.
func clipped(s string, columns int) string {
	if utf8.RuneCountInString(s) <= columns {
		return s
	}
	return string([]rune(s)[:max(columns-1, 0)]) + "…"
}
