package pull

import (
	"strings"
	"testing"
)

// TestNext gives places to who has the fewest, then to who waits longest.
func TestNext(t *testing.T) {
	for _, c := range []struct {
		running, waiting string // tenants
		want             int
	}{
		{"", "", -1}, {"", "a a b", 0}, {"a", "a b", 1}, {"a", "a a", 0}, {"a a", "a a", -1}, {"a a", "a b c", 1},
		{"a b", "b a c", 2}, {"a b", "b a", 0}, {"a a b", "b b", -1}, {"a a b", "b c", 1}, {"a b c", "a b c", -1}, {"a b c", "a d", 1},
		{"a b c d", "e", -1}, {"a a b c", "d", -1},
	} {
		running := map[string]int{}
		for tenant := range strings.FieldsSeq(c.running) {
			running[tenant]++
		}
		if got := next(running, strings.Fields(c.waiting)); got != c.want {
			t.Errorf("beside %q of %q: %d, wanted %d", c.running, c.waiting, got, c.want)
		}
	}
}
