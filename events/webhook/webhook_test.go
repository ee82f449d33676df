package webhook_test

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/events"
	eventmemory "github.com/miosa/miosa/events/memory"
	"github.com/miosa/miosa/events/timeline"
	"github.com/miosa/miosa/events/webhook"
	"github.com/miosa/miosa/outbound"
	"github.com/miosa/miosa/records"
	"github.com/miosa/miosa/secret"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// got is one request that a receiver took.
type got struct {
	id, stamp, signatures string
	body                  []byte
	path                  string
}

// receiver is a real HTTPS server that answers as it is told.
type receiver struct {
	*httptest.Server
	t      *testing.T
	mu     sync.Mutex
	answer func(n int, w http.ResponseWriter, r *http.Request) // n: from 1
	all    []got
	came   chan struct{}
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{t: t, came: make(chan struct{}, 1000)}
	r.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		r.all = append(r.all, got{req.Header.Get("Webhook-Id"), req.Header.Get("Webhook-Timestamp"), req.Header.Get("Webhook-Signature"), body, req.URL.Path})
		n, answer := len(r.all), r.answer
		r.mu.Unlock()
		if answer != nil {
			answer(n, w, req)
		}
		r.came <- struct{}{}
	}))
	r.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(func() {
		r.CloseClientConnections()
		r.Close()
	})
	return r
}

func (r *receiver) answers(fn func(n int, w http.ResponseWriter, r *http.Request)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = fn
}

func (r *receiver) requests() []got {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all)
}

// wait blocks until n requests have been answered in all.
func (r *receiver) wait(n int) []got {
	r.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		if all := r.requests(); len(all) >= n {
			return all
		}
		select {
		case <-r.came:
		case <-deadline:
			r.t.Fatalf("%d requests came, want %d", len(r.requests()), n)
		}
	}
}

// bench is the whole path from the records to receivers.
type bench struct {
	*testing.T
	records  *memory.Store
	kept     *eventmemory.Store
	timeline *timeline.Timeline
	dir      string
	box      *secret.Box
	hooks    *webhook.Webhooks
	roots    *x509.CertPool
	log      strings.Builder
	logMu    sync.Mutex
	allow    []netip.Prefix
	patient  bool                                // many more attempts
	source   func(webhook.Source) webhook.Source // nil: the timeline itself
	stop     func()
}

func (b *bench) Write(p []byte) (int, error) {
	b.logMu.Lock()
	defer b.logMu.Unlock()
	return b.log.Write(p)
}

func newBench(t *testing.T, receivers ...*receiver) *bench {
	t.Helper()
	b := &bench{
		T: t, records: memory.New(time.Now), kept: eventmemory.New(time.Now), dir: t.TempDir(), roots: x509.NewCertPool(),
		allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	}
	for _, r := range receivers {
		b.roots.AddCert(r.Certificate())
	}
	keeper, err := secret.OpenFileKeeper(filepath.Join(t.TempDir(), "master.key"))
	if err != nil {
		t.Fatal(err)
	}
	b.box = secret.NewBox(keeper, store.DataKeys{Store: b.records})
	b.update(func(tx *store.Tx) error {
		return errors.Join(
			store.Save(tx, store.Tenants, miosa.Tenant{ID: "ten_a", Slug: "a", Plan: "default"}),
			store.Save(tx, store.Tenants, miosa.Tenant{ID: "ten_b", Slug: "b", Plan: "default"}),
			store.Save(tx, store.Deployments, miosa.Deployment{ID: "dep_1", TenantID: "ten_a", Slug: "one", Attribution: miosa.Attribution{WorkspaceID: "w1"}}),
			store.Save(tx, store.Deployments, miosa.Deployment{ID: "dep_2", TenantID: "ten_a", Slug: "two", Attribution: miosa.Attribution{WorkspaceID: "w2"}}),
		)
	})
	b.start()
	t.Cleanup(func() { b.stop() })
	return b
}

// start begins the loops, as a new process would.
func (b *bench) start() {
	b.Helper()
	log := slog.New(slog.NewTextHandler(b, nil))
	b.timeline = timeline.New(timeline.Config{}, b.kept, records.New(b.records), log)
	ladder := []time.Duration{20 * time.Millisecond, 50 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond}
	if b.patient {
		ladder = slices.Repeat(ladder, 200)
	}
	source := webhook.Source(b.timeline)
	if b.source != nil {
		source = b.source(source)
	}
	var err error
	b.hooks, err = webhook.New(webhook.Config{
		Dir: b.dir, Guard: outbound.Guard{Allow: b.allow}, Roots: b.roots, Ladder: ladder,
		Render: func(e miosa.Event) ([]byte, error) {
			return json.Marshal(map[string]string{"id": e.ID, "message": e.Message})
		},
	}, source, b.records, b.box, log)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.Context()))
	var parts sync.WaitGroup
	parts.Go(func() { _ = b.timeline.Run(ctx) })
	parts.Go(func() { _ = b.hooks.Run(ctx) })
	b.stop = func() { cancel(); parts.Wait() }
}

func (b *bench) update(fn func(tx *store.Tx) error) {
	b.Helper()
	if _, err := store.Update(b.Context(), b.records, fn); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) id(prefix string) string {
	b.Helper()
	id, err := miosa.NewID(prefix, time.Now(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	return id
}

// happen commits an event.
func (b *bench) happen(e miosa.Event) string {
	b.Helper()
	e.ID, e.At = b.id(miosa.PrefixEvent), time.Now().UTC()
	b.update(func(tx *store.Tx) error { return store.Save(tx, store.Events, e) })
	return e.ID
}

func (b *bench) deployed(dep string) string {
	return b.happen(miosa.Event{TenantID: "ten_a", DeploymentID: dep, Type: "rollout.completed", Message: "live"})
}

// add makes a webhook as the API does, and returns its secret.
func (b *bench) add(hook miosa.Webhook) (id, signing string) {
	b.Helper()
	signing, err := secret.NewWebhookSecret(rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	if hook.TenantID == "" {
		hook.TenantID = "ten_a"
	}
	hook.ID, hook.BeginID = b.id(miosa.PrefixWebhook), b.id(miosa.PrefixEvent)
	if hook.Secret, err = b.box.Seal(b.Context(), hook.TenantID, miosa.WebhookAAD(hook.ID), []byte(signing)); err != nil {
		b.Fatal(err)
	}
	b.update(func(tx *store.Tx) error {
		return errors.Join(store.Save(tx, store.Webhooks, hook), store.Save(tx, store.Events, miosa.Event{
			ID: hook.BeginID, TenantID: hook.TenantID, WorkspaceID: hook.WorkspaceID, Type: "webhook.created", At: time.Now(),
		}))
	})
	return hook.ID, signing
}

func (b *bench) change(id string, fn func(h *miosa.Webhook)) {
	b.Helper()
	b.update(func(tx *store.Tx) error {
		h, err := store.Load(tx, store.Webhooks, store.WebhookKey("ten_a", id))
		if err != nil {
			return err
		}
		fn(&h)
		return store.Save(tx, store.Webhooks, h)
	})
}

// until waits for something that has no end to wait for.
func (b *bench) until(what string, fn func() bool) {
	b.Helper()
	for deadline := time.Now().Add(30 * time.Second); !fn(); {
		if time.Now().After(deadline) {
			files, _ := filepath.Glob(filepath.Join(b.dir, "*.json"))
			for _, f := range files {
				raw, err := os.ReadFile(f)
				b.Logf("%s %v", raw, err)
			}
			b.Fatalf("%s: not within 30 s\n%s", what, b.log.String())
		}
		time.Sleep(2 * time.Millisecond) //nolint:forbidigo // polls a state that has no event, with a deadline around it
	}
}

func ids(all []got) (out []string) {
	for _, g := range all {
		out = append(out, g.id)
	}
	return out
}

// verify is what a receiver does, from the convention's words alone.
func verify(t *testing.T, g got, signing string) bool {
	t.Helper()
	encoded, ok := strings.CutPrefix(signing, "whsec_")
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || !ok || len(key) < 24 || len(key) > 64 {
		t.Fatalf("the secret is none: %d bytes, %v", len(key), err)
	}
	seconds, err := strconv.ParseInt(g.stamp, 10, 64)
	if err != nil || time.Since(time.Unix(seconds, 0)).Abs() > 5*time.Minute {
		t.Errorf("timestamp %q", g.stamp)
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", g.id, g.stamp, g.body)
	want := base64.StdEncoding.EncodeToString(mac.Sum(nil))
	for part := range strings.SplitSeq(g.signatures, " ") {
		version, value, _ := strings.Cut(part, ",")
		if version == "v1" && hmac.Equal([]byte(value), []byte(want)) {
			return true
		}
	}
	return false
}

func TestDeliveriesAreSignedAndInOrder(t *testing.T) {
	r := newReceiver(t)
	b := newBench(t, r)
	before := b.deployed("dep_1")
	id, signing := b.add(miosa.Webhook{URL: r.URL + "/hook", Types: []string{"rollout.", "instance.crashed"}})
	var want []string
	for range 30 {
		want = append(want, b.deployed("dep_1"))
		b.happen(miosa.Event{TenantID: "ten_a", DeploymentID: "dep_1", Type: "release.uploaded"})
		b.happen(miosa.Event{TenantID: "ten_b", Type: "rollout.completed"})
	}
	all := r.wait(30)
	if got := ids(all); !slices.Equal(got, want) || slices.Contains(got, before) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for _, g := range all {
		if !verify(t, g, signing) {
			t.Errorf("%s is not signed", g.id)
		}
		var body struct {
			Type      string
			Timestamp time.Time
			Data      map[string]string
		}
		if err := json.Unmarshal(g.body, &body); err != nil || body.Type != "rollout.completed" || body.Timestamp.IsZero() || body.Data["id"] != g.id {
			t.Errorf("%s, %v", g.body, err)
		}
		if verify(t, got{id: g.id, stamp: g.stamp, signatures: g.signatures, body: append(g.body, ' ')}, signing) {
			t.Error("a changed body passes")
		}
	}
	// Replaced: for a while either secret does.
	next, err := secret.NewWebhookSecret(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := b.box.Seal(t.Context(), "ten_a", miosa.WebhookAAD(id), []byte(next))
	if err != nil {
		t.Fatal(err)
	}
	b.change(id, func(h *miosa.Webhook) {
		h.Secret, h.PreviousSecret, h.PreviousUntil = sealed, h.Secret, time.Now().Add(time.Hour)
	})
	b.until("the new secret signs", func() bool {
		n := len(r.requests())
		b.deployed("dep_1")
		g := r.wait(n + 1)[n]
		return verify(t, g, next) && verify(t, g, signing)
	})
	// Replaced again: what was promised to the first holds.
	third, err := secret.NewWebhookSecret(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.box.Seal(t.Context(), "ten_a", miosa.WebhookAAD(id), []byte(third))
	if err != nil {
		t.Fatal(err)
	}
	b.change(id, func(h *miosa.Webhook) {
		h.Earlier = h.OldSecrets(time.Now())
		h.Secret, h.PreviousSecret, h.PreviousUntil = again, h.Secret, time.Now().Add(time.Hour)
	})
	b.until("all three sign", func() bool {
		n := len(r.requests())
		b.deployed("dep_1")
		g := r.wait(n + 1)[n]
		return verify(t, g, third) && verify(t, g, next) && verify(t, g, signing)
	})
	b.change(id, func(h *miosa.Webhook) { h.Earlier[0].Until = time.Now().Add(-time.Second) })
	b.until("the old secret signs no more", func() bool {
		n := len(r.requests())
		b.deployed("dep_1")
		g := r.wait(n + 1)[n]
		return verify(t, g, next) && !verify(t, g, signing)
	})
	b.stop()
	// No secret lies about in clear.
	if strings.Contains(b.log.String(), signing[6:]) || strings.Contains(b.log.String(), next[6:]) {
		t.Error("a secret was logged")
	}
	for e, err := range b.records.Scan(t.Context(), "", store.ScanOptions{}) {
		if err != nil || strings.Contains(string(e.Value), signing[6:]) {
			t.Errorf("%s: %v", e.Key, err)
		}
	}
	b.start()
}

// Workspaces and deployments: a webhook sends nothing but its own.
func TestFilters(t *testing.T) {
	mine, one := newReceiver(t), newReceiver(t)
	b := newBench(t, mine, one)
	b.add(miosa.Webhook{URL: mine.URL, WorkspaceID: "w1"})
	b.add(miosa.Webhook{URL: one.URL, DeploymentID: "dep_2"})
	first, second := b.deployed("dep_1"), b.deployed("dep_2")
	b.happen(miosa.Event{TenantID: "ten_a", Type: "api_key.created"})
	b.happen(miosa.Event{Type: "plan.changed"})
	b.happen(miosa.Event{TenantID: "ten_b", DeploymentID: "dep_1", Type: "rollout.completed"})
	third, fourth := b.deployed("dep_1"), b.deployed("dep_2")
	if got := ids(mine.wait(2)); !slices.Equal(got, []string{first, third}) {
		t.Errorf("of the workspace: %v", got)
	}
	if got := ids(one.wait(2)); !slices.Equal(got, []string{second, fourth}) {
		t.Errorf("of the deployment: %v", got)
	}
}

// A receiver that fails, then hangs up, then answers: nothing is missing, and
// the same event has the same ID each time.
func TestAReceiverThatFails(t *testing.T) {
	r := newReceiver(t)
	r.answers(func(n int, w http.ResponseWriter, req *http.Request) {
		switch n {
		case 1:
			w.WriteHeader(http.StatusInternalServerError)
		case 2:
			panic(http.ErrAbortHandler)
		case 3:
			http.Redirect(w, req, "/elsewhere", http.StatusFound)
		}
	})
	b := newBench(t, r)
	id, signing := b.add(miosa.Webhook{URL: r.URL + "/hook"})
	event := b.deployed("dep_1")
	for _, g := range r.wait(4) {
		if g.id != event || g.path != "/hook" || !verify(t, g, signing) {
			t.Errorf("%+v", g)
		}
	}
	b.until("delivered", func() bool {
		all := b.hooks.Status(id).Recent
		return len(all) == 1 && all[0].State == miosa.DeliveryDelivered && all[0].Attempts == 4 && all[0].Status == 200 && all[0].EventID == event
	})
}

// failing is a source that cannot be read for a while.
type failing struct {
	webhook.Source
	left atomic.Int32 // calls that fail
}

func (f *failing) Last(ctx context.Context) (events.Mark, error) {
	if f.left.Add(-1) >= 0 {
		return 0, miosa.Errorf(miosa.Unavailable, "the event store does not answer")
	}
	return f.Source.Last(ctx)
}

// A webhook that cannot begin, as the events cannot be read then, does so later.
func TestEventsThatCannotBeReadAtFirst(t *testing.T) {
	r := newReceiver(t)
	b := newBench(t, r)
	b.stop()
	b.source = func(s webhook.Source) webhook.Source {
		f := &failing{Source: s}
		f.left.Store(1)
		return f
	}
	b.start()
	b.add(miosa.Webhook{URL: r.URL})
	event := b.deployed("dep_1")
	if got := ids(r.wait(1)); got[0] != event {
		t.Errorf("%v", got)
	}
}

// A webhook that a newer version of the platform wrote is left alone, and keeps
// no other from being sent.
func TestARecordThatCannotBeRead(t *testing.T) {
	r := newReceiver(t)
	b := newBench(t, r)
	b.stop()
	const newer = "whk_00000000000000000000000001" // before the other
	if err := os.WriteFile(filepath.Join(b.dir, newer+".json"), []byte(`{"v":1,"state":{"begun":true,"cursor":5}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	put := store.Txn{Put: []store.Put{{Key: store.WebhookKey("ten_a", newer), Value: []byte(`{"v":1000000}`)}}}
	if _, err := b.records.Commit(t.Context(), put); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.add(miosa.Webhook{URL: r.URL})
	event := b.deployed("dep_1")
	if got := ids(r.wait(1)); got[0] != event {
		t.Errorf("%v", got)
	}
	if _, err := os.Stat(filepath.Join(b.dir, newer+".json")); err != nil {
		t.Errorf("where it stood is forgotten: %v", err)
	}
}

// A receiver that is gone and comes back elsewhere, over a new start of ours in
// between: all that happened meanwhile comes.
func TestAReceiverThatDisappears(t *testing.T) {
	r := newReceiver(t)
	b := newBench(t, r)
	b.stop()
	b.patient = true
	b.start()
	id, _ := b.add(miosa.Webhook{URL: r.URL})
	first := b.deployed("dep_1")
	r.wait(1)
	r.CloseClientConnections()
	r.Close()
	var want []string
	for range 10 {
		want = append(want, b.deployed("dep_1"))
	}
	b.until("failing", func() bool { return !b.hooks.Status(id).FailingSince.IsZero() })
	b.stop()
	back := newReceiver(t)
	b.roots.AddCert(back.Certificate())
	b.start()
	for range 10 {
		want = append(want, b.deployed("dep_1"))
	}
	b.change(id, func(h *miosa.Webhook) { h.URL = back.URL })
	slices.Sort(want)
	b.until("all are delivered", func() bool {
		// The first may come again: the connection may have broken off before
		// its answer was read.
		have := slices.DeleteFunc(ids(back.requests()), func(id string) bool { return id == first })
		slices.Sort(have)
		return slices.Equal(slices.Compact(have), want)
	})
	if s := b.hooks.Status(id); !s.DisabledAt.IsZero() {
		t.Errorf("it was disabled: %+v", s)
	}
}

// A receiver that hangs keeps no other waiting, and answers too slow count as none.
func TestASlowWebhookHurtsNoOther(t *testing.T) {
	slow, fast := newReceiver(t), newReceiver(t)
	hang := make(chan struct{})
	slow.answers(func(_ int, _ http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	b := newBench(t, slow, fast)
	b.add(miosa.Webhook{URL: slow.URL})
	b.add(miosa.Webhook{URL: fast.URL, Types: []string{"rollout"}})
	var want []string
	for range 20 {
		want = append(want, b.deployed("dep_1"))
	}
	if got := ids(fast.wait(20)); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if n := len(slow.requests()); n > 1 {
		t.Errorf("the slow one has %d requests at once", n)
	}
	close(hang)
	slow.wait(20)
}

func TestGoneDisables(t *testing.T) {
	r := newReceiver(t)
	r.answers(func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
	b := newBench(t, r)
	id, _ := b.add(miosa.Webhook{URL: r.URL, WorkspaceID: "w1"})
	event := b.deployed("dep_1")
	b.until("disabled", func() bool { return !b.hooks.Status(id).DisabledAt.IsZero() })
	find := func() (found miosa.Event) {
		for e, err := range b.kept.Read(t.Context(), events.Query{Scope: events.Scope{TenantID: "ten_a", WorkspaceID: "w1", Types: []string{"webhook.disabled"}}}) {
			if err != nil {
				t.Fatal(err)
			}
			found = e.Event
		}
		return found
	}
	b.until("an event tells of it", func() bool { return find().Details["webhook_id"] == id && strings.Contains(find().Message, "410") })
	b.deployed("dep_1")
	b.stop()
	b.start() // it stays so
	b.until("begun again", func() bool { return !b.hooks.Status(id).DisabledAt.IsZero() })
	if n := len(r.requests()); n != 1 {
		t.Errorf("%d requests", n)
	}
	r.answers(nil)
	b.change(id, func(h *miosa.Webhook) { h.ResumedAt = time.Now() })
	if all := r.wait(3); all[1].id != event {
		t.Errorf("resumed with %v", ids(all))
	}
}

// What was not yet known to be delivered goes out again; nothing else does.
func TestBegunAgain(t *testing.T) {
	r := newReceiver(t)
	b := newBench(t, r)
	id, _ := b.add(miosa.Webhook{URL: r.URL})
	want := map[string]bool{}
	for n := range 40 {
		want[b.deployed("dep_1")] = true
		if n%10 == 9 {
			b.stop()
			b.start()
		}
	}
	b.until("all are delivered", func() bool {
		seen := map[string]bool{}
		for _, id := range ids(r.requests()) {
			seen[id] = true
		}
		return len(seen) == len(want)
	})
	for _, id := range ids(r.requests()) {
		if !want[id] {
			t.Errorf("%s was not to be sent", id)
		}
	}
	// Deleted, it leaves nothing behind.
	b.until("its position is kept", func() bool { _, err := os.Stat(filepath.Join(b.dir, id+".json")); return err == nil })
	b.update(func(tx *store.Tx) error {
		h, err := store.Load(tx, store.Webhooks, store.WebhookKey("ten_a", id))
		if err != nil {
			return err
		}
		return store.Remove(tx, store.Webhooks, h)
	})
	b.until("forgotten", func() bool { entries, err := os.ReadDir(b.dir); return err == nil && len(entries) == 0 })
}

// Customers cannot reach what only the operator may.
func TestInsideAddressesAreRefused(t *testing.T) {
	r := newReceiver(t)
	b := newBench(t, r)
	b.stop()
	b.allow = nil
	b.start()
	id, _ := b.add(miosa.Webhook{URL: r.URL + "/?token=hidden"})
	b.deployed("dep_1")
	b.until("refused", func() bool {
		all := b.hooks.Status(id).Recent
		return len(all) == 1 && strings.Contains(all[0].Error, "only public addresses may") && !strings.Contains(all[0].Error, "hidden")
	})
	if n := len(r.requests()); n != 0 {
		t.Errorf("%d requests came", n)
	}
}

// What somebody asks for goes out at once, within the webhook's own bounds.
func TestSend(t *testing.T) {
	r := newReceiver(t)
	b := newBench(t, r)
	old, other := b.deployed("dep_1"), b.deployed("dep_2")
	foreign := b.happen(miosa.Event{TenantID: "ten_b", Type: "rollout.completed"})
	id, _ := b.add(miosa.Webhook{URL: r.URL, WorkspaceID: "w1", Types: []string{"nothing"}})
	for _, event := range []string{foreign, other, old} {
		b.until("it runs", func() bool { return b.hooks.Send(id, event) == nil })
	}
	b.until("three are done with", func() bool {
		states := map[string]miosa.DeliveryState{}
		for _, d := range b.hooks.Status(id).Recent {
			states[d.EventID] = d.State
		}
		return states[old] == miosa.DeliveryDelivered && states[other] == miosa.DeliveryGivenUp && states[foreign] == miosa.DeliveryGivenUp
	})
	if got := ids(r.requests()); !slices.Equal(got, []string{old}) {
		t.Errorf("sent %v", got)
	}
	if err := b.hooks.Send(b.id(miosa.PrefixWebhook), old); miosa.CodeOf(err) != miosa.NotFound {
		t.Errorf("an unknown webhook: %v", err)
	}
}
