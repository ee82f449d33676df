package store

// Kind describes how one noun is kept: where, and in which record shape.
// Every kind is a variable of this package (Deployments, Versions …).
//
// T is the domain's noun. Its record shape is a struct of this package with
// JSON tags; encode and decode convert between the two.
type Kind[T any] struct {
	name   string                      // for errors, and the "kind" of the envelope
	schema int                         // newest record schema this binary writes and reads
	key    func(v T) string            // full key of v
	encode func(v T) any               // record struct
	decode func(raw []byte) (T, error) // from the record's JSON
	setRev func(v *T, revision int64)
	// refs are index keys written and removed together with the record, e.g.
	// the global id → location entry.
	refs func(v T) []string
}
