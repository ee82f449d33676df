package registry

import (
	"sync"
	"time"
)

// maxSlow is how often layers may come too slowly before they are given up.
const maxSlow = 2

// pace measures how fast layers come, all that are on their way together, while
// somebody waits for one: pauses between tries are none of the registry's time.
// A registry that drips would hold a place for pulls for ever, and never be silent.
type pace struct {
	rate int64         // bytes a second, at least
	over time.Duration // that it is measured over

	mu      sync.Mutex // guards the rest
	waiting int        // for a layer
	since   time.Time  // when that or the measuring began
	spent   time.Duration
	came    int64 // bytes, in spent and since
	slow    int   // how often it was too little
}

func (p *pace) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting++; p.waiting == 1 {
		p.since = time.Now()
	}
}

func (p *pace) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting--; p.waiting == 0 {
		p.spent += time.Since(p.since)
	}
}

// add says that n bytes came: errSilent when it was too little over time, errTrickle
// when it is too often.
func (p *pace) add(n int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.came += int64(n)
	took := p.spent + time.Since(p.since)
	if took < p.over {
		return nil
	}
	enough := float64(p.came) >= float64(p.rate)*took.Seconds()
	p.came, p.spent, p.since = 0, 0, time.Now()
	if enough {
		return nil
	}
	if p.slow++; p.slow < maxSlow {
		return errSilent
	}
	return errTrickle
}
