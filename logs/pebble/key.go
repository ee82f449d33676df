package pebble

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

// The first byte of a key.
const (
	kindArrival  = 'a'
	kindChunk    = 'c'
	kindLetters  = 'l'
	kindMeta     = 'm'
	kindPosition = 'p'
	kindUsage    = 'u'
)

// Lengths of a chunk key's parts of fixed size: kind, class and hour before the
// names; time, epoch and seq behind them.
const (
	bucketSize = 2 + 4
	headSize   = 1 + bucketSize
	tailSize   = 8 + 8 + 8
)

// sign makes signed numbers sort as bytes.
const sign = 1 << 63

// perHour are the microseconds of an hour.
const perHour = int64(time.Hour / time.Microsecond)

// hourOf is the hour since 1970 that a time in microseconds lies in.
func hourOf(micro int64) int32 {
	h := micro / perHour
	if micro%perHour < 0 {
		h--
	}
	return int32(h)
}

// bucket is all that expires together.
type bucket struct {
	days uint16
	hour int32
}

func (b bucket) key() []byte {
	k := make([]byte, 0, 192)
	k = append(k, kindChunk)
	k = binary.BigEndian.AppendUint16(k, b.days)
	return binary.BigEndian.AppendUint32(k, uint32(b.hour)^1<<31)
}

// end is the first key behind the bucket.
func (b bucket) end() []byte {
	if b.hour == 1<<31-1 {
		return bucket{b.days + 1, -1 << 31}.key()
	}
	return bucket{b.days, b.hour + 1}.key()
}

func bucketOf(key []byte) bucket {
	return bucket{binary.BigEndian.Uint16(key[1:]), int32(binary.BigEndian.Uint32(key[3:]) ^ 1<<31)}
}

// expires is when the youngest line that the bucket can hold has been kept for
// its days.
func (b bucket) expires() time.Time {
	return time.Unix((int64(b.hour)+1)*3600, 0).Add(time.Duration(b.days) * 24 * time.Hour)
}

// names appends names, each with an end that sorts before all that they hold.
func names(k []byte, all ...string) []byte {
	for _, n := range all {
		k = append(k, n...)
		k = append(k, 0)
	}
	return k
}

// behind turns a key that ends with a name's end into the first key behind all
// that begin with it.
func behind(k []byte) []byte {
	k = bytes.Clone(k)
	k[len(k)-1] = 1
	return k
}

// taskPrefix tells a task from a service: before there were tasks, all owners
// were services.
const taskPrefix = miosa.PrefixTask + "_"

func isTask(id string) bool { return strings.HasPrefix(id, taskPrefix) }

// ownerOf is the ID that lines of the origin are kept under.
func ownerOf(o *logs.Origin) string { return cmp.Or(o.TaskID, o.ServiceID) }

// ownerIn is the owner that a scope asks for, "" for any; false: there is none
// such.
func ownerIn(s *logs.Scope) (id string, ok bool) {
	switch {
	case s.TaskID == "":
		return s.ServiceID, !isTask(s.ServiceID)
	case s.ServiceID == "":
		return s.TaskID, isTask(s.TaskID)
	}
	return "", false // of both there are none
}

// owned is an owner as the service or the task that it is.
func owned(id []byte) (service, task []byte) {
	if bytes.HasPrefix(id, []byte(taskPrefix)) {
		return nil, id
	}
	return id, nil
}

// place appends a chunk key's tail.
func place(k []byte, micro int64, p logs.Position) []byte {
	k = binary.BigEndian.AppendUint64(k, uint64(micro)^sign)
	k = binary.BigEndian.AppendUint64(k, p.Epoch)
	return binary.BigEndian.AppendUint64(k, p.Seq)
}

var errKey = errors.New("a key is damaged")

// chunkKey is a chunk's key, taken apart.
type chunkKey struct {
	names  []byte // the key up to its instance's end
	parts  [4]int // where tenant, deployment, owner and instance end in it, each with its zero
	micro  int64
	first  logs.Position
	bucket bucket
}

func parseChunkKey(key []byte) (k chunkKey, err error) {
	if len(key) < headSize+4+tailSize || key[0] != kindChunk {
		return k, errKey
	}
	cut := len(key) - tailSize
	k.names, k.bucket = key[:cut], bucketOf(key)
	at := headSize
	for i := range k.parts {
		n := bytes.IndexByte(k.names[at:], 0)
		if n < 0 {
			return k, errKey
		}
		at += n + 1
		k.parts[i] = at
	}
	if at != cut {
		return k, errKey
	}
	k.micro = int64(binary.BigEndian.Uint64(key[cut:]) ^ sign)
	k.first = logs.Position{Epoch: binary.BigEndian.Uint64(key[cut+8:]), Seq: binary.BigEndian.Uint64(key[cut+16:])}
	return k, nil
}

// name is the i-th of tenant, deployment, owner and instance.
func (k *chunkKey) name(i int) []byte {
	begin := headSize
	if i > 0 {
		begin = k.parts[i-1]
	}
	return k.names[begin : k.parts[i]-1]
}

func metaKey(name string) []byte { return append([]byte{kindMeta}, name...) }

func positionKey(tenant, instance string) []byte {
	return names(append(make([]byte, 0, 80), kindPosition), tenant, instance)
}

func arrivalKey(mark uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{kindArrival}, mark)
}

func markOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[1:]) }

func usageKey(tenant string, hour int32) []byte {
	k := names(append(make([]byte, 0, 48), kindUsage), tenant)
	return binary.BigEndian.AppendUint32(k, uint32(hour)^1<<31)
}

func hourOfUsage(key []byte) int32 {
	return int32(binary.BigEndian.Uint32(key[len(key)-4:]) ^ 1<<31)
}
