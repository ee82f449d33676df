package miosa

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// The prefixes of the IDs. An ID is a prefix, "_" and 26 lower-case Crockford
// characters (10 of milliseconds since 1970, 16 of randomness), so that IDs of
// one prefix sort by the time they were made.
const (
	PrefixTenant      = "ten"
	PrefixDeployment  = "dep"
	PrefixEnvironment = "env"
	PrefixService     = "svc"
	PrefixVersion     = "ver"
	PrefixRelease     = "rel"
	PrefixRollout     = "rol"
	PrefixInstance    = "ri"
	PrefixTask        = "task"
	PrefixHost        = "host"
	PrefixDomain      = "dom"
	PrefixEvent       = "evt"
	PrefixRequest     = "req"
	PrefixKey         = "key"
	PrefixLogDrain    = "ldr"
	PrefixWebhook     = "whk"
	PrefixRegistry    = "reg"  // a login to one
	PrefixExec        = "exec" // a session
)

const crockford = "0123456789abcdefghjkmnpqrstvwxyz"

const idBodyLen = 26

// NewID mints an ID from the time and 10 bytes of random. It fails only when
// random does.
func NewID(prefix string, now time.Time, random io.Reader) (string, error) {
	var b [16]byte
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		b[i] = byte(ms >> (40 - 8*i))
	}
	if _, err := io.ReadFull(random, b[6:]); err != nil {
		return "", fmt.Errorf("mint %s id: %w", prefix, err)
	}
	var sb strings.Builder
	sb.Grow(len(prefix) + 1 + idBodyLen)
	sb.WriteString(prefix)
	sb.WriteByte('_')
	// 128 bits as 26 characters of 5 bits, the first one holding only 3.
	acc, bits := uint32(0), 2
	for _, c := range b {
		acc = acc<<8 | uint32(c)
		for bits += 8; bits >= 5; {
			bits -= 5
			sb.WriteByte(crockford[acc>>bits&31])
		}
	}
	return sb.String(), nil
}

// IDPrefix is the prefix of a well-formed ID, "" of anything else.
func IDPrefix(id string) string {
	prefix, body, ok := strings.Cut(id, "_")
	if !ok || prefix == "" || len(body) != idBodyLen || body[0] > '7' {
		return ""
	}
	for i := range len(body) {
		if strings.IndexByte(crockford, body[i]) < 0 {
			return ""
		}
	}
	return prefix
}

// IDTime is when the ID was minted, to the millisecond; the zero time for a
// malformed one.
func IDTime(id string) time.Time {
	if IDPrefix(id) == "" {
		return time.Time{}
	}
	body := id[len(id)-idBodyLen:]
	var ms int64
	for i := range 10 {
		ms = ms<<5 | int64(strings.IndexByte(crockford, body[i]))
	}
	return time.UnixMilli(ms).UTC()
}
