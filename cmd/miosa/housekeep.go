package main

import (
	"context"

	"github.com/miosa/miosa/artifact/erofs"
	"github.com/miosa/miosa/control"
)

// imageCacheBytes bounds the base images kept on this host.
const imageCacheBytes = 20 << 30

// evictor fits the image cache to what retention needs of it.
type evictor struct{ images *erofs.Images }

func (e evictor) Evict(keep func(string) bool, maxBytes int64) (int64, error) {
	done, err := e.images.Evict(keep, maxBytes)
	return done.Bytes, err
}

func (p *platform) housekeep(ctx context.Context) {
	r := control.Retention{Store: p.store, Blobs: p.blobs, Images: evictor{p.images}, MaxBytes: imageCacheBytes, Log: p.log}
	r.Run(ctx)
}
