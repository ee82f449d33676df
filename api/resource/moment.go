package resource

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// MomentForms says, for help and reference, what ParseMoment reads.
const MomentForms = "a time (2026-11-29, 2026-11-29T12:30, 2026-11-29T12:30:00+01:00; UTC where no zone is said), a Unix time in seconds or milliseconds, or how long ago (90s, 15m, 1.5h, 2d, 1w)"

// momentLayouts are those of RFC 3339, the zone or the time of day left out.
var momentLayouts = []string{time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly}

// ParseMoment reads a moment in one of the forms that MomentForms names, in UTC.
// A date is where that day begins. Not ok: it is none of them.
func ParseMoment(v string, now time.Time) (t time.Time, ok bool) {
	if t, ok := unixTime(v); ok {
		return t, true
	}
	if ago, ok := ParseDuration(v); ok {
		return now.Add(-ago).UTC(), true
	}
	v = strings.ToUpper(v)
	// A space may stand for the T, and arrives where a + was not escaped.
	if len(v) > len(time.DateOnly) && v[len(time.DateOnly)] == ' ' {
		v = v[:len(time.DateOnly)] + "T" + v[len(time.DateOnly)+1:]
	}
	v = strings.ReplaceAll(v, " ", "+")
	for _, layout := range momentLayouts {
		if t, err := time.Parse(layout, v); err == nil {
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}

// unixTime reads seconds, also fractions of them, or milliseconds: they are told
// apart by the number of digits. Fewer than nine may be meant as something else,
// a year or a day.
func unixTime(v string) (time.Time, bool) {
	whole, fraction, dotted := strings.Cut(v, ".")
	n, err := strconv.ParseUint(whole, 10, 63)
	switch digits := len(whole); {
	case err != nil || digits < 9 || digits > 14 || dotted && digits > 11:
		return time.Time{}, false
	case digits > 11:
		return time.UnixMilli(int64(n)).UTC(), true
	}
	nanos := uint64(0)
	if dotted {
		if len(fraction) == 0 || len(fraction) > 9 {
			return time.Time{}, false
		}
		if nanos, err = strconv.ParseUint(fraction+strings.Repeat("0", 9-len(fraction)), 10, 63); err != nil {
			return time.Time{}, false
		}
	}
	return time.Unix(int64(n), int64(nanos)).UTC(), true
}

var durationUnits = map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}

// ParseDuration reads 90s, 15m, 1.5h, 2d, 1w and sums of them (1h30m), from 0 to
// ten years. Not ok: it is none.
func ParseDuration(v string) (sum time.Duration, ok bool) {
	const longest = 3650 * 24 * time.Hour
	for v != "" {
		end := strings.IndexFunc(v, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
		if end < 1 || durationUnits[v[end]] == 0 || v[0] == '.' || v[end-1] == '.' {
			return 0, false
		}
		n, err := strconv.ParseFloat(v[:end], 64)
		unit := durationUnits[v[end]]
		if err != nil || n > float64(longest/unit) {
			return 0, false
		}
		if sum += time.Duration(math.Round(n * float64(unit))); sum > longest {
			return 0, false
		}
		v, ok = v[end+1:], true
	}
	return sum, ok
}
