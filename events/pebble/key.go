package pebble

import (
	"encoding/binary"
	"errors"
)

// The first byte of a key.
const (
	kindEvent    = 'e'
	kindID       = 'i'
	kindMeta     = 'm'
	kindTimeline = 't'
)

var errKey = errors.New("a key is damaged")

// place is where an event lies.
type place struct {
	days uint16 // its class
	hour uint32 // that it is kept under
	seq  uint64 // its mark
}

const placeSize = 2 + 4 + 8

func (p place) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, p.days)
	b = binary.BigEndian.AppendUint32(b, p.hour)
	return binary.BigEndian.AppendUint64(b, p.seq)
}

func parsePlace(b []byte) (place, error) {
	if len(b) != placeSize {
		return place{}, errKey
	}
	return place{binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:]), binary.BigEndian.Uint64(b[6:])}, nil
}

func (p place) key() []byte { return p.append([]byte{kindEvent}) }

func idKey(id string) []byte { return append([]byte{kindID}, id...) }

func metaKey(name string) []byte { return append([]byte{kindMeta}, name...) }

// timeline names one: a tenant's ("" as subject), that of one of its things,
// or a host's ("" as tenant).
type timeline struct{ tenant, subject string }

// period is how many hours of a timeline expire together.
const period = 8 * 24

// on is the beginning of a timeline's keys in a period of a class; what follows
// is the mark.
func (t timeline) on(days uint16, in uint32) []byte {
	k := periodKey(days, in)
	k = append(append(k, t.tenant...), 0)
	return append(append(k, t.subject...), 0)
}

func periodKey(days uint16, in uint32) []byte {
	k := append(make([]byte, 0, 96), kindTimeline)
	k = binary.BigEndian.AppendUint16(k, days)
	return binary.BigEndian.AppendUint32(k, in)
}
