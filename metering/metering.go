// Package metering is how usage is counted, without any effect: a Meter stands
// on the host and turns readings of an instance's counters into totals that
// only grow; an Account stands on the control side and turns what a host
// claims of those totals into what is billed, hour by hour.
//
// Exactness rests on the totals being cumulative. A report says how much there
// was since the meter began, never how much more; a report that comes twice,
// late, out of order or not at all changes nothing that the next one does not
// put right. The hour is a label on the difference between two totals.
package metering

import "time"

// Hour is a whole hour of UTC, counted from 1970.
type Hour int64

// HourOf is the hour that a time lies in.
func HourOf(t time.Time) Hour {
	s := t.Unix()
	h := s / 3600
	if s%3600 < 0 {
		h--
	}
	return Hour(h)
}

// Time is when the hour begins.
func (h Hour) Time() time.Time { return time.Unix(int64(h)*3600, 0).UTC() }

// Amount is what was used. All of it only grows.
type Amount struct {
	RunMS      uint64 `json:"RunMS"`      // milliseconds that virtual machines ran
	VCPUMS     uint64 `json:"VCPUMS"`     // the same, times their vCPUs
	MemoryMBMS uint64 `json:"MemoryMBMS"` // the same, times their memory in MB
	DiskMBMS   uint64 `json:"DiskMBMS"`   // the same, times their ephemeral disk in MB
	// SentBytes and ReceivedBytes are counted on the host's side of the
	// instance's network interface, from the instance's point of view.
	SentBytes        uint64 `json:"SentBytes"`
	ReceivedBytes    uint64 `json:"ReceivedBytes"`
	LogLines         uint64 `json:"LogLines"`
	LogBytes         uint64 `json:"LogBytes"`         // of text that the app wrote
	StorageByteHours uint64 `json:"StorageByteHours"` // bytes of releases held, for an hour each
}

// each pairs up the fields of two amounts.
func (a *Amount) each(b *Amount, f func(a, b *uint64)) {
	f(&a.RunMS, &b.RunMS)
	f(&a.VCPUMS, &b.VCPUMS)
	f(&a.MemoryMBMS, &b.MemoryMBMS)
	f(&a.DiskMBMS, &b.DiskMBMS)
	f(&a.SentBytes, &b.SentBytes)
	f(&a.ReceivedBytes, &b.ReceivedBytes)
	f(&a.LogLines, &b.LogLines)
	f(&a.LogBytes, &b.LogBytes)
	f(&a.StorageByteHours, &b.StorageByteHours)
}

// Plus is the sum.
func (a Amount) Plus(b Amount) Amount {
	a.each(&b, func(a, b *uint64) { *a += *b })
	return a
}

// Minus is the difference, and nothing where b is more.
func (a Amount) Minus(b Amount) Amount {
	a.each(&b, func(a, b *uint64) { *a -= min(*a, *b) })
	return a
}

// AtMost is the lesser of each field.
func (a Amount) AtMost(b Amount) Amount {
	a.each(&b, func(a, b *uint64) { *a = min(*a, *b) })
	return a
}

// AtLeast is the greater of each field.
func (a Amount) AtLeast(b Amount) Amount {
	a.each(&b, func(a, b *uint64) { *a = max(*a, *b) })
	return a
}

// Covers reports whether no field of b is more.
func (a Amount) Covers(b Amount) bool { return a.AtLeast(b) == a }

// Size is what a virtual machine has of its host while it runs.
type Size struct {
	VCPUs    int `json:"VCPUs"`
	MemoryMB int `json:"MemoryMB"`
	DiskMB   int `json:"DiskMB"`
}

// lasting is what it comes to in so many milliseconds.
func (s Size) lasting(ms uint64) Amount {
	times := func(n int) uint64 { return uint64(max(n, 0)) * ms } //nolint:gosec // not negative
	return Amount{RunMS: ms, VCPUMS: times(s.VCPUs), MemoryMBMS: times(s.MemoryMB), DiskMBMS: times(s.DiskMB)}
}

// Point is a total as it stood when an hour ended, or as it stands in the
// present one. Of a list of points each total covers the one before.
type Point struct {
	Hour  Hour   `json:"Hour"`
	Total Amount `json:"Total"`
}

// Report is what a host says of one instance.
type Report struct {
	InstanceID string
	// Epoch tells lives of the meter apart: one that lost its state begins at
	// nothing again, in a higher epoch.
	Epoch  uint64
	Points []Point // at least one; the last is the present total
	Final  bool    // nothing more comes of the instance
}

// Verdict is what became of a report.
type Verdict string

const (
	Taken   Verdict = "taken"   // it is safe: the host need not say it again
	Behind  Verdict = "behind"  // its epoch is an old one: Outcome.Epoch is known
	Refused Verdict = "refused" // it will never be taken: the host may forget it
)

// Outcome answers one report.
type Outcome struct {
	Verdict Verdict
	Epoch   uint64
	Reason  string // why it was refused, for the host's log
}
