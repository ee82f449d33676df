package pebble

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/bits"

	lsm "github.com/cockroachdb/pebble/v2"

	"github.com/miosa/miosa/logs"
)

// A search for a word would have to decompress all that the tenant has. So for
// each instance and hour stands which letters follow each other in its lines:
// the set of all three letters in a row, upper and lower case alike. An
// instance's hour without those of the word is not read.
//
// Only letters: the digits of times and IDs are in all lines, and would make the
// sets as large as the lines are when compressed. A search without three
// letters in a row reads everything in its range.
//
// The set grows by merges, which stand in the same batch as the lines that ask
// for them: there is never a line whose letters are not in its set.

const (
	// mostTrigrams bounds a set. There are 17,576; with so many it says little.
	mostTrigrams = 4096
	// cachedLetters is how many sets are remembered, of 4 KB each; another one
	// is read again.
	cachedLetters = 4096
)

// letterCode is 1 to 26 for a letter, 0 for what is none.
var letterCode = func() (t [256]uint16) {
	for c := range uint16(26) {
		t['a'+c], t['A'+c] = c+1, c+1
	}
	return t
}()

// trigrams is a set of three letters each: five bits a letter are a bit's
// number.
type trigrams [1 << 15 / 64]uint64

// add puts in all that the text holds. It also sets bits of what has no letter
// in one of its places: see count and tidy.
func (t *trigrams) add(text []byte) {
	var at uint16
	for _, c := range text {
		at = (at<<5 | letterCode[c]) & (1<<15 - 1)
		t[at>>6] |= 1 << (at & 63)
	}
}

// threes has the bits of a word that stand for three letters, when its number
// does.
const threes = uint64(0x07fffffe_07fffffe)

// tidy takes out what is not three letters.
func (t *trigrams) tidy() {
	for i := range t {
		// A word is two second letters with all third ones of each.
		switch first, second := i>>4, i<<1&31; {
		case first == 0 || first > 26:
			t[i] = 0
		default:
			t[i] &= threes
			if second == 0 || second > 26 {
				t[i] &^= 0xffffffff
			}
			if second+1 > 26 {
				t[i] &= 0xffffffff
			}
		}
	}
}

// take appends the set in order, and leaves it empty.
func (t *trigrams) take(to []uint16) []uint16 {
	for i, word := range t {
		if word == 0 {
			continue
		}
		for ; word != 0; word &= word - 1 {
			to = append(to, uint16(i<<6|bits.TrailingZeros64(word)))
		}
		t[i] = 0
	}
	return to
}

func (t *trigrams) count() (n int) {
	for _, word := range t {
		n += bits.OnesCount64(word)
	}
	return n
}

// letterSet is what is known of an instance's hour.
type letterSet struct {
	trigrams
	size     int
	anything bool // it has too many: nothing more is noted
	stored   bool // there is a set, be it an empty one
}

// everything is the operand that says so.
const everything = 1 << 15

// appendLetters appends a set, which is in order, as an operand: how many, then
// the steps from one to the next. Operands stand one behind the other.
func appendLetters(b []byte, all []uint16) []byte {
	b = binary.AppendUvarint(b, uint64(len(all)))
	was := uint16(0)
	for _, at := range all {
		b = binary.AppendUvarint(b, uint64(at-was))
		was = at
	}
	return b
}

var errLetters = errors.New("a set of letters is damaged")

// eachLetters calls f with all trigrams of a set; anything: it has no bounds.
func eachLetters(value []byte, f func(trigram uint16)) (anything bool, err error) {
	r := reader{b: value}
	for len(r.b) > 0 {
		n := r.uvarint()
		if n == everything {
			return true, nil
		}
		at := uint64(0)
		for range n {
			if at += r.uvarint(); r.bad || at >= everything {
				return false, errLetters
			}
			f(uint16(at))
		}
		if r.bad {
			return false, errLetters
		}
	}
	return false, nil
}

func lettersKey(b bucket, path []byte) []byte {
	key := append(b.key(), path...)
	key[0] = kindLetters
	return key
}

// lettersEnd is the first key behind those of the bucket.
func lettersEnd(b bucket) []byte {
	key := b.end()
	key[0] = kindLetters
	return key
}

// lettersOf are those of all lines of each batch: found before the turn is
// taken, for it takes as long as all else that is done in it.
func lettersOf(batches []logs.Kept) [][]uint16 {
	sets := make([][]uint16, len(batches))
	buf := make([]uint16, 0, 256*len(batches))
	var t trigrams
	for i := range batches {
		for j := range batches[i].Lines {
			t.add(batches[i].Lines[j].Text)
		}
		t.tidy()
		from := len(buf)
		buf = t.take(buf)
		sets[i] = buf[from:len(buf):len(buf)]
	}
	return sets
}

// letters notes that an instance's hour holds them. The turn is held.
func (w *writer) letters(in bucket, path []byte, of []uint16) error {
	if w.s.plain[in] {
		return nil
	}
	key := lettersKey(in, path)
	set, ok := w.s.letters[string(key)]
	if !ok {
		var err error
		if set, err = w.s.readLetters(key); err != nil {
			return err
		}
		w.s.letters[string(key)] = set
	}
	if set.anything {
		return nil
	}
	w.letterBuf = w.letterBuf[:0]
	for _, at := range of {
		if bit := uint64(1) << (at & 63); set.trigrams[at>>6]&bit == 0 {
			set.trigrams[at>>6] |= bit
			w.letterBuf = append(w.letterBuf, at)
		}
	}
	if len(w.letterBuf) == 0 && set.stored {
		return nil
	}
	set.size, set.stored = set.size+len(w.letterBuf), true
	if set.size > mostTrigrams {
		set.anything = true
		return w.b.Merge(key, binary.AppendUvarint(nil, everything), nil)
	}
	w.operand = appendLetters(w.operand[:0], w.letterBuf)
	return w.b.Merge(key, w.operand, nil)
}

func (s *Store) readLetters(key []byte) (*letterSet, error) {
	set := &letterSet{}
	_, err := s.db.Get(key, func(value []byte) (err error) {
		set.stored = true
		set.anything, err = eachLetters(value, func(at uint16) { set.trigrams[at>>6] |= 1 << (at & 63) })
		set.size = set.count()
		return err
	})
	return set, err
}

// wanted are the trigrams that a search asks for: a line that holds every
// needle holds all of them.
type wanted struct {
	trigrams
	n int
}

func want(needles []needle) *wanted {
	w := &wanted{}
	for i := range needles {
		w.add([]byte(needles[i].text))
	}
	w.tidy()
	w.n = w.count()
	return w
}

// in reports whether all of them are in the stored set.
func (w *wanted) in(value []byte) bool {
	if w.n == 0 {
		return true
	}
	missing := w.trigrams
	left := w.n
	anything, err := eachLetters(value, func(at uint16) {
		if bit := uint64(1) << (at & 63); missing[at>>6]&bit != 0 {
			missing[at>>6] &^= bit
			left--
		}
	})
	return left == 0 || anything || err != nil // of a damaged one the lines themselves tell
}

// candidates are the names, as in chunk keys, of the instances in a bucket that
// may hold what is wanted, in order.
func candidates(it *lsm.Iterator, w *wanted) (all [][]byte, err error) {
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return nil, err
		}
		if w.in(value) {
			key := bytes.Clone(it.Key())
			key[0] = kindChunk
			all = append(all, key)
		}
	}
	return all, it.Error()
}
