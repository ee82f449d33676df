package pebble

import (
	"bytes"
	"strings"
)

// needle finds an ASCII text in whatever case.
type needle struct {
	text         string // lower case
	at           int    // the index in text of its rarest byte
	lower, upper byte   // that byte in both cases
}

// common are bytes from the most frequent in logs down; others are rarer.
const common = "e0\" 1ta2i:,nos3r45d-6789lcpu_mh.fg{}/bv=ywkxTZ'qjz"

// needles are what to look for in a chunk: of each text its longest run of
// ASCII, for a byte-wise search cannot tell the case of the rest.
func needles(texts []string) []needle {
	var all []needle
	for _, text := range texts {
		run := ""
		for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r >= 0x80 }) {
			if len(part) > len(run) {
				run = part
			}
		}
		if run == "" {
			continue
		}
		n := needle{text: run}
		best := -1
		for i := range len(run) {
			rank := strings.IndexByte(common, run[i])
			if rank < 0 {
				rank = len(common)
			}
			if rank > best {
				best, n.at = rank, i
			}
		}
		n.lower, n.upper = run[n.at], run[n.at]
		if 'a' <= n.lower && n.lower <= 'z' {
			n.upper -= 'a' - 'A'
		}
		all = append(all, n)
	}
	return all
}

// in reports whether b holds the needle.
func (n *needle) in(b []byte) bool {
	if len(b) < len(n.text) {
		return false
	}
	// Where the rarest byte can stand.
	window := b[n.at : len(b)-len(n.text)+n.at+1]
	if n.scan(b, window, n.lower) {
		return true
	}
	return n.upper != n.lower && n.scan(b, window, n.upper)
}

func (n *needle) scan(b, window []byte, c byte) bool {
	for at := 0; ; at++ {
		i := bytes.IndexByte(window[at:], c)
		if i < 0 {
			return false
		}
		at += i
		if equalFold(b[at:at+len(n.text)], n.text) {
			return true
		}
	}
}

// equalFold compares with a lower-case text of the same length, by ASCII.
func equalFold(b []byte, lower string) bool {
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}
