package artifact

import (
	"context"
	"errors"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/ration"
)

// What reading costs at most, in bytes of memory. The collector may let as much
// again lie around as garbage: a pool of so many bytes can be twice as many of
// the process.
const (
	// costReading is one reading, whatever it reads: archive/tar's view of one
	// header (extended ones have up to 1 MB, and twelve times that once they are
	// maps), gzip's 64 KB, and buffers of our own.
	costReading = 14 << 20
	// costDecoder is a zstd decoder besides its window: two blocks, its tables.
	costDecoder = 1 << 20

	costNode = 112 + 80 // with its place in the map of its directory
	costDir  = 48 + 288 // its own map, with the first eight places
	costText = 16       // of every string, besides its bytes
	costAttr = 32 + 2*costText

	// costSunk is what a Sink may keep of a node until the end, and costNamed
	// what it may make of each byte of a name when it lays directories out.
	costSunk  = 160
	costNamed = 3

	// costFile is an entry of the archive around an image.
	costFile = 512
	// costByte and costValue are what a document becomes, of its bytes and of
	// the values that it lists.
	costByte  = 4
	costValue = 192
)

// The memory for reading artefacts, in bytes.
const (
	// MostMemory is what one reading may take: an archive of half a million
	// files, or one with the largest window and two hundred thousand.
	MostMemory = 192 << 20
	// CommonMemory is what all that are under way have together, besides that
	// one: several of ordinary size.
	CommonMemory = 64 << 20
)

// memoryPatience is how long a new upload waits for its share. It holds nothing
// but a file meanwhile.
const memoryPatience = time.Minute

// NewMemory is the memory for everything that a process reads artefacts with.
func NewMemory() *ration.Pool { return ration.New(CommonMemory, MostMemory) }

// share begins a reading.
func share(ctx context.Context, memory *ration.Pool, terms ration.Terms) (*ration.Share, error) {
	s, err := memory.Take(ctx, terms, costReading)
	return s, memoryError(err, memory)
}

// memoryError words what a share said.
func memoryError(err error, memory *ration.Pool) error {
	switch {
	case errors.Is(err, ration.ErrBusy):
		return &miosa.Error{Code: miosa.Limited, Public: CodeBusy, Err: err,
			Message: "the platform reads as many uploads as it has memory for; send this one again in a minute"}
	case errors.Is(err, ration.ErrTooMuch):
		return tooLarge(CodeArchiveTooLarge, "the archive takes more than %d MB of memory to read, which is the limit: it has very many entries, "+
			"or very long names and attributes, or a large zstd window (compress with zstd -19 or less, without --long)", memory.Most()>>20)
	}
	return err
}
