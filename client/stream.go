package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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
