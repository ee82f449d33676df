package edge

import (
	"context"
	"iter"

	"github.com/miosa/miosa/routing"
)

// Feed is where tables come from and where reports go: control itself when
// both run in one process, a stream to it when they run apart.
type Feed interface {
	// Tables yields the current table at once and then every newer one, until
	// ctx is done or the feed is lost. Tables in between may be skipped: each
	// is complete. A yielded table is never changed again by either side.
	Tables(ctx context.Context) iter.Seq[routing.Table]
	// Report hands the router's report to control. A failed report is not
	// repeated; the next one says all that this one said.
	Report(ctx context.Context, r routing.Report) error
}
