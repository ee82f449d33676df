package disruption

import (
	"strconv"
	"strings"

	"github.com/miosa/miosa"
)

// Limit is a service's max_unavailable: how many of its instances may be missing
// by our own doing. The zero value, which is the default, is none: make before
// break.
type Limit struct {
	Count   int // at least 0
	Percent int // 0–100; of the instances that are wanted, rounded down. Not with Count
}

// ParseLimit reads "2" or "25%". Its error is for the customer.
func ParseLimit(s string) (Limit, error) {
	digits, percent := strings.CutSuffix(s, "%")
	n, err := strconv.Atoi(digits)
	switch {
	case err != nil || n < 0 || digits[0] == '+' || digits[0] == '-' || percent && n > 100:
		return Limit{}, miosa.Errorf(miosa.Invalid, "max_unavailable is a number of instances, as 1, or a percentage from 0%% to 100%%, as 25%%; %q is neither", s)
	case percent:
		return Limit{Percent: n}, nil
	}
	return Limit{Count: n}, nil
}

// String is what ParseLimit reads.
func (l Limit) String() string {
	if l.Percent > 0 {
		return strconv.Itoa(l.Percent) + "%"
	}
	return strconv.Itoa(l.Count)
}

// Of is how many of so many wanted instances may be missing. A percentage is
// rounded down, so that it never takes a service's last instance unless it is 100:
// nothing is blocked by that, because a replacement can always come first.
func (l Limit) Of(wanted int) int {
	if l.Percent > 0 {
		return wanted * l.Percent / 100
	}
	return min(l.Count, wanted)
}
