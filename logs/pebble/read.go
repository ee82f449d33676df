package pebble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"runtime"
	"slices"
	"sync"

	lsm "github.com/cockroachdb/pebble/v2"

	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/pebbledb"
)

// How many lines, and how many bytes of them, one pass over an hour collects:
// few at first, for most readers want a page, then more.
const (
	firstPass = 128
	mostLines = 8192
	passBytes = 4 << 20
)

// Read yields what the query names. It goes hour by hour; within an hour each
// pass collects the lines that come next, instance by instance, so that it
// holds one iterator and a bounded number of lines whatever the query.
func (s *Store) Read(ctx context.Context, q logs.Query) iter.Seq2[logs.Entry, error] {
	return func(yield func(logs.Entry, error) bool) {
		if err := s.read(ctx, q, func(e logs.Entry) bool { return yield(e, nil) }); err != nil {
			yield(logs.Entry{}, fmt.Errorf("read logs: %w", err))
		}
	}
}

// reading is a query as it is carried out.
type reading struct {
	q       *logs.Query
	needles []needle
	letters *wanted // of the needles
	view    *pebbledb.View
	prefix  []byte // names that all keys begin with
	owner   string // that all keys have; "": any
	lo, hi  int64  // microseconds, [lo, hi)
	expired int64  // what has been kept for its days by then is hidden; 0: nothing
}

// spot is a place with its time in microseconds; behind: after all places of
// that time.
type spot struct {
	micro    int64
	instance string
	position logs.Position
	behind   bool
}

func (s *Store) read(ctx context.Context, q logs.Query, yield func(logs.Entry) bool) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	r := reading{expired: s.expired.Load(), q: &q, lo: math.MinInt64, hi: math.MaxInt64, needles: needles(q.Search.Needles())}
	r.letters = want(r.needles)
	if !q.Since.IsZero() {
		r.lo = ceilMicro(q.Since)
	}
	if !q.Until.IsZero() {
		r.hi = ceilMicro(q.Until)
	}
	var cursor *spot
	if q.After != (logs.Place{}) {
		cursor = &spot{q.After.Time.UnixMicro(), q.After.InstanceID, q.After.Position, q.After.Time.Nanosecond()%1000 != 0}
	}
	if ok, err := s.locate(ctx, &r); !ok || err != nil || r.lo >= r.hi {
		return err
	}
	if r.view, err = s.db.Look(ctx); err != nil {
		return err
	}
	defer func() {
		if e := r.view.Close(); err == nil {
			err = e
		}
	}()
	first, last := int32(math.MinInt32), int32(math.MaxInt32)
	lo, hi := r.within(cursor)
	if lo != math.MinInt64 {
		first = hourOf(lo)
	}
	if hi != math.MaxInt64 {
		last = hourOf(hi - 1)
	}
	hours := s.hours.within(first, last, q.Backward)

	ctx, cancel := context.WithCancel(ctx)
	ahead := lookahead{s: s, r: &r, hours: hours, cursor: cursor, results: make([]chan passed, len(hours))}
	defer ahead.wait()
	defer cancel()
	for i := range hours {
		p := ahead.result(ctx, i)
		for limit := firstPass; ; {
			if p.err != nil {
				return p.err
			}
			for j := range p.entries {
				if err := ctx.Err(); err != nil {
					return err
				}
				if !yield(p.entries[j]) {
					return nil
				}
			}
			if p.complete {
				break
			}
			end := &p.entries[len(p.entries)-1]
			limit = min(4*limit, mostLines)
			p = s.pass(ctx, &r, hours[i], &spot{micro: end.Time.UnixMicro(), instance: end.Origin.InstanceID, position: end.Position}, limit)
		}
	}
	return ctx.Err()
}

// within narrows the query's times to what is behind the cursor.
func (r *reading) within(cursor *spot) (lo, hi int64) {
	lo, hi = r.lo, r.hi
	if cursor != nil {
		if r.q.Backward {
			hi = min(hi, cursor.micro+1)
		} else {
			lo = max(lo, cursor.micro)
		}
	}
	return lo, hi
}

// locate finds the names that all keys begin with; false: nothing is there.
func (s *Store) locate(ctx context.Context, r *reading) (bool, error) {
	q := r.q
	if q.TenantID == "" {
		return false, nil
	}
	deployment := q.DeploymentID
	owner, ok := ownerIn(&q.Scope)
	if !ok {
		return false, nil
	}
	if q.InstanceID != "" && (deployment == "" || owner == "") {
		leave, err := s.db.Enter(ctx)
		if err != nil {
			return false, err
		}
		p, err := s.readPosition(positionKey(q.TenantID, q.InstanceID))
		leave()
		if err != nil || p.Position == (logs.Position{}) {
			return false, err
		}
		if deployment != "" && deployment != p.deployment || owner != "" && owner != p.owner {
			return false, nil
		}
		deployment, owner = p.deployment, p.owner
	}
	r.owner = owner
	r.prefix = names(nil, q.TenantID)
	for _, n := range []string{deployment, owner, q.InstanceID} {
		if n == "" {
			break
		}
		r.prefix = names(r.prefix, n)
	}
	return true, nil
}

// passed is what a pass over an hour found; complete: there is no more.
type passed struct {
	entries  []logs.Entry
	complete bool
	err      error
}

// lookahead begins the first pass over the next hour while the reader is busy
// with one, when text is searched: that takes processors, and most hours may
// have nothing.
type lookahead struct {
	s       *Store
	r       *reading
	hours   []hour
	cursor  *spot
	results []chan passed
	begun   int
	wg      sync.WaitGroup
}

func (a *lookahead) result(ctx context.Context, i int) passed {
	if a.r.q.Search.Empty() {
		return a.s.pass(ctx, a.r, a.hours[i], a.cursor, firstPass)
	}
	for ; a.begun < len(a.hours) && a.begun <= i+1; a.begun++ {
		n := a.begun
		a.results[n] = make(chan passed, 1)
		a.wg.Go(func() { a.results[n] <- a.s.pass(ctx, a.r, a.hours[n], a.cursor, firstPass) })
	}
	return <-a.results[i]
}

func (a *lookahead) wait() { a.wg.Wait() }

// pass collects the lines of an hour that come next behind the cursor: the
// first of them, and of each part of it at most so many.
func (s *Store) pass(ctx context.Context, r *reading, h hour, cursor *spot, limit int) passed {
	leave, err := s.db.Enter(ctx)
	if err != nil {
		return passed{err: err}
	}
	defer leave()
	var parts [][]part
	if r.q.Search.Empty() {
		parts = [][]part{nil}
		for _, b := range h.classes {
			parts[0] = append(parts[0], part{bucket: b, whole: true})
		}
	} else if parts, err = s.parts(ctx, r, h); err != nil {
		return passed{err: err}
	}
	passes := make([]*pass, len(parts))
	errs := make([]error, len(parts))
	var wg sync.WaitGroup
	for i, of := range parts {
		p := &pass{reading: r, ctx: ctx, cursor: cursor, best: best{backward: r.q.Backward, limit: limit}}
		passes[i] = p
		run := func() {
			for _, at := range of {
				if errs[i] = p.part(at); errs[i] != nil {
					return
				}
			}
		}
		if i == len(parts)-1 {
			run()
		} else {
			wg.Go(run)
		}
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return passed{err: err}
		}
	}
	return unite(passes, r.q.Backward)
}

// unite puts together what several passes over parts of an hour kept: as far
// as all of them go.
func unite(passes []*pass, backward bool) passed {
	if len(passes) == 1 {
		entries, complete := passes[0].best.take()
		return passed{entries: entries, complete: complete}
	}
	var all passed
	var bound *logs.Place
	order := best{backward: backward}
	for _, p := range passes {
		if b := p.best.bound; b != nil && (bound == nil || order.comes(*b, *bound)) {
			bound = b
		}
		all.entries = append(all.entries, p.best.heap...)
	}
	slices.SortFunc(all.entries, func(a, c logs.Entry) int {
		switch p, q := logs.PlaceOf(&a), logs.PlaceOf(&c); {
		case order.comes(p, q):
			return -1
		case order.comes(q, p):
			return 1
		}
		return 0
	})
	if bound != nil {
		end, _ := slices.BinarySearchFunc(all.entries, *bound, func(e logs.Entry, at logs.Place) int {
			if order.comes(logs.PlaceOf(&e), at) {
				return -1
			}
			return 1
		})
		all.entries = all.entries[:end]
	}
	all.complete = bound == nil
	return all
}

// part is a part of a bucket: some of its instances, or the whole.
type part struct {
	bucket
	whole bool
	names [][]byte // the instances', as their chunks' keys begin, in order
}

// mostSearchers bounds on how many processors one search may be at once, and
// with them its memory.
const mostSearchers = 4

// parts are what must be searched of an hour, for as many searchers.
func (s *Store) parts(ctx context.Context, r *reading, h hour) ([][]part, error) {
	var all []part
	total := 0
	for _, b := range h.classes {
		if s.plain[b] {
			all = append(all, part{bucket: b, whole: true})
			total++
			continue
		}
		lower := lettersKey(b, r.prefix)
		it, err := r.view.NewIterWithContext(ctx, &lsm.IterOptions{LowerBound: lower, UpperBound: behind(lower)})
		if err != nil {
			return nil, err
		}
		names, err := candidates(it, r.letters)
		if err := errors.Join(err, it.Close()); err != nil {
			return nil, err
		}
		if len(names) > 0 {
			all = append(all, part{bucket: b, names: names})
			total += len(names)
		}
	}
	each := max(4, (total+searchers()-1)/searchers())
	var split [][]part
	for room := 0; len(all) > 0; {
		if room == 0 {
			split, room = append(split, nil), each
		}
		last := &split[len(split)-1]
		at := all[0]
		if n := min(room, len(at.names)); !at.whole && n < len(at.names) {
			all[0].names = at.names[n:]
			at.names = at.names[:n]
		} else {
			all = all[1:]
		}
		room -= max(1, len(at.names))
		*last = append(*last, at)
	}
	return split, nil
}

func searchers() int { return min(runtime.GOMAXPROCS(0), mostSearchers) }

// pass is one pass over an hour.
type pass struct {
	*reading
	ctx      context.Context //nolint:containedctx // a pass is one call
	cursor   *spot
	from, to int64 // microseconds, [from, to)
	best     best
	it       *lsm.Iterator
	instance []byte // the names of the instance that the iterator is at
	seek     []byte
	lines    []logs.Line
	origin   logs.Origin // of the last line that was found
	seen     int
}

func (p *pass) part(of part) (err error) {
	p.from, p.to = p.within(p.cursor)
	if p.expired != 0 {
		p.from = max(p.from, p.expired-24*perHour*int64(of.days)+1)
	}
	lower := append(of.key(), p.prefix...)
	p.it, err = p.view.NewIterWithContext(p.ctx, &lsm.IterOptions{LowerBound: lower, UpperBound: behind(lower)})
	if err != nil {
		return err
	}
	defer func() {
		if e := p.it.Close(); err == nil {
			err = e
		}
	}()
	p.instance = p.instance[:0]
	if of.whole {
		if p.q.Backward {
			return p.walk(p.it.Last(), nil)
		}
		return p.walk(p.it.First(), nil)
	}
	for _, names := range of.names {
		if p.q.Backward {
			err = p.walk(p.it.SeekLT(behind(names)), names)
		} else {
			err = p.walk(p.it.SeekGE(names), names)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// walk goes from the chunk that the iterator is at, if ok, to the end: of the
// instance that is named, or of all.
func (p *pass) walk(ok bool, names []byte) error {
	move := p.forward
	if p.q.Backward {
		move = p.backward
	}
	for ok {
		if p.seen++; p.seen%64 == 0 {
			if err := p.ctx.Err(); err != nil {
				return err
			}
		}
		k, err := parseChunkKey(p.it.Key())
		if err != nil {
			return err
		}
		if names != nil && !bytes.Equal(k.names, names) {
			return nil
		}
		if ok, err = move(&k); err != nil {
			return err
		}
	}
	return p.it.Error()
}

// skip tells up to where in the names of a new instance they must be passed
// over; 0: not at all.
func (p *pass) skip(k *chunkKey) int {
	if p.owner != "" && string(k.name(2)) != p.owner {
		return k.parts[2]
	}
	if p.q.InstanceID != "" && string(k.name(3)) != p.q.InstanceID {
		return k.parts[3]
	}
	return 0
}

// forward deals with the chunk that the iterator is at and moves it on.
func (p *pass) forward(k *chunkKey) (bool, error) {
	if !bytes.Equal(k.names, p.instance) {
		p.instance = append(p.instance[:0], k.names...)
		if n := p.skip(k); n > 0 {
			return p.it.SeekGE(behind(p.instance[:n])), nil
		}
		if k.micro < p.from {
			// The last chunk that begins before: the end of it may be wanted.
			p.seek = place(append(p.seek[:0], p.instance...), p.from, logs.Position{})
			return p.it.SeekLT(p.seek), nil
		}
	}
	if k.micro >= p.to || p.best.closed(k.micro) {
		return p.it.SeekGE(behind(p.instance)), nil
	}
	if err := p.examine(k); err != nil {
		return false, err
	}
	return p.it.Next(), nil
}

// backward does so against the order.
func (p *pass) backward(k *chunkKey) (bool, error) {
	if !bytes.Equal(k.names, p.instance) {
		p.instance = append(p.instance[:0], k.names...)
		if n := p.skip(k); n > 0 {
			return p.it.SeekLT(p.instance[:n]), nil
		}
		if k.micro >= p.to {
			p.seek = place(append(p.seek[:0], p.instance...), p.to, logs.Position{})
			return p.it.SeekLT(p.seek), nil
		}
	}
	if err := p.examine(k); err != nil {
		return false, err
	}
	// All earlier chunks end before this one begins.
	if k.micro < p.from || p.best.closed(k.micro) {
		return p.it.SeekLT(p.instance), nil
	}
	return p.it.Prev(), nil
}

// examine offers the chunk's lines.
func (p *pass) examine(k *chunkKey) error {
	value, err := p.it.ValueAndErr()
	if err != nil {
		return err
	}
	c, err := open(value)
	if err != nil {
		return err
	}
	is := func(want string, have []byte) bool { return want == "" || want == string(have) }
	if end := k.micro + c.span; end < p.from || p.q.Backward && p.best.closed(end) ||
		!is(p.q.VersionID, c.version) || !is(p.q.HostID, c.host) || !is(p.q.WorkspaceID, c.workspace) || !p.may(c.texts) {
		return nil
	}
	if p.lines, err = c.lines(p.lines, k.micro); err != nil {
		return err
	}
	for i := range p.lines {
		l := &p.lines[i]
		micro := l.Time.UnixMicro()
		if micro < p.from || micro >= p.to || !p.may(l.Text) || !p.q.Holds(l) {
			continue
		}
		p.of(k, &c)
		e := logs.Entry{Line: *l, Origin: p.origin, Position: logs.Position{Epoch: k.first.Epoch, Seq: k.first.Seq + uint64(i)}}
		if p.cursor == nil || p.past(&e, micro) {
			p.best.offer(&e)
		}
	}
	return nil
}

// may reports whether the text may hold all that is searched.
func (p *pass) may(text []byte) bool {
	for i := range p.needles {
		if !p.needles[i].in(text) {
			return false
		}
	}
	return true
}

// of makes the origin that of the chunk. Most chunks have the strings of the
// one before.
func (p *pass) of(k *chunkKey, c *chunk) {
	set := func(s *string, b []byte) {
		if *s != string(b) {
			*s = string(b)
		}
	}
	o := &p.origin
	set(&o.TenantID, k.name(0))
	set(&o.DeploymentID, k.name(1))
	service, task := owned(k.name(2))
	set(&o.ServiceID, service)
	set(&o.TaskID, task)
	set(&o.InstanceID, k.name(3))
	set(&o.VersionID, c.version)
	set(&o.HostID, c.host)
	set(&o.WorkspaceID, c.workspace)
}

// past reports whether a line is behind the cursor, in the direction of
// reading.
func (p *pass) past(e *logs.Entry, micro int64) bool {
	if micro != p.cursor.micro {
		return (micro > p.cursor.micro) != p.q.Backward
	}
	if p.cursor.behind {
		return p.q.Backward
	}
	at := logs.Place{Time: e.Time, InstanceID: p.cursor.instance, Position: p.cursor.position}
	if p.q.Backward {
		return logs.PlaceOf(e).Before(at)
	}
	return at.Before(logs.PlaceOf(e))
}

// best keeps the lines that come first in the direction of reading: a heap
// whose top comes last. What it has once turned down bounds it from then on, so
// that it has no gap.
type best struct {
	backward bool
	limit    int
	bytes    int
	heap     []logs.Entry
	bound    *logs.Place // all from here on is left for the next pass
	micro    int64       // its time
}

// comes reports whether a comes before b in the direction of reading.
func (b *best) comes(a, c logs.Place) bool {
	if b.backward {
		return c.Before(a)
	}
	return a.Before(c)
}

// closed reports whether lines of that time, and all behind, are of no use.
func (b *best) closed(micro int64) bool {
	if b.bound == nil {
		return false
	}
	if b.backward {
		return micro < b.micro
	}
	return micro > b.micro
}

func (b *best) offer(e *logs.Entry) {
	at := logs.PlaceOf(e)
	if b.bound != nil && !b.comes(at, *b.bound) {
		return
	}
	own := *e
	own.Text = append(make([]byte, 0, len(e.Text)), e.Text...)
	b.heap = append(b.heap, own)
	b.bytes += len(own.Text)
	b.up(len(b.heap) - 1)
	for len(b.heap) > 1 && (len(b.heap) > b.limit || b.bytes > passBytes) {
		top := b.pop()
		at := logs.PlaceOf(&top)
		b.bound, b.micro = &at, at.Time.UnixMicro()
	}
}

func (b *best) after(i, j int) bool {
	return b.comes(logs.PlaceOf(&b.heap[j]), logs.PlaceOf(&b.heap[i]))
}

func (b *best) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !b.after(i, parent) {
			return
		}
		b.heap[i], b.heap[parent] = b.heap[parent], b.heap[i]
		i = parent
	}
}

// pop takes the line that comes last.
func (b *best) pop() logs.Entry {
	top := b.heap[0]
	n := len(b.heap) - 1
	b.heap[0] = b.heap[n]
	b.heap[n] = logs.Entry{}
	b.heap = b.heap[:n]
	b.bytes -= len(top.Text)
	for i := 0; ; {
		child := 2*i + 1
		if child >= n {
			break
		}
		if child+1 < n && b.after(child+1, child) {
			child++
		}
		if !b.after(child, i) {
			break
		}
		b.heap[i], b.heap[child] = b.heap[child], b.heap[i]
		i = child
	}
	return top
}

// take is all that was kept, in the order of reading, and whether nothing had
// to be turned down.
func (b *best) take() ([]logs.Entry, bool) {
	sorted := make([]logs.Entry, len(b.heap))
	for i := len(sorted) - 1; i >= 0; i-- {
		sorted[i] = b.pop()
	}
	return sorted, b.bound == nil
}
