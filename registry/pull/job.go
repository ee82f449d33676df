package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/disk"
	"github.com/miosa/miosa/registry"
	"github.com/miosa/miosa/store"
)

// job is the pull of one rollout's image.
type job struct {
	p       *Puller
	keeper  Keeper
	rollout miosa.Rollout
	cancel  context.CancelFunc
	begin   chan struct{} // closed when there is a place
	begun   bool          // guarded by p.mu
	host    string        // of the registry, once it is known: run's own

	mu    sync.Mutex // guards the rest
	state miosa.PullState
	there map[string]int64 // bytes, by layer
	want  []registry.Blob  // each layer once
	// archive is what the release is still going to take of the disk, 0 before it is
	// promised and when it is there; grown is what came since the disk was looked at;
	// both in bytes.
	archive, grown int64
	promised       bool
}

func (j *job) is(s miosa.PullState) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.state = s
}

func (j *job) status() miosa.PullStatus {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := miosa.PullStatus{State: j.state, Layers: len(j.want)}
	if out.State == "" {
		out.State = miosa.PullWaiting
	}
	for _, b := range j.want {
		there := j.there[b.Digest]
		out.Bytes += b.Size
		out.BytesDone += there
		if there >= b.Size {
			out.LayersDone++
		}
	}
	return out
}

// run pulls and has the result written. When ctx ends there is none: the pull
// was called off, or the platform ends.
func (j *job) run(ctx context.Context) {
	err := j.inTime(ctx)
	if ctx.Err() != nil || err == nil {
		return
	}
	reason := "the platform could not take it in; publish it again"
	if said, ok := errors.AsType[*miosa.Error](err); ok && said.Code != miosa.Internal {
		reason = said.Message
		j.notPulled(said)
	} else {
		j.p.log.Error("pull an image", "rollout", j.rollout.ID, "err", err)
	}
	_ = j.write(ctx, "say that an image was not pulled", func() error { return j.keeper.FailImage(ctx, j.rollout, reason) })
}

// notPulled logs why, in nobody's words but ours: its message may quote the
// registry, and that what it was sent.
func (j *job) notPulled(said *miosa.Error) {
	ended, ok := errors.AsType[*registry.Ended](said)
	if !ok {
		ended = &registry.Ended{}
	}
	j.p.log.Info("an image was not pulled", "rollout", j.rollout.ID, "host", j.host, "code", said.Code, "public", said.Public, "status", ended.Status, "why", ended.Why)
}

// inTime pulls when there is a place, and ends a wait or a pull that takes too long.
func (j *job) inTime(ctx context.Context) error {
	patience := time.NewTimer(j.p.cfg.Waits)
	defer patience.Stop()
	select {
	case <-j.begin:
	case <-patience.C:
		return miosa.Errorf(miosa.Unavailable, "other images were pulled for all of %s, and this one had to wait: publish it again", j.p.cfg.Waits)
	case <-ctx.Done():
		return ctx.Err()
	}
	inner, cancel := context.WithTimeout(ctx, j.p.cfg.Takes)
	defer cancel()
	err := j.pull(inner)
	if err != nil && inner.Err() != nil {
		return miosa.Errorf(miosa.Unavailable, "it did not come within %s: publish it again, what came of it is kept for a while", j.p.cfg.Takes)
	}
	return err
}

// write tries until a result is in the records. What the records themselves say
// against it comes back.
func (j *job) write(ctx context.Context, what string, fn func() error) error {
	pause := 100 * time.Millisecond
	for try := 1; ; try++ {
		err := fn()
		switch code := miosa.CodeOf(err); {
		case err == nil, ctx.Err() != nil:
			return err
		case code != miosa.Internal && code != miosa.Unavailable:
			return err
		case try == writeTries:
			j.p.log.Error("write what became of an image", "what", what, "rollout", j.rollout.ID, "err", err)
			return err
		}
		select {
		case <-time.After(pause):
			pause *= 2
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (j *job) pull(ctx context.Context) error {
	r := j.rollout
	v, err := store.Get(ctx, j.p.records, store.Versions, store.VersionKey(r.TenantID, r.DeploymentID, r.TargetID))
	if err != nil {
		return err
	}
	if v.Image.Failure != "" || v.Pulled() {
		return nil // control is about to hear of it
	}
	ref, err := registry.Parse(v.Image.Reference)
	if err != nil {
		return err
	}
	j.host = ref.Host
	login, err := j.login(ctx, ref.Host, v.Image.WorkspaceID)
	if err != nil {
		return err
	}
	source, err := registry.Open(registry.Config{Guard: j.p.cfg.Guard, Roots: j.p.cfg.Roots, Memory: j.p.cfg.Memory, Pause: j.p.cfg.Pause, LeastRate: j.p.cfg.LeastRate, RateOver: j.p.cfg.RateOver}, ref, login)
	if err != nil {
		return err
	}
	defer source.Close()
	j.is(miosa.PullResolving)
	img, err := source.Resolve(ctx, registry.Here)
	if err != nil {
		return err
	}
	known := false
	err = j.write(ctx, "use a release that is there", func() (err error) {
		known, err = j.keeper.UseImage(ctx, r, img.Digest)
		return err
	})
	if err != nil || known {
		return err
	}
	if err := j.keeper.RoomForImage(ctx, r.TenantID, img.Bytes()); err != nil {
		return err
	}
	of := registry.Scope{Tenant: r.TenantID, Workspace: v.Image.WorkspaceID, Host: ref.Host, Repository: ref.Repository}
	stored, err := j.fetchLayers(ctx, source, of, img)
	if err != nil {
		return err
	}
	return j.write(ctx, "keep an image", func() error { return j.keeper.KeepImage(ctx, r, img.Digest, stored) })
}

// login is what the tenant is known to the registry by.
func (j *job) login(ctx context.Context, host, workspace string) (registry.Login, error) {
	for l, err := range store.List(ctx, j.p.records, store.RegistryLogins, store.RegistryLoginsOf(j.rollout.TenantID), store.ScanOptions{}) {
		if err != nil {
			return registry.Login{}, err
		}
		if l.Host != host || l.WorkspaceID != workspace {
			continue
		}
		out := registry.Login{User: l.User, CA: l.CA}
		if len(l.Secret) > 0 {
			raw, err := j.p.secrets.Open(ctx, l.TenantID, miosa.RegistryAAD(l.ID), l.Secret)
			if err != nil {
				return registry.Login{}, fmt.Errorf("open the login to %s: %w", host, err)
			}
			out.Secret = string(raw)
		}
		return out, nil
	}
	return registry.Login{}, nil
}

// fetchLayers fetches the layers that are not there and makes one artefact of all.
func (j *job) fetchLayers(ctx context.Context, source *registry.Source, of registry.Scope, img registry.Image) (artifact.Stored, error) {
	entries := map[string]*registry.Entry{}
	j.mu.Lock()
	j.state, j.there, j.want = miosa.PullFetching, map[string]int64{}, img.Blobs()
	want := j.want
	j.mu.Unlock()
	for _, b := range want {
		e := j.p.cache.Hold(of, b)
		defer e.Release()
		entries[b.Digest] = e
		j.mu.Lock()
		j.there[b.Digest] = b.Size - e.Missing()
		j.mu.Unlock()
	}
	err := j.space(img.Bytes())
	if err == nil {
		err = j.fetch(ctx, source, want, entries)
	}
	var stored artifact.Stored
	if err == nil {
		j.is(miosa.PullUnpacking)
		stored, err = j.receive(ctx, img, entries)
		if _, refused := errors.AsType[*miosa.Error](err); refused {
			drop(entries) // whatever is wrong with them stays wrong
		}
	}
	if miosa.CodeOf(err) == miosa.NoSpace {
		drop(entries)
	}
	return stored, err
}

func drop(entries map[string]*registry.Entry) {
	for _, e := range entries {
		e.Drop()
	}
}

// came notes how much of a layer is there, and looks at the disk now and then.
func (j *job) came(b registry.Blob, there int64) error {
	j.mu.Lock()
	more := there - j.there[b.Digest]
	j.there[b.Digest] = there
	j.mu.Unlock()
	return j.grew(max(more, 0))
}

// grew counts what is on the disk now, and says NoSpace when others took what was
// there for it.
func (j *job) grew(n int64) error {
	j.mu.Lock()
	j.grown += n
	look := j.grown >= lookEvery
	if look {
		j.grown = 0
	}
	j.mu.Unlock()
	if !look {
		return nil
	}
	room, err := j.p.room(leaveFree)
	if err == nil && !room {
		err = j.full()
	}
	return err
}

// owes is what the pull was promised of the disk and has not taken yet, in bytes.
func (j *job) owes() int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.promised {
		return 0
	}
	return j.missing() + j.archive
}

// missing is how many bytes of layers are not there; j.mu is held.
func (j *job) missing() int64 {
	var n int64
	for _, b := range j.want {
		n += max(b.Size-j.there[b.Digest], 0)
	}
	return n
}

// space makes sure of the disk: for the layers, and for the release that is made
// of them, besides what other pulls were promised.
func (j *job) space(whole int64) error {
	j.p.disk.Lock()
	defer j.p.disk.Unlock()
	j.mu.Lock()
	need := j.missing() + whole + leaveFree
	j.mu.Unlock()
	room, err := j.p.room(need + j.p.owed())
	if err != nil {
		return err
	}
	if !room {
		return j.full()
	}
	j.mu.Lock()
	j.archive, j.promised = whole, true
	j.mu.Unlock()
	return nil
}

func (j *job) full() error {
	var whole int64
	for _, b := range j.want {
		whole += b.Size
	}
	return miosa.Errorf(miosa.NoSpace, "the platform has no disk space left for an image of %d MB; try again later", whole/1e6)
}

// room reports whether the disk has so many bytes, if need be without layers that
// nobody holds.
func (p *Puller) room(need int64) (bool, error) {
	for _, last := range []bool{false, true} {
		free, err := p.cfg.Free(p.cache.Dir())
		if err != nil {
			return false, err
		}
		if free >= uint64(need) {
			return true, nil
		}
		if last {
			break
		}
		if err := p.cache.Sweep(time.Now(), true); err != nil {
			return false, err
		}
	}
	return false, nil
}

// owed is what all pulls together are still going to take of the disk, in bytes.
func (p *Puller) owed() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	var n int64
	for _, j := range p.jobs {
		n += j.owes()
	}
	return n
}

func free(dir string) (uint64, error) {
	free, _, err := disk.Stat(dir)
	return free, err
}

// fetch gets the layers, a few at a time.
func (j *job) fetch(ctx context.Context, source *registry.Source, want []registry.Blob, entries map[string]*registry.Entry) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan registry.Blob)
	var work sync.WaitGroup
	for range min(layersAtOnce, len(want)) {
		work.Go(func() {
			for b := range next {
				err := entries[b.Digest].Fill(inner, func(f *os.File) error {
					return source.Fetch(inner, b, f, func(there int64) {
						if err := j.came(b, there); err != nil {
							cancel(err)
						}
					})
				})
				if err == nil {
					err = j.came(b, b.Size)
				}
				if err != nil {
					cancel(err)
				}
			}
		})
	}
	for _, b := range want {
		select {
		case next <- b:
		case <-inner.Done():
		}
	}
	close(next)
	work.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	return artifact.StorageError(context.Cause(inner))
}

// receive gives the image to who takes uploads in, as an archive. Written once, it
// waits for the memory to be read with for as long as the pull lasts.
func (j *job) receive(ctx context.Context, img registry.Image, entries map[string]*registry.Entry) (artifact.Stored, error) {
	r, w := io.Pipe()
	var wrote error
	var work sync.WaitGroup
	work.Go(func() {
		wrote = img.WriteLayout(growing{w, j}, func(b registry.Blob) (io.ReadCloser, error) { return entries[b.Digest].Open() })
		_ = w.CloseWithError(wrote)
	})
	stored, err := j.p.uploads.Receive(ctx, artifact.Upload{Kind: miosa.KindOCI, MediaType: artifact.MediaOCI, Body: r, Patient: true})
	_ = r.Close()
	work.Wait()
	if _, said := errors.AsType[*miosa.Error](wrote); said {
		return artifact.Stored{}, wrote
	}
	if wrote != nil && !errors.Is(wrote, io.ErrClosedPipe) {
		return artifact.Stored{}, fmt.Errorf("pack the image: %w", wrote)
	}
	return stored, err
}

// growing is the archive on its way to the disk.
type growing struct {
	io.Writer
	j *job
}

func (g growing) Write(p []byte) (int, error) {
	n, err := g.Writer.Write(p)
	g.j.mu.Lock()
	g.j.archive = max(g.j.archive-int64(n), 0)
	g.j.mu.Unlock()
	if lerr := g.j.grew(int64(n)); err == nil {
		err = lerr
	}
	return n, err
}
