package store

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/miosa/miosa"
)

// The kinds' names: in errors, in the envelope of each record, from ParseKey.
const (
	kindTenant      = "tenant"
	kindPlan        = "plan"
	kindAPIKey      = "api_key"
	kindDeployment  = "deployment"
	kindEnvironment = "environment"
	kindVars        = "vars"
	kindService     = "service"
	kindVersion     = "version"
	kindRelease     = "release"
	kindRollout     = "rollout"
	kindInstance    = "instance"
	kindObservation = "observation"
	kindTask        = "task"
	kindHost        = "host"
	kindEvent       = "event"
	kindLogDrain    = "log_drain"
	kindWebhook     = "webhook"

	kindRegistryLogin = "registry_login"
)

// Kind describes how one noun is kept: where, and in which record shape.
// Every kind is a variable of this package (Deployments, Versions …).
//
// T is the domain's noun. Its record shape is a struct of this package with
// JSON tags.
type Kind[T any] struct {
	name     string
	schema   int                            // the newest record schema this binary knows; it writes that
	key      func(v T) string               // full key of v
	encode   func(v T) ([]byte, error)      // the record's JSON, without envelope
	decode   func(record []byte) (T, error) // and back
	revision func(v *T) *int64
	// refs are the index entries written and removed together with the
	// record. Only what never changes in a record's life: names are claimed
	// by their owners.
	refs   func(v T) []ref
	layout *layout // of the record struct, to tell known fields from others
}

// Name is the kind's name, as ParseKey gives it.
func (k Kind[T]) Name() string { return k.name }

// Key is where v's record lies.
func (k Kind[T]) Key(v T) string { return k.key(v) }

// Encode is v as a record, in its envelope, for who keeps a copy elsewhere than in a
// store. The rules for records hold there too.
func (k Kind[T]) Encode(v T) ([]byte, error) { return k.marshal(v, nil) }

// Decode is what Encode made a record of, its Revision 0. ErrNewerSchema when a
// newer binary wrote it.
func (k Kind[T]) Decode(record []byte) (T, error) {
	return k.unmarshal(Entry{Key: "of a " + k.name, Value: record})
}

// Revision is that of the last change of v's record, where v was read; else 0.
func (k Kind[T]) Revision(v T) int64 { return *k.revision(&v) }

type ref struct{ key, value string }

// shape joins a noun T to its record struct R.
type shape[T, R any] struct {
	name     string
	schema   int
	key      func(v T) string
	record   func(v T) R
	noun     func(r R) T
	revision func(v *T) *int64
	refs     func(v T) []ref // nil: none
}

func (s shape[T, R]) kind() Kind[T] {
	refs := s.refs
	if refs == nil {
		refs = func(T) []ref { return nil }
	}
	return Kind[T]{
		name: s.name, schema: s.schema, key: s.key, revision: s.revision, refs: refs,
		encode: func(v T) ([]byte, error) { return json.Marshal(s.record(v)) },
		decode: func(record []byte) (T, error) {
			var r R
			if err := json.Unmarshal(record, &r); err != nil {
				var none T
				return none, err
			}
			return s.noun(r), nil
		},
		layout: layoutOf[R](),
	}
}

// idRef is the global index entry of a thing that belongs to a deployment.
func idRef(id, tenant, deployment string) []ref {
	return []ref{{IDKey(id), tenant + "/" + deployment}}
}

// envelope surrounds every record. A binary that meets a schema above its own
// leaves the record alone; within one schema, fields are only ever added.
type envelope struct {
	Kind   string          `json:"kind"`
	Schema int             `json:"schema"`
	Data   json.RawMessage `json:"data"`
}

// open checks the envelope and returns the record's JSON.
func (k Kind[T]) open(e Entry) (json.RawMessage, error) {
	var env envelope
	if err := json.Unmarshal(e.Value, &env); err != nil {
		return nil, fmt.Errorf("record %s: %w", e.Key, err)
	}
	if env.Kind != k.name {
		return nil, fmt.Errorf("record %s: it holds a %q where a %s belongs", e.Key, env.Kind, k.name)
	}
	if env.Schema > k.schema {
		return nil, fmt.Errorf("record %s, schema %d: %w", e.Key, env.Schema, ErrNewerSchema)
	}
	return env.Data, nil
}

// unmarshal is the noun in an entry, its revision set.
func (k Kind[T]) unmarshal(e Entry) (T, error) {
	var none T
	data, err := k.open(e)
	if err != nil {
		return none, err
	}
	v, err := k.decode(data)
	if err != nil {
		return none, fmt.Errorf("record %s: %w", e.Key, err)
	}
	*k.revision(&v) = e.Revision
	return v, nil
}

// marshal is v's entry value. What the old value holds and this binary does
// not know is carried over; old is nil when there is none.
func (k Kind[T]) marshal(v T, old []byte) ([]byte, error) {
	key := k.key(v)
	data, err := k.encode(v)
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", key, err)
	}
	if old != nil {
		before, err := k.open(Entry{Key: key, Value: old})
		if err != nil {
			return nil, err
		}
		if data, err = k.layout.preserve(before, data); err != nil {
			return nil, fmt.Errorf("record %s: %w", key, err)
		}
	}
	return json.Marshal(envelope{Kind: k.name, Schema: k.schema, Data: data})
}

// absent is the error for a record that is not there.
func (k Kind[T]) absent(key string) error {
	id := key[strings.LastIndexByte(key, '/')+1:]
	words := strings.ReplaceAll(k.name, "_", " ")
	if k.name == kindAPIKey {
		// The last part of its key is a credential's hash.
		return &miosa.Error{Code: miosa.NotFound, Public: k.name + "_not_found", Message: "no such " + words}
	}
	return &miosa.Error{
		Code: miosa.NotFound, Public: k.name + "_not_found",
		Message: fmt.Sprintf("no %s %q", words, id),
	}
}
