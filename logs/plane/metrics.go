package plane

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/miosa/miosa/logs"
)

// counters count what hosts ship.
type counters struct {
	lines, bytes, lost, refused prometheus.Counter
}

func newCounters() *counters {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "miosa_logs_" + name, Help: help})
	}
	return &counters{
		lines:   counter("lines_total", "Log lines that were stored, those of the platform included."),
		bytes:   counter("bytes_total", "Bytes of their text."),
		lost:    counter("lost_lines_total", "Lines of apps that were lost before they came here: over their limit, or a spool or ring was full."),
		refused: counter("refused_batches_total", "Batches that could not be stored; hosts keep them and send them again."),
	}
}

func (c *counters) all() []prometheus.Counter {
	return []prometheus.Counter{c.lines, c.bytes, c.lost, c.refused}
}

func (c *counters) arrived(arrivals []logs.Arrival) {
	lines, bytes, lost := 0, 0, uint64(0)
	for _, a := range arrivals {
		for i := range a.Batch.Lines {
			l := &a.Batch.Lines[i]
			lines++
			bytes += len(l.Text)
			lost += l.Lost
		}
	}
	c.lines.Add(float64(lines))
	c.bytes.Add(float64(bytes))
	c.lost.Add(float64(lost))
}

var _ prometheus.Collector = (*Plane)(nil)

// Describe and Collect make the plane a collector for a registry.
func (p *Plane) Describe(out chan<- *prometheus.Desc) {
	for _, c := range p.counters.all() {
		c.Describe(out)
	}
}

// Collect gives the figures of this moment.
func (p *Plane) Collect(out chan<- prometheus.Metric) {
	for _, c := range p.counters.all() {
		c.Collect(out)
	}
}
