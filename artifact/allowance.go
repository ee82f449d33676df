package artifact

import (
	"bytes"
	"fmt"
	"math"
	"path"
)

// block is what a disk gives out at a time, in bytes.
const block = 4096

// allowance is what reading one archive may still cost. A few bytes can stand
// for gigabytes, so what counts is what they cost here: blocks of the disk that
// an image of them takes, and time. Zeros take no disk, for all that is kept of
// them is a hole, and reading holes takes next to no time; so a large file with
// little in it is welcome, and one that only compresses well is up to a point.
type allowance struct {
	disk int64 // bytes, in whole blocks that are not all zeros
	time int64 // bytes out of decoders

	limits Limits
	sent   int64
}

// newAllowance is of an archive of sent bytes. What was accepted before has no
// bound but the limits on what an archive may hold.
func newAllowance(limits Limits, sent int64, accepted bool) *allowance {
	a := &allowance{limits: limits, sent: sent, disk: math.MaxInt64, time: math.MaxInt64}
	if !accepted {
		a.disk, a.time = max(limits.Disk, limits.Ratio*sent), max(limits.Time, limits.Ratio*sent)
	}
	return a
}

// bomb says that an archive costs more than one of its size may.
type bomb struct {
	unpacks bool // it takes time; else disk
	a       *allowance
}

func (b *bomb) Error() string { return "the archive unpacks to too much for its size" }

// in is what its owner is told; entry is the last that was seen, "" for none.
func (b *bomb) in(entry string) error {
	where := "before its first entry"
	if entry != "" {
		where = "with entry " + shownName(entry)
	}
	what, most := "takes more than %s of disk", max(b.a.limits.Disk, b.a.limits.Ratio*b.a.sent)
	if b.unpacks {
		what, most = "unpacks to more than %s", max(b.a.limits.Time, b.a.limits.Ratio*b.a.sent)
	}
	return invalid(CodeArchiveBomb, "%s the archive "+what+", for the %s that were sent: no more is taken of so small a one (%d times its size); %s",
		where, shownSize(most), shownSize(b.a.sent), b.a.limits.Ratio, without(entry))
}

// without says how to do without a file that is too large.
func without(entry string) string {
	switch path.Base(entry) {
	case "lastlog", "faillog":
		return "it grows with the largest user ID: leave it out, or give useradd --no-log-init in the Dockerfile"
	}
	return "leave it out, or have the app make it when it starts"
}

func shownSize(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%d GB", n>>30)
	case n >= 10<<20:
		return fmt.Sprintf("%d MB", n>>20)
	case n >= 10<<10:
		return fmt.Sprintf("%d KB", n>>10)
	}
	return fmt.Sprintf("%d bytes", n)
}

// decoded takes n bytes out of a decoder.
func (a *allowance) decoded(n int) error {
	if a.time -= int64(n); a.time < 0 {
		return &bomb{unpacks: true, a: a}
	}
	return nil
}

// weight counts what the bytes of one file take of the disk.
type weight struct {
	at      int64 // of the next byte
	counted bool  // the block it lies in is
}

var zeros [block]byte

// add takes the next bytes of the file out of the allowance.
func (w *weight) add(p []byte, a *allowance) error {
	for len(p) > 0 {
		n := min(len(p), block-int(w.at%block))
		if w.at%block == 0 {
			w.counted = false
		}
		if !w.counted && !bytes.Equal(p[:n], zeros[:n]) {
			w.counted = true
			if a.disk -= block; a.disk < 0 {
				return &bomb{a: a}
			}
		}
		w.at += int64(n)
		p = p[n:]
	}
	return nil
}
