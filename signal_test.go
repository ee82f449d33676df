package miosa_test

import (
	"testing"

	"github.com/miosa/miosa"
)

// Images name signals in many ways; each has one proper name, and that its
// number on Linux.
func TestParseSignal(t *testing.T) {
	for _, c := range []struct {
		in, name string
		number   int
	}{
		{"SIGTERM", "SIGTERM", 15}, {"term", "SIGTERM", 15}, {"15", "SIGTERM", 15}, {"SIGQUIT", "SIGQUIT", 3}, {"3", "SIGQUIT", 3},
		{"SIGWINCH", "SIGWINCH", 28}, {"SIGRTMIN+3", "SIGRTMIN+3", 37}, {"rtmin+3", "SIGRTMIN+3", 37}, {"37", "SIGRTMIN+3", 37},
		{"SIGRTMIN", "SIGRTMIN+0", 34}, {"SIGRTMAX", "SIGRTMIN+30", 64}, {"SIGRTMAX-1", "SIGRTMIN+29", 63}, {"64", "SIGRTMIN+30", 64},
	} {
		name, ok := miosa.ParseSignal(c.in)
		number, known := miosa.SignalNumber(name)
		if name != c.name || !ok || number != c.number || !known {
			t.Errorf("%q is %q (%t), number %d (%t); want %q, %d", c.in, name, ok, number, known, c.name, c.number)
		}
	}
	for _, in := range []string{"", "SIG", "0", "-1", "65", "33", "SIGSEGV", "SIGNOTHING", "SIGRTMIN+31", "SIGRTMIN-1", "SIGRTMAX+1", "SIGRTMIN3", "SIGRTMIN+x"} {
		if name, ok := miosa.ParseSignal(in); ok {
			t.Errorf("%q is %q", in, name)
		}
	}
}
