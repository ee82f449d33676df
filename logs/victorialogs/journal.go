package victorialogs

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
)

// journal is the file that the state lies in: frames of a length, a CRC-32C
// and a record as JSON, appended and synced. When it has grown well beyond
// what the state needs it is written anew beside itself, and renamed.
type journal struct {
	dir    string
	lock   *os.File
	file   *os.File
	size   int64
	full   int64 // its size just after it was last written anew
	broken error // why nothing can be appended any more
}

const (
	journalName = "journal"
	frameHead   = 8
	maxFrame    = 256 << 20
	// slack is what the journal may grow by before it is written anew, beside
	// its own size again.
	slack = 8 << 20
)

// openJournal loads the state; the directory is this process's until close.
func openJournal(dir string) (*journal, *state, error) {
	if err := disk.MakeDir(dir, 0o700); err != nil {
		return nil, nil, diskError("make the state directory", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, diskError("open the lock", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, nil, miosa.Wrap(err, miosa.Conflict, "logs: the state directory %s is in use", dir)
	}
	j := &journal{dir: dir, lock: lock}
	s := newState()
	err = j.load(s)
	if err == nil {
		err = disk.Sweep(dir)
	}
	if err != nil {
		j.close()
		return nil, nil, err
	}
	return j, s, nil
}

func (j *journal) path() string { return filepath.Join(j.dir, journalName) }

func (j *journal) close() error {
	var err error
	if j.file != nil {
		err = j.file.Close()
	}
	j.broken = os.ErrClosed
	return errors.Join(err, j.lock.Close())
}

// load reads the journal into s and cuts off what a crash left half written
// at its end: it was never acknowledged. Damage before the end is an error.
func (j *journal) load(s *state) error {
	f, err := os.OpenFile(j.path(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return diskError("open the journal", err)
	}
	j.file = f
	// What is appended lasts only if the journal's name does.
	if err := disk.SyncDir(j.dir); err != nil {
		return diskError("sync the state directory", err)
	}
	info, err := f.Stat()
	if err != nil {
		return diskError("open the journal", err)
	}
	in := bufio.NewReaderSize(f, 1<<20)
	for j.size < info.Size() {
		r, n, err := readFrame(in, info.Size()-j.size)
		if errors.Is(err, errTorn) {
			break
		}
		if err != nil {
			return miosa.Wrap(err, miosa.Internal, "logs: the journal %s is damaged at byte %d", j.path(), j.size)
		}
		s.apply(r)
		j.size += n
	}
	if j.size < info.Size() {
		if err := f.Truncate(j.size); err != nil {
			return diskError("cut the journal's end", err)
		}
	}
	j.full = j.size
	return nil
}

// errTorn is a frame that was not written to its end.
var errTorn = errors.New("the frame is incomplete")

func readFrame(in *bufio.Reader, left int64) (record, int64, error) {
	var head [frameHead]byte
	if left < frameHead {
		return record{}, 0, errTorn
	}
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return record{}, 0, err
	}
	size := int64(binary.LittleEndian.Uint32(head[:4]))
	if size > left-frameHead {
		return record{}, 0, errTorn
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(in, body); err != nil {
		return record{}, 0, err
	}
	if size == 0 || crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(head[4:]) {
		// The last frame, or the zeros that a file system leaves for what it
		// had not written: torn. With something behind it: damage.
		if size > 0 && size == left-frameHead || size == 0 && zeros(in) {
			return record{}, 0, errTorn
		}
		return record{}, 0, errors.New("checksum mismatch")
	}
	var r record
	if err := json.Unmarshal(body, &r); err != nil {
		return record{}, 0, err
	}
	return r, frameHead + size, nil
}

func zeros(in *bufio.Reader) bool {
	for {
		b, err := in.ReadByte()
		if err != nil {
			return errors.Is(err, io.EOF)
		}
		if b != 0 {
			return false
		}
	}
}

func frame(r record) ([]byte, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("logs: encode a journal record: %w", err)
	}
	if len(body) > maxFrame {
		return nil, miosa.Errorf(miosa.TooLarge, "logs: a journal record of %d bytes: append fewer batches at once", len(body))
	}
	out := make([]byte, frameHead, frameHead+len(body))
	binary.LittleEndian.PutUint32(out[:4], uint32(len(body)))
	binary.LittleEndian.PutUint32(out[4:], crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	return append(out, body...), nil
}

// append makes the record durable.
func (j *journal) append(r record) error {
	if j.broken != nil {
		return diskError("append to the journal", j.broken)
	}
	b, err := frame(r)
	if err != nil {
		return err
	}
	if _, err := j.file.WriteAt(b, j.size); err != nil {
		if cut := j.file.Truncate(j.size); cut != nil {
			j.broken = cut
		}
		return diskError("append to the journal", err)
	}
	if err := j.file.Sync(); err != nil {
		// What the disk holds now nobody knows; the next open finds out.
		j.broken = err
		return diskError("sync the journal", err)
	}
	j.size += int64(len(b))
	return nil
}

// compact writes the journal anew once most of it is history.
func (j *journal) compact(s *state) error {
	if j.size < 2*j.full+slack {
		return nil
	}
	// The journal is sound, only long: a failure is for the next try.
	if err := j.rewrite(s); err != nil {
		j.full = j.size
	}
	return j.broken
}

// write applies the record, and writes the journal anew.
func (j *journal) write(r record, s *state) error {
	s.apply(r)
	return j.rewrite(s)
}

func (j *journal) rewrite(s *state) error {
	f, err := disk.Create(j.path(), 0o600)
	if err != nil {
		return diskError("write the journal anew", err)
	}
	out := bufio.NewWriterSize(f, 1<<20)
	var size int64
	err = s.snapshot(func(r record) error {
		b, err := frame(r)
		if err != nil {
			return err
		}
		size += int64(len(b))
		_, err = out.Write(b)
		return err
	})
	if err == nil {
		err = out.Flush()
	}
	if err == nil {
		err = f.Commit()
	}
	if !f.Named() {
		return diskError("write the journal anew", errors.Join(err, f.Discard()))
	}
	j.file.Close()
	j.file, j.size, j.full = f.File, size, size
	if err != nil {
		j.broken = err
		return diskError("sync the state directory", err)
	}
	return nil
}

// diskError gives a failure of the state directory its code.
func diskError(what string, err error) error {
	code := miosa.Internal
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		code = miosa.NoSpace
	}
	return miosa.Wrap(err, code, "logs: %s", what)
}
