package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/miosa/miosa"
)

// item is one event of a stream: what is sent, and the ID to resume behind it from.
type item struct {
	id   string
	data any
}

// parcel is what a stream sends at once; without items only the place that it
// may be resumed from.
type parcel struct {
	items []item
	place string
}

// stream answers with server-sent events: what from gives, as it gives it,
// until that ends, the client leaves or the caller's key is revoked. from runs
// on a goroutine of its own, and ends with its context; give is false when no
// more is wanted.
func (c *call) stream(w http.ResponseWriter, event string, from func(ctx context.Context, give func(parcel) bool) error) error {
	out, err := startStream(w)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	parcels, done := make(chan parcel), make(chan error, 1)
	go func() {
		done <- from(ctx, func(p parcel) bool {
			select {
			case parcels <- p:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}()
	beat := time.NewTicker(c.s.cfg.Heartbeat)
	defer beat.Stop()
	for {
		select {
		case p := <-parcels:
			for _, i := range p.items {
				if err := out.send(event, i.id, i.data); err != nil {
					return nil // the client left
				}
			}
			if len(p.items) == 0 && p.place != "" {
				// A client that comes again before the first event missed none.
				err = out.place(p.place)
			} else {
				err = out.flush()
			}
			if err != nil {
				return nil
			}
		case <-beat.C:
			if c.revoked(ctx) {
				return nil
			}
			if err := out.comment("heartbeat"); err != nil {
				return nil
			}
		case err := <-done:
			if err != nil && ctx.Err() == nil {
				c.s.log.Error("stream ended", "request", c.id, "event", event, "err", err)
			}
			return nil
		}
	}
}

// revoked reports whether the key that the call came with opens nothing any
// more. A store that does not answer takes nobody's key away.
func (c *call) revoked(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, c.s.cfg.Heartbeat)
	defer cancel()
	_, _, err := c.s.authenticate(ctx, c.r)
	return miosa.CodeOf(err) == miosa.Unauthenticated
}

// nothingComes is the source of a stream that has nothing to give, ever.
func nothingComes(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// eventStream writes server-sent events.
type eventStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func startStream(w http.ResponseWriter) (*eventStream, error) {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	s := &eventStream{w: w, control: http.NewResponseController(w)}
	// The headers go at once: the client knows that it is connected.
	return s, s.flush()
}

// streamIdle is how long a client may take no byte before it is given up.
const streamIdle = 60 * time.Second

func (s *eventStream) send(event, id string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(streamIdle))
	_, err = fmt.Fprintf(s.w, "id: %s\nevent: %s\ndata: %s\n\n", id, event, raw)
	return err
}

// place tells where the stream is without an event: what is resumed from.
func (s *eventStream) place(id string) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(streamIdle))
	if _, err := fmt.Fprintf(s.w, "id: %s\n\n", id); err != nil {
		return err
	}
	return s.flush()
}

func (s *eventStream) comment(text string) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(streamIdle))
	if _, err := fmt.Fprintf(s.w, ": %s\n\n", text); err != nil {
		return err
	}
	return s.flush()
}

func (s *eventStream) flush() error {
	if err := s.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}
