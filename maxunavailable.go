package miosa

import (
	"strconv"
	"strings"
)

// MaxUnavailable is how many of a service's instances may be missing by our own
// doing. The zero value, which is the default, is none: make before break.
type MaxUnavailable struct {
	Count   int // at least 0
	Percent int // 0–100; of the instances that are wanted, rounded down. Not with Count
}

// ParseMaxUnavailable reads "2" or "25%". Its error is for the customer.
func ParseMaxUnavailable(s string) (MaxUnavailable, error) {
	digits, percent := strings.CutSuffix(s, "%")
	n, err := strconv.Atoi(digits)
	switch {
	case err != nil || n < 0 || digits[0] == '+' || digits[0] == '-' || percent && n > 100:
		return MaxUnavailable{}, Errorf(Invalid, "max_unavailable is a number of instances, as 1, or a percentage from 0%% to 100%%, as 25%%; %q is neither", s)
	case percent:
		return MaxUnavailable{Percent: n}, nil
	}
	return MaxUnavailable{Count: n}, nil
}

// String is what ParseMaxUnavailable reads.
func (m MaxUnavailable) String() string {
	if m.Percent > 0 {
		return strconv.Itoa(m.Percent) + "%"
	}
	return strconv.Itoa(m.Count)
}

// Of is how many of so many wanted instances may be missing. A percentage is
// rounded down, so that it never takes a service's last instance unless it is 100:
// nothing is blocked by that, because a replacement can always come first.
func (m MaxUnavailable) Of(wanted int) int {
	if m.Percent > 0 {
		return wanted * m.Percent / 100
	}
	return min(m.Count, wanted)
}
