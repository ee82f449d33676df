package etcd_test

import (
	"fmt"
	"net/url"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/etcd"
	"github.com/miosa/miosa/store/storetest"
)

// server is an etcd that is reached over the network, as a cluster outside
// would be. It returns its address.
func server(t *testing.T) string {
	t.Helper()
	local := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, local
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = local, local
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	return e.Clients[0].Addr().String()
}

func connect(t *testing.T, addr string) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestConnectedStore(t *testing.T) {
	addr := server(t)
	tests := 0
	storetest.Run(t, func(t *testing.T) storetest.Store {
		// One server, as it is slow to stop; to each test its own keys.
		tests++
		mine := fmt.Sprintf("test-%d", tests)
		client := connect(t, addr)
		client.KV = namespace.NewKV(client.KV, mine)
		client.Watcher = namespace.NewWatcher(client.Watcher, mine)
		return etcd.Connect(client)
	})
}

func TestAClosedClientIsUnavailable(t *testing.T) {
	client := connect(t, server(t))
	s := etcd.Connect(client)
	put(t, s, "/a", "x")
	if err := client.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), "/a"); miosa.CodeOf(err) != miosa.Unavailable {
		t.Errorf("get: %v", err)
	}
	if _, err := s.Commit(t.Context(), store.Txn{Delete: []string{"/a"}}); miosa.CodeOf(err) != miosa.Unavailable {
		t.Errorf("commit: %v", err)
	}
	for _, err := range s.Watch(t.Context(), "/", 1) {
		if miosa.CodeOf(err) != miosa.Unavailable {
			t.Errorf("watch: %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}
