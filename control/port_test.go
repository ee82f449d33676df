package control

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact/local"
	"github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

// A port stays its service's for as long as a version may come back that needs
// it, and until the deployment is gone otherwise.
func TestPortsComeBack(t *testing.T) {
	const tenant, dep, env = "ten_1", "dep_1", "env_1"
	version := func(id string, state miosa.VersionState, protocol miosa.Protocol) miosa.Version {
		return miosa.Version{
			ID: id, TenantID: tenant, DeploymentID: dep, EnvironmentID: env, State: state,
			Services: []miosa.ServiceSpec{{ServiceID: "svc_1", Name: "db", Port: 5432, Protocol: protocol}},
		}
	}
	for name, tt := range map[string]struct {
		active   string
		rollout  string
		versions []miosa.Version
		kept     bool
	}{
		"live":                    {"ver_1", "", []miosa.Version{version("ver_1", miosa.VersionReady, miosa.ProtocolTCP)}, true},
		"to be rolled back to":    {"ver_2", "", []miosa.Version{version("ver_1", miosa.VersionReady, miosa.ProtocolTCP), version("ver_2", miosa.VersionReady, miosa.ProtocolHTTP1)}, true},
		"archived":                {"ver_2", "", []miosa.Version{version("ver_1", miosa.VersionArchived, miosa.ProtocolTCP), version("ver_2", miosa.VersionReady, miosa.ProtocolHTTP1)}, false},
		"never healthy":           {"", "", []miosa.Version{version("ver_1", miosa.VersionFailed, miosa.ProtocolTCP)}, false},
		"never healthy, but anew": {"", "rol_1", []miosa.Version{version("ver_1", miosa.VersionFailed, miosa.ProtocolTCP)}, true},
		"on its way":              {"", "", []miosa.Version{version("ver_1", miosa.VersionBuilding, miosa.ProtocolTCP)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := memory.New(time.Now)
			ports := store.PortRange{First: 30000, Last: 30000}
			if _, err := store.Update(t.Context(), s, func(tx *store.Tx) error {
				port, err := store.ClaimPort(tx, ports, "svc_1")
				if err != nil {
					return err
				}
				if tt.rollout != "" {
					tx.SetIndex(store.LiveKey(tenant, env), tt.rollout, 0)
				}
				for _, v := range tt.versions {
					if err := store.Save(tx, store.Versions, v); err != nil {
						return err
					}
				}
				if err := store.Save(tx, store.Deployments, miosa.Deployment{ID: dep, TenantID: tenant}); err != nil {
					return err
				}
				if err := store.Save(tx, store.Environments, miosa.Environment{ID: env, TenantID: tenant, DeploymentID: dep, ActiveVersionID: tt.active}); err != nil {
					return err
				}
				return store.Save(tx, store.Services, miosa.Service{ID: "svc_1", TenantID: tenant, DeploymentID: dep, EnvironmentID: env, PublicPort: port})
			}); err != nil {
				t.Fatal(err)
			}
			blobs, err := local.New(local.Config{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			sweep := &Retention{Store: s, Blobs: blobs, Images: noImages{}, Log: slog.New(slog.DiscardHandler)}
			if err := sweep.Sweep(t.Context(), time.Now()); err != nil {
				t.Fatal(err)
			}
			free := func() bool {
				e, err := s.Get(context.Background(), store.PublicPortKey(30000))
				if err != nil {
					t.Fatal(err)
				}
				return e.Revision == 0
			}
			svc, err := store.Get(t.Context(), s, store.Services, store.ServiceKey(tenant, dep, "svc_1"))
			if err != nil || free() == tt.kept || (svc.PublicPort != 0) != tt.kept {
				t.Errorf("free %v, port %d, %v", free(), svc.PublicPort, err)
			}
			if err := PurgeRecords(t.Context(), s, cell.Purge{Tenant: tenant, Deployment: dep}); err != nil || !free() {
				t.Errorf("purged: free %v, %v", free(), err)
			}
		})
	}
}
