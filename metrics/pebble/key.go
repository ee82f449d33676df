package pebble

import (
	"encoding/binary"
	"time"

	"github.com/miosa/miosa/metrics"
)

// kindRows begins the keys of what is kept; the store's own are below it.
const kindRows = 'r'

// formatKey holds the version of keys and rows.
var formatKey = []byte("format")

// hourOf is the hour since 1970 that a time is in.
func hourOf(t time.Time) uint32 { return uint32(t.Unix() / 3600) }

// sourceKey begins all keys of a source.
func sourceKey(o metrics.Owner) []byte {
	return prefix(o.TenantID, o.DeploymentID, o.ServiceID, o.SourceID)
}

// prefix begins all keys below the IDs given, from left to right up to the
// first that is not. IDs hold no byte below '!', so none is another's prefix.
func prefix(ids ...string) []byte {
	b := append(make([]byte, 0, 160), kindRows)
	for _, id := range ids {
		if id == "" {
			break
		}
		b = append(append(b, id...), 0)
	}
	return b
}

// hourKey is where the rows of an hour are.
func hourKey(source []byte, hour uint32) []byte {
	return binary.BigEndian.AppendUint32(append([]byte(nil), source...), hour)
}

// parseKey undoes hourKey of a sourceKey.
func parseKey(key []byte) (o metrics.Owner, hour uint32, ok bool) {
	if len(key) < 5 || key[0] != kindRows {
		return o, 0, false
	}
	hour = binary.BigEndian.Uint32(key[len(key)-4:])
	ids := key[1 : len(key)-4]
	for _, to := range []*string{&o.TenantID, &o.DeploymentID, &o.ServiceID, &o.SourceID} {
		end := 0
		for end < len(ids) && ids[end] != 0 {
			end++
		}
		if end == 0 || end == len(ids) {
			return o, 0, false
		}
		*to, ids = string(ids[:end]), ids[end+1:]
	}
	return o, hour, len(ids) == 0
}

// after is the first key behind all that begin with b.
func after(b []byte) []byte {
	b = append([]byte(nil), b...)
	b[len(b)-1]++ // a separator, or the kind: never 0xff
	return b
}
