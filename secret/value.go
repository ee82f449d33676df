// Package secret keeps what must not be read: values that print as dots,
// tenants' data keys wrapped by a keeper, boxes sealed to one host, and the
// hashes of API keys.
//
// Everything sealed here begins with a version byte, so that another
// algorithm can take over while old boxes still open.
package secret

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

// dots stand for a value wherever it is printed.
const dots = "••••"

// Value is a string that does not show: not through fmt, slog or JSON, nor
// inside a struct that is printed. Only Reveal tells it. The zero Value is "".
type Value struct {
	// A pointer: fmt looks into unexported fields without asking their
	// methods, but prints no more of a nested pointer than its address.
	plain *string
}

// NewValue hides s.
func NewValue(s string) Value { return Value{&s} }

// Reveal is the value itself.
func (v Value) Reveal() string {
	if v.plain == nil {
		return ""
	}
	return *v.plain
}

// Equal compares without telling by its duration where the two differ.
func (v Value) Equal(other Value) bool {
	return subtle.ConstantTimeCompare([]byte(v.Reveal()), []byte(other.Reveal())) == 1
}

// String is dots.
func (v Value) String() string { return dots }

// Format writes dots, whatever the verb.
func (v Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, dots) }

// LogValue is dots.
func (v Value) LogValue() slog.Value { return slog.StringValue(dots) }

// MarshalText is dots: in JSON too, and in a map's keys.
func (v Value) MarshalText() ([]byte, error) { return []byte(dots), nil }
