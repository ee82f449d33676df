package metrics

import (
	"math"
	"time"
)

// Step is the least of the usual steps with which span has at most points
// points: what a picture can show.
func Step(span time.Duration, points int) time.Duration {
	steps := []time.Duration{
		Interval, 2 * Interval, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	}
	for _, s := range steps {
		if span <= time.Duration(points)*s {
			return s
		}
	}
	return (span/time.Duration(points) + time.Hour - 1).Truncate(time.Hour)
}

// Grid is the points in time at which a history is shown: point n stands for
// [Start + n·Step, Start + (n+1)·Step).
type Grid struct {
	Start  time.Time
	Step   time.Duration // a multiple of Interval
	Points int
}

// NewGrid covers [since, until) with steps that begin at multiples of step, so
// that who asks again gets the same points again.
func NewGrid(since, until time.Time, step time.Duration) Grid {
	step = max(step.Truncate(Interval), Interval)
	start := since.UTC().Truncate(step)
	points := int((until.Sub(start) + step - 1) / step)
	return Grid{Start: start, Step: step, Points: max(points, 0)}
}

// Series is one figure over a grid. NaN is a gap: nothing is known, which is
// not nothing.
type Series struct {
	Info
	Values []float64 // of gauges and rates the average, of counts the sum
	Max    []float64 // the highest of any Interval; nil for counts
}

// shape lays the samples of one source, and of several, over a grid. Cells
// are Interval wide; what is shown is drawn together from them at the end, so
// that the highest value of a sum is the sum's, and not the sum of highest ones.
type shape struct {
	grid  Grid
	cells int
	lanes [figures]*lane
}

// lane is one figure's cells.
type lane struct {
	// value is the sum, or the worst, of what covers a cell, weighted by how much
	// of it is covered; part is how much, in cells; n of how many sources.
	value, part []float64
	n           []uint32
}

func newLane(cells int) *lane {
	return &lane{value: make([]float64, cells), part: make([]float64, cells), n: make([]uint32, cells)}
}

func newShape(g Grid) *shape { return &shape{grid: g, cells: g.Points * int(g.Step/Interval)} }

func (s *shape) clear() {
	for _, l := range s.lanes {
		if l != nil {
			clear(l.value)
			clear(l.part)
			clear(l.n)
		}
	}
}

// lane is a figure's, made when it is first needed.
func (s *shape) lane(f Figure) *lane {
	if s.lanes[f] == nil {
		s.lanes[f] = newLane(s.cells)
	}
	return s.lanes[f]
}

// add takes the next sample of a source, and the one before it; the first has
// none.
func (s *shape) add(before, row *Row) {
	// A sample tells of the time since the one before, if that is not too long;
	// else of the Interval that it stands for.
	alone := s.cover(row.At, Interval)
	since, width, known := alone, Interval, false
	if before != nil {
		if d := row.At.Sub(before.At); d > 0 && d <= Stale {
			since, width, known = s.cover(row.At, d), d, true
		}
	}
	for f := range Figure(figures) {
		if row.Values.has&(1<<f) == 0 {
			continue
		}
		info, value := &infos[f], row.Values.all[f]
		both := known && before.Values.has&(1<<f) != 0
		if info.Kind == Gauge {
			where := &alone
			if both {
				where = &since
			}
			s.paint(f, where, float64(value)*info.Scale)
			continue
		}
		if !both {
			continue // a total says nothing by itself
		}
		grown := value - before.Values.all[f]
		if grown < 0 {
			grown = value // it began anew
		}
		if info.Kind == Rate {
			s.paint(f, &since, float64(grown)*info.Scale/width.Seconds())
			continue
		}
		s.paint(f, &since, 0)
		if n := int(row.At.Sub(s.grid.Start) / Interval); !row.At.Before(s.grid.Start) && n < s.cells {
			s.lane(f).value[n] += float64(grown) * info.Scale
		}
	}
}

// cover is which cells a stretch of time covers, and how much of each.
type cover struct {
	first, count int
	parts        [int(Stale/Interval) + 2]float64
}

// cover is what of the grid the width up to at covers; Stale at most.
func (s *shape) cover(at time.Time, width time.Duration) (c cover) {
	to := float64(at.Sub(s.grid.Start)) / float64(Interval)
	from := max(to-float64(width)/float64(Interval), 0)
	if to = min(to, float64(s.cells)); to <= from {
		return c
	}
	c.first = int(from)
	for n := float64(c.first); n < to; n++ {
		c.parts[c.count] = min(to, n+1) - max(from, n)
		c.count++
	}
	return c
}

// paint says that the value was so in what is covered.
func (s *shape) paint(f Figure, c *cover, value float64) {
	if c.count == 0 {
		return
	}
	l := s.lane(f)
	for n, part := range c.parts[:c.count] {
		l.value[c.first+n] += value * part
		l.part[c.first+n] += part
	}
}

// close turns one source's cells into averages: from now on the lanes can be
// folded. Counts are sums as they are.
func (s *shape) close() {
	for f, l := range s.lanes {
		if l == nil {
			continue
		}
		for n, part := range l.part {
			if part == 0 {
				continue
			}
			if infos[f].Kind != Count {
				l.value[n] /= part
			}
			l.part[n], l.n[n] = 1, 1
		}
	}
}

// fold adds another closed source.
func (s *shape) fold(o *shape) {
	for f, from := range o.lanes {
		if from == nil {
			continue
		}
		to := s.lane(Figure(f))
		for n, count := range from.n {
			if count == 0 {
				continue
			}
			if infos[f].fold == worst {
				if to.n[n] == 0 || from.value[n] > to.value[n] {
					to.value[n] = from.value[n]
				}
			} else {
				to.value[n] += from.value[n]
			}
			to.n[n] += count
		}
	}
}

// series draws the cells together.
func (s *shape) series(want []Info) []Series {
	out := make([]Series, 0, len(want))
	per := int(s.grid.Step / Interval)
	for _, info := range want {
		one := Series{Info: info, Values: gaps(s.grid.Points)}
		if info.Kind != Count {
			one.Max = gaps(s.grid.Points)
		}
		if l := s.lanes[info.Figure]; l != nil {
			for p := range s.grid.Points {
				one.draw(l, p, p*per, (p+1)*per)
			}
		}
		out = append(out, one)
	}
	return out
}

func (one *Series) draw(l *lane, point, from, to int) {
	total, known, top := 0.0, 0, math.Inf(-1)
	for n := from; n < to; n++ {
		if l.n[n] == 0 {
			continue
		}
		v := l.value[n]
		if one.fold == mean {
			v /= float64(l.n[n])
		}
		total += v
		known++
		top = max(top, v)
	}
	switch {
	case known == 0:
	case one.Kind == Count:
		one.Values[point] = total
	default:
		one.Values[point], one.Max[point] = total/float64(known), top
	}
}

func gaps(n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		out[i] = math.NaN()
	}
	return out
}

// Shaped is what a scope looked like.
type Shaped struct {
	Grid    Grid
	Total   []Series
	Sources []Source // by ID; only if they were asked for
	More    bool     // there are others, which are in Total alone
}

// Source is one source's part.
type Source struct {
	Owner  Owner
	Last   time.Time // its newest sample
	Series []Series
}

// Want says what a history is drawn of.
type Want struct {
	Grid    Grid
	Figures []Info
	Sources int // how many sources are shown one by one, instances only; 0: none
}

// Shaper draws a history from rows, which come as Store.Read yields them.
type Shaper struct {
	want   Want
	total  *shape
	one    *shape // of the source under way; the same for all of them
	open   bool
	before *Row
	last   Row
	out    Shaped
}

// NewShaper begins.
func NewShaper(want Want) *Shaper {
	return &Shaper{want: want, total: newShape(want.Grid), one: newShape(want.Grid), out: Shaped{Grid: want.Grid}}
}

// Add takes the next row.
func (s *Shaper) Add(row Row) {
	if s.open && s.last.Owner != row.Owner {
		s.end()
	}
	if !s.open {
		s.open, s.before = true, nil
		s.one.clear()
	}
	s.one.add(s.before, &row)
	if s.before == nil {
		s.last.Owner = row.Owner
	}
	s.last.At, s.last.Values = row.At, row.Values
	s.before = &s.last
}

// end closes a source.
func (s *Shaper) end() {
	s.one.close()
	s.total.fold(s.one)
	s.open = false
	// One that was read for its last sample before the grid is not in it.
	if s.want.Sources > 0 && s.last.Owner.Instance() && !s.last.At.Before(s.want.Grid.Start) {
		if len(s.out.Sources) == s.want.Sources {
			// IDs sort by time: those made last are of most interest.
			copy(s.out.Sources, s.out.Sources[1:])
			s.out.Sources = s.out.Sources[:len(s.out.Sources)-1]
			s.out.More = true
		}
		s.out.Sources = append(s.out.Sources, Source{Owner: s.last.Owner, Last: s.last.At, Series: s.one.series(OfInstances())})
	}
}

// Done is the picture.
func (s *Shaper) Done() Shaped {
	if s.open {
		s.end()
	}
	s.out.Total = s.total.series(s.want.Figures)
	return s.out
}
