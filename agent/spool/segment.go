package spool

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/miosa/miosa/logs"
)

// A segment is a file of an instance's lines in their order:
//
//	"MSPL0001"  number u64  covers u64  crc32c u32
//	record …    each: length u32, crc32c u32 of the rest, time i64 (µs),
//	            stream u8, flags u8, lost u64, boot u32, number u64, text
//
// all little-endian. Segments are numbered upwards, not always without a hole.
// One that replaces dropped ones says in covers from which number on.
const (
	segmentMagic  = "MSPL0001"
	segmentHead   = 28
	recordHead    = 8
	recordFixed   = 30
	recordMost    = recordHead + recordFixed + logs.MaxText
	segmentSuffix = ".lines"
	// mostLost bounds what a marker counts: a guest that lies about its numbers
	// must not make sums overflow. JSON's numbers are exact up to here.
	mostLost = 1 << 53
)

const (
	flagPartial = 1 << iota
	flagDropped // stands for whole segments that were dropped
	flagUnknown // nobody knows how many lines it stands for
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errTorn = errors.New("the segment is torn")

// streams are the stored numbers of the streams.
var streams = [...]logs.Stream{logs.System, logs.Stdout, logs.Stderr}

func streamNumber(s logs.Stream) byte {
	for i, known := range streams {
		if s == known {
			return byte(i)
		}
	}
	return 0
}

// spot is a guest's line: the highest is the last.
type spot struct {
	boot uint32
	n    uint64
}

func (s spot) less(t spot) bool { return s.boot < t.boot || s.boot == t.boot && s.n < t.n }

// record is one line as it is stored. guest is the guest's last line up to and
// including this record.
type record struct {
	time    int64
	stream  byte
	partial bool
	dropped bool
	unknown bool
	lost    uint64
	guest   spot
	text    []byte
}

// app is how many of the app's lines the record stands for.
func (r *record) app() uint64 {
	if r.stream != 0 {
		return 1
	}
	return r.lost
}

// before is the guest's last line before what the record stands for.
func (r *record) before() spot { return spot{r.guest.boot, r.guest.n - min(r.guest.n, r.app())} }

func (r *record) size() int64 { return int64(recordHead + recordFixed + len(r.text)) }

func (r *record) append(b []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, recordHead)...)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.time))
	flags := byte(0)
	if r.partial {
		flags |= flagPartial
	}
	if r.dropped {
		flags |= flagDropped
	}
	if r.unknown {
		flags |= flagUnknown
	}
	b = append(b, r.stream, flags)
	b = binary.LittleEndian.AppendUint64(b, r.lost)
	b = binary.LittleEndian.AppendUint32(b, r.guest.boot)
	b = binary.LittleEndian.AppendUint64(b, r.guest.n)
	b = append(b, r.text...)
	binary.LittleEndian.PutUint32(b[at:], uint32(len(b)-at-recordHead))
	binary.LittleEndian.PutUint32(b[at+4:], crc32.Checksum(b[at+recordHead:], castagnoli))
	return b
}

// parse reads the record at the start of b, whose text it shares. io.EOF: b
// ends before the record does.
func (r *record) parse(b []byte) error {
	if len(b) < recordHead {
		return io.EOF
	}
	n := binary.LittleEndian.Uint32(b)
	if n < recordFixed || n > recordFixed+logs.MaxText {
		return errTorn
	}
	if uint32(len(b)-recordHead) < n {
		return io.EOF
	}
	body := b[recordHead : recordHead+n]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[4:]) || int(body[8]) >= len(streams) {
		return errTorn
	}
	*r = record{
		time: int64(binary.LittleEndian.Uint64(body)), stream: body[8],
		partial: body[9]&flagPartial != 0, dropped: body[9]&flagDropped != 0, unknown: body[9]&flagUnknown != 0,
		lost:  binary.LittleEndian.Uint64(body[10:]),
		guest: spot{binary.LittleEndian.Uint32(body[18:]), binary.LittleEndian.Uint64(body[22:])},
		text:  body[recordFixed:],
	}
	return nil
}

// line is the record as a store takes it; the text is copied.
func (r *record) line() logs.Line {
	return logs.Line{Time: time.UnixMicro(r.time).UTC(), Stream: streams[r.stream], Text: append([]byte(nil), r.text...), Partial: r.partial, Lost: r.lost}
}

// segment is what is known of one file.
type segment struct {
	number  uint64
	covers  uint64
	size    int64
	count   int
	app     uint64 // lines of the app that its records stand for
	first   int64  // time of its first record
	last    int64  // time of its last record
	guest   spot   // of its last record
	before  spot   // the guest's last line before its first record
	dropped bool   // it holds nothing but the word of dropped segments
	vague   bool   // before may be too high by one
	unclear bool   // before means nothing
}

func (s *segment) add(r *record) {
	if s.count == 0 {
		s.first, s.before, s.vague, s.unclear = r.time, r.before(), r.stream == 0 && r.lost == 0, r.dropped || r.unknown
	}
	s.size += r.size()
	s.count++
	s.app = min(s.app+r.app(), mostLost)
	s.last, s.guest = r.time, r.guest
	s.dropped = s.count == 1 && r.dropped
}

func segmentName(number uint64) string { return fmt.Sprintf("%016x%s", number, segmentSuffix) }

func segmentNumber(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 16, 64)
	return n, err == nil
}

func segmentHeader(number, covers uint64) []byte {
	b := append(make([]byte, 0, segmentHead), segmentMagic...)
	b = binary.LittleEndian.AppendUint64(b, number)
	b = binary.LittleEndian.AppendUint64(b, covers)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// scan reads a segment from its file and hands every sound record to each,
// with the offset behind it. errTorn: what follows the segment's size is no
// record, or cannot be read; a size of 0: not even its head is one.
func scan(dir string, number uint64, each func(r *record, end int64)) (segment, error) {
	s := segment{number: number, covers: number}
	f, err := os.Open(filepath.Join(dir, segmentName(number)))
	if err != nil {
		return s, err
	}
	defer f.Close()
	err = s.scan(bufio.NewReaderSize(f, 4*recordMost), each)
	if errors.Is(err, unix.EIO) {
		err = errTorn
	}
	return s, err
}

// changed reports whether what a torn segment holds behind its first size bytes
// was changed after it was written: a sound record stands behind what cannot be
// read, or the head has all its bytes. A power cut leaves nothing, zeros or
// anything else there, but no record behind: they are written in their order.
func changed(dir string, number uint64, size int64) (bool, error) {
	f, err := os.Open(filepath.Join(dir, segmentName(number)))
	if err != nil {
		return false, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, size, 2*maxSegment))
	if errors.Is(err, unix.EIO) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	if b = bytes.TrimRight(b, "\x00"); size == 0 {
		return len(b) >= segmentHead, nil
	}
	for at := 1; at < len(b); at++ {
		var r record
		if r.parse(b[at:]) == nil {
			return true, nil
		}
	}
	return false, nil
}

func (s *segment) scan(in *bufio.Reader, each func(r *record, end int64)) error {
	head := make([]byte, segmentHead)
	if _, err := io.ReadFull(in, head); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return errTorn
		}
		return err
	}
	covers := binary.LittleEndian.Uint64(head[16:])
	if string(head) != string(segmentHeader(s.number, covers)) {
		return errTorn
	}
	s.covers, s.size = covers, segmentHead
	for {
		b, err := in.Peek(recordHead)
		if len(b) == 0 && errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(b) < recordHead {
			return errTorn
		}
		n := binary.LittleEndian.Uint32(b)
		if n > recordFixed+logs.MaxText {
			return errTorn
		}
		if b, err = in.Peek(recordHead + int(n)); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		var r record
		if r.parse(b) != nil {
			return errTorn
		}
		s.add(&r)
		each(&r, s.size)
		if _, err := in.Discard(len(b)); err != nil {
			return err
		}
	}
}
