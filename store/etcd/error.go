package etcd

import (
	"context"
	"errors"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
)

// do runs one call to etcd. It returns as soon as the engine has ended,
// whatever the call does then, and gives errors their meaning.
func do[T any](ctx context.Context, s *Store, call func(ctx context.Context) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if s.engine == nil {
		v, err := call(ctx)
		return v, translate(ctx, err)
	}
	if err := s.health.enter(); err != nil {
		return none, err
	}
	// With its disk gone the engine holds its locks for ever; whoever waits
	// for one, in a read, does not look at a context. So the call is left
	// behind when the engine ends.
	callCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		defer s.health.leave()
		v, err := call(callCtx)
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, translate(ctx, r.err)
	case <-s.health.ctx.Done():
		return none, s.health.err()
	}
}

// translate gives etcd's errors the meaning they have here.
func translate(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*miosa.Error](err); ok {
		return err
	}
	if cause := ctx.Err(); cause != nil {
		return cause
	}
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return noSpace("the platform's database is full", err)
	case errors.Is(err, rpctypes.ErrCompacted):
		return store.ErrCompacted
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		return &miosa.Error{Code: miosa.TooLarge, Message: "the record is larger than 1.5 MB", Err: err}
	case unavailable(err):
		return &miosa.Error{Code: miosa.Unavailable, Message: "the platform's database does not answer; try again", Err: err}
	}
	return err
}

// unavailable reports whether the failure is passing.
func unavailable(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		// Not the caller's context, that was looked at: the client's.
		return true
	}
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		switch e.Code() {
		case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
			return true
		}
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	}
	return false
}

func noSpace(message string, cause error) *miosa.Error {
	return &miosa.Error{Code: miosa.NoSpace, Message: message, Err: cause}
}

// health says whether the engine inside the process still works. Once it has
// failed or was closed it stays so. It counts the calls in the engine: a read
// of files being closed would crash the process.
type health struct {
	ctx    context.Context // ends with the engine; its cause says why
	end    context.CancelCauseFunc
	mu     sync.Mutex // orders enter and fail
	inside sync.WaitGroup
}

func newHealth() *health {
	ctx, end := context.WithCancelCause(context.Background())
	return &health{ctx: ctx, end: end}
}

// fail ends the engine's calls; true if it was this that did.
func (h *health) fail(err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() != nil {
		return false
	}
	h.end(err)
	return true
}

// err is why the engine ended, nil while it works.
func (h *health) err() error { return context.Cause(h.ctx) }

func (h *health) enter() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.err(); err != nil {
		return err
	}
	h.inside.Add(1)
	return nil
}

func (h *health) leave() { h.inside.Done() }
