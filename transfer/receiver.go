package transfer

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// ackEvery is after how many bytes of a file the receiver writes down how far it
// is, and says so.
const ackEvery = 1 << 20

// receiver puts entries where they belong. It believes nothing: names are checked
// and come in order, each in a directory that this transfer has gone into and that
// was no link then, and all is done below the destination's root.
type receiver struct {
	*stream
	*destination
	o      Options
	keep   fs.FileMode // the bits of a mode
	owners bool        // are kept, too
	began  Place       // where this attempt did
	last   Name        // that came
	dirs   []entry     // that it is in, the innermost last
	now    *incoming   // that is being received
	part   string      // what may lie about of a file; "": nothing
	meter  meter
	got    done // in this attempt, and what the sender noted
}

// incoming is a file that has not got its name.
type incoming struct {
	entry
	*os.File
	sum   hash.Hash
	at    int64
	acked int64
	hole  bool // ends in one, which the file is not as long as yet
}

func newReceiver(s *stream, path string, name Name, o Options) (*receiver, error) {
	r := &receiver{stream: s, o: o, keep: fs.ModePerm | fs.ModeSticky, meter: meter{report: o.Progress}}
	r.o.MaxBytes, r.o.MaxEntries = cmp.Or(o.MaxBytes, DefaultMaxBytes), cmp.Or(o.MaxEntries, DefaultMaxEntries)
	r.owners = o.KeepOwner && os.Geteuid() == 0
	if o.KeepSetID {
		r.keep |= fs.ModeSetuid | fs.ModeSetgid
	}
	if name != "" {
		if err := name.check(); err != nil || len(name.parts()) != 1 {
			return r, fmt.Errorf("%q is no name for what is copied", name)
		}
	}
	d, err := openDestination(s.ctx, path, o.ID, name)
	if err != nil {
		return r, err
	}
	r.destination, r.began = d, d.saved.Place
	r.meter.Entries, r.meter.Bytes = d.saved.Entries, d.saved.Bytes
	if p := &r.began; p.Path != "" && !p.Whole {
		r.part = d.partOf(p.Path)
		if info, err := d.root.Lstat(r.part); err != nil || !info.Mode().IsRegular() || info.Size() < p.Offset {
			p.Offset = 0
		}
	}
	return r, nil
}

// run takes what comes until that was all.
func (r *receiver) run() error {
	for {
		got, err := r.next()
		switch {
		case err != nil:
		case got.piece != nil && r.now != nil:
			err = r.append(got.piece)
		case got.End != nil && r.now != nil:
			err = r.complete(got.End.SHA256)
		case got.Entry != nil && r.now == nil:
			err = r.enter(*got.Entry)
		case got.Done != nil && r.now == nil:
			return r.finish(*got.Done)
		default:
			err = errOutOfTurn
		}
		if err != nil {
			return err
		}
	}
}

// finish is done once the sender knows that all has arrived: until then it may ask
// again.
func (r *receiver) finish(d done) error {
	if d.Entries != r.got.Entries || d.Bytes != r.got.Bytes {
		return fmt.Errorf("%d entries and %d bytes have arrived, but the other end sent %d and %d",
			r.got.Entries, r.got.Bytes, d.Entries, d.Bytes)
	}
	r.got.Skipped, r.got.Changed = d.Skipped.bounded(), d.Changed.bounded()
	r.clear()
	if err := r.leave(""); err != nil {
		return err
	}
	if err := r.put(message{Finished: &finished{Entries: r.meter.Entries, Bytes: r.meter.Bytes}}, nil); err != nil {
		return err
	}
	got, err := r.next()
	if err == nil && !got.Bye {
		err = errOutOfTurn
	}
	return err
}

// end ends it, well or not. What may be gone on with stays, and only that.
func (r *receiver) end(err error) (Result, error) {
	if r.destination != nil {
		b, broken := errors.AsType[*BrokenError](err)
		resumable := (broken || err != nil && r.ctx.Err() != nil) && r.record != nil
		if r.now != nil {
			resumable = resumable && r.settle() == nil
			_ = r.now.Close()
		}
		if broken {
			b.Place = r.saved.Place
		}
		if !resumable {
			r.clear()
			err = errors.Join(err, r.forget())
		}
		r.destination.close()
	}
	if err == nil {
		r.meter.tell(".", true)
	}
	return Result{Entries: r.meter.Entries, Bytes: r.meter.Bytes, Skipped: r.got.Skipped, Changed: r.got.Changed}, r.stream.end(err)
}

// clear removes what lies about of a file.
func (r *receiver) clear() {
	if r.part != "" {
		_ = r.root.Remove(r.part)
	}
	r.part = ""
}

// enter begins an entry; for all but files that is all there is to it.
func (r *receiver) enter(e entry) error {
	if err := r.allow(e); err != nil {
		return err
	}
	r.last = e.Name
	if r.isNew(e) && e.Name != r.began.Path {
		r.clear() // the file that an earlier attempt was at has vanished
	}
	if err := r.leave(e.Name); err != nil {
		return err
	}
	if n := len(r.dirs); e.Name != "." && (n == 0 || r.dirs[n-1].Name != e.Name.dir()) {
		return fmt.Errorf("%q does not come in the directory that it lies in", e.Name)
	}
	target := r.path(e.Name)
	there, err := r.root.Lstat(target)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return about("look at", target, err)
	}
	if e.Mode.IsDir() {
		return r.directory(e, target, there)
	}
	if err := replaceable(target, there); err != nil {
		return err
	}
	switch {
	case e.Name == "." && r.dir:
		return fmt.Errorf("%q is to be a directory, but what comes is none", target)
	case e.Mode.Type() == fs.ModeSymlink:
		return r.symlink(e, target)
	case e.Link != "":
		return r.link(e, target, there)
	}
	return r.open(e)
}

// allow is an error for an entry that no sender of ours would send now.
func (r *receiver) allow(e entry) error {
	if err := e.Name.check(); err != nil {
		return err
	}
	kind := e.Mode.Type()
	switch {
	case r.last != "" && e.Name.compare(r.last) <= 0, !r.isNew(e) && kind != fs.ModeDir:
		return fmt.Errorf("%q comes out of order", e.Name)
	case strings.Contains(string(e.Name), r.own):
		return fmt.Errorf("%q has a name that the transfer itself needs", e.Name)
	case kind != 0 && kind != fs.ModeDir && kind != fs.ModeSymlink:
		return fmt.Errorf("%q is neither a file nor a directory nor a link", e.Name)
	case kind == fs.ModeSymlink && (e.Target == "" || len(e.Target) > maxName || strings.ContainsRune(string(e.Target), 0)):
		return fmt.Errorf("%q is a link to what can't be a path", e.Name)
	case e.Size < 0 || e.Offset < 0 || e.Offset > e.Size:
		return fmt.Errorf("%q is said to begin at byte %d of %d", e.Name, e.Offset, e.Size)
	}
	if r.isNew(e) {
		r.got.Entries++
		r.meter.Entries++
	}
	if r.meter.Entries > r.o.MaxEntries {
		return fmt.Errorf("there are more than %d entries, which is the limit", r.o.MaxEntries)
	}
	r.meter.tell(e.Name, false)
	return nil
}

// isNew tells whether no earlier attempt came to an entry's end.
func (r *receiver) isNew(e entry) bool { return !r.began.covers(e.Name) }

// replaceable is an error if no file or link may take the place of what is there.
func replaceable(target string, there fs.FileInfo) error {
	switch {
	case there == nil || there.Mode().IsRegular() || there.Mode().Type() == fs.ModeSymlink:
		return nil
	case there.IsDir():
		return fmt.Errorf("%q is a directory already, and a file or link is to go there", target)
	}
	return fmt.Errorf("%q is there already, and is neither a file nor a link", target)
}

// directory goes into one.
func (r *receiver) directory(e entry, target string, there fs.FileInfo) error {
	var err error
	switch {
	case there == nil:
		err = r.root.Mkdir(target, 0o700)
	case there.Mode().Type() == fs.ModeSymlink:
		return fmt.Errorf("%q is a symbolic link already, which is not followed, and a directory is to go there", target)
	case !there.IsDir():
		return fmt.Errorf("%q is no directory, and one is to go there", target)
	case target != "." && there.Mode()&0o700 != 0o700:
		err = r.root.Chmod(target, there.Mode()|0o700) // until it is left
	}
	if err != nil {
		return about("make the directory", target, err)
	}
	r.dirs = append(r.dirs, e)
	return r.has(e)
}

// leave leaves the directories that the next entry does not lie in; "": all. Only
// now they get their modes and times: writing into them needs the one and changes
// the other.
func (r *receiver) leave(next Name) error {
	for n := len(r.dirs) - 1; n >= 0 && (next == "" || !r.dirs[n].Name.above(next)); n-- {
		e := r.dirs[n]
		r.dirs = r.dirs[:n]
		if target := r.path(e.Name); target != "." { // else it was there before, and is not what was copied
			if err := r.dress(e, target); err != nil {
				return err
			}
		}
	}
	return nil
}

// dress gives a file or directory its owner, mode and time. With a new owner the
// kernel takes setuid away, so that comes first.
func (r *receiver) dress(e entry, target string) error {
	err := r.chown(e, target)
	if err == nil {
		err = r.root.Chmod(target, e.Mode&r.keep)
	}
	if err == nil {
		err = r.root.Chtimes(target, time.Time{}, time.Unix(0, e.MTime))
	}
	if err != nil {
		return about("set the mode and time of", target, err)
	}
	return nil
}

func (r *receiver) chown(e entry, target string) error {
	if !r.owners {
		return nil
	}
	return r.root.Lchown(target, int(e.UID), int(e.GID))
}

// prepare makes way for an entry's part.
func (r *receiver) prepare(e entry) error {
	r.saved.Place = Place{Path: e.Name, Size: e.Size, MTime: e.MTime}
	if err := r.save(); err != nil {
		return err
	}
	r.part = r.partOf(e.Name)
	if err := r.root.Remove(r.part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return about("remove", r.part, err)
	}
	return nil
}

// name gives a part its name.
func (r *receiver) name(e entry, target string) error {
	if err := r.root.Rename(r.part, target); err != nil {
		return about("make", target, err)
	}
	r.part = ""
	return r.has(e)
}

// has writes down that an entry is there, and says so.
func (r *receiver) has(e entry) error {
	if !r.isNew(e) {
		return nil
	}
	r.saved.Place = Place{Path: e.Name, Whole: true}
	r.saved.Entries, r.saved.Bytes = r.meter.Entries, r.meter.Bytes
	return r.ack()
}

func (r *receiver) ack() error {
	if err := r.save(); err != nil {
		return err
	}
	return r.put(message{Ack: new(r.saved.Place)}, nil)
}

func (r *receiver) symlink(e entry, target string) error {
	if err := r.prepare(e); err != nil {
		return err
	}
	err := r.root.Symlink(string(e.Target), r.part)
	if err == nil {
		err = r.chown(e, r.part)
	}
	if err != nil {
		return about("make the link", target, err)
	}
	return r.name(e, target)
}

// link makes a hard link to what came before. After a cut nobody remembers what did:
// so it is told by its place in the order, its size and its time.
func (r *receiver) link(e entry, target string, there fs.FileInfo) error {
	if err := e.Link.check(); err != nil {
		return err
	}
	refused := fmt.Errorf("%q is a hard link to %q, which did not come before it or has changed since", e.Name, e.Link)
	first := r.path(e.Link)
	info, err := r.root.Lstat(first)
	// Not every file system has nanoseconds.
	if err != nil || e.Link.compare(e.Name) >= 0 || !info.Mode().IsRegular() ||
		info.Size() != e.Size || time.Unix(0, e.MTime).Sub(info.ModTime()).Abs() >= 2*time.Second {
		return refused
	}
	for dir := e.Link.dir(); dir != "."; dir = dir.dir() {
		if above, err := r.root.Lstat(r.path(dir)); err != nil || !above.IsDir() {
			return refused
		}
	}
	if there != nil && os.SameFile(there, info) {
		return r.has(e) // renaming one to the other would do nothing
	}
	if err := r.prepare(e); err != nil {
		return err
	}
	if err := r.root.Link(first, r.part); err != nil {
		return about("make the hard link", target, err)
	}
	if part, err := r.root.Lstat(r.part); err != nil || !os.SameFile(part, info) {
		return refused
	}
	return r.name(e, target)
}

// open begins a file, or goes on with it.
func (r *receiver) open(e entry) (err error) {
	if e.Size > r.o.MaxBytes-r.meter.Bytes {
		return fmt.Errorf("with the %d bytes of %q there are more than %d, which is the limit", e.Size, e.Name, r.o.MaxBytes)
	}
	if e.Name == "." {
		r.meter.Total = e.Size
	}
	f := &incoming{entry: e, sum: sha256.New(), at: e.Offset, acked: e.Offset}
	if e.Offset > 0 {
		if (Place{Path: e.Name, Offset: e.Offset, Size: e.Size, MTime: e.MTime}) != r.began {
			return fmt.Errorf("%q does not go on where it ended", e.Name)
		}
		f.File, err = r.root.OpenFile(r.part, os.O_RDWR, 0)
	} else if err = r.prepare(e); err != nil {
		return err
	} else {
		f.File, err = r.root.OpenFile(r.part, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	}
	if err != nil {
		return about("write", r.path(e.Name), err)
	}
	r.now = f
	if e.Offset == 0 {
		return nil
	}
	if _, err = io.Copy(f.sum, &reading{r.ctx, io.NewSectionReader(f, 0, e.Offset)}); err == nil {
		err = f.Truncate(e.Offset)
	}
	if err != nil {
		return about("go on with", r.path(e.Name), err)
	}
	r.meter.Bytes += e.Offset
	return nil
}

var zeros [maxPiece]byte

// append writes the next piece of a file; one of zeros is left out.
func (r *receiver) append(piece []byte) error {
	f := r.now
	if int64(len(piece)) > f.Size-f.at {
		return fmt.Errorf("%q has more than the %d bytes that it was said to have", f.entry.Name, f.Size)
	}
	_, _ = f.sum.Write(piece)
	if f.hole = bytes.Equal(piece, zeros[:len(piece)]); !f.hole {
		if _, err := f.WriteAt(piece, f.at); err != nil {
			return about("write", r.path(f.entry.Name), err)
		}
	}
	f.at += int64(len(piece))
	r.got.Bytes += int64(len(piece))
	r.meter.Bytes += int64(len(piece))
	r.meter.tell(f.entry.Name, false)
	if f.at-f.acked < ackEvery {
		return nil
	}
	f.acked = f.at
	if err := r.settle(); err != nil {
		return err
	}
	return r.put(message{Ack: new(r.saved.Place)}, nil)
}

// settle makes all that has come of a file something to go on with.
func (r *receiver) settle() error {
	f := r.now
	if f.hole {
		if err := f.Truncate(f.at); err != nil {
			return about("write", r.path(f.entry.Name), err)
		}
		f.hole = false
	}
	r.saved.Place = Place{Path: f.entry.Name, Offset: f.at, Size: f.Size, MTime: f.MTime}
	return r.save()
}

// complete ends a file, and gives it its name if it is what the sender read.
func (r *receiver) complete(sum []byte) error {
	f, target := r.now, r.path(r.now.entry.Name)
	if err := r.settle(); err != nil {
		return err
	}
	if !bytes.Equal(f.sum.Sum(nil), sum) {
		return fmt.Errorf("%q did not arrive as it was read: it, or what was here of it, has changed meanwhile", f.entry.Name)
	}
	r.now = nil
	if err := f.Close(); err != nil { // some file systems are full only now
		return about("write", target, err)
	}
	if err := r.dress(f.entry, r.part); err != nil {
		return err
	}
	return r.name(f.entry, target)
}
