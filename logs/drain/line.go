package drain

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/miosa/miosa/logs"
)

// Line is one line on its way to a receiver.
type Line struct {
	logs.Entry
	Deployment string // slug; the ID when it is not known any more
	Service    string // name; likewise; "": a task's
}

// name is the line's own, of all lines that there ever are: what is sent twice
// has it twice.
func (l *Line) name() string {
	return fmt.Sprintf("%s.%d.%d", l.Origin.InstanceID, l.Position.Epoch, l.Position.Seq)
}

// text is the line as UTF-8: what is none is U+FFFD.
func (l *Line) text() string { return strings.ToValidUTF8(string(l.Text), string(utf8.RuneError)) }

// batchKey names exactly these lines in this order: a receiver that has seen
// it can drop the batch.
func batchKey(drainID string, lines []Line) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", drainID)
	for i := range lines {
		fmt.Fprintf(h, "%s\n", lines[i].name())
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
