package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

const (
	// maxLinked bounds what is remembered of files with several names, in bytes;
	// those beyond it are sent once for each name.
	maxLinked = 16 << 20
	// maxListed bounds the names of the directories that the walk is in, in bytes.
	maxListed = 64 << 20
	nameCost  = 64 // of remembering one, besides its bytes
)

// sender walks a source. What it reads is looked up below root, so that a link that
// takes a directory's place meanwhile leads to nothing outside.
type sender struct {
	*stream
	root   *os.Root
	base   Name  // of what is sent, from the root
	from   Place // that the receiver began at
	acked  Place
	linked map[inode]entry
	cost   int // of linked
	listed int
	meter  meter
	done   done
	finish *finished // the receiver's last word
	buf    []byte
}

func newSender(s *stream, source string, o Options) (*sender, error) {
	w := &sender{stream: s, linked: map[inode]entry{}, meter: meter{report: o.Progress}, buf: make([]byte, maxPiece)}
	info, err := os.Lstat(source)
	if err != nil {
		return w, err
	}
	if t := info.Mode().Type(); t&^(fs.ModeDir|fs.ModeSymlink) != 0 {
		return w, fmt.Errorf("%q is neither a file nor a directory nor a link", source)
	}
	in := source
	if w.base = "."; !info.IsDir() {
		in, w.base = filepath.Dir(source), Name(filepath.Base(source))
	}
	if w.root, err = os.OpenRoot(in); err != nil {
		return w, err
	}
	if now, err := w.root.Lstat(string(w.base)); err != nil || !is(now, info) {
		return w, fmt.Errorf("%q became something else while it was opened", source)
	}
	return w, nil
}

// run sends all that is behind the receiver's place.
func (w *sender) run(from Place) error {
	w.from, w.acked = from, from
	if err := w.walk("."); err != nil {
		return err
	}
	if err := w.put(message{Done: &w.done}, w.hear); err != nil {
		return err
	}
	for w.finish == nil {
		got, err := w.next()
		if err == nil {
			err = w.hear(got)
		}
		if err != nil {
			return err
		}
	}
	w.last(message{Bye: true})
	return nil
}

// end ends it, well or not.
func (w *sender) end(err error) (Result, error) {
	if w.root != nil {
		_ = w.root.Close()
	}
	if b, ok := errors.AsType[*BrokenError](err); ok {
		b.Place = w.acked
	}
	r := Result{Entries: w.meter.Entries, Bytes: w.meter.Bytes, Skipped: w.done.Skipped, Changed: w.done.Changed}
	if err == nil {
		r.Entries, r.Bytes = w.finish.Entries, w.finish.Bytes
		w.meter.tell(".", true)
	}
	return r, w.stream.end(err)
}

// hear takes what the receiver says while we send.
func (w *sender) hear(got received) error {
	switch {
	case got.Ack != nil:
		w.acked = *got.Ack
	case got.Finished != nil:
		w.finish = got.Finished
	default:
		return errOutOfTurn
	}
	return nil
}

// path is where an entry lies.
func (w *sender) path(name Name) string { return string(w.base.join(string(name))) }

// walk sends an entry, and all below it.
func (w *sender) walk(name Name) error {
	if err := w.ctx.Err(); err != nil {
		return context.Cause(w.ctx)
	}
	if err := name.check(); err != nil {
		return err
	}
	info, err := w.root.Lstat(w.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		w.done.Changed.add(name)
		return nil
	}
	if err != nil {
		return about("read", string(name), err)
	}
	e := entry{Name: name, Mode: info.Mode(), MTime: info.ModTime().UnixNano()}
	_, _, e.UID, e.GID = identity(info)
	switch info.Mode().Type() {
	case 0:
		return w.file(e, info)
	case fs.ModeDir:
		return w.directory(e, info)
	case fs.ModeSymlink:
		target, err := w.root.Readlink(w.path(name))
		if err != nil {
			return about("read the link", string(name), err)
		}
		if len(target) > maxName {
			return fmt.Errorf("the link %q has a target of %d bytes; at most %d are copied", name, len(target), maxName)
		}
		e.Target = Name(target)
		return w.entry(e)
	}
	w.done.Skipped.add(name)
	return nil
}

// entry sends one, unless the receiver has it. The directories that the receiver is
// in come again: it gives them their mode and time when it leaves them.
func (w *sender) entry(e entry) error {
	behind := w.from.covers(e.Name)
	if w.meter.Entries++; behind && (!e.Mode.IsDir() || !e.Name.above(w.from.Path)) {
		return nil
	}
	if !behind {
		w.done.Entries++
	}
	w.meter.tell(e.Name, false)
	return w.put(message{Entry: &e}, w.hear)
}

func (w *sender) directory(e entry, info fs.FileInfo) error {
	f, err := w.openAs(e.Name, info)
	if f == nil {
		return err
	}
	names, cost, err := w.list(f)
	_ = f.Close()
	if err != nil {
		return about("read the directory", string(e.Name), err)
	}
	if err := w.entry(e); err != nil {
		return err
	}
	for _, n := range names {
		if err := w.walk(e.Name.join(n)); err != nil {
			return err
		}
	}
	w.listed -= cost
	return nil
}

func (w *sender) list(f *os.File) (names []string, cost int, err error) {
	for {
		more, err := f.Readdirnames(1024)
		for _, n := range more {
			cost += len(n) + nameCost
		}
		if names = append(names, more...); w.listed+cost > maxListed {
			return nil, 0, fmt.Errorf("with it there are more names to remember than the %d MiB that they may take", maxListed>>20)
		}
		if err == io.EOF {
			w.listed += cost
			slices.Sort(names)
			return names, cost, nil
		}
		if err != nil {
			return nil, 0, err
		}
	}
}

// is tells a thing from what took its place, which may have got its inode.
func is(now, before fs.FileInfo) bool {
	return os.SameFile(now, before) && now.Mode().Type() == before.Mode().Type()
}

// openAs opens what info is of. If something else lies there now, there is no file,
// and no error.
func (w *sender) openAs(name Name, info fs.FileInfo) (*os.File, error) {
	f, err := w.root.OpenFile(w.path(name), openFlags, 0)
	if err == nil {
		if now, err := f.Stat(); err == nil && is(now, info) {
			return f, nil
		}
		_ = f.Close()
	} else if now, gone := w.root.Lstat(w.path(name)); gone == nil && is(now, info) {
		return nil, about("read", string(name), err)
	}
	w.done.Changed.add(name)
	return nil, nil //nolint:nilnil // as it says
}

// file sends a regular file, or what other name it has been sent under.
func (w *sender) file(e entry, info fs.FileInfo) error {
	e.Size = info.Size()
	id, links, _, _ := identity(info)
	if links > 1 {
		if first, ok := w.linked[id]; ok {
			e.Link, e.Size, e.MTime = first.Name, first.Size, first.MTime
			return w.entry(e)
		}
		if cost := len(e.Name) + nameCost; w.cost+cost <= maxLinked {
			w.linked[id], w.cost = e, w.cost+cost
		}
	}
	if w.from.covers(e.Name) {
		w.meter.Bytes += e.Size
		return w.entry(e)
	}
	f, err := w.openAs(e.Name, info)
	if f == nil {
		delete(w.linked, id)
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if err := w.goOn(&e, f, sum); err != nil {
		return err
	}
	if e.Name == "." {
		w.meter.Total = e.Size
	}
	if err := w.entry(e); err != nil {
		return err
	}
	at, err := w.content(e, f, sum)
	if err != nil {
		return err
	}
	if first, ok := w.linked[id]; ok {
		first.Size = at // that the receiver has
		w.linked[id] = first
	}
	if now, err := f.Stat(); err != nil || at != e.Size || now.Size() != e.Size || now.ModTime().UnixNano() != e.MTime {
		w.done.Changed.add(e.Name)
	}
	return w.put(message{End: &end{SHA256: sum.Sum(nil)}}, w.hear)
}

// goOn brings a file to the place that the receiver is at, if it is the file that
// the receiver has a part of.
func (w *sender) goOn(e *entry, f *os.File, sum hash.Hash) error {
	p := w.from
	if p.Path != e.Name || p.Size != e.Size || p.MTime != e.MTime || p.Offset <= 0 {
		return nil
	}
	n, err := io.CopyBuffer(sum, &reading{w.ctx, io.LimitReader(f, p.Offset)}, w.buf)
	if err != nil {
		return about("read", string(e.Name), err)
	}
	if n == p.Offset {
		e.Offset = n
		w.meter.Bytes += n
		return nil
	}
	sum.Reset()
	_, err = f.Seek(0, io.SeekStart)
	return err
}

// reading ends with its context.
type reading struct {
	ctx context.Context // of the one call
	r   io.Reader
}

func (r *reading) Read(b []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(b)
}

// content sends a file from its offset on, and tells where it ended: before what
// the entry promised if it has become shorter.
func (w *sender) content(e entry, f *os.File, sum hash.Hash) (at int64, err error) {
	for at = e.Offset; at < e.Size; {
		n, err := f.Read(w.buf[:min(maxPiece, e.Size-at)])
		if n > 0 {
			_, _ = sum.Write(w.buf[:n])
			at += int64(n)
			w.done.Bytes += int64(n)
			w.meter.Bytes += int64(n)
			w.meter.tell(e.Name, false)
			if err := w.putFrame(append(frameHeader(kindPiece, n), w.buf[:n]...), w.hear); err != nil {
				return at, err
			}
		}
		if err == io.EOF {
			return at, nil
		}
		if err != nil {
			return at, about("read", string(e.Name), err)
		}
	}
	return at, nil
}
