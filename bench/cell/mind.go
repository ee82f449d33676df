package main

import (
	"time"

	mind "github.com/miosa/miosa/cell"
	"github.com/miosa/miosa/liveness"
)

// published keeps the newest generation, and writes what hosts are judged.
func (f *fleet) published(effect mind.Effect) {
	switch e := effect.(type) {
	case mind.Publish:
		f.table = e.Update.Generation
	case mind.SaveHost:
		if e.Host.ID != "" {
			f.queue = append(f.queue, f.changed(e.Host))
		}
		f.queue = append(f.queue, mind.HostSaved{Host: e.Host.ID})
	}
}

// connects measures a host's connection.
func (f *fleet) connects(tell func(figure)) {
	var took []time.Duration
	for n := range *samples {
		begun := clock()
		f.m.Assigned(f.host(n % f.Hosts).ID)
		took = append(took, clock()-begun)
	}
	tell(of("a host connects", took))
}

// lose has hosts fall silent, and returns what it took the machine from then on,
// the beats of all others included.
func (f *fleet) lose(n int) time.Duration {
	silent := map[string]bool{}
	var seq int64
	second := func() time.Duration {
		f.now = f.now.Add(time.Second)
		var beats mind.Together
		if seq++; seq%2 == 0 {
			for h := range f.Hosts {
				if id := f.host(h).ID; !silent[id] {
					beats = append(beats, mind.Beat{Host: id, Session: 1, Seq: seq})
				}
			}
		}
		return f.feed(append(beats, mind.Tick{}))
	}
	for range int((liveness.Window + 10*time.Second) / time.Second) {
		second()
	}
	f.placed = 0
	for _, h := range f.hostsToLose(n) {
		silent[h.ID] = true
	}
	spent := time.Duration(0)
	for range int((liveness.SuspectAfter + 10*time.Second) / time.Second) {
		spent += second()
	}
	return spent
}
