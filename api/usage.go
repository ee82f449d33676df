package api

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"fmt"
	"iter"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/usage"
)

// UsageReader is where usage is read from.
type UsageReader interface {
	// Rows yields what the query names: by hour, then by tenant, deployment
	// and service. An error is yielded last.
	Rows(ctx context.Context, q usage.Query) iter.Seq2[usage.Row, error]
}

const usageNotes = "Without a period: the present month so far. Periods are whole hours of UTC: one that since or until lies in counts. " +
	"An amount shows within seconds of its use; it can still come hours later, for its own hour, from a host that was cut off."

var usageQuery = []param{
	{"month", "That month of UTC, like 2026-11, instead of since and until."},
	{"since", "From then on: " + resource.MomentForms + "."}, {"until", "Before then: in the same forms."},
	{"deployment_id", "Only of this deployment, also one that is deleted."}, {"service_id", "Only of this service."},
	{"external_workspace_id", "Only what has it."}, {"external_user_id", "Only what has it."}, {"external_project_id", "Only what has it."},
}

func usageRoutes() []*route {
	// Lists have parameters for the attribution already.
	listQuery := func(more ...param) []param { return append(more, usageQuery[:len(usageQuery)-3]...) }
	group := param{"group_by", "What to add up by, by commas: deployment (default), service, workspace, user, project, and one of hour, day, month."}
	table := "RFC 4180, a heading and a line for each deployment, service and attribution unless group_by says otherwise. " +
		"Columns may be added at the end, and never change their place. Text that a spreadsheet would take for a formula has a ' before it. "
	admin := []param{{"group_by", "As for a tenant, and tenant (default)."}, {"tenant_id", "Only of this tenant."}}
	return []*route{
		{Method: get, Pattern: "/usage/summary", Access: accessTenant, Operation: "usageSummary", Summary: "What was used, all together",
			Notes: usageNotes, Query: usageQuery, Handle: bare((*Server).usageSummary)},
		{Method: get, Pattern: "/usage", Access: accessTenant, Operation: "listUsage", Summary: "What was used, by deployment, workspace, day and more",
			Notes: usageNotes + " With `Accept: text/csv`: all of it as one table.", Query: listQuery(group), Handle: many((*Server).listUsage), CSV: (*Server).usageTable},
		{Method: get, Pattern: "/usage.csv", Access: accessTenant, Operation: "usageTable", Tag: "usage", Summary: "What was used, as a table",
			Notes: table + usageNotes, Query: append([]param{group}, usageQuery...), Handle: many((*Server).listUsage), CSV: (*Server).usageTable},
		{Method: get, Pattern: "/admin/usage", Access: accessAdmin, Operation: "listAllUsage", Summary: "What was used, by all tenants",
			Notes: usageNotes + " With `Accept: text/csv`: all of it as one table.", Query: listQuery(admin...), Handle: many((*Server).listUsage), CSV: (*Server).usageTable},
		{Method: get, Pattern: "/admin/usage.csv", Access: accessAdmin, Operation: "allUsageTable", Summary: "What was used by all tenants, as a table",
			Notes: table + usageNotes, Query: append(slices.Clone(admin), usageQuery...), Handle: many((*Server).listUsage), CSV: (*Server).usageTable},
	}
}

// usageRequest is a read of usage as it was asked for.
type usageRequest struct {
	usage.Query
	start, end time.Time // of the period
	by         grouping
	nothing    bool // the parameters contradict the key
}

// grouping is what is told apart.
type grouping struct {
	tenant, deployment, service, workspace, user, project bool
	hour, day, month                                      bool
}

func (c *call) usageRequest() (r usageRequest, err error) {
	if c.s.usage == nil {
		return r, &miosa.Error{Code: miosa.Unavailable, Public: "usage_not_kept", Message: "usage is not kept here"}
	}
	var f faults
	q, now := c.r.URL.Query(), c.s.now().UTC()
	operator := c.route.Access == accessAdmin
	r.start, r.end = f.period(q.Get("month"), q.Get("since"), q.Get("until"), now)
	r.Since, r.Until = metering.HourOf(r.start), metering.HourOf(r.end.Add(time.Hour-1))
	if r.TenantID = c.tenant.ID; operator {
		r.TenantID = q.Get("tenant_id")
	}
	absent := "deployment"
	switch {
	case c.route.table() || c.route.CSV != nil && wantsCSV(c.r):
		absent = "deployment,service,workspace,user,project"
		if operator {
			absent = "tenant," + absent
		}
	case operator:
		absent = "tenant"
	}
	r.by = f.grouping(query(q, "group_by", absent), operator)
	if r.ServiceID = q.Get("service_id"); r.ServiceID != "" && miosa.IDPrefix(r.ServiceID) != miosa.PrefixService {
		f.add("service_id", "is no ID of a service")
	}
	if ref := q.Get("deployment_id"); ref != "" {
		if r.DeploymentID = ref; miosa.IDPrefix(ref) != miosa.PrefixDeployment && !operator {
			// By its slug it must be there.
			dep, err := c.deploymentBy(ref)
			if err != nil {
				return r, err
			}
			r.DeploymentID = dep.ID
		}
	}
	r.WorkspaceID, r.UserID, r.ProjectID = q.Get("external_workspace_id"), q.Get("external_user_id"), q.Get("external_project_id")
	if key := c.key.WorkspaceID; key != "" {
		r.nothing = r.WorkspaceID != "" && r.WorkspaceID != key
		r.WorkspaceID = key
	}
	return r, f.err()
}

// period reads the bounds: a month, or since and until, or the present month.
func (f *faults) period(month, since, until string, now time.Time) (start, end time.Time) {
	start, end = time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC), now
	if month != "" {
		t, err := time.Parse("2006-01", month)
		if err != nil || t.Year() < 1970 || t.Year() > 9000 {
			f.add("month", "must be a month like 2026-11")
			return start, end
		}
		if since != "" || until != "" {
			f.add("month", "goes without since and until")
		}
		return t, t.AddDate(0, 1, 0)
	}
	if t := f.moment("since", since, now); !t.IsZero() {
		start = t
	}
	if t := f.moment("until", until, now); !t.IsZero() {
		end = t
	}
	for name, t := range inOrder(map[string]time.Time{"since": start, "until": end}) {
		if t.Year() < 1970 || t.Year() > 9000 {
			f.add(name, "must lie between the years 1970 and 9000")
		}
	}
	if end.Before(start) {
		f.add("until", "is before since")
	}
	return start, end
}

func (f *faults) grouping(list string, operator bool) (g grouping) {
	times := 0
	for name := range strings.SplitSeq(list, ",") {
		switch name = strings.TrimSpace(name); {
		case name == "tenant" && operator:
			g.tenant = true
		case name == "deployment":
			g.deployment = true
		case name == "service":
			g.deployment, g.service = true, true
		case name == "workspace" || name == "external_workspace_id":
			g.workspace = true
		case name == "user" || name == "external_user_id":
			g.user = true
		case name == "project" || name == "external_project_id":
			g.project = true
		case name == "hour":
			g.hour = true
			times++
		case name == "day":
			g.day = true
			times++
		case name == "month":
			g.month = true
			times++
		default:
			f.add("group_by", "knows deployment, service, workspace, user, project, hour, day and month, not %.40q", name)
			return g
		}
	}
	if times > 1 {
		f.add("group_by", "takes one of hour, day and month")
	}
	return g
}

// usageGroup is a group on its way to be rendered.
type usageGroup struct {
	usage.Row  // Hour is that of the group's beginning
	start, end time.Time
}

// groupUsage adds the rows up, in order of time and then of names.
func (c *call) groupUsage(r usageRequest) (keys []string, groups map[string]*usageGroup, err error) {
	groups = map[string]*usageGroup{}
	if r.nothing {
		return nil, groups, nil
	}
	for row, err := range c.s.usage.Rows(c.r.Context(), r.Query) {
		if err != nil {
			return nil, nil, err
		}
		g := r.group(row)
		key := g.key()
		if groups[key] == nil {
			groups[key] = &g
			keys = append(keys, key)
			continue
		}
		groups[key].Amount = groups[key].Plus(g.Amount)
		groups[key].Name = cmp.Or(g.Name, groups[key].Name)
	}
	slices.Sort(keys)
	return keys, groups, nil
}

// group is what a row belongs to, with the row's amount.
func (r usageRequest) group(row usage.Row) usageGroup {
	g := usageGroup{Row: row, start: r.start, end: r.end}
	clearUnless := func(keep bool, text *string) {
		if !keep {
			*text = ""
		}
	}
	clearUnless(r.by.tenant || r.by.deployment, &g.TenantID)
	clearUnless(r.by.deployment, &g.DeploymentID)
	clearUnless(r.by.deployment, &g.Name)
	clearUnless(r.by.service, &g.ServiceID)
	clearUnless(r.by.workspace, &g.WorkspaceID)
	clearUnless(r.by.user, &g.UserID)
	clearUnless(r.by.project, &g.ProjectID)
	at := row.Hour.Time()
	switch {
	case r.by.hour:
		g.start, g.end = at, at.Add(time.Hour)
	case r.by.day:
		g.start = time.Date(at.Year(), at.Month(), at.Day(), 0, 0, 0, 0, time.UTC)
		g.end = g.start.AddDate(0, 0, 1)
	case r.by.month:
		g.start = time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC)
		g.end = g.start.AddDate(0, 1, 0)
	}
	return g
}

// key names the group within its list and orders it there. It is a cursor's,
// and bounded: of long names it has the beginning and a digest.
func (g *usageGroup) key() string {
	text := func(v string) string {
		if len(v) <= 40 {
			return v
		}
		sum := sha256.Sum256([]byte(v))
		return v[:40] + hex.EncodeToString(sum[:8])
	}
	return fmt.Sprintf("%012d\x00%s\x00%s\x00%s\x00%s\x00%s\x00%s", g.start.Unix(), g.TenantID, g.DeploymentID, g.ServiceID, text(g.WorkspaceID), text(g.UserID), text(g.ProjectID))
}

func (s *Server) listUsage(c *call) (out rows[resource.UsageGroup], err error) {
	r, err := c.usageRequest()
	if err != nil {
		return out, err
	}
	keys, groups, err := c.groupUsage(r)
	if err != nil {
		return out, err
	}
	return rowsOf(keys, true, func(key string) string { return key }, func(key string) (resource.UsageGroup, error) {
		g := groups[key]
		return resource.UsageGroup{
			PeriodStart: g.start, PeriodEnd: g.end, TenantID: str(g.TenantID), DeploymentID: str(g.DeploymentID), DeploymentName: str(g.Name), ServiceID: str(g.ServiceID),
			ExternalWorkspaceID: str(g.WorkspaceID), ExternalUserID: str(g.UserID), ExternalProjectID: str(g.ProjectID), UsageAmount: usageAmount(g.Amount),
		}, nil
	}), nil
}

func (s *Server) usageSummary(c *call) (out resource.UsageSummaryAnswer, err error) {
	r, err := c.usageRequest()
	if err != nil {
		return out, err
	}
	var sum metering.Amount
	// The present hour is looked at within its first minutes.
	latest := min(r.Until-1, metering.HourOf(c.s.now()))
	held := map[metering.Hour]uint64{}
	if !r.nothing {
		for row, err := range s.usage.Rows(c.r.Context(), r.Query) {
			if err != nil {
				return out, err
			}
			sum = sum.Plus(row.Amount)
			if row.Hour >= latest-1 {
				held[row.Hour] += row.StorageByteHours
			}
		}
	}
	out.PeriodStart, out.PeriodEnd, out.UsageAmount = r.start, r.end, usageAmount(sum)
	out.StorageGB = rounded(float64(cmp.Or(held[latest], held[latest-1])) / 1e9)
	if out.LogsKept, err = c.logsKept(); err != nil {
		return out, err
	}
	out.Data = out.UsageSummary
	return out, nil
}

// logsKept is how much is stored of the tenant's logs, as the log plane counts
// it; nil where that is not to be known.
func (c *call) logsKept() (*resource.LogsKept, error) {
	if c.s.logs == nil || c.key.WorkspaceID != "" {
		return nil, nil
	}
	plan, err := c.plan()
	if err != nil {
		return nil, err
	}
	now := c.s.now()
	used, err := c.s.logs.Usage(c.r.Context(), c.tenant.ID, now.AddDate(0, 0, -cmp.Or(plan.LogDays, miosa.DefaultPlan().LogDays)).Truncate(time.Hour), now.Add(time.Hour))
	if err != nil {
		return nil, fmt.Errorf("what is stored of tenant %s: %w", c.tenant.ID, err)
	}
	kept := &resource.LogsKept{Bytes: int64(min(used.Bytes, math.MaxInt64))}
	if most := int64(planLimit(plan, func(p miosa.Plan) int { return p.MaxLogStorageMB })); most >= 0 {
		kept.MaxBytes = new(most * 1e6)
	}
	return kept, nil
}

func usageAmount(a metering.Amount) resource.UsageAmount {
	const msPerHour = 3_600_000
	whole := func(n uint64) int64 { return int64(min(n, math.MaxInt64)) } //nolint:gosec // bounded
	return resource.UsageAmount{
		ComputeHours: rounded(float64(a.VCPUMS) / msPerHour), ComputeSeconds: rounded(float64(a.VCPUMS) / 1000), InstanceHours: rounded(float64(a.RunMS) / msPerHour),
		MemoryGBHours: rounded(float64(a.MemoryMBMS) / msPerHour / 1024), DiskGBHours: rounded(float64(a.DiskMBMS) / msPerHour / 1024),
		BandwidthGB: rounded(float64(a.SentBytes) / 1e9), EgressBytes: whole(a.SentBytes), IngressBytes: whole(a.ReceivedBytes),
		LogBytes: whole(a.LogBytes), LogLines: whole(a.LogLines), StorageGBHours: rounded(float64(a.StorageByteHours) / 1e9),
	}
}

// rounded to nine digits behind the point: a byte of a GB, and no noise.
func rounded(v float64) float64 { return math.Round(v*1e9) / 1e9 }

// usageColumns are the table's heading. New ones go to the end.
var usageColumns = []string{
	"period_start", "period_end", "tenant_id", "deployment_id", "deployment_name", "service_id", "external_workspace_id", "external_user_id", "external_project_id",
	"compute_hours", "compute_seconds", "instance_hours", "memory_gb_hours", "disk_gb_hours", "bandwidth_gb", "egress_bytes", "ingress_bytes",
	"log_bytes", "log_lines", "storage_gb_hours",
}

func (s *Server) usageTable(c *call, w http.ResponseWriter) error {
	r, err := c.usageRequest()
	if err != nil {
		return err
	}
	keys, groups, err := c.groupUsage(r)
	if err != nil {
		return err
	}
	name := "usage-" + r.start.Format("2006-01") + ".csv"
	if c.r.URL.Query().Get("month") == "" {
		name = "usage.csv"
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8; header=present")
	w.Header().Set("Content-Disposition", `attachment; filename="`+name+`"`)
	out := csv.NewWriter(w)
	out.UseCRLF = true
	_ = out.Write(usageColumns) // an error comes from Flush, and is a client that left
	number := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	whole := func(v int64) string { return strconv.FormatInt(v, 10) }
	for _, key := range keys {
		g := groups[key]
		a := usageAmount(g.Amount)
		_ = out.Write([]string{
			g.start.Format(time.RFC3339), g.end.Format(time.RFC3339), g.TenantID, g.DeploymentID, cell(g.Name), g.ServiceID, cell(g.WorkspaceID), cell(g.UserID), cell(g.ProjectID),
			number(a.ComputeHours), number(a.ComputeSeconds), number(a.InstanceHours), number(a.MemoryGBHours), number(a.DiskGBHours), number(a.BandwidthGB),
			whole(a.EgressBytes), whole(a.IngressBytes), whole(a.LogBytes), whole(a.LogLines), number(a.StorageGBHours),
		})
	}
	out.Flush()
	return nil
}

// cell is text as a spreadsheet may open it: what begins like a formula does
// not any more.
func cell(text string) string {
	if text != "" && strings.IndexByte("=+-@\t\r\n'", text[0]) >= 0 {
		return "'" + text
	}
	return text
}

func wantsCSV(r *http.Request) bool {
	accept := strings.Join(r.Header.Values("Accept"), ",")
	return strings.Contains(accept, "text/csv") && !strings.Contains(accept, "application/json")
}
