package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

// following is one rollout being watched.
type following struct {
	a       *app
	c       *client.Client
	p       *progress
	name    string // the deployment's, for words
	rollout resource.Rollout

	mu   sync.Mutex
	seen map[string]bool // guarded by mu: events already shown
}

// follow shows a rollout's events as they happen until it is decided.
// Interrupted, it says that the rollout goes on without us.
func (a *app) follow(ctx context.Context, c *client.Client, p *progress, name string, r resource.Rollout) (resource.Rollout, error) {
	f := &following{a: a, c: c, p: p, name: name, rollout: r, seen: map[string]bool{}}
	p.wait("waiting for its instances")
	inner, cancel := context.WithCancel(ctx)
	var events sync.WaitGroup
	events.Go(func() { f.events(inner) })
	if r.Step == "pulling" {
		events.Go(func() { f.pulling(inner) })
	}
	r, err := f.decided(ctx)
	cancel()
	events.Wait()
	if err == nil {
		// What the stream had no time to bring.
		err = f.rest(ctx)
	}
	p.end()
	if errors.Is(err, context.Canceled) {
		fmt.Fprintf(a.cfg.Stderr, "The %s goes on without this command. Follow it with: miosa events %s -f\nHow it stands:                              miosa why %s\n",
			f.rollout.Kind, f.name, f.rollout.VersionID)
	}
	return r, err
}

// filter picks what concerns the version being rolled out.
func (f *following) filter() client.Option { return client.Query("version_id", f.rollout.VersionID) }

func (f *following) events(ctx context.Context) {
	for e, err := range f.c.Follow(ctx, f.rollout.DeploymentID, 50, f.filter()) {
		if err != nil {
			return // the rollout itself is asked for as well
		}
		f.show(e)
	}
}

// pulling shows how far the image has come, until it is there.
func (f *following) pulling(ctx context.Context) {
	layers := -1
	tick := time.NewTicker(pullEvery)
	defer tick.Stop()
	for {
		v, err := f.c.Version(ctx, f.rollout.DeploymentID, f.rollout.VersionID)
		if err != nil || v.Image == nil || v.Image.Digest != nil || v.State != "building" && v.State != "created" {
			return
		}
		if pull := v.Image.Pull; pull != nil && pull.Layers > 0 {
			if layers < 0 {
				f.p.step("  %s, %s", plural(pull.Layers, "layer"), size(pull.Bytes))
			}
			layers = pull.Layers
			switch pull.State {
			case "unpacking":
				f.p.wait("reading the image")
			default:
				f.p.wait("pulled %s of %s, %d of %s", size(pull.BytesDone), size(pull.Bytes), pull.LayersDone, plural(pull.Layers, "layer"))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// pullEvery is how often it is asked how far an image has come.
const pullEvery = 300 * time.Millisecond

// rest shows, in order, the events that were not shown yet.
func (f *following) rest(ctx context.Context) error {
	all, err := client.Collect(f.c.Events(ctx, f.rollout.DeploymentID, f.filter()))
	for _, e := range slices.Backward(all) {
		f.show(e)
	}
	return err
}

func (f *following) show(e resource.Event) {
	// An existing version has a past of its own.
	if e.CreatedAt.Before(f.rollout.CreatedAt) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen[e.ID] {
		return
	}
	f.seen[e.ID] = true
	f.p.step("  %s", told(e))
	if strings.HasPrefix(e.Type, "rollout.") {
		f.p.wait("%s", e.Message)
	}
}

// decided asks until the rollout is live or has ended.
func (f *following) decided(ctx context.Context) (resource.Rollout, error) {
	for {
		r, err := f.c.Rollout(ctx, f.rollout.ID, client.Wait())
		if err != nil || !r.Live() || r.Step == "draining" {
			return r, err
		}
	}
}

// outcome is nil when the rollout's version is live, or was only to be proven.
func (a *app) outcome(ctx context.Context, c *client.Client, r resource.Rollout, v resource.Version) error {
	if r.Step == "draining" || r.Step == "done" {
		return nil
	}
	e := &outcomeError{fmt.Sprintf("version %d did not go live: %s", v.VersionNumber, printable(text(r.Reason)))}
	if r.Step == "cancelled" {
		e.message = fmt.Sprintf("the %s of version %d was cancelled", r.Kind, v.VersionNumber)
	}
	if len(v.LastLogLines) > 0 {
		e.message += "\nIts last lines:"
		for _, line := range v.LastLogLines {
			e.message += "\n  | " + printable(line)
		}
	}
	if r.FromVersionID != nil {
		if from, err := c.Version(ctx, r.DeploymentID, *r.FromVersionID); err == nil {
			e.message += fmt.Sprintf("\nVersion %d goes on serving.", from.VersionNumber)
		}
	}
	return e
}
