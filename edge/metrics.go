package edge

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// The router's figures for Prometheus, by host name. A name that was never
// asked for has none: of 100,000 names most are quiet.
var (
	requestsDesc = prometheus.NewDesc("miosa_router_requests_total",
		"Requests that ended, by class of status; gone: the client left before an answer.", []string{"host", "class"}, nil)
	latencyDesc = prometheus.NewDesc("miosa_router_request_seconds",
		"From a request's head to the end of its answer; without upgraded connections.", []string{"host"}, nil)
	retriesDesc = prometheus.NewDesc("miosa_router_retries_total",
		"Attempts at another backend after the first could not be reached.", []string{"host"}, nil)
	receivedDesc = prometheus.NewDesc("miosa_router_received_bytes_total",
		"Bytes of request bodies.", []string{"host"}, nil)
	sentDesc = prometheus.NewDesc("miosa_router_sent_bytes_total",
		"Bytes of response bodies.", []string{"host"}, nil)
	inFlightDesc = prometheus.NewDesc("miosa_router_in_flight",
		"Requests at an instance at this moment, upgraded connections included.", []string{"host"}, nil)
	hostsDesc = prometheus.NewDesc("miosa_router_hosts",
		"Host names in the route table.", nil, nil)
	connsDesc = prometheus.NewDesc("miosa_router_tcp_connections_total",
		"Connections to a port of a raw TCP service that ended: served; refused, where no instance took it or there were too many.", []string{"port", "result"}, nil)
	connsOpenDesc = prometheus.NewDesc("miosa_router_tcp_open",
		"Connections to a port of a raw TCP service at this moment.", []string{"port"}, nil)
	connsReceivedDesc = prometheus.NewDesc("miosa_router_tcp_received_bytes_total",
		"Bytes from clients of a raw TCP service.", []string{"port"}, nil)
	connsSentDesc = prometheus.NewDesc("miosa_router_tcp_sent_bytes_total",
		"Bytes to clients of a raw TCP service.", []string{"port"}, nil)
	portFailedDesc = prometheus.NewDesc("miosa_router_tcp_port_failed",
		"1 where the router cannot listen on the port of a raw TCP service: somebody else has it.", []string{"port"}, nil)
	lostLinesDesc = prometheus.NewDesc("miosa_router_access_log_lost_total",
		"Lines of the access log that were dropped because its writer was too slow.", nil, nil)
)

var metricDescs = []*prometheus.Desc{
	requestsDesc, latencyDesc, retriesDesc, receivedDesc, sentDesc, inFlightDesc, hostsDesc, lostLinesDesc,
	connsDesc, connsOpenDesc, connsReceivedDesc, connsSentDesc, portFailedDesc,
}

var classes = [6]string{"gone", "1xx", "2xx", "3xx", "4xx", "5xx"}

// shownBuckets are the histogram's buckets that Prometheus is given: every
// second one, from 1 ms to 17 s.
var shownBuckets = []int{4, 6, 8, 10, 12, 14, 16, 18}

var _ prometheus.Collector = (*Router)(nil)

// Describe and Collect make the router a collector for a registry.
func (rt *Router) Describe(out chan<- *prometheus.Desc) {
	for _, d := range metricDescs {
		out <- d
	}
}

// Collect gives the figures of this moment.
func (rt *Router) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	hosts := int64(0)
	for e := range rt.entries() {
		hosts++
		s := e.stats.read()
		ended := uint64(0)
		for _, n := range s.Requests {
			ended += n
		}
		busy := e.inFlight()
		if ended == 0 && busy == 0 {
			continue
		}
		for i, n := range s.Requests {
			if n > 0 {
				counter(requestsDesc, n, e.host, classes[i])
			}
		}
		buckets, count := cumulative(s)
		out <- prometheus.MustNewConstHistogram(latencyDesc, count, s.Total.Seconds(), buckets, e.host)
		counter(retriesDesc, s.Retries, e.host)
		counter(receivedDesc, s.BytesIn, e.host)
		counter(sentDesc, s.BytesOut, e.host)
		gauge(inFlightDesc, busy, e.host)
	}
	for _, p := range rt.ports.all() {
		label, s := strconv.Itoa(p.number), p.stats.read()
		counter(connsDesc, s.Requests[2], label, "served")
		counter(connsDesc, s.Requests[5], label, "refused")
		gauge(connsOpenDesc, p.open.Load(), label)
		counter(connsReceivedDesc, s.BytesIn, label)
		counter(connsSentDesc, s.BytesOut, label)
		failed := int64(0)
		if p.failed.Load() {
			failed = 1
		}
		gauge(portFailedDesc, failed, label)
	}
	gauge(hostsDesc, hosts)
	counter(lostLinesDesc, rt.AccessLogDropped())
}

// cumulative are the shown buckets, each with all that took less, in seconds,
// and how many requests there were in all.
func cumulative(s HostStats) (map[float64]uint64, uint64) {
	shown := make(map[float64]uint64, len(shownBuckets))
	sum, next := uint64(0), 0
	for i, n := range s.Latency {
		sum += n
		if next < len(shownBuckets) && shownBuckets[next] == i {
			shown[LatencyBound(i).Seconds()] = sum
			next++
		}
	}
	return shown, sum
}
