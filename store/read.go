package store

import (
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/miosa/miosa"
)

// Get reads one record. The error is a *miosa.Error NotFound, its Public code
// "<kind>_not_found", when there is none; ErrNewerSchema when a newer binary
// wrote it.
func Get[T any](ctx context.Context, s Store, k Kind[T], key string) (T, error) {
	var none T
	e, err := s.Get(ctx, key)
	if err != nil {
		return none, err
	}
	if e.Revision == 0 {
		return none, k.absent(key)
	}
	return k.unmarshal(e)
}

// List yields the records of a kind under a prefix, in key order, all from
// one revision. Keys of other kinds under the prefix are passed over, so that
// AllTenants with Instances yields every tenant's. Limit counts what is
// yielded; KeysOnly is ignored. The sequence ends behind the first error.
func List[T any](ctx context.Context, s Store, k Kind[T], prefix string, opts ScanOptions) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		scan := opts
		scan.KeysOnly = false
		if kindOfPrefix(prefix) != k.name {
			scan.Limit = 0
		}
		var none T
		n := 0
		for e, err := range s.Scan(ctx, prefix, scan) {
			if err != nil {
				yield(none, err)
				return
			}
			if kind, _, ok := ParseKey(e.Key); !ok || kind != k.name {
				continue
			}
			v, err := k.unmarshal(e)
			if !yield(v, err) || err != nil {
				return
			}
			if n++; opts.Limit > 0 && n == opts.Limit {
				return
			}
		}
	}
}

// Collect gathers a sequence of List into a slice.
func Collect[T any](seq iter.Seq2[T, error]) ([]T, error) {
	var all []T
	for v, err := range seq {
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// Decode is the noun in an entry, whatever its kind: a miosa.Deployment, a
// miosa.Version …, its Revision set. It is nil for keys that hold no noun
// (index entries) and for entries without a value (deletions).
func Decode(e Entry) (noun any, err error) {
	kind, _, ok := ParseKey(e.Key)
	if !ok || e.Value == nil {
		return nil, nil
	}
	switch kind {
	case kindTenant:
		return decodeAs(Tenants, e)
	case kindPlan:
		return decodeAs(Plans, e)
	case kindAPIKey:
		return decodeAs(APIKeys, e)
	case kindDeployment:
		return decodeAs(Deployments, e)
	case kindEnvironment:
		return decodeAs(Environments, e)
	case kindVars:
		return decodeAs(VarSets, e)
	case kindService:
		return decodeAs(Services, e)
	case kindVersion:
		return decodeAs(Versions, e)
	case kindRelease:
		return decodeAs(Releases, e)
	case kindRollout:
		return decodeAs(Rollouts, e)
	case kindInstance:
		return decodeAs(Instances, e)
	case kindObservation:
		return decodeAs(Observations, e)
	case kindTask:
		return decodeAs(Tasks, e)
	case kindHost:
		return decodeAs(Hosts, e)
	case kindEvent:
		return decodeAs(Events, e)
	case kindLogDrain:
		return decodeAs(LogDrains, e)
	case kindWebhook:
		return decodeAs(Webhooks, e)
	case kindRegistryLogin:
		return decodeAs(RegistryLogins, e)
	}
	return nil, nil
}

func decodeAs[T any](k Kind[T], e Entry) (any, error) {
	v, err := k.unmarshal(e)
	if err != nil {
		return nil, err
	}
	return v, nil
}

// Locate finds a thing by its ID alone: tenants, hosts and API keys, and what
// belongs to a deployment, but not events and log drains. A *miosa.Error NotFound when the
// ID is malformed or unknown.
func Locate(ctx context.Context, s Store, id string) (Location, error) {
	unknown := &miosa.Error{Code: miosa.NotFound, Message: fmt.Sprintf("nothing has the id %q", id)}
	read := func(key string) (Entry, error) {
		e, err := s.Get(ctx, key)
		if err == nil && e.Revision == 0 {
			err = unknown
		}
		return e, err
	}
	switch miosa.IDPrefix(id) {
	case "":
		return Location{}, unknown
	case miosa.PrefixTenant:
		if _, err := read(TenantKey(id)); err != nil {
			return Location{}, err
		}
		return Location{TenantID: id, Key: TenantKey(id)}, nil
	case miosa.PrefixHost:
		if _, err := read(HostKey(id)); err != nil {
			return Location{}, err
		}
		return Location{Key: HostKey(id)}, nil
	case miosa.PrefixKey:
		hash, err := read(APIKeyIDKey(id))
		if err != nil {
			return Location{}, err
		}
		key, err := Get(ctx, s, APIKeys, APIKeyKey(string(hash.Value)))
		if err != nil {
			return Location{}, err
		}
		return Location{TenantID: key.TenantID, Key: APIKeyKey(key.Hash)}, nil
	}
	place, err := read(IDKey(id))
	if err != nil {
		return Location{}, err
	}
	tenant, deployment, ok := strings.Cut(string(place.Value), "/")
	if !ok {
		return Location{}, fmt.Errorf("index entry %s holds %q", place.Key, place.Value)
	}
	return Location{TenantID: tenant, DeploymentID: deployment, Key: locationKey(id, tenant, deployment)}, nil
}
