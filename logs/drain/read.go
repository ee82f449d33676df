package drain

import (
	"context"
	"iter"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

// Source is where lines are read from: the log plane.
type Source interface {
	// Last, Arrivals and Read are logs.Store's.
	Last(ctx context.Context) (logs.Mark, error)
	Arrivals(ctx context.Context, after logs.Mark, scope logs.Scope) iter.Seq2[logs.Arrival, error]
	Read(ctx context.Context, q logs.Query) iter.Seq2[logs.Entry, error]
	// Arrived is closed with the next arrival.
	Arrived() <-chan struct{}
}

const (
	// maxBatch bounds the text of one batch in bytes; one line more may be in it.
	maxBatch = 1 << 20
	// maxBatchLines bounds a batch of short lines.
	maxBatchLines = 5000
)

// reading is what one read brought.
type reading struct {
	lines []logs.Entry
	next  Cursor // behind them; At is the caller's
	all   bool   // there was nothing more
}

// filler gathers lines until a batch is full.
type filler struct {
	lines []logs.Entry
	size  int
}

func (f *filler) full() bool { return f.size >= maxBatch || len(f.lines) >= maxBatchLines }

func (f *filler) add(e logs.Entry) {
	f.lines = append(f.lines, e)
	f.size += len(e.Text)
}

// read reads a batch behind the cursor. miosa.Gone when the order of arrival is
// not known that far back, or the cursor is not of this store.
func read(ctx context.Context, from Source, c Cursor, scope logs.Scope) (reading, error) {
	if c.byTime() {
		return readTime(ctx, from, c, scope)
	}
	newest, err := from.Last(ctx)
	if err != nil {
		return reading{}, err
	}
	if c.Done > newest {
		return reading{}, miosa.Errorf(miosa.Gone, "the store has not come as far as mark %d", c.Done)
	}
	var f filler
	var mark logs.Mark
	seen := 0 // lines of mark
	for a, err := range from.Arrivals(ctx, c.Done, scope) {
		if err != nil {
			return reading{}, err
		}
		if a.Mark != mark {
			mark, seen = a.Mark, 0
		}
		for i, line := range a.Batch.Lines {
			if mark == c.Part && seen < c.Lines {
				seen++
				continue
			}
			if f.full() {
				return reading{lines: f.lines, next: Cursor{Done: mark - 1, Part: mark, Lines: seen}}, nil
			}
			f.add(logs.Entry{Line: line, Origin: a.Batch.Origin, Position: logs.Position{Epoch: a.Batch.Epoch, Seq: a.Batch.First + uint64(i)}})
			seen++
		}
		newest = max(newest, mark)
	}
	if err := ctx.Err(); err != nil {
		return reading{}, err
	}
	return reading{lines: f.lines, next: Cursor{Done: newest}, all: true}, nil
}

func readTime(ctx context.Context, from Source, c Cursor, scope logs.Scope) (reading, error) {
	var f filler
	for e, err := range from.Read(ctx, logs.Query{Scope: scope, Since: c.Since, Until: c.Until, After: c.Place}) {
		if err != nil {
			return reading{}, err
		}
		if f.full() {
			c.Place = logs.PlaceOf(&f.lines[len(f.lines)-1])
			return reading{lines: f.lines, next: c}, nil
		}
		f.add(e)
	}
	if err := ctx.Err(); err != nil {
		return reading{}, err
	}
	return reading{lines: f.lines, next: Cursor{Done: c.Done}}, nil
}
