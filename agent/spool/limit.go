package spool

import (
	"strconv"
	"time"
)

// Limit is how much an app may log. System lines are never limited.
type Limit struct {
	Rate  int // lines a second; 0: DefaultRate; negative: as many as it likes
	Burst int // lines at once after a silence; 0: as many as in burstSeconds
}

// What a Limit is without a word.
const (
	DefaultRate  = 5_000
	burstSeconds = 4
)

func (l Limit) withDefaults() Limit {
	if l.Rate == 0 {
		l.Rate = DefaultRate
	}
	if l.Burst <= 0 {
		l.Burst = burstSeconds * max(l.Rate, 1)
	}
	return l
}

// bucket holds one token for each line that may pass. Once it is dry, nothing
// passes until a quarter of a second's lines have come together: what is
// dropped has few, long gaps then, each with its own marker.
type bucket struct {
	limit  Limit
	tokens float64
	at     time.Time
	dry    bool
}

func newBucket(l Limit, now time.Time) bucket {
	l = l.withDefaults()
	return bucket{limit: l, tokens: float64(l.Burst), at: now}
}

// set changes the limit. A burst saved up under another one is cut to the new.
func (b *bucket) set(l Limit, now time.Time) {
	b.refill(now)
	b.limit, b.dry = l, false
	b.tokens = min(b.tokens, float64(l.Burst))
}

func (b *bucket) refill(now time.Time) {
	if passed := now.Sub(b.at); passed > 0 {
		b.tokens = min(float64(b.limit.Burst), b.tokens+passed.Seconds()*float64(max(b.limit.Rate, 0)))
		b.at = now
	}
}

// admit takes one token and reports whether there was one.
func (b *bucket) admit(now time.Time) bool {
	if b.limit.Rate < 0 {
		return true
	}
	rate, burst := float64(b.limit.Rate), float64(b.limit.Burst)
	b.refill(now)
	if b.dry && b.tokens < min(burst, max(rate/4, 1)) || b.tokens < 1 {
		b.dry = true
		return false
	}
	b.dry = false
	b.tokens--
	return true
}

// grouped writes a number as "1,234".
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// lines is "1 line was" or "1,234 lines were".
func lines(n uint64) string {
	if n == 1 {
		return "1 line was"
	}
	return grouped(n) + " lines were"
}
