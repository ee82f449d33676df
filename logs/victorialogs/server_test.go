package victorialogs

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// server is a stand-in for VictoriaLogs. It takes the requests that this
// package makes, to the letter, and fails the test on any other; what it takes
// it treats as VictoriaLogs does.
type server struct {
	t *testing.T
	*httptest.Server
	rand *rand.Rand

	mu      sync.Mutex
	rows    map[string][]*row // by account:project; what is found
	behind  map[string][]*row // taken, not found yet
	lagging bool              // what is taken is found after settle only
	queries []string
	faults  []fault // one for each request to come, then none
}

// row is a line with its time.
type row struct {
	fields map[string]string
	at     int64  // Unix ns
	answer []byte // as JSON
	order  string
	stamp  string
}

// fault is a way to misbehave.
type fault int

const (
	none   fault = iota
	busy         // 503, nothing done
	full         // 429 of a full disk
	wrong        // 400
	lost         // done, but the connection breaks before the answer
	halved       // the connection breaks in the middle of the answer
	stuck        // no answer until the client goes away
)

func newServer(t *testing.T) *server {
	s := &server{t: t, rand: rand.New(rand.NewPCG(1, 2)), rows: map[string][]*row{}, behind: map[string][]*row{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /insert/jsonline", s.insert)
	mux.HandleFunc("POST /select/logsql/query", s.query)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("VictoriaLogs was asked for %s %s", r.Method, r.URL)
		http.NotFound(w, r)
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// fail queues what the next requests meet.
func (s *server) fail(faults ...fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, faults...)
}

func (s *server) lag(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lagging = on
}

// settle lets all that was taken be found.
func (s *server) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for account, rows := range s.behind {
		s.rows[account] = append(s.rows[account], rows...)
	}
	clear(s.behind)
}

// count is how many rows it has, doubles included, and how many it was asked.
func (s *server) count() (rows, queries int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.rows {
		rows += len(of)
	}
	for _, of := range s.behind {
		rows += len(of)
	}
	return rows, len(s.queries)
}

func (s *server) reject(w http.ResponseWriter, format string, args ...any) {
	s.t.Errorf("VictoriaLogs: "+format, args...)
	http.Error(w, fmt.Sprintf(format, args...), http.StatusBadRequest)
}

// begin checks what all requests have; it tells the account and the fault,
// and whether the request was answered.
func (s *server) begin(w http.ResponseWriter, r *http.Request) (string, fault, bool) {
	for _, name := range []string{"AccountID", "ProjectID"} {
		if _, err := strconv.ParseUint(r.Header.Get(name), 10, 32); err != nil {
			s.reject(w, "header %s is %q", name, r.Header.Get(name))
			return "", none, true
		}
	}
	s.mu.Lock()
	f := none
	if len(s.faults) > 0 {
		f, s.faults = s.faults[0], s.faults[1:]
	}
	s.mu.Unlock()
	switch f {
	case busy:
		http.Error(w, "busy", http.StatusServiceUnavailable)
	case full:
		http.Error(w, "cannot add rows into storage in read-only mode; the storage can be in read-only mode because of lack of free disk space", http.StatusTooManyRequests)
	case wrong:
		http.Error(w, strings.Repeat("wrong ", 1<<20), http.StatusBadRequest)
	case stuck:
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	default:
		return r.Header.Get("AccountID") + ":" + r.Header.Get("ProjectID"), f, false
	}
	return "", f, true
}

var known = []string{
	"_time", "_msg", "tenant_id", "deployment_id", "service_id", "instance_id", "version_id", "host_id", "workspace_id",
	"stream", "epoch", "seq", "order", "stamp", "days", "raw", "partial", "lost",
}

func (s *server) insert(w http.ResponseWriter, r *http.Request) {
	account, f, answered := s.begin(w, r)
	if answered {
		return
	}
	want := url.Values{"_msg_field": {"_msg"}, "_time_field": {"_time"}, "_stream_fields": {"deployment_id,service_id,instance_id"}}
	if got := r.URL.Query(); got.Encode() != want.Encode() {
		s.reject(w, "insert with the arguments %v", got)
		return
	}
	if r.Header.Get("Content-Type") != "application/stream+json" || r.Header.Get("Content-Encoding") != "gzip" {
		s.reject(w, "insert of type %q, encoding %q", r.Header.Get("Content-Type"), r.Header.Get("Content-Encoding"))
		return
	}
	unpacked, err := gzip.NewReader(r.Body)
	if err != nil {
		s.reject(w, "insert: %v", err)
		return
	}
	in := bufio.NewScanner(unpacked)
	in.Buffer(nil, 256<<10) // -insert.maxLineSizeBytes
	var rows []*row
	for in.Scan() {
		var line map[string]string
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			s.reject(w, "insert of %.200q: %v", in.Bytes(), err)
			return
		}
		for name, value := range line {
			if !slices.Contains(known, name) || value == "" {
				s.reject(w, "insert of a field %q = %q", name, value)
				return
			}
		}
		for _, name := range []string{"_time", "_msg", "tenant_id", "instance_id", "stream", "epoch", "seq", "order", "stamp", "days"} {
			if line[name] == "" {
				s.reject(w, "insert without %s", name)
				return
			}
		}
		at, err := time.Parse(timeFormat, line["_time"])
		if err != nil {
			s.reject(w, "insert: %v", err)
			return
		}
		line["_time"] = at.Format(time.RFC3339Nano)
		line["_stream"] = fmt.Sprintf("{deployment_id=%q,instance_id=%q,service_id=%q}", line["deployment_id"], line["instance_id"], line["service_id"])
		line["_stream_id"] = "0000000000000000e934a84adb05276890d7f7bfcadabe92"
		answer, _ := json.Marshal(line)
		rows = append(rows, &row{line, at.UnixNano(), append(answer, '\n'), line["order"], line["stamp"]})
	}
	if err := in.Err(); err != nil || len(rows) == 0 {
		s.reject(w, "insert of %d lines: %v", len(rows), err)
		return
	}
	s.mu.Lock()
	to := s.rows
	if s.lagging {
		to = s.behind
	}
	to[account] = append(to[account], rows...)
	s.mu.Unlock()
	if f == lost {
		panic(http.ErrAbortHandler)
	}
}

func (s *server) query(w http.ResponseWriter, r *http.Request) {
	account, f, answered := s.begin(w, r)
	if answered {
		return
	}
	if r.URL.RawQuery != "" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		s.reject(w, "query with the arguments %q, type %q", r.URL.RawQuery, r.Header.Get("Content-Type"))
		return
	}
	if err := r.ParseForm(); err != nil || len(r.PostForm) != 1 || len(r.PostForm["query"]) != 1 {
		s.reject(w, "query with the form %v: %v", r.PostForm, err)
		return
	}
	text := r.PostForm.Get("query")
	p := &parser{rest: text}
	q := p.query()
	if p.err != nil || !q.tenant {
		s.reject(w, "query %s: %v (by tenant: %v)", text, p.err, q.tenant)
		return
	}
	s.mu.Lock()
	s.queries = append(s.queries, text)
	var found []*row
	for _, r := range s.rows[account] {
		if q.match(r) {
			found = append(found, r)
		}
	}
	s.rand.Shuffle(len(found), func(i, j int) { found[i], found[j] = found[j], found[i] })
	s.mu.Unlock()
	slices.SortFunc(found, q.compare)
	found = found[:min(len(found), q.limit)]
	w.Header().Set("Content-Type", "application/stream+json")
	for i, r := range found {
		if f == halved && i == len(found)/2 {
			_, _ = w.Write(r.answer[:len(r.answer)/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(r.answer)
	}
	if f == halved || f == lost {
		panic(http.ErrAbortHandler)
	}
}

// parsed is a query that was understood.
type parsed struct {
	filters []func(*row) bool
	tenant  bool
	by      []key
	limit   int
}

type key struct {
	field string
	desc  bool
}

func (q *parsed) match(r *row) bool {
	for _, f := range q.filters {
		if !f(r) {
			return false
		}
	}
	return true
}

func (q *parsed) compare(a, b *row) int {
	for _, k := range q.by {
		var c int
		switch k.field {
		case "_time":
			c = cmp.Compare(a.at, b.at)
		case "order":
			c = natural(a.order, b.order)
		case "stamp":
			c = natural(a.stamp, b.stamp)
		}
		if k.desc {
			c = -c
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

var digits = regexp.MustCompile(`^[0-9]+`)

// natural compares as sort does: runs of digits as numbers, the rest as text.
func natural(a, b string) int {
	if !strings.ContainsAny(a, "0123456789") && !strings.ContainsAny(b, "0123456789") {
		return strings.Compare(a, b) // the same, and fast
	}
	for a != "" && b != "" {
		if x, y := digits.FindString(a), digits.FindString(b); x != "" && y != "" {
			a, b = a[len(x):], b[len(y):]
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
				return c
			}
			continue
		}
		if c := cmp.Compare(a[0], b[0]); c != 0 {
			return c
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

// parser reads the LogsQL that this package writes, and no other.
type parser struct {
	rest string
	err  error
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format+" at %.80q", append(args, p.rest)...)
	}
}

func (p *parser) take(text string) bool {
	rest, ok := strings.CutPrefix(p.rest, text)
	if ok {
		p.rest = rest
	}
	return ok
}

func (p *parser) need(text string) {
	if p.err == nil && !p.take(text) {
		p.fail("want %q", text)
	}
}

func (p *parser) quoted() string {
	if !strings.HasPrefix(p.rest, `"`) {
		p.fail("a value without quotes")
		return ""
	}
	q, err := strconv.QuotedPrefix(p.rest)
	if err != nil {
		p.fail("%v", err)
		return ""
	}
	p.rest = p.rest[len(q):]
	text, _ := strconv.Unquote(q)
	return text
}

var sorts = map[string][]key{
	"_time, order, stamp desc":           {{"_time", false}, {"order", false}, {"stamp", true}},
	"_time desc, order desc, stamp desc": {{"_time", true}, {"order", true}, {"stamp", true}},
}

func (p *parser) query() parsed {
	var q parsed
	for p.err == nil && !p.take(" | ") {
		if len(q.filters) > 0 {
			p.need(" ")
		}
		q.tenant = q.tenant || strings.HasPrefix(p.rest, "tenant_id:=")
		q.filters = append(q.filters, p.filter())
	}
	p.need("sort by (")
	by, rest, _ := strings.Cut(p.rest, ")")
	p.rest = rest
	if q.by = sorts[by]; q.by == nil {
		p.fail("sorted by %q", by)
	}
	p.need(" limit ")
	limit, err := strconv.Atoi(p.rest)
	if err != nil || limit < 1 {
		p.fail("limit")
	}
	q.limit = limit
	return q
}

var bound = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z`)

func (p *parser) instant() time.Time {
	text := bound.FindString(p.rest)
	at, err := time.Parse(timeFormat, text)
	if err != nil {
		p.fail("a bound that is no instant")
	}
	p.rest = p.rest[len(text):]
	return at
}

func (p *parser) filter() func(*row) bool {
	if p.err != nil {
		return nil
	}
	switch {
	case p.take("("):
		a := p.filter()
		p.need(" or ")
		b := p.filter()
		p.need(")")
		return func(r *row) bool { return a(r) || b(r) }
	case p.take("_time:["):
		from := p.instant()
		p.need(", ")
		to := p.instant()
		p.need(")")
		if !from.Before(to) {
			p.fail("an empty range")
		}
		first, end := from.UnixNano(), to.UnixNano()
		return func(r *row) bool {
			return first <= r.at && r.at < end
		}
	case p.take("order:string_range("):
		from := p.quoted()
		p.need(", ")
		to := p.quoted()
		p.need(")")
		return func(r *row) bool { return r.order >= from && r.order < to }
	case p.take("_msg:~"):
		expression, err := regexp.Compile(p.quoted())
		if err != nil {
			p.fail("%v", err)
			return nil
		}
		return func(r *row) bool { return expression.MatchString(r.fields["_msg"]) }
	}
	for _, name := range known[2:10] {
		if p.take(name + ":=") {
			value := p.quoted()
			return func(r *row) bool { return r.fields[name] == value }
		}
	}
	p.fail("an unknown filter")
	return nil
}
