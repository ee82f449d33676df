package victorialogs

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/miosa/miosa/logs"
)

// logsql builds a query out of few words: exact filters, time ranges, one
// range of order, and regular expressions for what is searched.
type logsql struct{ filters []string }

func (q *logsql) exact(field, value string) {
	if value != "" {
		q.filters = append(q.filters, field+":="+strconv.Quote(value))
	}
}

func (q *logsql) scope(s *logs.Scope) {
	q.exact("tenant_id", s.TenantID)
	q.exact("deployment_id", s.DeploymentID)
	q.exact("service_id", s.ServiceID)
	q.exact("task_id", s.TaskID)
	q.exact("instance_id", s.InstanceID)
	q.exact("version_id", s.VersionID)
	q.exact("host_id", s.HostID)
	q.exact("workspace_id", s.WorkspaceID)
	q.exact("stream", string(s.Stream))
	for _, needle := range s.Search.Needles() {
		if expression, ok := anyCase(needle); ok {
			q.filters = append(q.filters, "_msg:~"+strconv.Quote(expression))
		}
	}
}

// anyCase is an expression for a needle in whatever case. A needle that is not
// all printable ASCII has none: a message may have it changed (readable), and
// lower case is not one thing beyond ASCII. It may find more than the search,
// never less: İ has the lower case i, and no expression folds it.
func anyCase(needle string) (string, bool) {
	for i := range len(needle) {
		if needle[i] < 0x20 || needle[i] > 0x7e {
			return "", false
		}
	}
	return "(?i)" + strings.ReplaceAll(regexp.QuoteMeta(needle), "i", "[iİ]"), needle != ""
}

// span is [from, to).
func span(from, to time.Time) string { return "_time:[" + stamped(from) + ", " + stamped(to) + ")" }

func orders(from, to string) string {
	return "order:string_range(" + strconv.Quote(from) + ", " + strconv.Quote(to) + ")"
}

// between narrows to [from, to), and to what is behind after in the direction
// of reading, when that is not the zero Place.
func (q *logsql) between(from, to time.Time, after logs.Place, backward bool) {
	if after == (logs.Place{}) {
		q.filters = append(q.filters, span(from, to))
		return
	}
	// What the instant of after has left, or what lies beyond that instant. No
	// order begins with another, so an "a" more is just above it.
	next := after.Time.Add(1)
	key := order(after.InstanceID, after.Position)
	if backward {
		to = next
		q.filters = append(q.filters, span(from, to), either(orders(belowOrder, key), from, after.Time))
	} else {
		from = after.Time
		q.filters = append(q.filters, span(from, to), either(orders(key+belowOrder, beyondOrder), next, to))
	}
}

func either(rest string, from, to time.Time) string {
	if !from.Before(to) {
		return rest
	}
	return "(" + rest + " or " + span(from, to) + ")"
}

// text is the query for the first lines in the direction of reading. Of
// doubles the newest comes first, which no purge hides before the others: a
// page may end between them, and the next begins behind them all.
func (q *logsql) text(backward bool, limit int) string {
	by := "_time, order, stamp desc"
	if backward {
		by = "_time desc, order desc, stamp desc"
	}
	return fmt.Sprintf("%s | sort by (%s) limit %d", strings.Join(q.filters, " "), by, limit)
}
