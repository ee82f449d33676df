package agent

import (
	"time"

	"github.com/miosa/miosa/metrics"
)

// Pass measures every instance now.
func (a *Agent) Pass(now time.Time) metrics.Pass { return a.pass(now) }
