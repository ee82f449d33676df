package artifact

import (
	"context"
	"time"

	"github.com/miosa/miosa"
)

// Collected says what a collection freed.
type Collected struct {
	Blobs int
	Bytes int64
}

// Collect deletes the blobs that nothing references and that were last stored
// before the given time. The age protects what was just uploaded and is about
// to be referenced: keep it well above the longest time between an upload and
// its release's record (an hour is ample). Uploads in progress are no blobs
// yet and are never seen. An upload of the same bytes while this runs wins.
//
// It goes on past blobs that cannot be deleted and returns the first error.
func Collect(ctx context.Context, blobs Blobs, referenced func(sha256 string) bool, before time.Time) (Collected, error) {
	var done Collected
	var first error
	for blob, err := range blobs.List(ctx) {
		if err != nil {
			return done, err
		}
		if !blob.StoredAt.Before(before) || referenced(blob.SHA256) {
			continue
		}
		switch err := blobs.Delete(ctx, blob.SHA256, before); {
		case err == nil:
			done.Blobs++
			done.Bytes += blob.Size
		case miosa.CodeOf(err) == miosa.Conflict, miosa.CodeOf(err) == miosa.NotFound:
		case first == nil:
			first = err
		}
	}
	return done, first
}
