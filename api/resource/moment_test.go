package resource_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/miosa/miosa/api/resource"
)

func TestMoments(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.FixedZone("", 3600))
	for v, want := range map[string]string{
		"2026-11-29":                     "2026-11-29T00:00:00Z",
		"2026-11-29T12:30":               "2026-11-29T12:30:00Z",
		"2026-11-29 12:30":               "2026-11-29T12:30:00Z",
		"2026-11-29T12:30:05":            "2026-11-29T12:30:05Z",
		"2026-11-29 12:30:05.25":         "2026-11-29T12:30:05.25Z",
		"2026-11-29T12:30Z":              "2026-11-29T12:30:00Z",
		"2026-11-29T12:30:05Z":           "2026-11-29T12:30:05Z",
		"2026-11-29t12:30:05z":           "2026-11-29T12:30:05Z",
		"2026-11-29T12:30:05.123456789Z": "2026-11-29T12:30:05.123456789Z",
		"2026-11-29T12:30:05+01:00":      "2026-11-29T11:30:05Z",
		"2026-11-29T12:30:05 01:00":      "2026-11-29T11:30:05Z", // a + in a URL
		"2026-11-29 12:30:05+01:00":      "2026-11-29T11:30:05Z",
		"1796000000":                     "2026-11-30T00:53:20Z",
		"1796000000.5":                   "2026-11-30T00:53:20.5Z",
		"1796000000123":                  "2026-11-30T00:53:20.123Z",
		"0s":                             "2026-11-29T11:00:00Z",
		"90s":                            "2026-11-29T10:58:30Z",
		"1.5h":                           "2026-11-29T09:30:00Z",
		"1h30m":                          "2026-11-29T09:30:00Z",
		"0.5s":                           "2026-11-29T10:59:59.5Z",
		"2d":                             "2026-11-27T11:00:00Z",
		"1w":                             "2026-11-22T11:00:00Z",
	} {
		if got, ok := resource.ParseMoment(v, now); !ok || got.Format(time.RFC3339Nano) != want {
			t.Errorf("%q: %v %v, not %s", v, got, ok, want)
		}
	}
	for _, v := range []string{
		"", " ", "yesterday", "now", "15", "2026", "20261129", "-1h", "1h-", "h", ".5h", "1.h", "1.2.3h", "1.5", "1e3s", "5y", "1 h", "4000d", "999999999999999999999s",
		"1796000000000000", "1796000000.", "1796000000.x", "-1796000000", "+1796000000", "2026-13-01", "2026-02-30", "2026-11-29T25:00", "2026-11-29T12", "12:30", "0x10s", "NaNs",
	} {
		if got, ok := resource.ParseMoment(v, now); ok {
			t.Errorf("%q is read as %v", v, got)
		}
	}
}

// What Go writes is read as it was.
func TestMomentsAreReadAsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.Unix(rapid.Int64Range(1e9, 5e9).Draw(t, "s"), rapid.Int64Range(0, 999).Draw(t, "ms")*1e6)
		zone := time.FixedZone("", 60*rapid.IntRange(-12*60, 14*60).Draw(t, "zone"))
		for _, v := range []string{at.In(zone).Format(time.RFC3339Nano), at.UTC().Format("2006-01-02 15:04:05.999999999")} {
			if got, ok := resource.ParseMoment(v, time.Time{}); !ok || !got.Equal(at) || got.Location() != time.UTC {
				t.Fatalf("%q: %v %v", v, got, ok)
			}
		}
		if got, ok := resource.ParseMoment(rapid.String().Draw(t, "any"), at); ok != !got.IsZero() {
			t.Fatalf("%v %v", got, ok)
		}
	})
}
