package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/store"
)

// LogReader is where logs are read from.
type LogReader interface {
	// Read yields what the query names, in time order or against it. An error
	// is yielded last.
	Read(ctx context.Context, q logs.Query) iter.Seq2[logs.Entry, error]
	// Follow yields what arrived after the mark and then each arrival as it
	// comes, once and in order, until ctx ends. miosa.Gone when the order of
	// arrival is not known that far back.
	Follow(ctx context.Context, after logs.Mark, scope logs.Scope) iter.Seq2[logs.Arrival, error]
	// Last is the mark of the newest arrival.
	Last(ctx context.Context) (logs.Mark, error)
	// Usage is what a tenant logged within [since, until), by whole hours.
	Usage(ctx context.Context, tenantID string, since, until time.Time) (logs.Usage, error)
	// Purge drops every line of a deployment whose record is gone.
	Purge(ctx context.Context, tenantID, deploymentID string) error
}

const (
	defaultLines = 100
	maxLines     = 1000
	// maxLogText bounds the text of one page in bytes: lines may be long. A
	// page then has fewer lines than asked for.
	maxLogText = 8 << 20
	// searchTime bounds one page: then it has what was found by then (logNotes
	// says how long).
	searchTime = 30 * time.Second
)

const logNotes = "The newest lines, and pages back in time; each page in time order. With `direction=forward`: from the oldest on. " +
	"With `Accept: text/event-stream` or `follow=true`: server-sent events. First the last `limit` lines, or with `since` all from there on " +
	"(with both: the last `limit` of them), then each as it comes, as `event: log_line` with the same object as `data`. " +
	"`Last-Event-ID` resumes without a gap and without a double; a comment is sent every 15 s. " +
	"With `Accept: text/plain`: the text alone, a line each, control characters other than tabs written as `\\x1b` so that a terminal is safe; " +
	"`Link: <…>; rel=\"next\"` leads to the next page. A page is searched for 30 s at most: then it has what was found by then, and next_cursor goes on; " +
	"with nothing found, 422 search_too_long. What holds no word with three letters in a row (504, an ID of digits) is looked for in every line of the period: give since. Lines stay readable after their instance is gone, for the days of the plan."

var logQuery = []param{
	{"since", "From then on: " + resource.MomentForms + "."}, {"until", "Before then: in the same forms."},
	{"limit", "At most 1000; default 100."}, {"lines", "Another name for limit."}, {"cursor", "next_cursor of the answer before."},
	{"direction", "backward (default) or forward."}, {"stream", "stdout, stderr or system: only that."},
	{"q", "Only lines that hold all of it: words, \"quoted phrases\", -not, key:value (of JSON and logfmt lines; level:error knows the usual spellings). Upper and lower case are the same."},
	{"external_workspace_id", "Only lines that have it."}, {"version_id", "Only of this version."}, {"service_id", "Only of this service."},
	{"host_id", "Only from this host."}, {"follow", "true: server-sent events."},
}

func logRoutes() []*route {
	lines := func(pattern, operation, summary string) *route {
		return &route{
			Method: get, Pattern: pattern, Access: accessTenant, Operation: operation, Tag: "logs", Summary: summary, Notes: logNotes,
			Query: logQuery, Handle: stretch((*Server).listLogs), Stream: (*Server).streamLogs, Text: (*Server).textLogs,
		}
	}
	return []*route{
		lines("/deployments/{id}/logs", "listDeploymentLogs", "Read or follow a deployment's logs"),
		lines("/services/{id}/logs", "listServiceLogs", "Read or follow a service's logs"),
		lines("/runtime-instances/{ri_id}/logs", "listInstanceLogs", "Read or follow an instance's logs"),
		{Method: get, Pattern: "/deployments/{id}/runtime-instances/{ri_id}/logs", Access: accessTenant, Operation: "getInstanceLogs", Tag: "logs",
			Summary: "Read an instance's last lines as one text", Handle: one((*Server).getInstanceLogs),
			Query: slices.DeleteFunc(slices.Clone(logQuery), func(p param) bool { return p.Name == "cursor" || p.Name == "direction" || p.Name == "follow" })},
	}
}

// logRequest is a read of logs as it was asked for.
type logRequest struct {
	logs.Query
	limit   int
	limited bool // by the caller, not by default
	// nothing: the parameters contradict each other or the key.
	nothing bool
}

// logRequest finds what the path names, and reads the parameters.
func (c *call) logRequest() (logRequest, error) {
	scope, err := c.logScope()
	if err != nil {
		return logRequest{}, err
	}
	if c.s.logs == nil {
		return logRequest{}, &miosa.Error{Code: miosa.Unavailable, Public: "logs_not_kept", Message: "logs are not kept here"}
	}
	r := logRequest{Query: logs.Query{Scope: scope}}
	var f faults
	q := c.r.URL.Query()
	r.limit, r.limited = f.lines(q)
	now := c.s.now()
	r.Since, r.Until = f.moment("since", q.Get("since"), now), f.moment("until", q.Get("until"), now)
	if !r.Since.IsZero() && !r.Until.IsZero() && r.Until.Before(r.Since) {
		f.add("until", "is before since")
	}
	direction := query(q, "direction", "backward")
	f.oneOf("direction", direction, "forward", "backward")
	r.Backward = direction != "forward"
	if stream := q.Get("stream"); stream != "" {
		f.oneOf("stream", stream, string(logs.Stdout), string(logs.Stderr), string(logs.System))
		r.Stream = logs.Stream(stream)
	}
	if r.Search, err = logs.ParseSearch(q.Get("q")); err != nil {
		f.add("q", "%s", err.Error())
	}
	if cursor := q.Get("cursor"); cursor != "" {
		var ok bool
		if r.After, ok = parsePlace(cursor); !ok {
			f.add("cursor", "is not one that this list gave out")
		}
	}
	r.narrow(&r.WorkspaceID, q.Get("external_workspace_id"), len(q.Get("external_workspace_id")) <= 256 && utf8.ValidString(q.Get("external_workspace_id")))
	for _, p := range []struct {
		to           *string
		name, prefix string
	}{{&r.VersionID, "version_id", miosa.PrefixVersion}, {&r.ServiceID, "service_id", miosa.PrefixService}, {&r.HostID, "host_id", miosa.PrefixHost}} {
		v := q.Get(p.name)
		r.narrow(p.to, v, miosa.IDPrefix(v) == p.prefix)
	}
	return r, f.err()
}

// narrow restricts a part of the scope. What the path or the key said stays:
// another value finds nothing, as does one that can't be.
func (r *logRequest) narrow(to *string, v string, possible bool) {
	switch {
	case v == "":
	case !possible, *to != "" && *to != v:
		r.nothing = true
	default:
		*to = v
	}
}

// logScope is what the path names, as far as the key sees.
func (c *call) logScope() (logs.Scope, error) {
	scope := logs.Scope{TenantID: c.tenant.ID, WorkspaceID: c.key.WorkspaceID}
	id, err := c.logged(&scope)
	if err == nil && c.r.PathValue("ri_id") != "" {
		var of string
		of, err = c.loggedInstance()
		if err == nil && id != "" && id != of {
			err = absent("runtime instance", c.r.PathValue("ri_id"))
		}
		id, scope.InstanceID = of, c.r.PathValue("ri_id")
	}
	scope.DeploymentID = id
	return scope, err
}

// logged is the ID of the deployment that the path names by itself or by its
// service; "": by neither. Of one that is gone the lines still tell.
func (c *call) logged(scope *logs.Scope) (string, error) {
	id := c.r.PathValue("id")
	if id == "" {
		return "", nil
	}
	var dep miosa.Deployment
	var err error
	prefix := miosa.PrefixDeployment
	if strings.HasPrefix(c.route.Pattern, "/services/") {
		prefix, scope.ServiceID = miosa.PrefixService, id
		_, dep, err = c.locate("id", prefix, "service")
	} else {
		dep, err = c.deployment()
	}
	if miosa.CodeOf(err) != miosa.NotFound || miosa.IDPrefix(id) != prefix {
		return dep.ID, err
	}
	left := logs.Scope{ServiceID: scope.ServiceID}
	if left.ServiceID == "" {
		left.DeploymentID = id
	}
	of, lerr := c.logsLeft(left)
	if lerr != nil || of == "" {
		return "", cmp.Or(lerr, err)
	}
	return of, nil
}

// loggedInstance is the ID of the path's instance's deployment.
func (c *call) loggedInstance() (string, error) {
	const noun = "runtime instance"
	id, err := c.pathID("ri_id", miosa.PrefixInstance, noun)
	if err != nil {
		return "", err
	}
	_, dep, err := c.locateID(id, noun)
	if miosa.CodeOf(err) != miosa.NotFound {
		return dep.ID, err
	}
	of, lerr := c.logsLeft(logs.Scope{InstanceID: id})
	if lerr != nil || of == "" {
		return "", cmp.Or(lerr, err)
	}
	return of, nil
}

// logsLeft is the deployment of the newest line in the scope that the key sees;
// "": there is none. Records go before their lines do, and deployments that
// were deleted keep theirs unless a purge was asked for.
func (c *call) logsLeft(scope logs.Scope) (string, error) {
	if c.s.logs == nil {
		return "", nil
	}
	scope.TenantID, scope.WorkspaceID = c.tenant.ID, c.key.WorkspaceID
	ctx, cancel := context.WithTimeout(c.r.Context(), searchTime)
	defer cancel()
	for e, err := range c.s.logs.Read(ctx, logs.Query{Scope: scope, Backward: true}) {
		if err != nil {
			return "", err
		}
		dep, err := store.Get(ctx, c.s.store, store.Deployments, store.DeploymentKey(c.tenant.ID, e.Origin.DeploymentID))
		switch {
		case miosa.CodeOf(err) == miosa.NotFound:
		case err != nil:
			return "", err
		case dep.PurgeLogs || dep.DeletedAt.IsZero() && !c.sees(dep.Attribution):
			return "", nil
		}
		return e.Origin.DeploymentID, nil
	}
	return "", nil
}

// lines reads how many lines are asked for.
func (f *faults) lines(q url.Values) (n int, given bool) {
	name := "limit"
	if q.Get(name) == "" {
		name = "lines"
	}
	v := q.Get(name)
	if v == "" {
		return defaultLines, false
	}
	n, err := strconv.Atoi(v)
	if err != nil && !errors.Is(err, strconv.ErrRange) || n < 1 {
		f.add(name, "must be a whole number from 1")
	}
	return min(n, maxLines), true
}

// moment reads a time, or how long ago it was; zero: nothing is said.
func (f *faults) moment(name, v string, now time.Time) time.Time {
	if v == "" {
		return time.Time{}
	}
	t, ok := resource.ParseMoment(v, now)
	if !ok {
		f.add(name, "must be %s", resource.MomentForms)
	}
	return t
}

// readLogs reads up to limit lines and maxLogText bytes; more says that there
// are others behind them.
func readLogs(ctx context.Context, from LogReader, q logs.Query, limit int) (found []logs.Entry, more bool, err error) {
	size := 0
	for e, err := range from.Read(ctx, q) {
		if err != nil {
			return found, false, err
		}
		if len(found) == limit || len(found) > 0 && size+len(e.Text) > maxLogText {
			return found, true, nil
		}
		size += len(e.Text)
		found = append(found, e)
	}
	return found, false, nil
}

// page reads one page, in time order, with the cursor of the next.
func (c *call) logPage(r logRequest) (found []logs.Entry, next *string, err error) {
	if r.nothing {
		return nil, nil, nil
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), searchTime)
	defer cancel()
	found, more, err := readLogs(ctx, c.s.logs, r.Query, r.limit)
	if err != nil && ctx.Err() != nil && c.r.Context().Err() == nil {
		if len(found) == 0 {
			return nil, nil, tooLong(r, err)
		}
		more, err = true, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if more {
		next = new(placeCursor(logs.PlaceOf(&found[len(found)-1])))
	}
	if r.Backward {
		slices.Reverse(found)
	}
	return found, next, nil
}

// tooLong is a read that found nothing in its time.
func tooLong(r logRequest, err error) error {
	e := &miosa.Error{Code: miosa.Unavailable, Public: "search_too_long", Err: err, Message: "the logs could not be read in time: try again, or narrow it with since and until"}
	if !r.Search.Empty() {
		// Not a 5xx: clients repeat those by themselves, and it would be as long.
		e.Code = miosa.Invalid
		e.Message = fmt.Sprintf("the search found nothing in %g s: narrow it with since and until, or look for a word with three letters in a row", searchTime.Seconds())
		e.Fields = []miosa.Field{{Name: "q", Message: "takes too long over that time"}}
	}
	return e
}

func (s *Server) listLogs(c *call) (resource.Stretch[resource.LogLine], error) {
	out := resource.Stretch[resource.LogLine]{Data: []resource.LogLine{}}
	r, err := c.logRequest()
	if err != nil {
		return out, err
	}
	found, next, err := c.logPage(r)
	if err != nil {
		return out, err
	}
	for i := range found {
		out.Data = append(out.Data, logResource(&found[i]))
	}
	out.Page.NextCursor = next
	return out, nil
}

// textLogs is a page as text.
func (s *Server) textLogs(c *call, w http.ResponseWriter) error {
	r, err := c.logRequest()
	if err != nil {
		return err
	}
	found, next, err := c.logPage(r)
	if err != nil {
		return err
	}
	if next != nil {
		q := c.r.URL.Query()
		q.Set("cursor", *next)
		w.Header().Set("Link", "<"+(&url.URL{Path: c.r.URL.Path, RawQuery: q.Encode()}).String()+`>; rel="next"`)
	}
	raw := logText(found)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	// A client that left is no error of ours.
	_, _ = w.Write(raw)
	return nil
}

func (s *Server) getInstanceLogs(c *call, _ none) (resource.InstanceLogs, error) {
	r, err := c.logRequest()
	if err != nil {
		return resource.InstanceLogs{}, err
	}
	r.Backward, r.After = true, logs.Place{}
	found, _, err := c.logPage(r)
	return resource.InstanceLogs{RuntimeInstanceID: r.InstanceID, DeploymentID: r.DeploymentID, Logs: string(logText(found))}, err
}

func logResource(e *logs.Entry) resource.LogLine {
	return resource.LogLine{
		TS: e.Time.UTC(), Stream: string(e.Stream), Line: strings.ToValidUTF8(string(e.Text), "\ufffd"), DeploymentID: e.Origin.DeploymentID,
		ServiceID: e.Origin.ServiceID, TaskID: e.Origin.TaskID, RuntimeInstanceID: e.Origin.InstanceID, VersionID: e.Origin.VersionID, HostID: e.Origin.HostID,
		ExternalWorkspaceID: str(e.Origin.WorkspaceID), Partial: e.Partial, Lost: int64(min(e.Lost, 1<<62)), //nolint:gosec // bounded
	}
}

// logText is the lines as a terminal may show them. A long line that was
// split is put together where nothing stands between.
func logText(found []logs.Entry) []byte {
	var b []byte
	for i := range found {
		e := &found[i]
		b = appendSafe(b, e.Text)
		if n := i + 1; e.Partial && n < len(found) && found[n].Origin.InstanceID == e.Origin.InstanceID && found[n].Stream == e.Stream {
			continue
		}
		b = append(b, '\n')
	}
	return b
}

// appendSafe appends text with control characters, other than tabs, as \x1b,
// and what is no UTF-8 as U+FFFD.
func appendSafe(b, text []byte) []byte {
	const digits = "0123456789abcdef"
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r != '\t' && unicode.IsControl(r): // below U+0100 all
			b = append(b, '\\', 'x', digits[r>>4&15], digits[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
		text = text[n:]
	}
	return b
}

// wantsText reports whether the caller asks for plain text. Clients that take
// JSON too mean JSON, whatever else they list.
func wantsText(r *http.Request) bool {
	accept := cmp.Or(strings.Join(r.Header.Values("Accept"), ","), "*/*")
	return strings.Contains(accept, "text/plain") && !strings.Contains(accept, "application/json")
}
