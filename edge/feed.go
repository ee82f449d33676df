package edge

import (
	"context"
	"iter"

	"github.com/miosa/miosa/routing"
)

// Feed is where the routes come from and where reports go: control itself when
// both run in one process, a stream to it when they run apart.
type Feed interface {
	// Updates yields the whole of the current table at once and then what changes
	// in it, in order, until ctx is done or the feed is lost. Several updates may
	// come as one. A yielded one is not changed by the feed any more.
	Updates(ctx context.Context) iter.Seq[routing.Update]
	// Report hands the router's report to control. A failed report is not
	// repeated; the next one says all that this one said.
	Report(ctx context.Context, r routing.Report) error
}
