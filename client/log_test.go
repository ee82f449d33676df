package client_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
	"github.com/miosa/miosa/logs"
)

// TestLogsSurviveBrokenConnections: every line once, in order, although the
// connection breaks again and again.
func TestLogsSurviveBrokenConnections(t *testing.T) {
	p, px, c := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dep, err := c.CreateDeployment(ctx, resource.DeploymentCreate{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	of := logs.Origin{TenantID: p.Tenant.ID, DeploymentID: dep.ID, InstanceID: apitest.ID(t, miosa.PrefixInstance)}
	from := time.Now().Add(-time.Hour)
	p.Logs.Write(of, from, "0", "1")
	const n = 40
	seen, told := make(chan string), make(chan bool, 2*n)
	go func() {
		defer close(seen)
		for l, err := range c.FollowLogs(ctx, "x", func(err error) { told <- err != nil }, client.Query("limit", "1")) {
			if err != nil {
				t.Error(err)
				return
			}
			select {
			case seen <- l.Line:
			case <-ctx.Done():
				return
			}
		}
	}()
	for i := 1; i < n; i++ {
		if line := <-seen; line != fmt.Sprint(i) {
			t.Fatalf("line %q, want %d", line, i)
		}
		if i%10 == 5 {
			px.CloseClientConnections()
		}
		p.Logs.Write(of, from.Add(time.Duration(i)*time.Second), fmt.Sprint(i+1))
	}
	if len(told) == 0 || !<-told {
		t.Error("nobody is told of a connection that broke")
	}
	cancel()
	for range seen {
		continue
	}
}

func TestLogPagesAndText(t *testing.T) {
	p, px, c := start(t)
	dep, err := c.CreateDeployment(t.Context(), resource.DeploymentCreate{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	of := logs.Origin{TenantID: p.Tenant.ID, DeploymentID: dep.ID, InstanceID: apitest.ID(t, miosa.PrefixInstance)}
	p.Logs.Write(of, time.Now(), "a", "b", "c")
	for _, subject := range []string{"x", dep.ID, of.InstanceID} {
		page, err := c.LogPage(t.Context(), subject, client.Query("limit", "2"))
		if err != nil || len(page.Data) != 2 || page.Data[1].Line != "c" || page.Page.NextCursor == nil {
			t.Fatalf("%s: %+v, %v", subject, page, err)
		}
		page, err = c.LogPage(t.Context(), subject, client.Query("cursor", *page.Page.NextCursor))
		if err != nil || len(page.Data) != 1 || page.Page.NextCursor != nil {
			t.Errorf("%s: %+v, %v", subject, page, err)
		}
	}
	if text, err := c.InstanceLogs(t.Context(), "x", of.InstanceID, client.Query("lines", "2")); err != nil || text.Logs != "b\nc\n" {
		t.Errorf("%+v, %v", text, err)
	}
	if _, err := c.LogPage(t.Context(), "svc_00000000000000000000000000"); client.Code(err) != "service_not_found" {
		t.Errorf("no service: %v", err)
	}
	for _, err := range c.FollowLogs(t.Context(), "nowhere", nil) {
		if client.Status(err) != 404 {
			t.Errorf("no deployment: %v", err)
		}
	}
	px.Close()
	for _, err := range c.FollowLogs(t.Context(), "x", func(error) { t.Error("a connection was lost that never was") }) {
		if !client.Unreachable(err) {
			t.Errorf("nobody there: %v", err)
		}
	}
}
