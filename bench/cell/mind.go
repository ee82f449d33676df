package main

import mind "github.com/miosa/miosa/cell"

// published keeps the newest generation.
func (f *fleet) published(effect mind.Effect) {
	if e, ok := effect.(mind.Publish); ok {
		f.table = e.Update.Generation
	}
}

// connects measures a host's connection.
func (f *fleet) connects(func(figure)) {}
