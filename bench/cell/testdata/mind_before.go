package main

import (
	"time"

	"github.com/miosa/miosa"
	mind "github.com/miosa/miosa/cell"
)

// published keeps the newest generation.
func (f *fleet) published(effect mind.Effect) {
	if e, ok := effect.(mind.Publish); ok {
		f.table = e.Table.Generation
	}
}

// connects: a host's connection read the store, not the machine.
func (f *fleet) connects(func(figure)) {}

// lose writes that hosts are suspect: nothing judged them then.
func (f *fleet) lose(n int) time.Duration {
	var lost []any
	for _, h := range f.hostsToLose(n) {
		h.Liveness = miosa.Suspect
		lost = append(lost, h)
	}
	return f.feed(f.changed(lost...))
}

// settle: hosts did not beat.
func (f *fleet) settle() {}
