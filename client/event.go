package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strconv"

	"github.com/miosa/miosa/api/resource"
)

// Events lists what happened to a deployment ("": to the whole tenant),
// newest first.
func (c *Client) Events(ctx context.Context, deployment string, options ...Option) iter.Seq2[resource.Event, error] {
	return list[resource.Event](ctx, c, eventsPath(deployment), options)
}

func eventsPath(deployment string) string {
	if deployment == "" {
		return "/events"
	}
	return of(deployment, "/events")
}

// Follow yields the newest backlog events (at least one) in the order they
// happened, and then each as it happens, until ctx ends. A connection that
// breaks is made again where it broke: no event is left out or comes twice.
func (c *Client) Follow(ctx context.Context, deployment string, backlog int, options ...Option) iter.Seq2[resource.Event, error] {
	return func(yield func(resource.Event, error) bool) {
		last := ""
		for failures := 0; ; {
			at := append([]Option{Query("limit", strconv.Itoa(max(backlog, 1)))}, options...)
			before := last
			more, err := c.follow(ctx, deployment, &last, at, yield)
			if !more || ctx.Err() != nil {
				return
			}
			if last != before {
				failures = 0
			}
			// Without a place to resume from, what was not seen is not missed.
			failures++
			if e, ok := errors.AsType[*Error](err); ok && !again(e) || failures > c.attempts {
				yield(resource.Event{}, err)
				return
			}
			if pause(ctx, failures, err) != nil {
				return
			}
		}
	}
}

// follow is one connection; more is false when the consumer has enough.
func (c *Client) follow(ctx context.Context, deployment string, last *string, options []Option, yield func(resource.Event, error) bool) (more bool, err error) {
	r, err := c.request(http.MethodGet, eventsPath(deployment), nil, options)
	if err != nil {
		return true, err
	}
	r.header.Set("Accept", "text/event-stream")
	if *last != "" {
		r.header.Set("Last-Event-ID", *last)
	}
	resp, err := c.send(ctx, r)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	var id string
	var data bytes.Buffer
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the event stream ended")
			}
			return true, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) > 0 {
			name, value, _ := bytes.Cut(line, []byte(":"))
			value = bytes.TrimPrefix(value, []byte(" "))
			switch string(name) {
			case "id":
				id = string(value)
			case "data":
				data.Write(value)
			}
			continue
		}
		if data.Len() == 0 {
			continue
		}
		var e resource.Event
		if err := json.Unmarshal(data.Bytes(), &e); err != nil {
			return true, fmt.Errorf("read event: %w", err)
		}
		data.Reset()
		if !yield(e, nil) {
			return false, nil
		}
		*last = id
	}
}
