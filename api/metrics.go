package api

import (
	"context"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/metrics"
)

// MetricsReader draws the built-in history.
type MetricsReader interface {
	// Draw is what a scope looked like over a grid.
	Draw(ctx context.Context, scope metrics.Scope, want metrics.Want) (metrics.Shaped, error)
}

const (
	// metricPoints is what a picture can show: the step is chosen by it.
	metricPoints = 300
	// mostMetricPoints bounds a step that is asked for.
	mostMetricPoints = 1500
	// metricInstances bounds how many are shown one by one.
	metricInstances = 100
	metricsTime     = 20 * time.Second
)

const metricNotes = "Sampled every 15 s and kept for 24 h. Processor, memory, disk and network are counted on the host; memory_used and disk_used are the guest's own word. " +
	"Gauges and rates are averages over a step, with the highest 15 s beside them; restarts are how many in it. A gap is null, never 0. " +
	"Several instances together: sums, but for probe (the average) and the latencies (the worst). A deployment's are those of all its environments."

var metricQuery = []param{
	{"since", "From then on: " + resource.MomentForms + "; default 1h, at most 24h."}, {"until", "Before then: in the same forms; default now."},
	{"step", "How wide a point is: a multiple of 15s. Default: the least with which there are at most 300 points; at most 1500 can be asked for."},
	{"series", "Only these, by commas: cpu,memory. Default all."},
}

func metricRoutes() []*route {
	figures := func(pattern, operation, summary string, query ...param) *route {
		return &route{
			Method: get, Pattern: pattern, Access: accessTenant, Operation: operation, Tag: "metrics", Summary: summary, Notes: metricNotes,
			Query: append(slices.Clone(metricQuery), query...), Handle: one((*Server).getMetrics),
		}
	}
	by := param{"by", "instance: each instance by itself too, the newest 100."}
	return []*route{
		figures("/deployments/{id}/metrics", "getDeploymentMetrics", "See a deployment's figures of the last day", by),
		figures("/services/{id}/metrics", "getServiceMetrics", "See a service's figures of the last day", by),
		figures("/runtime-instances/{ri_id}/metrics", "getInstanceMetrics", "See an instance's figures of the last day"),
	}
}

func (s *Server) getMetrics(c *call, _ none) (resource.Metrics, error) {
	scope, err := c.metricScope()
	if err != nil {
		return resource.Metrics{}, err
	}
	if s.metrics == nil {
		return resource.Metrics{}, &miosa.Error{Code: miosa.Unavailable, Public: "metrics_not_kept", Message: "no history of figures is kept here"}
	}
	want, until, err := c.metricWant(scope)
	if err != nil {
		return resource.Metrics{}, err
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), metricsTime)
	defer cancel()
	shaped, err := s.metrics.Draw(ctx, scope, want)
	if err != nil {
		return resource.Metrics{}, err
	}
	out := resource.Metrics{
		DeploymentID: scope.DeploymentID, Since: want.Grid.Start, Until: until, StepSeconds: int(want.Grid.Step / time.Second),
		Series: seriesResources(shaped.Total, want.Figures), Instances: []resource.InstanceMetrics{}, MoreInstances: shaped.More,
	}
	if scope.ServiceID != "" {
		out.ServiceID = new(scope.ServiceID)
	}
	if scope.SourceID != "" {
		out.RuntimeInstanceID = new(scope.SourceID)
	}
	for _, one := range shaped.Sources {
		out.Instances = append(out.Instances, resource.InstanceMetrics{
			RuntimeInstanceID: one.Owner.SourceID, ServiceID: one.Owner.ServiceID, LastSampleAt: one.Last, Series: seriesResources(one.Series, want.Figures),
		})
	}
	return out, nil
}

// metricScope is what the path names, as far as the key sees.
func (c *call) metricScope() (metrics.Scope, error) {
	scope := metrics.Scope{TenantID: c.tenant.ID}
	switch {
	case strings.HasPrefix(c.route.Pattern, "/services/"):
		at, _, err := c.locate("id", miosa.PrefixService, "service")
		if err != nil {
			return scope, err
		}
		scope.DeploymentID, scope.ServiceID = at.DeploymentID, c.r.PathValue("id")
	case strings.HasPrefix(c.route.Pattern, "/runtime-instances/"):
		at, _, err := c.locate("ri_id", miosa.PrefixInstance, "runtime instance")
		if err != nil {
			return scope, err
		}
		i, err := c.instance(at, c.r.PathValue("ri_id"))
		if err != nil {
			return scope, err
		}
		scope.DeploymentID, scope.ServiceID, scope.SourceID = at.DeploymentID, i.ServiceID, i.ID
	default:
		dep, err := c.deployment()
		if err != nil {
			return scope, err
		}
		scope.DeploymentID = dep.ID
	}
	return scope, nil
}

// metricWant reads the parameters.
func (c *call) metricWant(scope metrics.Scope) (want metrics.Want, until time.Time, err error) {
	var f faults
	q := c.r.URL.Query()
	now := c.s.now().UTC()
	since := f.moment("since", query(q, "since", "1h"), now)
	if until = now; q.Get("until") != "" {
		until = f.moment("until", q.Get("until"), now)
	}
	if err := f.err(); err != nil {
		return want, until, err
	}
	// There is nothing before the history, and nothing after now.
	until = earlier(until, now)
	if oldest := now.Add(-metrics.Kept); since.Before(oldest) {
		since = oldest
	}
	if !since.Before(until) {
		f.add("until", "must be after since, and within the last 24 hours")
	}
	step := metrics.Step(until.Sub(since), metricPoints)
	if v := q.Get("step"); v != "" {
		asked, ok := resource.ParseDuration(v)
		switch {
		case !ok || asked < metrics.Interval || asked%metrics.Interval != 0 || asked > metrics.Kept:
			f.add("step", "must be a multiple of 15s, like 15s, 1m or 5m")
		case until.Sub(since) > asked*mostMetricPoints:
			f.add("step", "would make more than %d points: take a longer one, or a later since", mostMetricPoints)
		default:
			step = asked
		}
	}
	want.Figures = metrics.Figures()
	if scope.SourceID != "" {
		want.Figures = metrics.OfInstances()
	}
	if v := q.Get("series"); v != "" {
		want.Figures = f.figures(v, want.Figures)
	}
	by := q.Get("by")
	if by != "" {
		f.oneOf("by", by, "instance")
		want.Sources = metricInstances
	}
	if scope.SourceID != "" {
		want.Sources = 0
	}
	if err := f.err(); err != nil {
		return want, until, err
	}
	want.Grid = metrics.NewGrid(since, until, step)
	return want, until, nil
}

// figures are those named, in their own order.
func (f *faults) figures(names string, all []metrics.Info) []metrics.Info {
	wanted := strings.Split(names, ",")
	var out []metrics.Info
	for _, info := range all {
		if slices.Contains(wanted, info.Name) {
			out = append(out, info)
		}
	}
	for _, name := range wanted {
		if !slices.ContainsFunc(all, func(i metrics.Info) bool { return i.Name == name }) {
			f.add("series", "%.40q is none of its figures", name)
			break
		}
	}
	return out
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// seriesResources are those of the series that are wanted.
func seriesResources(all []metrics.Series, want []metrics.Info) []resource.MetricSeries {
	out := []resource.MetricSeries{}
	for _, s := range all {
		if !slices.ContainsFunc(want, func(i metrics.Info) bool { return i.Figure == s.Figure }) {
			continue
		}
		out = append(out, resource.MetricSeries{Name: s.Name, Unit: s.Unit, Source: s.Source, Values: numbers(s.Values), Max: numbers(s.Max)})
	}
	return out
}

// numbers are values as JSON has them: a gap is null, and there are six
// digits, which is more than a picture shows.
func numbers(values []float64) []*float64 {
	out := make([]*float64, len(values))
	for i, v := range values {
		switch {
		case math.IsNaN(v) || math.IsInf(v, 0):
		case v == 0:
			out[i] = new(0.0)
		default:
			scale := math.Pow(10, 6-math.Ceil(math.Log10(math.Abs(v))))
			out[i] = new(math.Round(v*scale) / scale)
		}
	}
	return out
}
