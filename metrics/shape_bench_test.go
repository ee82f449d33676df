package metrics

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkShaper draws a day of a service of 50 instances.
func BenchmarkShaper(b *testing.B) {
	var rows []Row
	for i := range 50 {
		for n := range int64(Kept / Interval) {
			r := Row{Owner: owner(fmt.Sprint(10 + i)), At: noon.Add(time.Duration(n)*Interval + 3*time.Millisecond)}
			for f := range Figure(9) {
				r.Values.Set(f, n*int64(f))
			}
			rows = append(rows, r)
		}
	}
	for b.Loop() {
		s := NewShaper(Want{Grid: NewGrid(noon, noon.Add(Kept), Step(Kept, 300)), Figures: Figures(), Sources: 100})
		for i := range rows {
			s.Add(rows[i])
		}
		s.Done()
	}
}
