package victorialogs

import (
	"slices"
	"unsafe"

	"github.com/miosa/miosa/logs"
)

// recent are the newest batches with their lines, the oldest first: what
// VictoriaLogs may not find yet.
type recent struct {
	limit, size int
	batches     []*kept
}

// kept is a batch that the store took. It is never changed.
type kept struct {
	logs.Kept
	mark  logs.Mark
	stamp uint64
	size  int
}

func (r *recent) add(mark logs.Mark, stamp uint64, k logs.Kept) {
	if r.limit == 0 {
		return
	}
	size := int(unsafe.Sizeof(kept{})) + len(k.Lines)*int(unsafe.Sizeof(logs.Line{}))
	for _, l := range k.Lines {
		size += len(l.Text)
	}
	r.batches = append(r.batches, &kept{k, mark, stamp, size})
	r.size += size
	n := 0
	for r.size > r.limit {
		r.size -= r.batches[n].size
		r.batches[n] = nil
		n++
	}
	if r.batches = r.batches[n:]; cap(r.batches) > 2*len(r.batches)+1024 {
		r.batches = slices.Clone(r.batches)
	}
}

// keep drops the batches that keep is false of.
func (r *recent) keep(keep func(*kept) bool) {
	var stay []*kept
	r.size = 0
	for _, k := range r.batches {
		if keep(k) {
			stay = append(stay, k)
			r.size += k.size
		}
	}
	r.batches = stay
}

// entry is the batch's line i.
func (k *kept) entry(i int) logs.Entry {
	return logs.Entry{Line: k.Lines[i], Origin: k.Origin, Position: logs.Position{Epoch: k.Epoch, Seq: k.First + uint64(i)}}
}
