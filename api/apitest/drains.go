package apitest

import (
	"context"
	"sync"
	"time"

	"github.com/miosa/miosa"
)

// Drains says of every log drain what it was told to, and answers tests as
// the receiver at a drain's URL would.
type Drains struct {
	mu       sync.Mutex
	statuses map[string]miosa.DrainStatus // guarded by mu
	opened   string                       // guarded by mu
}

// Say sets what Status says of a drain.
func (d *Drains) Say(id string, s miosa.DrainStatus) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.statuses == nil {
		d.statuses = map[string]miosa.DrainStatus{}
	}
	d.statuses[id] = s
}

// Opened is the whole URL of the drain that was tested last.
func (d *Drains) Opened() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opened
}

// Status is what it was told to say, or that all is well.
func (d *Drains) Status(record miosa.LogDrain) miosa.DrainStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.statuses[record.ID]
	if !ok {
		s.State = miosa.DrainDelivering
	}
	if record.Paused {
		s.State = miosa.DrainPaused
	}
	return s
}

// Test opens the drain's URL and answers 204, or 403 without a token.
func (d *Drains) Test(ctx context.Context, record miosa.LogDrain) (miosa.DrainAnswer, error) {
	url, err := Sealer{}.Open(ctx, record.TenantID, miosa.DrainAAD(record.ID, "url"), record.URL)
	if err != nil {
		return miosa.DrainAnswer{}, err
	}
	d.mu.Lock()
	d.opened = string(url)
	d.mu.Unlock()
	if len(record.Token) == 0 && len(record.Headers) == 0 {
		return miosa.DrainAnswer{Status: 403, Message: "the receiver answers 403 Forbidden: who are you?", Took: 12 * time.Millisecond}, nil
	}
	return miosa.DrainAnswer{Delivered: true, Status: 204, Message: "the receiver took the line (204)", Took: 12 * time.Millisecond}, nil
}
