package metrics

import "slices"

// Figure is one thing that is measured. Their numbers are in what is stored:
// none is ever given another meaning, new ones come at the end.
type Figure uint8

// The figures of an instance, and of a service's traffic.
const (
	CPU             Figure = iota // processor time of the VM's process, ms
	Memory                        // resident memory of the VM's process, KiB
	MemoryUsed                    // inside the guest, by its own word, KiB
	Disk                          // of the ephemeral disk, what is allocated on the host, KiB
	DiskUsed                      // of the ephemeral disk, by the guest's own word, KiB
	NetworkReceived               // bytes, from the instance's point of view
	NetworkSent                   // bytes
	Restarts                      // boots after the first
	Probe                         // how long the last successful health check took, µs
	Requests                      // that ended at the router
	Errors                        // of them those answered 5xx
	LatencyMedian                 // of the requests since the sample before, µs
	LatencyP99                    // µs
	InFlight                      // requests at instances at this moment
)

// figures is how many there are.
const figures = 14

// Kind says how values in time become what is shown.
type Kind int

const (
	// Gauge is a level: averaged over a step.
	Gauge Kind = iota
	// Rate is a total that only grows, or begins anew: shown per second.
	Rate
	// Count is a total too: shown as how much came in a step.
	Count
)

// fold says how the figures of several sources become one.
type fold int

const (
	sum fold = iota
	mean
	worst
)

// Info is what readers need to know of a figure.
type Info struct {
	Figure Figure
	Name   string // in the API
	Unit   string // of what is shown
	Source string // who says so: "host", "guest", "router"
	Kind   Kind
	// Scale is what a stored value, or its rate per second, is multiplied by to
	// be in Unit.
	Scale float64
	fold  fold
}

var infos = [figures]Info{
	{CPU, "cpu", "cores", "host", Rate, 1e-3, sum},
	{Memory, "memory", "bytes", "host", Gauge, 1 << 10, sum},
	{MemoryUsed, "memory_used", "bytes", "guest", Gauge, 1 << 10, sum},
	{Disk, "disk", "bytes", "host", Gauge, 1 << 10, sum},
	{DiskUsed, "disk_used", "bytes", "guest", Gauge, 1 << 10, sum},
	{NetworkReceived, "network_received", "bytes_per_second", "host", Rate, 1, sum},
	{NetworkSent, "network_sent", "bytes_per_second", "host", Rate, 1, sum},
	{Restarts, "restarts", "count", "host", Count, 1, sum},
	{Probe, "probe", "seconds", "host", Gauge, 1e-6, mean},
	{Requests, "requests", "per_second", "router", Rate, 1, sum},
	{Errors, "errors", "per_second", "router", Rate, 1, sum},
	{LatencyMedian, "latency_p50", "seconds", "router", Gauge, 1e-6, worst},
	{LatencyP99, "latency_p99", "seconds", "router", Gauge, 1e-6, worst},
	{InFlight, "in_flight", "requests", "router", Gauge, 1, sum},
}

// Figures are all, in their order.
func Figures() []Info { return slices.Clone(infos[:]) }

// OfInstances and OfTraffic are the two groups of them.
func OfInstances() []Info { return slices.Clone(infos[:Requests]) }

// OfTraffic are those that the router counts.
func OfTraffic() []Info { return slices.Clone(infos[Requests:]) }
