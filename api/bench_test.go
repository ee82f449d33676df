package api_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api"
	"github.com/miosa/miosa/api/apitest"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// bench is a server with n instances of one deployment.
func bench(b *testing.B, n int) (*api.Server, string) {
	b.Helper()
	p := apitest.Start(b, memory.New(time.Now), api.Config{})
	dep := apitest.ID(b, miosa.PrefixDeployment)
	env := miosa.Environment{ID: apitest.ID(b, miosa.PrefixEnvironment), TenantID: p.Tenant.ID, DeploymentID: dep, Name: miosa.Production}
	p.Update(func(tx *store.Tx) error {
		tx.SetIndex(store.EnvironmentNameKey(p.Tenant.ID, dep, env.Name), env.ID, 0)
		if err := store.Save(tx, store.Environments, env); err != nil {
			return err
		}
		tx.SetIndex(store.SlugKey(p.Tenant.ID, "x"), dep, 0)
		return store.Save(tx, store.Deployments, miosa.Deployment{ID: dep, TenantID: p.Tenant.ID, Name: "x", Slug: "x"})
	})
	for range n {
		p.Update(func(tx *store.Tx) error {
			i := miosa.Instance{
				ID: apitest.ID(b, miosa.PrefixInstance), TenantID: p.Tenant.ID, DeploymentID: dep, EnvironmentID: env.ID,
				Spec: miosa.ServiceSpec{Name: "web", Command: "/app/server", Port: 8080, Health: miosa.DefaultHealthCheck(), Resources: miosa.DefaultResources()},
				Goal: miosa.GoalRun, HostID: apitest.ID(b, miosa.PrefixHost),
			}
			if err := store.Save(tx, store.Instances, i); err != nil {
				return err
			}
			return store.Save(tx, store.Observations, miosa.Observation{InstanceID: i.ID, TenantID: i.TenantID, DeploymentID: dep, State: miosa.Healthy})
		})
	}
	return p.Handler, p.Key
}

func get(b *testing.B, s *api.Server, key, path string) {
	b.Helper()
	r := httptest.NewRequest(http.MethodGet, "/api/v1"+path, nil)
	r.Header.Set("Authorization", "Bearer "+key)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		b.Fatalf("%d %s", w.Code, w.Body)
	}
}

// BenchmarkGetDeployment is one request with everything around it: key,
// tenant, records, JSON.
func BenchmarkGetDeployment(b *testing.B) {
	s, key := bench(b, 1)
	b.ReportAllocs()
	for b.Loop() {
		get(b, s, key, "/deployments/x")
	}
}

// BenchmarkListInstances is a page of 20 out of a tenant's 10,000 instances.
func BenchmarkListInstances(b *testing.B) {
	s, key := bench(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		get(b, s, key, "/runtime-instances")
	}
}
