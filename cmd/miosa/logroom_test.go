package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/agent/spool"
	"github.com/miosa/miosa/logs"
	logpebble "github.com/miosa/miosa/logs/pebble"
	"github.com/miosa/miosa/logs/plane"
	view "github.com/miosa/miosa/records"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
	"github.com/miosa/miosa/wire/guest"
)

// A tenant with more lines than its plan keeps has about what it keeps in the
// store, and all others are counted; another tenant on the same host loses none.
func TestLogsOfATenantThatIsFull(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	log := slog.New(slog.DiscardHandler)
	records := memory.New(time.Now)
	kept, err := logpebble.Open(logpebble.Config{Dir: t.TempDir(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	p := plane.New(kept, view.New(records), log)
	s, err := spool.New(spool.Config{Dir: t.TempDir(), HostID: "host_1", Shipper: p, Full: p.Full, FreeBytes: -1, Log: log})
	if err == nil {
		err = s.Open(time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	of := map[string]*spool.Instance{}
	for x, mostMB := range map[string]int{"small": 1, "other": 100} {
		if _, err := store.Update(ctx, records, func(tx *store.Tx) error {
			return errors.Join(
				store.Save(tx, store.Tenants, miosa.Tenant{ID: "ten_" + x, Slug: x, Plan: x}),
				store.Save(tx, store.Plans, miosa.Plan{Name: x, LogDays: 3, MaxLogStorageMB: mostMB}),
				store.Save(tx, store.Deployments, miosa.Deployment{ID: "dep_" + x, TenantID: "ten_" + x, Slug: "app"}),
				store.Save(tx, store.Instances, miosa.Instance{
					ID: "ri_" + x, TenantID: "ten_" + x, DeploymentID: "dep_" + x, EnvironmentID: "env_" + x, ServiceID: "svc_" + x, VersionID: "ver_" + x, HostID: "host_1",
				}),
			)
		}); err != nil {
			t.Fatal(err)
		}
		if of[x], err = s.Instance(time.Now(), logs.Origin{TenantID: "ten_" + x, DeploymentID: "dep_" + x, InstanceID: "ri_" + x}, spool.Limit{Rate: -1}); err != nil {
			t.Fatal(err)
		}
	}
	go s.Run(ctx)
	const each, lines = 10_000, 500
	text := []byte(strings.Repeat("x", each))
	for n := uint64(1); n <= lines; n += 10 {
		for x, i := range of {
			b := &guest.Lines{}
			for k := n; k < n+10; k++ {
				b.Lines = append(b.Lines, guest.Line{N: k, Stream: guest.Stdout, T: time.Now().UnixNano(), Text: text})
			}
			arrived := p.Arrived()
			_, full := p.Full("ten_" + x)
			if err := i.Append(time.Now(), 1, b); err != nil {
				t.Fatal(err)
			}
			if !full {
				<-arrived // what is in the spool is none of the plane's business
			}
		}
	}
	for _, i := range of {
		i.End(time.Now())
	}
	for x, most := range map[string]int{"small": 1_000_000, "other": lines * each} {
		var bytes, there, lost int
		for there+lost < lines {
			arrived := p.Arrived()
			bytes, there, lost = 0, 0, 0
			for e, err := range p.Read(ctx, logs.Query{Scope: logs.Scope{TenantID: "ten_" + x}}) {
				switch {
				case err != nil:
					t.Fatal(err)
				case e.Stream == logs.System:
					lost += int(e.Lost)
					if want := "more than the 1 MB of logs that the plan keeps"; !strings.Contains(string(e.Text), want) {
						t.Errorf("%q", e.Text)
					}
				default:
					there++
				}
				bytes += len(e.Text)
			}
			if there+lost < lines {
				select {
				case <-arrived:
				case <-time.After(time.Minute):
					t.Fatalf("%s: %d lines are there, %d told of as lost", x, there, lost)
				}
			}
		}
		if there+lost != lines || bytes > most+1_000_000 || bytes < most {
			t.Errorf("%s: %d lines are there with %d bytes, %d are told of as lost", x, there, bytes, lost)
		}
	}
}
