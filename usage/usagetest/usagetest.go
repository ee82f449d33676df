// Package usagetest is the conformance suite of usage stores.
package usagetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/usage"
)

// hour is where the suite's rows begin.
const hour = metering.Hour(492_000)

// Run runs the suite. open makes an empty store, and cleans up after itself.
func Run(t *testing.T, open func(t *testing.T) usage.Store) {
	for name, test := range map[string]func(*testing.T, usage.Store){
		"what is added adds up":           addsUp,
		"rows are kept apart":             keptApart,
		"a query names what it says":      queries,
		"rows come in order":              order,
		"accounts are replaced as wholes": accounts,
		"the sampled hour only grows":     sampled,
		"old things expire":               expire,
		"additions at once are all kept":  atOnce,
		"an ended context ends the call":  ended,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func subject(tenant, deployment, service, workspace string) usage.Subject {
	return usage.Subject{TenantID: tenant, DeploymentID: deployment, ServiceID: service, Attribution: miosa.Attribution{WorkspaceID: workspace}}
}

func row(h metering.Hour, s usage.Subject, bytes uint64) usage.Row {
	return usage.Row{Hour: h, Subject: s, Amount: metering.Amount{SentBytes: bytes}}
}

func add(t *testing.T, s usage.Store, rows ...usage.Row) {
	t.Helper()
	if err := s.Commit(t.Context(), usage.Change{Add: rows}); err != nil {
		t.Fatal(err)
	}
}

// read is what a query finds, a row a line.
func read(t *testing.T, s usage.Store, q usage.Query) string {
	t.Helper()
	var b strings.Builder
	for r, err := range s.Rows(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%d %s %s %s %q %d\n", r.Hour-hour, r.TenantID, r.DeploymentID, r.ServiceID, r.WorkspaceID, r.SentBytes)
	}
	return b.String()
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%swant\n%s", what, got, want)
	}
}

var all = usage.Query{Since: 0, Until: hour + 1000}

func addsUp(t *testing.T, s usage.Store) {
	of := usage.Subject{
		TenantID: "ten_a", DeploymentID: "dep_a", ServiceID: "svc_a",
		Attribution: miosa.Attribution{WorkspaceID: "w", UserID: "u", ProjectID: "p"},
	}
	one := metering.Amount{
		RunMS: 1, VCPUMS: 2, MemoryMBMS: 3, DiskMBMS: 4, SentBytes: 5, ReceivedBytes: 6, LogLines: 7, LogBytes: 1 << 40, StorageByteHours: 1 << 60,
	}
	add(t, s, usage.Row{Hour: hour, Subject: of, Name: "shop", Amount: one})
	// Twice the same subject within a change.
	add(t, s, usage.Row{Hour: hour, Subject: of, Name: "shop", Amount: one}, usage.Row{Hour: hour, Subject: of, Name: "store", Amount: one})
	n := 0
	for r, err := range s.Rows(t.Context(), all) {
		n++
		if err != nil || r.Subject != of || r.Hour != hour || r.Amount != one.Plus(one).Plus(one) || r.Name != "store" {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if n != 1 {
		t.Errorf("%d rows", n)
	}
}

func keptApart(t *testing.T, s usage.Store) {
	// Names that run into one another where they are put together carelessly.
	add(t, s,
		row(hour, subject("ten_a", "dep_a", "svc_a", ""), 1), row(hour, subject("ten_a", "dep_a", "", "svc_a"), 2),
		row(hour, subject("ten_a", "dep_as", "vc_a", ""), 3), row(hour, subject("ten_ad", "ep_a", "svc_a", ""), 4),
		row(hour, subject("ten_a", "dep_a", "svc_a", "\x00"), 5), row(hour, subject("ten_a", "dep_a", "svc_a", "/../ü\n"), 6),
		row(hour+1, subject("ten_a", "dep_a", "svc_a", ""), 7),
	)
	user, project := subject("ten_a", "dep_a", "svc_a", ""), subject("ten_a", "dep_a", "svc_a", "")
	user.UserID, project.ProjectID = "x", "x"
	add(t, s, row(hour, user, 8), row(hour, project, 9))
	found := map[uint64]bool{}
	for r, err := range s.Rows(t.Context(), all) {
		if err != nil {
			t.Fatal(err)
		}
		found[r.SentBytes] = true
	}
	for n := range uint64(9) {
		if !found[n+1] {
			t.Errorf("row %d is not itself any more: %v", n+1, found)
		}
	}
}

func queries(t *testing.T, s usage.Store) {
	add(t, s,
		row(hour, subject("ten_a", "dep_a", "svc_a", "w1"), 1), row(hour, subject("ten_a", "dep_a", "svc_b", "w2"), 2),
		row(hour, subject("ten_a", "dep_b", "svc_c", "w1"), 3), row(hour+2, subject("ten_a", "dep_a", "svc_a", "w1"), 4),
		row(hour, subject("ten_ab", "dep_a", "svc_a", "w1"), 5), row(hour+1, subject("ten_", "dep_a", "svc_a", "w1"), 6),
		row(hour+2, subject("ten_b", "dep_a", "svc_a", "w1"), 7),
	)
	for _, c := range []struct {
		q    usage.Query
		want string
	}{
		{usage.Query{TenantID: "ten_a"}, "1 2 3 4 "}, {usage.Query{TenantID: "ten_ab"}, "5 "}, {usage.Query{TenantID: "ten_"}, "6 "},
		{usage.Query{TenantID: "ten"}, ""}, {usage.Query{}, "1 2 3 5 6 4 7 "}, {usage.Query{TenantID: "ten_a", DeploymentID: "dep_a"}, "1 2 4 "},
		{usage.Query{TenantID: "ten_a", ServiceID: "svc_b"}, "2 "}, {usage.Query{TenantID: "ten_a", Attribution: miosa.Attribution{WorkspaceID: "w1"}}, "1 3 4 "},
		{usage.Query{TenantID: "ten_a", Attribution: miosa.Attribution{WorkspaceID: "w"}}, ""}, {usage.Query{TenantID: "ten_a", Attribution: miosa.Attribution{UserID: "u"}}, ""},
		{usage.Query{TenantID: "ten_a", Since: hour + 1}, "4 "}, {usage.Query{TenantID: "ten_a", Until: hour + 2}, "1 2 3 "},
		{usage.Query{TenantID: "ten_a", Since: hour + 2, Until: hour + 2}, ""}, {usage.Query{TenantID: "ten_a", Since: hour + 3, Until: hour + 1}, ""},
		{usage.Query{TenantID: "ten_a", Since: -5, Until: -1}, ""},
	} {
		if c.q.Until == 0 {
			c.q.Until = hour + 10
		}
		var got strings.Builder
		for r, err := range s.Rows(t.Context(), c.q) {
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(&got, r.SentBytes, " ")
		}
		if got.String() != c.want {
			t.Errorf("%+v: %s, want %s", c.q, got.String(), c.want)
		}
	}
}

func order(t *testing.T, s usage.Store) {
	add(t, s, row(hour+1, subject("ten_a", "dep_a", "svc_a", ""), 1), row(hour, subject("ten_b", "dep_a", "svc_a", ""), 2), row(hour, subject("ten_a", "dep_b", "", ""), 3))
	add(t, s, row(hour, subject("ten_a", "dep_b", "svc_a", ""), 4), row(hour, subject("ten_a", "dep_a", "svc_z", ""), 5))
	want(t, "all", read(t, s, all), `0 ten_a dep_a svc_z "" 5
0 ten_a dep_b  "" 3
0 ten_a dep_b svc_a "" 4
0 ten_b dep_a svc_a "" 2
1 ten_a dep_a svc_a "" 1
`)
	for r := range s.Rows(t.Context(), all) {
		if r.SentBytes != 5 {
			t.Errorf("the first is %d", r.SentBytes)
		}
		break
	}
}

func accounts(t *testing.T, s usage.Store) {
	if _, err := s.Account(t.Context(), "ri_a"); miosa.CodeOf(err) != miosa.NotFound {
		t.Errorf("an account that is not there: %v", err)
	}
	a := usage.Account{
		InstanceID: "ri_a", HostID: "host_a", Subject: subject("ten_a", "dep_a", "svc_a", "w\x01\u00fc"), Name: "shop",
		Size: metering.Size{VCPUs: 1, MemoryMB: 2, DiskMB: 3}, Since: 1_700_000_000,
		Account: metering.Account{
			Epoch: 1 << 63, Settled: metering.Amount{RunMS: 1, VCPUMS: 2, MemoryMBMS: 3, DiskMBMS: 4, SentBytes: 1 << 63, ReceivedBytes: 6},
			Before: metering.Amount{LogBytes: 7, LogLines: 8, StorageByteHours: 9}, Hour: hour, Final: true,
		},
		LogEpoch: 1 << 62, LogSeq: 12, Seen: hour + 1,
	}
	b := usage.Account{InstanceID: "ri_b", HostID: "host_b", Subject: subject("ten_b", "dep_b", "", "")}
	if err := s.Commit(t.Context(), usage.Change{Accounts: []usage.Account{a, b}, Add: []usage.Row{row(hour, a.Subject, 1)}}); err != nil {
		t.Fatal(err)
	}
	for _, w := range []usage.Account{a, b} {
		if got, err := s.Account(t.Context(), w.InstanceID); err != nil || got != w {
			t.Errorf("%+v, %v, want %+v", got, err, w)
		}
	}
	a.Final, a.Before, a.Name = false, metering.Amount{}, ""
	if err := s.Commit(t.Context(), usage.Change{Accounts: []usage.Account{a}}); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Account(t.Context(), "ri_a"); err != nil || got != a {
		t.Errorf("replaced: %+v, %v", got, err)
	}
	if _, err := s.Account(t.Context(), "ri_"); miosa.CodeOf(err) != miosa.NotFound {
		t.Errorf("the beginning of an ID: %v", err)
	}
	want(t, "rows", read(t, s, all), fmt.Sprintf("0 ten_a dep_a svc_a %q 1\n", a.WorkspaceID))
}

func sampled(t *testing.T, s usage.Store) {
	for _, c := range []struct{ set, want metering.Hour }{{0, 0}, {hour, hour}, {0, hour}, {hour - 1, hour}, {hour + 1, hour + 1}} {
		if err := s.Commit(t.Context(), usage.Change{Sampled: c.set}); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Sampled(t.Context()); err != nil || got != c.want {
			t.Errorf("%d: %d, %v", c.set, got, err)
		}
	}
}

func expire(t *testing.T, s usage.Store) {
	of := subject("ten_a", "dep_a", "svc_a", "")
	if err := s.Commit(t.Context(), usage.Change{
		Add:      []usage.Row{row(hour, of, 1), row(hour+1, of, 2), row(hour+2, of, 3)},
		Accounts: []usage.Account{{InstanceID: "ri_old", Seen: hour}, {InstanceID: "ri_new", Seen: hour + 1}},
		Sampled:  hour + 2,
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.Expire(t.Context(), hour+1); err != nil {
		t.Fatal(err)
	}
	want(t, "rows", read(t, s, all), "1 ten_a dep_a svc_a \"\" 2\n2 ten_a dep_a svc_a \"\" 3\n")
	if _, err := s.Account(t.Context(), "ri_old"); miosa.CodeOf(err) != miosa.NotFound {
		t.Errorf("an old account: %v", err)
	}
	if _, err := s.Account(t.Context(), "ri_new"); err != nil {
		t.Errorf("a newer account: %v", err)
	}
	if at, err := s.Sampled(t.Context()); at != hour+2 || err != nil {
		t.Errorf("sampled: %d, %v", at, err)
	}
	// What comes for an expired hour counts from nothing.
	add(t, s, row(hour, of, 5))
	want(t, "rows", read(t, s, usage.Query{Until: hour + 1}), "0 ten_a dep_a svc_a \"\" 5\n")
}

func atOnce(t *testing.T, s usage.Store) {
	of := subject("ten_a", "dep_a", "svc_a", "")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				if err := s.Commit(t.Context(), usage.Change{Add: []usage.Row{row(hour, of, 1)}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want(t, "rows", read(t, s, all), "0 ten_a dep_a svc_a \"\" 80\n")
}

func ended(t *testing.T, s usage.Store) {
	add(t, s, row(hour, subject("ten_a", "dep_a", "", ""), 1))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Commit(ctx, usage.Change{Add: []usage.Row{row(hour, subject("ten_a", "dep_a", "", ""), 1)}}); err == nil {
		t.Error("a commit was made")
	}
	if _, err := s.Account(ctx, "ri_a"); err == nil || miosa.CodeOf(err) == miosa.NotFound {
		t.Errorf("account: %v", err)
	}
	err := error(nil)
	for _, e := range s.Rows(ctx, all) {
		err = e
	}
	if err == nil {
		t.Error("rows were read")
	}
	want(t, "rows", read(t, s, all), "0 ten_a dep_a  \"\" 1\n")
}
