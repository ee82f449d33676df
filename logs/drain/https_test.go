package drain_test

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	"google.golang.org/protobuf/proto"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/outbound"
	"github.com/miosa/miosa/store"
)

// httpsReceiver is a server with a private authority, at one address through
// restarts.
type httpsReceiver struct {
	t    *testing.T
	ca   authority
	pair tls.Certificate
	addr string
	url  string

	mu       sync.Mutex
	server   *http.Server
	behave   func(n int, w http.ResponseWriter, r *http.Request) // nil: takes everything
	requests int
	lines    []got
	bodies   map[string]string // idempotency key → body
	headers  http.Header       // of the last request
}

type got struct {
	Line      string  `json:"line"`
	Instance  string  `json:"runtime_instance_id"`
	ID        string  `json:"id"`
	Workspace *string `json:"external_workspace_id"`
	Slug      string  `json:"deployment"`
	Service   string  `json:"service"`
}

func newHTTPSReceiver(t *testing.T) *httpsReceiver {
	t.Helper()
	s := &httpsReceiver{t: t, ca: newAuthority(t), bodies: map[string]string{}}
	_, _, s.pair = s.ca.issue(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	s.url = "https://" + s.addr + "/logs?key=hidden"
	s.serve(l)
	t.Cleanup(func() { s.server.Close() })
	return s
}

func (s *httpsReceiver) serve(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server = &http.Server{Handler: s, TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.pair}}, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: patience}
	server := s.server
	go func() { _ = server.ServeTLS(l, "", "") }()
}

// restart cuts every connection and listens anew.
func (s *httpsReceiver) restart() {
	s.t.Helper()
	s.server.Close()
	l, err := net.Listen("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.serve(l)
}

// keep takes down what a request brought.
func (s *httpsReceiver) keep(body []byte, h http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := h.Get("Idempotency-Key")
	if before, ok := s.bodies[key]; ok && before != string(body) {
		s.t.Errorf("two batches have the key %s", key)
	}
	s.bodies[key], s.headers = string(body), h
	for line := range bytes.Lines(body) {
		var g got
		if err := json.Unmarshal(line, &g); err != nil || !bytes.HasSuffix(line, []byte("\n")) {
			s.t.Errorf("not a line of JSON: %q", line)
		}
		s.lines = append(s.lines, g)
	}
}

func (s *httpsReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests++
	n, behave := s.requests, s.behave
	s.mu.Unlock()
	if behave != nil {
		behave(n, w, r)
		return
	}
	s.take(w, r)
}

// take reads a request, keeps it and says so.
func (s *httpsReceiver) take(w http.ResponseWriter, r *http.Request) {
	if body, ok := s.read(w, r); ok {
		s.keep(body, r.Header)
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *httpsReceiver) read(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	if r.TLS == nil || r.TLS.Version < tls.VersionTLS12 || r.Header.Get("Content-Encoding") != "gzip" {
		s.t.Errorf("TLS %v, headers %v", r.TLS, r.Header)
	}
	z, err := gzip.NewReader(r.Body)
	if err == nil {
		var body []byte
		if body, err = io.ReadAll(z); err == nil {
			return body, true
		}
	}
	http.Error(w, err.Error(), http.StatusInternalServerError)
	return nil, false
}

func (s *httpsReceiver) behaves(fn func(n int, w http.ResponseWriter, r *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behave = fn
}

// asked is how many requests came so far.
func (s *httpsReceiver) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// texts are all lines so far.
func (s *httpsReceiver) texts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, l := range s.lines {
		out = append(out, l.Line)
	}
	return out
}

func (s *httpsReceiver) has(text string) bool { return slices.Contains(s.texts(), text) }

// complete fails unless all lines came at least once, first in their order.
func complete(t *testing.T, came []string, name string, total int) {
	t.Helper()
	first := map[string]int{}
	for i, text := range came {
		if _, ok := first[text]; !ok {
			first[text] = i
		}
	}
	last := -1
	for n := range total {
		at, ok := first[fmt.Sprintf("%s %d", name, n)]
		if !ok {
			t.Fatalf("%s %d never came", name, n)
		}
		if at < last {
			t.Fatalf("%s %d came before the one before it", name, n)
		}
		last = at
	}
}

// TestNothingIsLostToABadReceiver: one that fails, answers late or not at all,
// cuts connections before and after it took the lines, and restarts; and a
// forwarder that ends and goes on from what it kept.
func TestNothingIsLostToABadReceiver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tenant := newID(t, miosa.PrefixTenant)
	apps := []app{w.addApp(tenant, "shop", ""), w.addApp(tenant, "blog", "")}
	apps = append(apps, w.addInstance(apps[0]))
	s := newHTTPSReceiver(t)
	cut := func(rw http.ResponseWriter) {
		conn, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			panic(http.ErrAbortHandler) // HTTP/2 resets the stream
		}
		conn.Close()
	}
	slow := make(chan struct{})
	s.behaves(func(n int, rw http.ResponseWriter, r *http.Request) {
		switch n % 8 {
		case 1:
			http.Error(rw, "not now", http.StatusServiceUnavailable)
		case 3:
			cut(rw)
		case 4: // it took them, and nobody hears of it
			if body, ok := s.read(rw, r); ok {
				s.keep(body, r.Header)
			}
			cut(rw)
		case 5:
			rw.Header().Set("Retry-After", "1")
			http.Error(rw, "slow down", http.StatusTooManyRequests)
		case 7: // hangs, until somebody restarts it
			select {
			case slow <- struct{}{}:
			case <-r.Context().Done():
			}
			<-r.Context().Done()
		default:
			s.take(rw, r)
		}
	})
	d := w.addDrain(tenant, miosa.DrainHTTPS, s.url, s.ca.pem, nil)
	w.start()
	var cursors []byte
	const rounds, each = 10, 20
	for round := range rounds {
		before := len(s.texts()) // the lines may be there before anybody looks
		for i, a := range apps {
			w.write(a, numbered(fmt.Sprint("app", i), round*each, (round+1)*each)...)
		}
		switch round {
		case 4:
			w.stop()
			cursors = w.cursors()
			w.start()
		case 8:
			// As a crash leaves it: an older cursor.
			w.stop()
			if err := os.WriteFile(filepath.Join(w.dir, "drains.db"), cursors, 0o600); err != nil {
				t.Fatal(err)
			}
			w.start()
		}
		await(t, "lines go on coming", func() bool {
			select {
			case <-slow:
				s.restart()
			default:
			}
			return len(s.texts()) > before
		})
	}
	s.behaves(nil)
	s.restart()
	w.awaitStatus(d, "everything is delivered", func(st miosa.DrainStatus) bool {
		return st.Lag == 0 && st.State == miosa.DrainDelivering && s.has(fmt.Sprintf("app2 %d", rounds*each-1)) && s.has(fmt.Sprintf("app1 %d", rounds*each-1))
	})
	for i := range apps {
		complete(t, s.texts(), fmt.Sprint("app", i), rounds*each)
	}
	if st := w.f.Status(d); st.Dropped != 0 || st.Delivered < 3*rounds*each || st.DeliveredAt.IsZero() || !st.GapFrom.IsZero() {
		t.Errorf("status %+v", st)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.lines[0]; l.Slug != "shop" && l.Slug != "blog" || l.Service != "web" || l.ID == "" {
		t.Errorf("line %+v", l)
	}
	if s.headers.Get("Content-Type") != "application/x-ndjson" || s.headers.Get("Miosa-Log-Drain") != d.ID {
		t.Errorf("headers %v", s.headers)
	}
}

// TestASlowDrainHurtsNobody: while one receiver never answers, lines are
// stored, followed, and delivered to the others as ever.
func TestASlowDrainHurtsNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tenant := newID(t, miosa.PrefixTenant)
	a := w.addApp(tenant, "shop", "")
	hanging, good := newHTTPSReceiver(t), newHTTPSReceiver(t)
	asked := make(chan struct{}, 1000)
	hanging.behaves(func(_ int, _ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		asked <- struct{}{}
		<-r.Context().Done()
	})
	var slow []miosa.LogDrain
	for range 5 {
		slow = append(slow, w.addDrain(tenant, miosa.DrainHTTPS, hanging.url, hanging.ca.pem, nil))
	}
	w.addDrain(tenant, miosa.DrainHTTPS, good.url, good.ca.pem, nil)
	w.start()
	w.write(a, "first")
	for range slow {
		<-asked
	}
	// All of them hang now.
	const rounds, each = 5, 2000
	for round := range rounds {
		w.write(a, numbered("line", round*each, (round+1)*each)...)
		await(t, "the good receiver has the newest line", func() bool { return good.has(fmt.Sprintf("line %d", (round+1)*each-1)) })
	}
	complete(t, good.texts(), "line", rounds*each)
	for _, d := range slow {
		if s := w.f.Status(d); s.Delivered != 0 {
			t.Errorf("a receiver that never answers has %d lines", s.Delivered)
		}
	}
	if n := len(hanging.texts()); n != 0 {
		t.Errorf("the hanging receiver kept %d lines", n)
	}
}

// TestDrainsSeeTheirOwnLines: no drain forwards a line of another tenant,
// workspace, deployment, service or stream, whatever its record names.
func TestDrainsSeeTheirOwnLines(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, two := newID(t, miosa.PrefixTenant), newID(t, miosa.PrefixTenant)
	shop, blog, theirs := w.addApp(one, "shop", "w1"), w.addApp(one, "blog", "w2"), w.addApp(two, "shop", "w1")
	task := w.addAttempt(shop)
	everything := []string{"shop 0", "blog 0", "task 0"}
	type check struct {
		name  string
		drain miosa.LogDrain
		at    *httpsReceiver
		want  []string
	}
	var checks []check
	for _, x := range []struct {
		name   string
		tenant string
		narrow func(d *miosa.LogDrain)
		want   []string
	}{
		{"a tenant's", one, nil, everything},
		{"a workspace's", one, func(d *miosa.LogDrain) { d.WorkspaceID = "w2" }, []string{"blog 0"}},
		{"a workspace of the same name elsewhere", two, func(d *miosa.LogDrain) { d.WorkspaceID = "w1" }, []string{"theirs 0"}},
		{"a deployment's", one, func(d *miosa.LogDrain) { d.DeploymentID = shop.deployment }, []string{"shop 0", "task 0"}},
		{"a service's", one, func(d *miosa.LogDrain) { d.ServiceID = shop.service }, []string{"shop 0"}},
		{"another tenant's deployment", one, func(d *miosa.LogDrain) { d.DeploymentID = theirs.deployment }, nil},
		{"another tenant's service", one, func(d *miosa.LogDrain) { d.ServiceID = theirs.service }, nil},
		{"a deployment of another workspace", one, func(d *miosa.LogDrain) { d.WorkspaceID, d.DeploymentID = "w2", shop.deployment }, nil},
		{"a stream's", one, func(d *miosa.LogDrain) { d.Stream = "stderr" }, nil},
		{"a search's", one, func(d *miosa.LogDrain) { d.Search = "blog" }, []string{"blog 0"}},
		{"a search over tenants", one, func(d *miosa.LogDrain) { d.Search = "theirs" }, nil},
	} {
		s := newHTTPSReceiver(t)
		checks = append(checks, check{x.name, w.addDrain(x.tenant, miosa.DrainHTTPS, s.url, s.ca.pem, x.narrow), s, x.want})
	}
	w.start()
	// Each begins before there is anything, and has seen all in the end.
	for _, c := range checks {
		w.awaitBegun(c.drain)
	}
	w.write(shop, "shop 0")
	w.write(theirs, "theirs 0")
	w.write(blog, "blog 0")
	w.write(task, "task 0")
	last, err := w.plane.Last(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range checks {
		w.awaitStatus(c.drain, c.name+" has seen all", func(miosa.DrainStatus) bool { return w.f.Done(c.drain.ID) >= last })
		if came := c.at.texts(); !slices.Equal(came, c.want) {
			t.Errorf("%s has %q, want %q", c.name, came, c.want)
		}
	}
}

// TestADrainsLife: it begins at now, is changed, paused, resumed and deleted;
// nothing is lost between.
func TestADrainsLife(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tenant := newID(t, miosa.PrefixTenant)
	a := w.addApp(tenant, "shop", "")
	one, two := newHTTPSReceiver(t), newHTTPSReceiver(t)
	w.write(a, "before it was made")
	w.start()
	d := w.addDrain(tenant, miosa.DrainHTTPS, one.url, one.ca.pem, nil)
	w.write(a, "after it was made")
	await(t, "the first line", func() bool { return one.has("after it was made") })

	d.Target, d.URL, d.CA = two.url, w.seal(d, "url", two.url), two.ca.pem
	d = w.saveDrain(d)
	w.write(a, "after it was changed")
	await(t, "the line at the second receiver", func() bool { return two.has("after it was changed") })

	d.Paused = true
	d = w.saveDrain(d)
	w.awaitStatus(d, "paused", func(s miosa.DrainStatus) bool { return s.State == miosa.DrainPaused })
	w.stop()
	w.start()
	w.write(a, "while it was paused")
	d.Paused = false
	d = w.saveDrain(d)
	await(t, "the line of the pause", func() bool { return two.has("while it was paused") })
	w.awaitStatus(d, "counted", func(s miosa.DrainStatus) bool { return s.State == miosa.DrainDelivering && s.Delivered >= 3 })

	w.update(func(tx *store.Tx) error { return store.Remove(tx, store.LogDrains, d) })
	other := w.addDrain(tenant, miosa.DrainHTTPS, one.url, one.ca.pem, nil)
	// The forwarder hears of its records in their order, but not at once.
	w.awaitStatus(other, "begun", func(miosa.DrainStatus) bool { return w.f.Begun(other.ID) })
	w.write(a, "after it was deleted")
	await(t, "the line at the other drain", func() bool { return one.has("after it was deleted") })
	if two.has("after it was deleted") {
		t.Error("a deleted drain delivers")
	}
	// What was remembered of it goes too, also when it was deleted while nothing ran.
	w.stop()
	w.update(func(tx *store.Tx) error { return store.Remove(tx, store.LogDrains, other) })
	w.start()
	again := d
	again.Revision, again.CreatedAt = 0, time.Now()
	again = w.saveDrain(again)
	w.awaitBegun(again)
	w.write(a, "after it was made again")
	await(t, "the line of the new one", func() bool { return two.has("after it was made again") })
	if s := w.awaitStatus(again, "counted", func(s miosa.DrainStatus) bool { return s.Delivered > 0 }); s.Delivered != 1 {
		t.Errorf("a drain that was made anew has delivered %d lines", s.Delivered)
	}
	if one.has("before it was made") || two.has("before it was made") {
		t.Error("a line came that was written before there was a drain")
	}
}

// TestAReceiverThatWasAwayForHours: the order of arrival is forgotten
// meanwhile, and the lines are found by their times.
func TestAReceiverThatWasAwayForHours(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tenant := newID(t, miosa.PrefixTenant)
	a := w.addApp(tenant, "shop", "")
	s := newHTTPSReceiver(t)
	d := w.addDrain(tenant, miosa.DrainHTTPS, s.url, s.ca.pem, nil)
	w.start()
	w.write(a, numbered("line", 0, 10)...)
	await(t, "the first lines", func() bool { return s.has("line 9") })
	w.stop()
	w.write(a, numbered("line", 10, 2000)...)
	w.mu.Lock()
	w.now = func() time.Time { return time.Now().Add(3 * time.Hour) }
	w.mu.Unlock()
	if err := w.kept.Expire(t.Context(), time.Now().Add(3*time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.start()
	await(t, "the lines of meanwhile", func() bool { return s.has("line 1999") })
	w.write(a, numbered("line", 2000, 2010)...)
	w.awaitStatus(d, "it is live again", func(st miosa.DrainStatus) bool { return st.Lag == 0 && s.has("line 2009") })
	complete(t, s.texts(), "line", 2010)
	if st := w.f.Status(d); !st.GapFrom.IsZero() {
		t.Errorf("it tells of a gap: %+v", st)
	}
}

// TestWhatSomebodyHasToMend loses nothing: the drain says what is wrong, and
// goes on once it is mended.
func TestWhatSomebodyHasToMend(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tenant := newID(t, miosa.PrefixTenant)
	a := w.addApp(tenant, "shop", "")
	s := newHTTPSReceiver(t)
	s.behaves(func(_ int, rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer right" || r.Header.Get("X-Key") != "also secret" {
			http.Error(rw, "who are you?", http.StatusForbidden)
			return
		}
		s.take(rw, r)
	})
	strangers := newAuthority(t)
	d := w.addDrain(tenant, miosa.DrainHTTPS, s.url, strangers.pem, func(d *miosa.LogDrain) {
		d.Headers = []miosa.DrainHeader{{Name: "X-Key", Sealed: w.seal(*d, "header/X-Key", "also secret")}}
		d.Token = w.seal(*d, "token", "a wrong one")
	})
	w.start()
	w.awaitBegun(d)
	w.write(a, numbered("line", 0, 5)...)
	failed := func(words string) func(miosa.DrainStatus) bool {
		return func(st miosa.DrainStatus) bool {
			return st.State == miosa.DrainFailed && strings.Contains(st.Error, words) && !st.NextAttempt.IsZero() && st.Lag > 0
		}
	}
	w.awaitStatus(d, "the certificate is found fault with", failed("certificate is not trusted"))
	d.CA = ""
	d = w.saveDrain(d)
	w.awaitStatus(d, "the system's authorities do not know it either", failed("certificate is not trusted"))
	d.CA = s.ca.pem
	d = w.saveDrain(d)
	w.awaitStatus(d, "the token is found fault with", failed("403 Forbidden"))
	if s.asked() == 0 {
		t.Fatal("nobody asked")
	}
	d.Token = w.seal(d, "token", "right")
	d = w.saveDrain(d)
	await(t, "all lines", func() bool { return len(s.texts()) == 5 })
	w.awaitStatus(d, "mended", func(st miosa.DrainStatus) bool {
		return st.State == miosa.DrainDelivering && st.Error == "" && st.Delivered == 5 && st.Dropped == 0
	})
	for _, secret := range []string{"a wrong one", "also secret", "hidden"} {
		if strings.Contains(w.log.String(), secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
}

// TestWhereADrainMayNotLead: private addresses, and any without TLS, unless the
// operator allows them.
func TestWhereADrainMayNotLead(t *testing.T) {
	t.Parallel()
	s := newHTTPSReceiver(t)
	plain := strings.Replace(s.url, "https://", "http://", 1)
	syslog := "syslog+tls://" + s.addr
	for _, x := range []struct {
		name, url string
		kind      miosa.DrainType
		guard     outbound.Guard
	}{
		{"https to a loopback address", s.url, miosa.DrainHTTPS, outbound.Guard{}},
		{"by name", strings.Replace(s.url, "127.0.0.1", "localhost", 1), miosa.DrainOTLP, outbound.Guard{}},
		{"plain http", plain, miosa.DrainHTTPS, outbound.Guard{}},
		{"plain http to a public address", "http://93.184.216.34/logs", miosa.DrainHTTPS, outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}},
		{"syslog", syslog, miosa.DrainSyslog, outbound.Guard{}},
	} {
		w := newWorld(t)
		w.guard = x.guard
		tenant := newID(t, miosa.PrefixTenant)
		a := w.addApp(tenant, "shop", "")
		d := w.addDrain(tenant, x.kind, x.url, s.ca.pem, nil)
		w.start()
		w.write(a, "line")
		// As for a closed port: it may open.
		st := w.awaitStatus(d, x.name, func(st miosa.DrainStatus) bool { return st.State == miosa.DrainRetrying })
		if !strings.Contains(st.Error, "--allow-target") || strings.Contains(st.Error, "127.0.0.1") {
			t.Errorf("%s: %q", x.name, st.Error)
		}
	}
	if s.asked() != 0 {
		t.Error("the receiver was asked")
	}
}

// TestATestLine: the caller hears how the receiver answers, and nothing of what
// it wrote.
func TestATestLine(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tenant := newID(t, miosa.PrefixTenant)
	s := newHTTPSReceiver(t)
	d := w.addDrain(tenant, miosa.DrainHTTPS, s.url, s.ca.pem, func(d *miosa.LogDrain) { d.Paused = true })
	w.start()
	answer, err := w.f.Test(t.Context(), d)
	if err != nil || !answer.Delivered || answer.Status != 204 {
		t.Errorf("%+v, %v", answer, err)
	}
	if texts := s.texts(); len(texts) != 1 || !strings.Contains(texts[0], "test line of log drain test ("+d.ID+")") {
		t.Errorf("came %q", texts)
	}
	s.behaves(func(_ int, rw http.ResponseWriter, _ *http.Request) {
		http.Error(rw, "index 'logs' is full", http.StatusInsufficientStorage)
	})
	if answer, err = w.f.Test(t.Context(), d); err != nil || answer.Delivered || answer.Status != 507 || answer.Message != "the receiver answers 507 Insufficient Storage" {
		t.Errorf("%+v, %v", answer, err)
	}
	hangs := make(chan struct{})
	s.behaves(func(_ int, _ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		hangs <- struct{}{}
		<-r.Context().Done()
	})
	done := make(chan miosa.DrainAnswer, 1)
	go func() {
		a, _ := w.f.Test(t.Context(), d)
		done <- a
	}()
	<-hangs
	if _, err := w.f.Test(t.Context(), d); miosa.CodeOf(err) != miosa.Limited {
		t.Errorf("a second test at once: %v", err)
	}
	s.server.Close()
	if a := <-done; a.Delivered {
		t.Errorf("%+v", a)
	}
	if answer, err = w.f.Test(t.Context(), d); err != nil || answer.Delivered || answer.Status != 0 || !strings.Contains(answer.Message, "nothing answers at the receiver's address") {
		t.Errorf("%+v, %v", answer, err)
	}
	if n := w.f.Status(d).Delivered; n != 0 {
		t.Errorf("test lines count as %d delivered", n)
	}
}

// TestOTLPOverHTTP: protobuf, gzip, and what a receiver rejects of a batch it
// took is counted as dead.
func TestOTLPOverHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tenant := newID(t, miosa.PrefixTenant)
	a := w.addApp(tenant, "shop", "")
	s := newHTTPSReceiver(t)
	var mu sync.Mutex
	var texts []string
	s.behaves(func(_ int, rw http.ResponseWriter, r *http.Request) {
		body, ok := s.read(rw, r)
		if !ok {
			return
		}
		var in collector.ExportLogsServiceRequest
		if err := proto.Unmarshal(body, &in); err != nil || r.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%v: %v", r.Header, err)
		}
		mu.Lock()
		defer mu.Unlock()
		out := &collector.ExportLogsServiceResponse{}
		for _, l := range in.GetResourceLogs()[0].GetScopeLogs()[0].GetLogRecords() {
			texts = append(texts, l.GetBody().GetStringValue())
			if l.GetBody().GetStringValue() == "line 3" {
				out.PartialSuccess = &collector.ExportLogsPartialSuccess{RejectedLogRecords: 1, ErrorMessage: "line 3 is ugly"}
			}
		}
		raw, err := proto.Marshal(out)
		if err != nil {
			t.Error(err)
		}
		rw.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = rw.Write(raw)
	})
	d := w.addDrain(tenant, miosa.DrainOTLP, "https://"+s.addr+"/v1/logs", s.ca.pem, nil)
	w.start()
	w.awaitBegun(d)
	w.write(a, numbered("line", 0, 10)...)
	st := w.awaitStatus(d, "all lines are settled", func(st miosa.DrainStatus) bool { return st.Delivered+st.Dropped == 10 })
	if st.Dropped != 1 || st.Error != "the receiver rejected 1 lines" || st.State != miosa.DrainDelivering {
		t.Errorf("status %+v", st)
	}
	mu.Lock()
	defer mu.Unlock()
	complete(t, texts, "line", 10)
}

// TestLargeBatches: long lines go in batches of about a megabyte, and a
// receiver with a smaller limit gets smaller ones.
func TestLargeBatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tenant := newID(t, miosa.PrefixTenant)
	a := w.addApp(tenant, "shop", "")
	s := newHTTPSReceiver(t)
	s.behaves(func(_ int, rw http.ResponseWriter, r *http.Request) {
		body, ok := s.read(rw, r)
		switch {
		case !ok:
		case len(body) > 200<<10:
			http.Error(rw, "200 KB, please", http.StatusRequestEntityTooLarge)
		default:
			s.keep(body, r.Header)
		}
	})
	d := w.addDrain(tenant, miosa.DrainHTTPS, s.url, s.ca.pem, nil)
	w.start()
	long := strings.Repeat("x", 40<<10)
	for n := range 60 {
		w.write(a, fmt.Sprintf("line %d\t%s", n, long))
	}
	w.awaitStatus(d, "all lines", func(st miosa.DrainStatus) bool { return st.Delivered >= 60 && st.Lag == 0 && st.Dropped == 0 })
	var texts []string
	for _, text := range s.texts() {
		text, _, _ = strings.Cut(text, "\t")
		texts = append(texts, text)
	}
	complete(t, texts, "line", 60)
}
