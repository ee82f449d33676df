package api

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

// tail gives the lines of a scope as they come: first a backlog, read by time,
// then what arrives, in the order of arrival. The two orders are unlike, and
// lines arrive while the backlog is read: so the newest mark is taken first,
// all that arrives after it is gone through afterwards, and what the backlog
// had of that is left out (tailMark.sent).
type tail struct {
	logs   LogReader
	query  logs.Query // forward
	newest int        // with how many of the last lines a new one begins; 0: with all of the query
	chunk  int        // lines that are read at once
	now    func() time.Time
	// give takes what is next, and the mark behind it. false: no more is wanted.
	give func([]tailLine, string) bool

	at tailMark
	// open are the spans that lines of the present chunk belong to, by instance.
	open map[string]int
}

type tailLine struct {
	logs.Entry
	id string // the mark behind it
}

// tailRetries is how often in a row the order of arrival may be gone.
const tailRetries = 3

// run gives lines from a mark on, or from the beginning, until ctx ends.
func (t *tail) run(ctx context.Context, from tailMark, resumed bool) error {
	last, err := t.logs.Last(ctx)
	if err != nil {
		return err
	}
	switch {
	case !resumed:
		t.at = tailMark{mark: last, place: t.query.After}
	case from.mark > last:
		// Not this store's: what is left is its time.
		t.at = tailMark{mark: last, place: from.place}
	default:
		t.at = from
	}
	for gone := 0; ; {
		if !t.at.live {
			more, err := t.backlog(ctx, resumed)
			if err != nil || !more {
				return err
			}
		}
		before := t.at.mark
		err := t.follow(ctx)
		if miosa.CodeOf(err) != miosa.Gone {
			return err
		}
		if gone++; t.at.mark != before {
			gone = 0
		} else if gone > tailRetries {
			return err
		}
		if last, err = t.logs.Last(ctx); err != nil {
			return err
		}
		t.at, resumed = tailMark{mark: last, place: t.at.place}, true
	}
}

// backlog gives what there is by time, and makes the mark live.
func (t *tail) backlog(ctx context.Context, resumed bool) (more bool, err error) {
	q := t.query
	if resumed {
		q.Since = time.Time{} // it may be "an hour ago", and has passed
	}
	if !resumed && t.newest > 0 {
		q.Backward, q.After = true, logs.Place{}
		found, _, err := readLogs(ctx, t.logs, q, t.newest)
		if err != nil {
			return false, err
		}
		slices.Reverse(found)
		t.open = map[string]int{}
		for batch := range slices.Chunk(found, giveAtOnce) {
			if !t.giveRead(batch) {
				return false, nil
			}
		}
	} else {
		for more = true; more; {
			q.After = t.at.place
			var wanted bool
			if more, wanted, err = t.read(ctx, q); err != nil || !wanted {
				return false, err
			}
		}
	}
	if t.at.until, err = t.logs.Last(ctx); err != nil {
		return false, err
	}
	t.at.live, t.at.within = true, logs.Position{}
	if t.at.place == (logs.Place{}) {
		t.at.place.Time = t.now().UTC()
	}
	return t.give(nil, t.at.String()), nil
}

// read reads up to a chunk and gives the lines as they are found: a search may
// take its time between two of them. The read waits for nobody who takes them.
// A store shows what it held at one moment: of an instance, all that the query
// names from the first to the last line of the chunk is in it. It returns whether
// there is more, and whether that is wanted.
func (t *tail) read(ctx context.Context, q logs.Query) (bool, bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	var more bool // this and err are set when found is closed
	var err error
	found := make(chan logs.Entry, t.chunk)
	go func() {
		defer close(found)
		n, size := 0, 0
		for e, rerr := range t.logs.Read(ctx, q) {
			if rerr != nil {
				err = rerr
				return
			}
			if n == t.chunk || n > 0 && size+len(e.Text) > maxLogText {
				more = true
				return
			}
			n, size = n+1, size+len(e.Text)
			found <- e
		}
	}()
	// The read ends with the call, whoever ended it.
	defer func() {
		cancel()
		for range found {
			continue
		}
	}()
	t.open = map[string]int{}
	for e := range found {
		batch := append(make([]logs.Entry, 0, giveAtOnce), e)
		for open := true; open && len(batch) < giveAtOnce; {
			select {
			case e, open = <-found:
				if open {
					batch = append(batch, e)
				}
			default:
				open = false
			}
		}
		if !t.giveRead(batch) {
			return false, false, nil
		}
	}
	return more, true, err
}

// giveRead gives some lines of a chunk.
func (t *tail) giveRead(batch []logs.Entry) bool {
	out := make([]tailLine, 0, len(batch))
	for i := range batch {
		t.mark(&batch[i])
		out = append(out, tailLine{batch[i], t.at.String()})
	}
	return t.give(out, out[len(out)-1].id)
}

const giveAtOnce = 100

// mark notes that a line of the backlog is sent.
func (t *tail) mark(e *logs.Entry) {
	t.at.place = logs.PlaceOf(e)
	id, p := e.Origin.InstanceID, e.Position
	if i, ok := t.open[id]; ok {
		t.at.sent[i].to = p
		return
	}
	for i := range t.at.sent {
		// Without a hole the row goes on.
		if s := &t.at.sent[i]; s.instance == id && s.to.Epoch == p.Epoch && s.to.Seq+1 == p.Seq {
			s.to, t.open[id] = p, i
			return
		}
	}
	t.at.sent = append(t.at.sent, span{id, p, p})
	t.open[id] = len(t.at.sent) - 1
}

// follow gives what arrives behind the mark.
func (t *tail) follow(ctx context.Context) error {
	from := t.at
	after := from.mark
	if from.within != (logs.Position{}) {
		after-- // the rest of that arrival
	}
	for a, err := range t.logs.Follow(ctx, after, t.query.Scope) {
		if err != nil {
			return err
		}
		if a.Mark > t.at.until {
			t.at.sent = nil
		}
		b := &a.Batch
		var out []tailLine
		for i := range b.Lines {
			p := logs.Position{Epoch: b.Epoch, Seq: b.First + uint64(i)}
			if a.Mark == from.mark && !from.within.Less(p) {
				continue
			}
			e := logs.Entry{Line: b.Lines[i], Origin: b.Origin, Position: p}
			doubled := slices.ContainsFunc(t.at.sent, func(s span) bool { return s.holds(b.Origin.InstanceID, p) })
			t.at.mark, t.at.within = a.Mark, p
			if place := logs.PlaceOf(&e); t.at.place.Before(place) {
				t.at.place = place
			}
			if !doubled {
				out = append(out, tailLine{e, t.at.String()})
			}
		}
		if len(out) == 0 {
			continue
		}
		if !t.give(out, out[len(out)-1].id) {
			return nil
		}
	}
	return nil
}

// streamLogs sends a tail as server-sent events.
func (s *Server) streamLogs(c *call, w http.ResponseWriter) error {
	r, err := c.logRequest()
	if err != nil {
		return err
	}
	if !r.Until.IsZero() {
		return invalidField("until", "has no meaning for what is still to come: leave it out, or follow")
	}
	from, resumed := parseTailMark(c.r.Header.Get("Last-Event-ID"))
	return c.stream(w, "log_line", func(ctx context.Context, give func(parcel) bool) error {
		if r.nothing {
			return nothingComes(ctx)
		}
		t := &tail{logs: s.logs, query: r.Query, newest: r.limit, chunk: maxLines, now: s.now, give: func(lines []tailLine, id string) bool {
			p := parcel{items: make([]item, 0, len(lines)), place: id}
			for i := range lines {
				p.items = append(p.items, item{lines[i].id, logResource(&lines[i].Entry)})
			}
			return give(p)
		}}
		t.query.Backward = false
		if !r.limited && !r.Since.IsZero() || r.After != (logs.Place{}) {
			t.newest = 0
		}
		return t.run(ctx, from, resumed)
	})
}
