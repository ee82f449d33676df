package miosa_test

import (
	"testing"

	"github.com/miosa/miosa"
)

// What is read is said again in the same words, and never allows more than there is.
func TestParseMaxUnavailable(t *testing.T) {
	for text, want := range map[string]miosa.MaxUnavailable{
		"0": {}, "1": {Count: 1}, "12": {Count: 12}, "0%": {}, "25%": {Percent: 25}, "100%": {Percent: 100},
	} {
		got, err := miosa.ParseMaxUnavailable(text)
		if err != nil || got != want {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
		if again, err := miosa.ParseMaxUnavailable(got.String()); err != nil || again != got {
			t.Errorf("%s is read as %+v, %v", got, again, err)
		}
	}
	for _, text := range []string{"", "%", "-1", "+1", "101%", "1.5", "one", "1 %", "25%%"} {
		if got, err := miosa.ParseMaxUnavailable(text); miosa.CodeOf(err) != miosa.Invalid {
			t.Errorf("%q is %+v, %v", text, got, err)
		}
	}
	for _, c := range []struct {
		limit  string
		wanted int
		want   int
	}{{"0", 3, 0}, {"1", 3, 1}, {"5", 3, 3}, {"25%", 3, 0}, {"25%", 4, 1}, {"99%", 1, 0}, {"100%", 1, 1}} {
		l, err := miosa.ParseMaxUnavailable(c.limit)
		if got := l.Of(c.wanted); err != nil || got != c.want {
			t.Errorf("%s of %d is %d, want %d", c.limit, c.wanted, got, c.want)
		}
	}
}
