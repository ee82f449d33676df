package store_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/store/memory"
)

var update = flag.Bool("update", false, "write the golden files anew")

// kindTest runs what must hold for every kind.
type kindTest interface {
	name() string
	roundTrip(t *testing.T)
	keepsUnknown(t *testing.T)
	refusesNewer(t *testing.T)
	golden(t *testing.T)
}

type kindOf[T any] struct{ kind store.Kind[T] }

func everyKind() []kindTest {
	return []kindTest{
		kindOf[miosa.Tenant]{store.Tenants}, kindOf[miosa.Plan]{store.Plans},
		kindOf[miosa.APIKey]{store.APIKeys}, kindOf[miosa.Deployment]{store.Deployments},
		kindOf[miosa.Environment]{store.Environments}, kindOf[miosa.Vars]{store.VarSets},
		kindOf[miosa.Service]{store.Services}, kindOf[miosa.Version]{store.Versions},
		kindOf[miosa.Release]{store.Releases}, kindOf[miosa.Rollout]{store.Rollouts},
		kindOf[miosa.Instance]{store.Instances}, kindOf[miosa.Observation]{store.Observations}, kindOf[miosa.Task]{store.Tasks},
		kindOf[miosa.Host]{store.Hosts}, kindOf[miosa.Event]{store.Events}, kindOf[miosa.LogDrain]{store.LogDrains},
		kindOf[miosa.Host]{store.Hosts}, kindOf[miosa.Event]{store.Events},
		kindOf[miosa.Webhook]{store.Webhooks},
		kindOf[miosa.RegistryLogin]{store.RegistryLogins},
	}
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	for _, k := range everyKind() {
		t.Run(k.name(), k.roundTrip)
	}
}

func TestFieldsOfANewerBinaryAreKept(t *testing.T) {
	for _, k := range everyKind() {
		t.Run(k.name(), k.keepsUnknown)
	}
}

func TestRecordsOfANewerSchemaAreLeftAlone(t *testing.T) {
	for _, k := range everyKind() {
		t.Run(k.name(), k.refusesNewer)
	}
}

// The golden files pin the stored shape: a record that a released binary
// wrote must be readable by every later one. They are only ever added to.
func TestRecordShapes(t *testing.T) {
	for _, k := range everyKind() {
		t.Run(k.name(), k.golden)
	}
}

func (k kindOf[T]) name() string { return k.kind.Name() }

func (k kindOf[T]) save(t require, s store.Store, v T) int64 {
	t.Helper()
	revision, err := store.Update(ctx(), s, func(tx *store.Tx) error { return store.Save(tx, k.kind, v) })
	if err != nil {
		t.Fatalf("save: %v", err)
	}
	return revision
}

func (k kindOf[T]) get(t require, s store.Store, key string) T {
	t.Helper()
	v, err := store.Get(ctx(), s, k.kind, key)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	return v
}

func (k kindOf[T]) roundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newStore()
		want := drawNoun[T](t)
		key := k.kind.Key(want)
		revision := k.save(t, s, want)
		reflect.ValueOf(&want).Elem().FieldByName("Revision").SetInt(revision)

		if got := k.get(t, s, key); !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
		e, err := s.Get(ctx(), key)
		if err != nil {
			t.Fatal(err)
		}
		if noun, err := store.Decode(e); err != nil || !reflect.DeepEqual(noun, any(want)) {
			t.Fatalf("decoded %+v, %v\nwant %+v", noun, err, want)
		}
		if bytes.Contains(e.Value, []byte("0001-01-01T00:00:00Z")) {
			t.Fatalf("a zero time was written: %s", e.Value)
		}
	})
}

// keepsUnknown adds fields to every object of a stored record and rewrites
// the record with another arbitrary noun of the same key.
func (k kindOf[T]) keepsUnknown(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newStore()
		v := drawNoun[T](t)
		key := k.kind.Key(v)
		k.save(t, s, v)
		var env map[string]any
		decode(t, raw(t, s, key), &env)
		data := env["data"].(map[string]any)
		data["from_the_future"] = map[string]any{"n": "1"}
		put(t, s, key, encode(t, env))

		v = k.get(t, s, key) // what an older binary sees …
		k.save(t, s, v)      // … and writes back unchanged
		env = nil
		decode(t, raw(t, s, key), &env)
		if got := env["data"]; !reflect.DeepEqual(got, any(data)) {
			t.Fatalf("got  %v\nwant %v", got, data)
		}
	})
}

func (k kindOf[T]) refusesNewer(t *testing.T) {
	s := newStore()
	v := rapid.Custom(drawNoun[T]).Example(1)
	key := k.kind.Key(v)
	k.save(t, s, v)
	var env map[string]any
	decode(t, raw(t, s, key), &env)
	env["schema"] = 1 << 20
	newer := encode(t, env)
	put(t, s, key, newer)

	if _, err := store.Get(ctx(), s, k.kind, key); !errors.Is(err, store.ErrNewerSchema) {
		t.Errorf("get: %v", err)
	}
	e, _ := s.Get(ctx(), key)
	if _, err := store.Decode(e); !errors.Is(err, store.ErrNewerSchema) {
		t.Errorf("decode: %v", err)
	}
	for name, change := range map[string]func(tx *store.Tx) error{
		"save":   func(tx *store.Tx) error { return store.Save(tx, k.kind, v) },
		"remove": func(tx *store.Tx) error { return store.Remove(tx, k.kind, v) },
	} {
		if _, err := store.Update(ctx(), s, change); !errors.Is(err, store.ErrNewerSchema) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := raw(t, s, key); !bytes.Equal(got, newer) {
		t.Errorf("it was changed to %s", got)
	}
}

func (k kindOf[T]) golden(t *testing.T) {
	v := full[T](t)
	s := newStore()
	key := k.kind.Key(v)
	k.save(t, s, v)
	var indented bytes.Buffer
	if err := json.Indent(&indented, raw(t, s, key), "", "  "); err != nil {
		t.Fatal(err)
	}
	indented.WriteByte('\n')
	file := filepath.Join("testdata", k.kind.Name()+".json")
	if *update {
		if err := os.WriteFile(file, indented.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(indented.Bytes(), want) {
		t.Errorf("the stored shape changed (go test ./store -update, if that is meant):\n%s", indented.String())
	}
	// The other direction: what is in the file is read in full.
	put(t, s, key, want)
	got := k.get(t, s, key)
	reflect.ValueOf(&got).Elem().FieldByName("Revision").SetInt(0)
	if !reflect.DeepEqual(got, v) {
		t.Errorf("read  %+v\nwant %+v", got, v)
	}
}

// full is a noun with every field set to something telling.
func full[T any](t *testing.T) T {
	var v T
	var set func(v reflect.Value, name string)
	set = func(v reflect.Value, name string) {
		switch v.Type() {
		case reflect.TypeFor[time.Time]():
			v.Set(reflect.ValueOf(time.Date(2026, 3, 1, 12, 30, len(name), 123456789, time.UTC)))
			return
		case reflect.TypeFor[netip.AddrPort]():
			v.Set(reflect.ValueOf(netip.MustParseAddrPort("10.80.0.2:8080")))
			return
		case reflect.TypeFor[netip.Addr]():
			v.Set(reflect.ValueOf(netip.MustParseAddr("203.0.113.7")))
			return
		}
		switch v.Kind() {
		case reflect.String:
			v.SetString(strings.ToLower(name))
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Int, reflect.Int64:
			v.SetInt(int64(len(name)))
		case reflect.Float64:
			v.SetFloat(1.5)
		case reflect.Struct:
			for f, fv := range v.Fields() {
				set(fv, f.Name)
			}
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			if v.Type().Elem().Kind() == reflect.Uint8 {
				v.SetBytes([]byte("sealed"))
				return
			}
			set(v.Index(0), name)
		case reflect.Map:
			v.Set(reflect.MakeMap(v.Type()))
			v.SetMapIndex(reflect.ValueOf("key"), reflect.ValueOf("value"))
		default:
			t.Fatalf("no example for %s %s", name, v.Type())
		}
	}
	set(reflect.ValueOf(&v).Elem(), "noun")
	for _, name := range []string{"Revision", "Observed"} {
		if f := reflect.ValueOf(&v).Elem().FieldByName(name); f.IsValid() {
			f.SetZero()
		}
	}
	return v
}

// A customer's version, read and written by an older binary, keeps what a
// newer one put into its nested objects, as long as those objects live.
func TestNestedFieldsOfANewerBinary(t *testing.T) {
	s := newStore()
	k := kindOf[miosa.Version]{store.Versions}
	v := miosa.Version{
		ID: "ver_1", TenantID: "ten_1", DeploymentID: "dep_1",
		Services: []miosa.ServiceSpec{{ServiceID: "svc_a", Port: 80}, {ServiceID: "svc_b", Port: 81}},
		Vars:     []miosa.Var{{Key: "A"}, {Key: "B"}},
	}
	key := k.kind.Key(v)
	put(t, s, key, []byte(`{"kind":"version","schema":1,"data":{
		"id":"ver_1","tenant_id":"ten_1","deployment_id":"dep_1",
		"services":[
			{"service_id":"svc_a","port":80,"gpu_model":"h100","health":{"grpc":true}},
			{"service_id":"svc_b","port":81,"sidecar":{"image":"x"}}],
		"vars":[{"key":"A","scope":"build"},{"key":"B","scope":"run"}],
		"attribution":{"team_id":"t1"},
		"signature":"abc"}}`))

	v = k.get(t, s, key)
	v.Services = []miosa.ServiceSpec{v.Services[1], {ServiceID: "svc_c"}, v.Services[0]}
	v.Services[2].Port = 8080
	v.Vars = v.Vars[1:]
	k.save(t, s, v)

	var got, want any
	decode(t, raw(t, s, key), &got)
	decode(t, []byte(`{"kind":"version","schema":1,"data":{
		"id":"ver_1","tenant_id":"ten_1","deployment_id":"dep_1",
		"services":[
			{"service_id":"svc_b","port":81,"sidecar":{"image":"x"}},
			{"service_id":"svc_c"},
			{"service_id":"svc_a","port":8080,"gpu_model":"h100","health":{"grpc":true}}],
		"vars":[{"key":"B","scope":"run"}],
		"attribution":{"team_id":"t1"},
		"signature":"abc"}}`), &want)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %s\nwant %s", encode(t, got), encode(t, want))
	}
}

// What is cleared goes as a whole, with what a newer binary had said about it.
func TestAClearedObjectTakesItsUnknownFieldsAlong(t *testing.T) {
	s := newStore()
	k := kindOf[miosa.Observation]{store.Observations}
	v := miosa.Observation{InstanceID: "ri_1", TenantID: "ten_1", DeploymentID: "dep_1"}
	key := k.kind.Key(v)
	put(t, s, key, []byte(`{"kind":"observation","schema":1,"data":{
		"instance_id":"ri_1","tenant_id":"ten_1","deployment_id":"dep_1",
		"failure":{"kind":"exit","exit_code":1,"core_dump":"here"}}}`))
	v = k.get(t, s, key)
	v.Failure = miosa.Failure{}
	k.save(t, s, v)
	if got := raw(t, s, key); bytes.Contains(got, []byte("core_dump")) {
		t.Errorf("it still says %s", got)
	}
}

func TestARecordUnderAnotherKindsKeyIsAnError(t *testing.T) {
	s := newStore()
	put(t, s, store.HostKey("host_1"), []byte(`{"kind":"plan","schema":1,"data":{}}`))
	put(t, s, store.HostKey("host_2"), []byte(`garbage`))
	for _, id := range []string{"host_1", "host_2"} {
		if _, err := store.Get(ctx(), s, store.Hosts, store.HostKey(id)); err == nil {
			t.Errorf("%s was read", id)
		}
	}
}

func newStore() *memory.Store { return memory.New(time.Now) }

// A version from before it was written down which service requests go to.
func TestVersionsFromBeforeTheirRoute(t *testing.T) {
	old, err := os.ReadFile("testdata/before/version.json")
	if err != nil {
		t.Fatal(err)
	}
	s := newStore()
	key := store.VersionKey("ten_1", "dep_1", "ver_1")
	put(t, s, key, old)
	v, err := store.Get(ctx(), s, store.Versions, key)
	if err != nil {
		t.Fatal(err)
	}
	if spec, ok := v.Routed(); v.RoutedServiceID != "" || !ok || spec.Name != "front" || spec.Port != 3000 {
		t.Errorf("requests go to %+v %t, as %q was written down", spec, ok, v.RoutedServiceID)
	}
}
