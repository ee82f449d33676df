package balance

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"time"

	"github.com/miosa/miosa/routing"
)

// Standing is how a backend stands to a request.
type Standing uint8

const (
	// Usable: it may have the request.
	Usable Standing = iota
	// Sidelined: a dial failed there a moment ago; see Sideline.
	Sidelined
	// Tried: this request could not be brought there, or was lost there.
	Tried
)

// Tie is what ties a client to a backend of a pool. The zero Tie is none.
type Tie struct {
	Tied bool
	Key  routing.Key
	At   int // index of the backend that its cookie names; -1: none of them
}

// Pick chooses the backend for a request: by what ties its client to one, else in
// turn. It returns the backend's index, -1 where there is none left. One that is
// sidelined is passed over, unless all are that were not tried: then all of those
// are to come back, and returned says so.
//
// turn counts the pool's requests that nothing ties. It allocates nothing.
func Pick(pool []routing.Backend, tie Tie, turn uint64, standing func(i int) Standing) (i int, returned bool) {
	i = pick(pool, tie, turn, func(i int) bool { return standing(i) == Usable })
	if i >= 0 {
		return i, false
	}
	i = pick(pool, tie, turn, func(i int) bool { return standing(i) != Tried })
	return i, i >= 0
}

func pick(pool []routing.Backend, tie Tie, turn uint64, usable func(i int) bool) int {
	if tie.Tied {
		if tie.At >= 0 && usable(tie.At) {
			return tie.At
		}
		return routing.Sticky(tie.Key, pool, usable)
	}
	n := uint64(len(pool))
	if n == 0 {
		return -1
	}
	if i := int(turn % n); usable(i) {
		return i
	}
	// The turn of one that is passed over goes to all the others, not to its
	// neighbour.
	var left uint64
	for i := range pool {
		if usable(i) {
			left++
		}
	}
	if left == 0 {
		return -1
	}
	turn = turn / n % left
	for i := range pool {
		if usable(i) {
			if turn == 0 {
				return i
			}
			turn--
		}
	}
	return -1 // one that was usable is so no more
}

// How long a backend is passed over after a failed dial. Short, because the
// health probes and control have the last word; this only saves requests from
// trying in vain until then.
const (
	sidelineFirst   = 100 * time.Millisecond
	sidelineLongest = 5 * time.Second
)

// Sideline is how long a backend is passed over after so many failed dials in a
// row, at least 1: 100 ms, then twice as long each time, at most 5 s.
func Sideline(failures int) time.Duration {
	const doublings = 6 // are more than the longest
	return min(sidelineLongest, sidelineFirst<<min(max(failures-1, 0), doublings))
}

// CookieToken stands for an instance in a cookie. It tells nothing about it, and
// can't be made up without the key; routers with the same key agree.
func CookieToken(key []byte, instanceID string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(instanceID))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}
