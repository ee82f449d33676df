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

// second lets a second pass, in which hosts beat every other time, but for the
// silent ones, and returns what it took the machine.
func (f *fleet) second(silent map[string]bool) time.Duration {
	f.now = f.now.Add(time.Second)
	var beats mind.Together
	if f.beat++; f.beat%2 == 0 {
		for h := range f.Hosts {
			if id := f.host(h).ID; !silent[id] {
				beats = append(beats, mind.Beat{Host: id, Session: 1, Seq: f.beat})
			}
		}
	}
	return f.feed(append(beats, mind.Tick{}))
}

// settle has all hosts beat for long enough to be taken for alive.
func (f *fleet) settle() {
	for range int((liveness.Window + 10*time.Second) / time.Second) {
		f.second(nil)
	}
}

// lose has hosts fall silent, and returns what it took the machine from then on,
// the beats of all others included.
func (f *fleet) lose(n int) time.Duration {
	f.settle()
	f.placed = 0
	silent := map[string]bool{}
	for _, h := range f.hostsToLose(n) {
		silent[h.ID] = true
	}
	spent := time.Duration(0)
	for range int((liveness.SuspectAfter + 10*time.Second) / time.Second) {
		spent += f.second(silent)
	}
	return spent
}
