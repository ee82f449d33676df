package cli_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/store"
)

func (s *shell) says(code int, args ...string) string {
	s.t.Helper()
	var out bytes.Buffer
	if got := s.run(s.t.Context(), &out, args...); got != code {
		s.t.Fatalf("%v ends with %d, want %d:\n%s", args, got, code, out.String())
	}
	return out.String()
}

func TestWebhooks(t *testing.T) {
	s := newShell(t)
	if out := s.says(0, "webhooks"); !strings.Contains(out, "No webhooks") {
		t.Errorf("%s", out)
	}
	s.says(2, "webhooks", "add")
	if out := s.says(2, "webhooks", "add", "http://example.com"); !strings.Contains(out, "https://") {
		t.Errorf("%s", out)
	}
	s.says(3, "webhooks", "add", "https://example.com", "--deployment", "nowhere")
	var made struct{ ID, Secret string }
	if err := json.Unmarshal([]byte(s.says(0, "webhooks", "add", "https://example.com/in", "--type", "rollout,instance.crashed", "--json")), &made); err != nil {
		t.Fatal(err)
	}
	if out := s.says(0, "webhooks", "ls"); !strings.Contains(out, made.ID) || !strings.Contains(out, "rollout,instance.crashed") || strings.Contains(out, made.Secret) {
		t.Errorf("%s", out)
	}
	if out := s.says(0, "webhooks", "test", made.ID); !strings.Contains(out, "on its way") || len(s.p.Webhooks.Sent()) != 1 {
		t.Errorf("%s", out)
	}
	_, event, _ := strings.Cut(s.p.Webhooks.Sent()[0], " ")
	s.says(0, "webhooks", "redeliver", made.ID, event)
	s.p.Webhooks.Set(made.ID, miosa.WebhookStatus{
		FailingSince: time.Now(),
		Recent:       []miosa.Delivery{{EventID: event, Type: "webhook.tested", State: miosa.DeliveryWaiting, Attempts: 2, Status: 500, Error: "the receiver answered \x1b[31m500", AttemptAt: time.Now(), NextAt: time.Now()}},
	})
	if out := s.says(0, "webhooks", "deliveries", made.ID); !strings.Contains(out, event) || !strings.Contains(out, "500") || strings.Contains(out, "\x1b") {
		t.Errorf("%q", out)
	}
	if out := s.says(0, "webhooks", "ls"); !strings.Contains(out, "failing for") {
		t.Errorf("%s", out)
	}
	if out := s.says(0, "webhooks", "disable", made.ID); !strings.Contains(out, "is disabled") {
		t.Errorf("%s", out)
	}
	if out := s.says(0, "webhooks", "ls"); !strings.Contains(out, "disabled") {
		t.Errorf("%s", out)
	}
	s.says(0, "webhooks", "enable", made.ID)
	if out := s.says(0, "webhooks", "rotate", made.ID); !strings.Contains(out, "whsec_") || strings.Contains(out, made.Secret) {
		t.Errorf("%s", out)
	}
	s.says(0, "webhooks", "rm", made.ID)
	s.says(3, "webhooks", "rm", made.ID)
}

func TestEventsOfAHostAndOfAnInstance(t *testing.T) {
	s := newShell(t)
	const host = "host_00000000000000000000000001"
	dep, instance := apitest.ID(t, miosa.PrefixDeployment), apitest.ID(t, miosa.PrefixInstance)
	s.p.Update(func(tx *store.Tx) error {
		e := miosa.Event{ID: apitest.ID(t, miosa.PrefixEvent), HostID: host, Type: "host.joined", Message: "version test", At: time.Now()}
		if err := store.Save(tx, store.Events, e); err != nil {
			return err
		}
		e.ID, e.TenantID, e.DeploymentID, e.InstanceID, e.Type = apitest.ID(t, miosa.PrefixEvent), s.p.Tenant.ID, dep, instance, "instance.started"
		return store.Save(tx, store.Events, e)
	})
	kinds := func(args ...string) (out []string) {
		var all []struct{ Type string }
		if err := json.Unmarshal([]byte(s.says(0, append([]string{"events", "--json"}, args...)...)), &all); err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			out = append(out, e.Type)
		}
		slices.Sort(out)
		return out
	}
	if got := kinds("--host", host); !slices.Equal(got, []string{"host.joined", "instance.started"}) {
		t.Errorf("on the host: %v", got)
	}
	if got := kinds(instance); !slices.Equal(got, []string{"instance.started"}) {
		t.Errorf("of the instance: %v", got)
	}
	if got := kinds(dep); !slices.Equal(got, []string{"instance.started"}) {
		t.Errorf("of the deployment: %v", got)
	}
	s.says(2, "events", "--host", "nonsense")
	s.says(2, "events", "--host", host, instance)
	s.says(3, "events", "--host", "host_00000000000000000000000002")
}
