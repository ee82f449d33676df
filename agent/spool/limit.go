package spool

import (
	"strconv"
	"strings"
	"time"
)

// Limit is how much an app may log. System lines are never limited.
//
// A limit of lines is one of bytes too: a line counts for lineBytes, and who has
// longer ones gets fewer of them. Through a day it is no more than an hour of
// that: what is left of it comes back bit by bit, so that nobody is silent until
// midnight.
type Limit struct {
	Rate  int // lines a second; 0: DefaultRate; negative: as much as it likes
	Burst int // lines at once after a silence; 0: as many as in burstSeconds
}

// What a Limit is without a word.
const (
	DefaultRate  = 5_000
	burstSeconds = 4
	lineBytes    = 256
	fullSeconds  = 3600 // of a day at full speed
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

// pool is what may pass of one kind: lines, or bytes.
type pool struct {
	rate   float64 // a second
	most   float64 // at once
	again  float64 // once dry, so much comes together before any passes
	tokens float64
}

// pools are those of a limit, full. Fewer lines than the default have its bytes.
func (l Limit) pools() (p [overs]pool) {
	lines := float64(max(l.Rate, 1))
	bytes := lineBytes * max(lines, DefaultRate)
	p[overLines] = pool{rate: lines, most: float64(l.Burst)}
	p[overBytes] = pool{rate: bytes, most: max(burstSeconds*bytes, lineBytes*float64(l.Burst))}
	p[overDay] = pool{rate: bytes * fullSeconds / 86400, most: bytes * fullSeconds}
	for k := range p {
		p[k].again, p[k].tokens = min(p[k].most, max(p[k].rate/4, 1)), p[k].most
	}
	return p
}

// The limits that a line may be over.
const (
	overLines = iota
	overBytes // in a second
	overDay   // bytes in a day
	overs
	overPlan = overs // bytes that are stored of the tenant: no pool
)

// bucket holds what may pass. Once a pool of it is dry, nothing passes until a
// quarter of a second's worth has come together there: what is dropped has few,
// long gaps then, each with its own marker.
type bucket struct {
	limit Limit
	pools [overs]pool
	at    time.Time
	dry   [overs]bool
}

func newBucket(l Limit, now time.Time) bucket {
	l = l.withDefaults()
	return bucket{limit: l, pools: l.pools(), at: now}
}

// set changes the limit. What was saved up under another one is cut to the new,
// and what was used of the day stays so.
func (b *bucket) set(l Limit, now time.Time) {
	b.refill(now)
	was := b.pools
	b.limit, b.pools, b.dry = l, l.pools(), [overs]bool{}
	for k := range b.pools {
		p := &b.pools[k]
		p.tokens = min(p.most, was[k].tokens)
	}
	b.pools[overDay].tokens = b.pools[overDay].most - (was[overDay].most - was[overDay].tokens)
}

func (b *bucket) refill(now time.Time) {
	passed := now.Sub(b.at)
	if passed <= 0 {
		return
	}
	for k := range b.pools {
		p := &b.pools[k]
		p.tokens = min(p.most, p.tokens+passed.Seconds()*p.rate)
	}
	b.at = now
}

// admit takes what a line of so many bytes needs, and reports whether there was
// enough; if not, over are the limits in the way.
func (b *bucket) admit(now time.Time, bytes int) (over flags, ok bool) {
	if b.limit.Rate < 0 {
		return 0, true
	}
	b.refill(now)
	need := [overs]float64{1, float64(bytes), float64(bytes)}
	for k := range b.pools {
		p := &b.pools[k]
		if n := min(need[k], p.most); p.tokens < n || b.dry[k] && p.tokens < max(p.again, n) {
			b.dry[k] = true
			over |= 1 << k
		}
	}
	if over != 0 {
		return over, false
	}
	for k := range b.pools {
		b.pools[k].tokens -= need[k]
		b.dry[k] = false
	}
	return 0, true
}

// flags are the limits that lines were over, a bit each.
type flags uint8

// words say what a limit is that was exceeded; planMB is what the tenant's plan
// allows.
func (l Limit) words(over flags, planMB int) string {
	p := l.pools()
	var second []string
	if over&(1<<overLines) != 0 {
		second = append(second, grouped(uint64(max(l.Rate, 0)))+" lines")
	}
	if over&(1<<overBytes) != 0 {
		second = append(second, grouped(uint64(p[overBytes].rate))+" bytes")
	}
	var all []string
	if len(second) > 0 {
		all = append(all, strings.Join(second, " or ")+" a second")
	}
	if over&(1<<overDay) != 0 {
		all = append(all, grouped(uint64(p[overDay].most)/1e6)+" MB a day")
	}
	if over&(1<<overPlan) != 0 {
		all = append(all, "the "+grouped(uint64(max(planMB, 0)))+" MB of logs that the plan keeps")
	}
	if len(all) == 0 {
		return "more than may be logged" // said by an earlier process of ours
	}
	return "more than " + strings.Join(all, " or ")
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
