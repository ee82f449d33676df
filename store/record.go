package store

import "time"

// The record structs are the stored shape of the nouns and are never shared
// with the API's. Rules for changing one: fields are only added, never
// renamed, retyped or given another meaning; a change that an older binary
// must not touch raises the kind's schema number, and decoding then has to
// read the older shapes too. Every nested struct's fields are preserved by
// older binaries; elements of a list only when they carry an identity.

// utc is t as records hold it: UTC, without the monotonic clock's reading.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Round(0)
}

// each maps a list; an empty one becomes nil, as it does in a record.
func each[A, B any](list []A, f func(A) B) []B {
	if len(list) == 0 {
		return nil
	}
	mapped := make([]B, len(list))
	for i, v := range list {
		mapped[i] = f(v)
	}
	return mapped
}
