package api_test

import (
	"encoding/csv"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/usage"
)

const (
	depA, depB = "dep_0000000000000000000000000a", "dep_0000000000000000000000000b"
	svcA, svcB = "svc_0000000000000000000000000a", "svc_0000000000000000000000000b"
)

// used is a row of an hour of March 2026.
func used(tenant string, day, hour int, dep, svc, workspace string, bytes uint64) usage.Row {
	return usage.Row{
		Hour: metering.HourOf(time.Date(2026, 3, day, hour, 0, 0, 0, time.UTC)), Name: "app-" + dep[len(dep)-1:],
		Subject: usage.Subject{TenantID: tenant, DeploymentID: dep, ServiceID: svc, Attribution: miosa.Attribution{WorkspaceID: workspace}},
		Amount:  metering.Amount{SentBytes: bytes},
	}
}

// metered is a platform whose tenant has used things in March 2026, as has
// another one.
func metered(t *testing.T) (p platform, other string) {
	p = start(t, api.Config{})
	stranger := p.AddTenant("other")
	one := used(p.Tenant.ID, 1, 0, depA, svcA, "w1", 1)
	one.Amount = metering.Amount{
		RunMS: 3_600_000, VCPUMS: 2 * 3_600_000, MemoryMBMS: 512 * 3_600_000, DiskMBMS: 2048 * 3_600_000,
		SentBytes: 1, ReceivedBytes: 2, LogBytes: 3, LogLines: 4,
	}
	storage := used(p.Tenant.ID, 31, 23, depA, "", "w1", 0)
	storage.StorageByteHours = 2_500_000_000
	p.Usage.Add(one, used(p.Tenant.ID, 1, 5, depA, svcB, "w1", 10), used(p.Tenant.ID, 2, 0, depB, svcA, "w2", 100), used(p.Tenant.ID, 31, 23, depB, "", "", 1000),
		storage, used(p.Tenant.ID, 32, 0, depA, svcA, "w1", 10_000), used(stranger.ID, 2, 0, depA, svcA, "w1", 5_000_000), used(stranger.ID, 3, 0, depB, svcB, "w3", 7_000_000))
	return p, stranger.ID
}

// groups are a list's rows: what they are grouped by, and their bytes.
func (a answer) groups() string {
	var out []string
	data, _ := a.at("data").([]any)
	for _, d := range data {
		m := d.(map[string]any)
		words := []string{m["period_start"].(string)[5:13]}
		for _, name := range []string{"tenant_id", "deployment_name", "service_id", "external_workspace_id"} {
			if v, ok := m[name].(string); ok {
				if miosa.IDPrefix(v) == miosa.PrefixService {
					v = v[:3] + v[len(v)-1:]
				}
				words = append(words, v)
			}
		}
		out = append(out, strings.Join(append(words, fmt.Sprint(int64(m["egress_bytes"].(float64)))), " "))
	}
	return strings.Join(out, "|")
}

// What is stored of a tenant's logs is shown beside what its plan allows, to who
// sees all of the tenant.
func TestLogsKept(t *testing.T) {
	p := start(t, api.Config{})
	of := logs.Origin{TenantID: p.Tenant.ID, DeploymentID: depA, ServiceID: svcA, InstanceID: "ri_a"}
	p.Logs.Write(of, time.Now(), "12345", "6789")
	p.Logs.Write(of, time.Now().AddDate(0, 0, -8), "expired")
	of.TenantID, of.InstanceID = p.AddTenant("other").ID, "ri_b"
	p.Logs.Write(of, time.Now(), "another's")
	a := p.want(200, "GET", "/usage/summary?month=2026-03", nil)
	if a.at("logs_kept.bytes") != 9.0 || a.at("data.logs_kept.max_bytes") != float64(miosa.DefaultPlan().MaxLogStorageMB)*1e6 {
		t.Errorf("%s", a.Raw)
	}
	p.want(201, "POST", "/admin/plans", map[string]any{"name": "open", "max_log_storage_mb": -1}, p.bearer(p.Admin))
	p.want(200, "PATCH", "/admin/tenants/"+p.Tenant.ID, map[string]any{"plan": "open"}, p.bearer(p.Admin))
	if a := p.want(200, "GET", "/usage/summary", nil); a.at("logs_kept.bytes") != 9.0 || a.at("logs_kept.max_bytes") != nil {
		t.Errorf("%s", a.Raw)
	}
	one := p.bearer(p.AddKey(miosa.RoleUser, p.Tenant.ID, "one"))
	if a := p.want(200, "GET", "/usage/summary", nil, one); a.at("logs_kept") != nil {
		t.Errorf("%s", a.Raw)
	}
	p.want(422, "POST", "/admin/plans", map[string]any{"name": "wrong", "max_log_storage_mb": -2}, p.bearer(p.Admin))
}

func TestUsageSummary(t *testing.T) {
	p, _ := metered(t)
	a := p.want(200, "GET", "/usage/summary?month=2026-03", nil)
	for name, want := range map[string]any{
		"period_start": "2026-03-01T00:00:00Z", "period_end": "2026-04-01T00:00:00Z", "compute_hours": 2.0, "compute_seconds": 7200.0, "instance_hours": 1.0,
		"memory_gb_hours": 0.5, "disk_gb_hours": 2.0, "egress_bytes": 1111.0, "bandwidth_gb": 0.000001111, "ingress_bytes": 2.0, "log_bytes": 3.0, "log_lines": 4.0,
		"storage_gb_hours": 2.5, "storage_gb": 2.5,
	} {
		if got, again := a.at(name), a.at("data."+name); got != want || again != want {
			t.Errorf("%s: %v and %v, want %v", name, got, again, want)
		}
	}
	for query, want := range map[string]float64{
		"since=2026-03-01T00:00:00Z&until=2026-03-01T05:00:00Z": 1, "since=2026-03-01T00:59:00Z&until=2026-03-01T05:00:01Z": 11,
		"since=2026-03-01T01:00:00Z&until=2026-03-02T01:00:00Z": 110, "month=2026-02": 0, "month=2026-04": 10_000, "": 0,
		"month=2026-03&external_workspace_id=w1": 11, "month=2026-03&deployment_id=" + depB: 1100, "month=2026-03&service_id=" + svcA: 101,
		"month=2026-03&external_user_id=u": 0, "month=2026-03&tenant_id=anything": 1111,
	} {
		if got := p.want(200, "GET", "/usage/summary?"+query, nil).at("egress_bytes"); got != want {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	for query, field := range map[string]string{
		"month=2026-13": "month", "month=x": "month", "month=2026-03&since=1h": "month", "since=x": "since", "since=1969-01-01T00:00:00Z&until=1969-02-01T00:00:00Z": "since",
		"since=1h&until=2h": "until", "service_id=x": "service_id",
	} {
		a := p.want(422, "GET", "/usage/summary?"+query, nil)
		if !strings.Contains(a.Raw, `"field":"`+field+`"`) {
			t.Errorf("%s: %s", query, a.Raw)
		}
	}
	p.want(404, "GET", "/usage/summary?deployment_id=no-such", nil)
}

func TestUsageGroups(t *testing.T) {
	p, _ := metered(t)
	tenant := p.Tenant.ID
	for by, want := range map[string]string{
		"":                "03-01T00 " + tenant + " app-a 11|03-01T00 " + tenant + " app-b 1100",
		"workspace":       "03-01T00 1000|03-01T00 w1 11|03-01T00 w2 100",
		"day":             "03-01T00 11|03-02T00 100|03-31T00 1000",
		"month":           "03-01T00 1111",
		"hour,workspace":  "03-01T00 w1 1|03-01T05 w1 10|03-02T00 w2 100|03-31T23 1000|03-31T23 w1 0",
		"service":         "03-01T00 " + tenant + " app-a 0|03-01T00 " + tenant + " app-a svca 1|03-01T00 " + tenant + " app-a svcb 10|03-01T00 " + tenant + " app-b 1000|03-01T00 " + tenant + " app-b svca 100",
		"user,project":    "03-01T00 1111",
		" day , project ": "03-01T00 11|03-02T00 100|03-31T00 1000",
	} {
		if got := p.want(200, "GET", "/usage?month=2026-03&group_by="+url.QueryEscape(by), nil).groups(); got != want {
			t.Errorf("by %q:\n%s\nwant\n%s", by, got, want)
		}
	}
	for _, by := range []string{"tenant", "x", "day,hour", "deployment,"} {
		if a := p.want(422, "GET", "/usage?group_by="+url.QueryEscape(by), nil); !strings.Contains(a.Raw, `"field":"group_by"`) {
			t.Errorf("by %q: %s", by, a.Raw)
		}
	}
	// Pages, with names so long that a cursor could not hold them.
	long := strings.Repeat("long ", 51)
	p.Usage.Add(used(tenant, 5, 0, depA, svcA, long+"b", 3), used(tenant, 5, 0, depA, svcA, long+"a", 2))
	var got []string
	cursor := ""
	for {
		a := p.want(200, "GET", "/usage?month=2026-03&group_by=workspace&limit=1&cursor="+cursor, nil)
		for _, d := range a.at("data").([]any) {
			got = append(got, fmt.Sprint(d.(map[string]any)["egress_bytes"]))
		}
		if a.at("page.total") != 5.0 {
			t.Errorf("total %v", a.at("page.total"))
		}
		if cursor = a.text("page.next_cursor"); cursor == "" {
			break
		}
	}
	if slices.Sort(got); strings.Join(got, " ") != "100 1000 11 2 3" {
		t.Errorf("pages: %v", got)
	}
}

// TestUsageOfOthersIsNotSeen tries to get at what another tenant or another
// workspace used, in every way that the parameters offer.
func TestUsageOfOthersIsNotSeen(t *testing.T) {
	p, other := metered(t)
	scoped := p.AddKey(miosa.RolePlatform, p.Tenant.ID, "w1")
	empty := p.AddKey(miosa.RoleUser, p.Tenant.ID, "w3") // the other tenant's name for one
	theirs := regexp.MustCompile(`\b[57]000000\b`)
	for _, path := range []string{"/usage/summary", "/usage", "/usage.csv"} {
		for _, query := range []string{
			"", "&tenant_id=" + other, "&external_workspace_id=w2", "&external_workspace_id=w3", "&external_workspace_id=", "&group_by=hour", "&group_by=workspace",
			"&deployment_id=" + depB, "&service_id=" + svcB, "&external_workspace_id=w1&external_workspace_id=w2",
		} {
			if path == "/usage/summary" && strings.Contains(query, "group_by") {
				continue
			}
			for who, key := range map[string]string{"tenant": p.Key, "scoped": scoped, "empty": empty} {
				a := p.want(200, "GET", path+"?month=2026-03"+query, nil, p.bearer(key))
				if theirs.MatchString(a.Raw) || strings.Contains(a.Raw, other) {
					t.Errorf("%s sees another tenant's by %s%s: %s", who, path, query, a.Raw)
				}
				// A tenant's ID may have any letters in it.
				seen := strings.ReplaceAll(a.Raw, p.Tenant.ID, "")
				if who == "scoped" && (strings.Contains(seen, "w2") || strings.Contains(seen, "100")) {
					t.Errorf("a scoped key sees another workspace's by %s%s: %s", path, query, a.Raw)
				}
				if who == "empty" && path != "/usage.csv" && !strings.Contains(a.Raw, `"total":0`) && a.at("egress_bytes") != 0.0 {
					t.Errorf("a key of an empty workspace sees something by %s%s: %s", path, query, a.Raw)
				}
				if who == "empty" && path == "/usage.csv" && strings.Count(a.Raw, "\n") != 1 {
					t.Errorf("a key of an empty workspace sees something by %s%s: %s", path, query, a.Raw)
				}
			}
		}
	}
	if got := p.want(200, "GET", "/usage/summary?month=2026-03", nil, p.bearer(scoped)).at("egress_bytes"); got != 11.0 {
		t.Errorf("a scoped key's own: %v", got)
	}
	for _, path := range []string{"/admin/usage", "/admin/usage.csv"} {
		p.want(403, "GET", path, nil)
		p.want(401, "GET", path, nil, "Authorization: none")
	}
}

func TestAllTenantsUsage(t *testing.T) {
	p, other := metered(t)
	admin := p.bearer(p.Admin)
	a := p.want(200, "GET", "/admin/usage?month=2026-03", nil, admin)
	if got, want := a.groups(), "03-01T00 "+p.Tenant.ID+" 1111|03-01T00 "+other+" 12000000"; got != want && got != "03-01T00 "+other+" 12000000|03-01T00 "+p.Tenant.ID+" 1111" {
		t.Errorf("%s, want %s", got, want)
	}
	a = p.want(200, "GET", "/admin/usage?month=2026-03&group_by=tenant,workspace&tenant_id="+other, nil, admin)
	if got, want := a.groups(), "03-01T00 "+other+" w1 5000000|03-01T00 "+other+" w3 7000000"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if a := p.want(200, "GET", "/admin/usage.csv?month=2026-03&group_by=tenant", nil, admin); strings.Count(a.Raw, "\r\n") != 3 {
		t.Errorf("the table: %s", a.Raw)
	}
}

func TestUsageTable(t *testing.T) {
	p, _ := metered(t)
	evil := []string{"=1+2", "+1", "-1", "@x", "\tx", "\rx", "\nx", "'x", `a "b", c`, "ünï\ncode"}
	for n, name := range evil {
		r := used(p.Tenant.ID, 4, n, depA, svcA, name, uint64(n))
		r.UserID, r.ProjectID = name, name
		p.Usage.Add(r)
	}
	a := p.want(200, "GET", "/usage.csv?month=2026-03", nil)
	if a.Header.Get("Content-Type") != "text/csv; charset=utf-8; header=present" || a.Header.Get("Content-Disposition") != `attachment; filename="usage-2026-03.csv"` {
		t.Errorf("header: %v", a.Header)
	}
	// The columns are a promise: they stay where they are.
	const columns = "period_start,period_end,tenant_id,deployment_id,deployment_name,service_id,external_workspace_id,external_user_id,external_project_id," +
		"compute_hours,compute_seconds,instance_hours,memory_gb_hours,disk_gb_hours,bandwidth_gb,egress_bytes,ingress_bytes,log_bytes,log_lines,storage_gb_hours\r\n"
	if !strings.HasPrefix(a.Raw, columns) {
		t.Errorf("columns: %s", a.Raw)
	}
	if want := "\r\n2026-03-01T00:00:00Z,2026-04-01T00:00:00Z," + p.Tenant.ID + "," + depA + ",app-a," + svcA + ",w1,,,2,7200,1,0.5,2,0.000000001,1,2,3,4,0\r\n"; !strings.Contains(a.Raw, want) {
		t.Errorf("no line %s in\n%s", want, a.Raw)
	}
	rows, err := csv.NewReader(strings.NewReader(a.Raw)).ReadAll()
	if err != nil || len(rows) != 1+5+len(evil) {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for _, row := range rows {
		for _, text := range row {
			if text != "" && strings.Contains("=+-@\t\r\n", text[:1]) {
				t.Errorf("a formula: %q", text)
			}
		}
	}
	for _, accept := range []string{"text/csv", "text/csv;q=0.9, */*;q=0.1"} {
		if b := p.want(200, "GET", "/usage?month=2026-03", nil, "Accept: "+accept); b.Raw != a.Raw {
			t.Errorf("Accept %s: %s", accept, b.Raw)
		}
	}
	if b := p.want(200, "GET", "/usage.csv?month=2026-03&group_by=month", nil); strings.Count(b.Raw, "\n") != 2 {
		t.Errorf("by month: %s", b.Raw)
	}
	p.want(422, "GET", "/usage.csv?month=3", nil)
}
