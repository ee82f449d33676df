package main

import (
	"strconv"
	"time"
)

// generator makes plausible log lines, the same in every run.
type generator struct{ state uint64 }

// next is xorshift64*: fast, and as random as lines need.
func (g *generator) next() uint64 {
	g.state ^= g.state >> 12
	g.state ^= g.state << 25
	g.state ^= g.state >> 27
	return g.state * 0x2545f4914f6cdd1d
}

func (g *generator) below(n int) int { return int((g.next() >> 33) % uint64(n)) }

func (g *generator) pick(words []string) string { return words[g.below(len(words))] }

// hex appends random digits, as of request IDs.
func (g *generator) hex(b []byte, n int) []byte {
	const digits = "0123456789abcdef"
	for n > 0 {
		for r, i := g.next(), 0; i < 16 && n > 0; i, n, r = i+1, n-1, r>>4 {
			b = append(b, digits[r&15])
		}
	}
	return b
}

var (
	methods = []string{"GET", "GET", "GET", "GET", "POST", "PUT", "DELETE"}
	paths   = []string{"/api/v1/orders/", "/api/v1/users/", "/api/v1/carts/", "/static/img/", "/api/v2/search/", "/healthz/", "/api/v1/invoices/", "/login/"}
	agents  = []string{"Mozilla/5.0 (X11; Linux x86_64)", "Mozilla/5.0 (Macintosh)", "curl/8.5.0", "okhttp/4.12.0", "Go-http-client/2.0"}
	states  = []string{"200", "200", "200", "200", "201", "204", "301", "404", "500"}
	events  = []string{
		"query finished", "cache miss, loading from database", "payment authorised", "job picked up from queue", "retrying upstream call",
		"token renewed for user", "email queued for delivery", "slow query in order repository", "webhook delivered to customer endpoint",
	}
	levels = []string{"info", "info", "info", "debug", "warn", "error"}
)

// line appends the line of that number: an access log as JSON, an app's JSON, or
// plain text; 200 bytes or so.
func (g *generator) line(b []byte, number int64, at time.Time, instance int) []byte {
	word := ""
	switch {
	case number%rare == 0:
		word = rareWord
	case number%common == 0:
		word = "deadline"
	}
	switch g.below(10) {
	case 0, 1, 2, 3, 4:
		b = append(b, `{"time":"`...)
		b = at.AppendFormat(b, time.RFC3339Nano)
		b = append(b, `","method":"`...)
		b = append(b, g.pick(methods)...)
		b = append(b, `","path":"`...)
		b = append(b, g.pick(paths)...)
		b = strconv.AppendInt(b, int64(g.below(100000)), 10)
		b = append(b, `","status":`...)
		b = append(b, g.pick(states)...)
		b = append(b, `,"bytes":`...)
		b = strconv.AppendInt(b, int64(g.below(50000)), 10)
		b = append(b, `,"ms":`...)
		b = strconv.AppendInt(b, int64(g.below(900)), 10)
		b = append(b, `,"request_id":"`...)
		b = g.hex(b, 16)
		b = append(b, `","ip":"10.`...)
		b = strconv.AppendInt(b, int64(g.below(256)), 10)
		b = append(b, '.')
		b = strconv.AppendInt(b, int64(g.below(256)), 10)
		b = append(b, `.7","agent":"`...)
		b = append(b, g.pick(agents)...)
		b = append(b, word...)
		return append(b, `"}`...)
	case 5, 6, 7:
		b = append(b, `{"level":"`...)
		b = append(b, g.pick(levels)...)
		b = append(b, `","ts":"`...)
		b = at.AppendFormat(b, time.RFC3339Nano)
		b = append(b, `","logger":"app.worker`...)
		b = strconv.AppendInt(b, int64(instance%4), 10)
		b = append(b, `","msg":"`...)
		b = append(b, g.pick(events)...)
		b = append(b, ' ')
		b = append(b, word...)
		b = append(b, `","trace":"`...)
		b = g.hex(b, 16)
		b = append(b, `","user":`...)
		b = strconv.AppendInt(b, int64(g.below(1000000)), 10)
		b = append(b, `,"took_us":`...)
		b = strconv.AppendInt(b, int64(g.below(80000)), 10)
		return append(b, `,"region":"eu-central-1","attempt":1}`...)
	}
	b = at.AppendFormat(b, "2006/01/02 15:04:05.000")
	b = append(b, " ["...)
	b = append(b, g.pick(levels)...)
	b = append(b, "] order "...)
	b = strconv.AppendInt(b, int64(g.below(10000000)), 10)
	b = append(b, ": "...)
	b = append(b, g.pick(events)...)
	b = append(b, "; customer="...)
	b = strconv.AppendInt(b, int64(g.below(1000000)), 10)
	b = append(b, " amount="...)
	b = strconv.AppendInt(b, int64(g.below(100000)), 10)
	b = append(b, " currency=EUR basket="...)
	b = g.hex(b, 12)
	b = append(b, " warehouse=north step=reserve previous=validate "...)
	b = append(b, word...)
	return append(b, " next=ship"...)
}
