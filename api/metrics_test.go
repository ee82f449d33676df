package api_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/metrics"
)

// measured is a world whose instance has used a tenth of a processor and
// 64 MB for ten minutes, beside a router that saw two requests a second.
func (p platform) measured() (world, metrics.Owner) {
	p.t.Helper()
	w := p.world()
	of := metrics.Owner{TenantID: p.Tenant.ID, DeploymentID: w.dep, ServiceID: w.ids["services"], SourceID: w.ids["ri_id"]}
	p.measure(of, "router-1")
	return w, of
}

func (p platform) measure(of metrics.Owner, router string) {
	traffic := of
	traffic.SourceID = router
	begin := time.Now().Add(-10 * time.Minute)
	for n := range int64(41) {
		at := begin.Add(time.Duration(n) * metrics.Interval)
		p.Figures.Add(of, at, int64(metrics.CPU), n*1500, int64(metrics.Memory), 64<<10, int64(metrics.Restarts), n/20)
		p.Figures.Add(traffic, at, int64(metrics.Requests), n*30, int64(metrics.LatencyP99), 12_345)
	}
}

// series is one of an answer's, by name.
func series(a answer, path, name string) map[string]any {
	list, _ := a.at(path).([]any)
	for _, s := range list {
		if s, _ := s.(map[string]any); s["name"] == name {
			return s
		}
	}
	return map[string]any{}
}

func TestMetrics(t *testing.T) {
	p := start(t, api.Config{})
	w, of := p.measured()
	for _, path := range []string{"/deployments/" + w.dep, "/deployments/everything", "/services/" + of.ServiceID, "/runtime-instances/" + of.SourceID} {
		a := p.want(200, "GET", path+"/metrics", nil)
		cpu := series(a, "data.series", "cpu")
		values, _ := cpu["values"].([]any)
		if len(values) < 240 || len(values) > 241 || cpu["unit"] != "cores" || cpu["source"] != "host" || a.at("data.step_seconds") != 15.0 {
			t.Fatalf("%s: %d points, %s", path, len(values), a.Raw)
		}
		if values[0] != nil || values[len(values)-20] != 0.1 {
			t.Errorf("%s: %v", path, values)
		}
		_, traffic := series(a, "data.series", "requests")["values"]
		if instance := strings.HasPrefix(path, "/runtime"); traffic == instance {
			t.Errorf("%s has the router's figures: %v", path, traffic)
		}
	}
	a := p.want(200, "GET", "/services/"+of.ServiceID+"/metrics?since=8m&step=2m&by=instance&series=cpu,restarts,latency_p99", nil)
	if n := len(a.at("data.series").([]any)); n != 3 {
		t.Errorf("%d series: %s", n, a.Raw)
	}
	p99 := series(a, "data.series", "latency_p99")["values"].([]any)
	if len(p99) != 5 && len(p99) != 4 || p99[1] != 0.012345 {
		t.Errorf("latency: %v", p99)
	}
	total := 0.0
	for _, n := range series(a, "data.series", "restarts")["values"].([]any) {
		grown, _ := n.(float64) // the last point may have just begun
		total += grown
	}
	if highest := series(a, "data.series", "restarts")["max"].([]any); total != 2 && total != 1 || len(highest) != 0 {
		t.Errorf("%v restarts, highest %v", total, highest)
	}
	instances := a.at("data.instances").([]any)
	if len(instances) != 1 || instances[0].(map[string]any)["runtime_instance_id"] != of.SourceID || len(instances[0].(map[string]any)["series"].([]any)) != 2 {
		t.Errorf("%s", a.Raw)
	}
	// A day has at most 300 points; further back there is nothing to ask for.
	for _, since := range []string{"24h", "30d"} {
		a = p.want(200, "GET", "/deployments/"+w.dep+"/metrics?since="+since, nil)
		if n := len(series(a, "data.series", "cpu")["values"].([]any)); n < 288 || n > 289 || a.at("data.step_seconds") != 300.0 {
			t.Errorf("since %s: %d points of %v s", since, n, a.at("data.step_seconds"))
		}
	}
	for query, field := range map[string]string{
		"since=x": "since", "until=x": "until", "since=1h&until=2h": "until", "since=30d&until=25h": "until", "step=10s": "step", "step=20s": "step", "step=x": "step",
		"step=48h": "step", "since=24h&step=15s": "step", "by=host": "by", "series=nonsense": "series", "series=cpu,": "series",
	} {
		a := p.want(422, "GET", "/deployments/"+w.dep+"/metrics?"+query, nil)
		if fields, ok := a.at("error.details.fields").([]any); !ok || len(fields) != 1 || fields[0].(map[string]any)["field"] != field {
			t.Errorf("%s: %s", query, a.Raw)
		}
	}
	p.want(422, "GET", "/runtime-instances/"+of.SourceID+"/metrics?series=requests", nil)
}

// Figures end where the tenant does, and where the key's workspace does: by
// every path, whatever is asked for.
func TestMetricsOfOthers(t *testing.T) {
	p := start(t, api.Config{})
	w, of := p.measured()
	stranger := p.AddKey(miosa.RolePlatform, p.AddTenant("other").ID, "")
	neighbour := p.AddKey(miosa.RoleUser, p.Tenant.ID, "workspace-2")
	own := p.want(201, "POST", "/deployments", map[string]any{"name": "mine", "external_workspace_id": "workspace-2"}, p.bearer(neighbour)).text("data.id")
	for _, key := range []string{stranger, neighbour} {
		for _, path := range []string{
			"/deployments/" + w.dep, "/deployments/everything", "/services/" + of.ServiceID, "/runtime-instances/" + of.SourceID,
			"/services/" + of.SourceID, "/runtime-instances/" + of.ServiceID, "/runtime-instances/router-1", "/services/..%2f" + of.ServiceID,
		} {
			for _, query := range []string{"", "?by=instance", "?external_workspace_id=", "?tenant_id=" + p.Tenant.ID} {
				a := p.call("GET", path+"/metrics"+query, nil, p.bearer(key))
				if a.Status != http.StatusNotFound || strings.Contains(a.Raw, `"values"`) {
					t.Errorf("%s%s: %d %s", path, query, a.Status, a.Raw)
				}
			}
		}
	}
	// Its own it sees, and nothing of others in it, though they share the tenant.
	a := p.want(200, "GET", "/deployments/"+own+"/metrics?by=instance", nil, p.bearer(neighbour))
	if len(a.at("data.instances").([]any)) != 0 || strings.Contains(a.Raw, of.SourceID) {
		t.Errorf("%s", a.Raw)
	}
	for _, v := range series(a, "data.series", "cpu")["values"].([]any) {
		if v != nil {
			t.Fatalf("%s", a.Raw)
		}
	}
	// A deleted deployment's figures are gone for the API at once.
	p.want(200, "DELETE", "/deployments/"+w.dep, nil)
	p.want(404, "GET", "/runtime-instances/"+of.SourceID+"/metrics", nil)
}
