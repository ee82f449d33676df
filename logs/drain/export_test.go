package drain

import "github.com/miosa/miosa/logs"

// Done is the mark up to which a drain has settled all arrivals.
func (f *Forwarder) Done(id string) logs.Mark {
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := f.drains[id]; d != nil {
		return d.status.Cursor.Done
	}
	return 0
}

// Begun reports whether a drain reads arrivals as they come.
func (f *Forwarder) Begun(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.drains[id]
	return d != nil && d.status.begun() && !d.status.Cursor.byTime()
}
