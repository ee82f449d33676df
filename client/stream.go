package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"
)

// subscribe reads server-sent events until the connection breaks, or, with
// more false, the consumer has enough. last is the ID to resume from; alive is
// told of each event and of each heartbeat.
func subscribe[T any](ctx context.Context, c *Client, path string, last *string, options []Option, alive func(), yield func(T, error) bool) (more bool, err error) {
	r, err := c.request(http.MethodGet, path, nil, options)
	if err != nil {
		return true, err
	}
	r.header.Set("Accept", "text/event-stream")
	if *last != "" {
		r.header.Set("Last-Event-ID", *last)
	}
	// A connection whose other end is gone without a word would never break.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(c.silence, cancel)
	defer silent.Stop()
	resp, err := c.send(ctx, r)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	if media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); media != "text/event-stream" {
		return true, &notAPIError{base: c.origin(), answer: described(resp)}
	}
	in := bufio.NewReader(resp.Body)
	var id string
	var data bytes.Buffer
	for {
		silent.Reset(c.silence)
		line, err := in.ReadBytes('\n')
		switch {
		case errors.Is(err, io.EOF):
			return true, errors.New("the event stream ended")
		case err != nil && !silent.Stop():
			return true, fmt.Errorf("nothing was heard for %v", c.silence)
		case err != nil:
			return true, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) > 0 {
			name, value, _ := bytes.Cut(line, []byte(":"))
			value = bytes.TrimPrefix(value, []byte(" "))
			switch string(name) {
			case "": // a comment
				alive()
			case "id":
				id = string(value)
			case "data":
				data.Write(value)
			}
			continue
		}
		if data.Len() > 0 {
			var v T
			if err := json.Unmarshal(data.Bytes(), &v); err != nil {
				return true, fmt.Errorf("read event: %w", err)
			}
			data.Reset()
			alive()
			silent.Stop() // who takes it may take its time
			if !yield(v, nil) {
				return false, nil
			}
		}
		// An ID alone is a place too.
		if id != "" {
			*last = id
		}
	}
}
