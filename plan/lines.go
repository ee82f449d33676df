package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/miosa/miosa"
)

// maxLines bounds the lines of one list; what is over it is counted.
const maxLines = 20

// Summary is the plan in a sentence or two.
func (p *Plan) Summary() string {
	var bad []string
	all := len(p.Moves) + len(p.Starts) + len(p.NoRoom)
	if n := len(p.NoRoom); n > 0 {
		bad = append(bad, fmt.Sprintf("%d of %s %s no host", n, count(all, "instance"), either(n == 1, "finds", "find")))
	}
	if n := len(p.Stays); n > 0 {
		bad = append(bad, fmt.Sprintf("%s %s on the host", count(n, "instance"), either(n == 1, "stays", "stay")))
	}
	falls, down := 0, 0
	for n := range p.Services {
		switch s := &p.Services[n]; {
		case s.Falls():
			falls++
		case s.Down():
			down++
		}
	}
	if falls > 0 {
		bad = append(bad, fmt.Sprintf("%s %s with fewer that serve than wanted", count(falls, "service"), either(falls == 1, "ends up", "end up")))
	}
	if down > 0 {
		bad = append(bad, fmt.Sprintf("%s %s not served for a while", count(down, "service"), either(down == 1, "is", "are")))
	}
	for _, r := range p.Rollouts {
		if !r.Live && !r.Proven {
			bad = append(bad, fmt.Sprintf("version %d does not go live", r.Version))
		}
	}
	var what []string
	if n := len(p.Starts); n > 0 {
		what = append(what, fmt.Sprintf("%s %s", count(n, "instance"), either(n == 1, "starts", "start")))
	}
	if n := len(p.Moves); n > 0 {
		what = append(what, fmt.Sprintf("%s %s", count(n, "instance"), either(n == 1, "moves", "move")))
	}
	if n := len(p.Ends); n > 0 {
		what = append(what, fmt.Sprintf("%s %s", count(n, "instance"), either(n == 1, "ends", "end")))
	}
	var out string
	switch {
	case len(bad) > 0 && len(what) > 0:
		out = "It is not well: " + join(bad) + ". Besides, " + join(what) + "."
	case len(bad) > 0:
		out = "It is not well: " + join(bad) + "."
	case len(what) > 0:
		out = "It fits: " + join(what) + "."
	default:
		out = "Nothing would be done."
	}
	if p.Unfinished {
		out += " It did not come to rest within a dry run; this is how far it came."
	}
	return out
}

// Lines are the plan as a page of lines.
func (p *Plan) Lines() []string {
	w := &page{}
	for _, r := range p.Rollouts {
		switch {
		case r.Live:
			w.line("Version %d of %s goes live.", r.Version, r.name())
		case r.Proven:
			w.line("Version %d of %s becomes healthy, and is not made live, as asked.", r.Version, r.name())
		default:
			w.line("Version %d of %s waits: %s. What is live goes on serving, and when its time is over the version fails.", r.Version, r.name(), r.Reason)
		}
	}
	p.noRoom(w)
	w.list("Stay on the host", tally(p.Stays, func(s Stay) (string, string) {
		return fmt.Sprintf("%s %d: on %s", s.name(), s.Slot, s.On), ""
	}))
	p.below(w)
	w.list("Moves", tally(p.Moves, func(m Move) (string, string) {
		if m.To.Host == "" {
			return fmt.Sprintf("%s, from %s to %s", m.name(), m.From, m.To), ""
		}
		return fmt.Sprintf("%s %d: from %s to %s", m.name(), m.Slot, m.From, m.To), ""
	}))
	w.list("New", tally(p.Starts, func(s Start) (string, string) {
		if s.On.Host == "" {
			return fmt.Sprintf("%s, version %d, in %s", s.name(), s.Version, s.On), ""
		}
		return fmt.Sprintf("%s %d, version %d: on %s", s.name(), s.Slot, s.Version, s.On), ""
	}))
	w.list("End", tally(p.Ends, func(e End) (string, string) {
		if e.On.Host == "" {
			return fmt.Sprintf("%s, version %d", e.name(), e.Version), e.Reason
		}
		return fmt.Sprintf("%s %d, version %d: on %s", e.name(), e.Slot, e.Version, e.On), e.Reason
	}))
	p.zones(w)
	if p.Waiting > 0 {
		w.line("%s had no host before, and %s none now.", upper(count(p.Waiting, "other instance")), either(p.Waiting == 1, "has", "have"))
	}
	return w.lines
}

// noRoom says of which service how many find no host, and why.
func (p *Plan) noRoom(w *page) {
	w.list("No host for", tally(p.NoRoom, func(n NoRoom) (string, string) {
		return n.name(), strings.Join(n.Reasons, "; ")
	}))
}

// below says which services have fewer that serve than they want.
func (p *Plan) below(w *page) {
	var lines []string
	for n := range p.Services {
		s := &p.Services[n]
		if !s.Falls() && !s.Dips() {
			continue
		}
		line := fmt.Sprintf("%s: %d of %d serve in the end", s.name(), s.Serving, s.Wanted)
		if s.Dips() {
			line += fmt.Sprintf(", %s at the lowest", either(s.Lowest == 0, "none", fmt.Sprint(s.Lowest)))
		}
		if s.WantedBefore != s.Wanted || s.ServingBefore != s.Wanted {
			line += fmt.Sprintf("; before it is %d of %d", s.ServingBefore, s.WantedBefore)
		}
		lines = append(lines, line)
	}
	w.list("Fewer serve than are wanted", lines)
}

// zones says how full they are.
func (p *Plan) zones(w *page) {
	var lines []string
	for _, z := range p.Zones {
		name := z.Region + "/" + z.Zone
		line := fmt.Sprintf("%s: %s", name, count(z.Usable, "host"))
		if z.Usable != z.UsableBefore {
			line = fmt.Sprintf("%s: %s of %d", name, count(z.Usable, "host"), z.UsableBefore)
		}
		for _, r := range []struct {
			what string
			of   func(miosa.Resources) int
		}{
			{"memory", func(r miosa.Resources) int { return r.MemoryMB }}, {"vCPUs", func(r miosa.Resources) int { return r.VCPUs }},
			{"disk", func(r miosa.Resources) int { return r.DiskMB }}, {"GPUs", func(r miosa.Resources) int { return r.GPU }},
		} {
			if r.of(z.CapacityBefore) > 0 || r.of(z.Capacity) > 0 {
				line += fmt.Sprintf(", %s %s → %s", r.what, percent(r.of(z.UsedBefore), r.of(z.CapacityBefore)), percent(r.of(z.Used), r.of(z.Capacity)))
			}
		}
		lines = append(lines, line)
	}
	w.list("How full hosts are, by what is promised", lines)
}

func percent(used, of int) string {
	if of <= 0 {
		return "-"
	}
	return fmt.Sprintf("%d%%", (used*100+of/2)/of)
}

type page struct{ lines []string }

func (w *page) line(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func (w *page) list(title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	w.line("%s:", title)
	for n, line := range lines {
		if n == maxLines && len(lines) > maxLines+1 {
			w.line("  and %d more", len(lines)-n)
			return
		}
		w.line("  %s", line)
	}
}

// tally puts things into words, what reads the same in one line with their number
// and the reason behind it.
func tally[T any](all []T, say func(T) (what, why string)) []string {
	type line struct{ what, why string }
	var order []line
	times := map[line]int{}
	for _, v := range all {
		l := line{}
		l.what, l.why = say(v)
		if times[l]++; times[l] == 1 {
			order = append(order, l)
		}
	}
	out := make([]string, 0, len(order))
	for _, l := range order {
		text := l.what
		if n := times[l]; n > 1 {
			text += fmt.Sprintf(" (%d)", n)
		}
		if l.why != "" {
			text += ": " + l.why
		}
		out = append(out, text)
	}
	return out
}

// name is what a person calls it: acme/shop web, shop (staging) web.
func (s Subject) name() string {
	name := s.Deployment
	if s.Tenant != "" {
		name = s.Tenant + "/" + name
	}
	if s.Environment != miosa.Production {
		name += " (" + s.Environment + ")"
	}
	if s.Service != "" {
		name += " " + s.Service
	}
	return name
}

func (p Place) String() string {
	at := strings.Trim(p.Region+"/"+p.Zone, "/")
	switch {
	case p.Host == "":
		return cmp.Or(at, "no host")
	case at == "":
		return p.Host
	}
	return p.Host + " (" + at + ")"
}

func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

func either(first bool, a, b string) string {
	if first {
		return a
	}
	return b
}

func join(parts []string) string {
	if n := len(parts); n > 1 {
		return strings.Join(slices.Clip(parts[:n-1]), ", ") + " and " + parts[n-1]
	}
	return parts[0]
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
