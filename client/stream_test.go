package client_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miosa/miosa/client"
)

// TestQuietStreamsBreakManyTimes: a stream that has nothing to tell may break
// any number of times, as long as it was heard in between.
func TestQuietStreamsBreakManyTimes(t *testing.T) {
	left := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		if left--; left > 0 {
			fmt.Fprint(w, "id: 1\n\n: heartbeat\n\n")
			return
		}
		fmt.Fprint(w, "id: 2\ndata: {}\n\n")
	}))
	defer server.Close()
	c, err := client.New(client.Config{URL: server.URL, Key: "key", Attempts: 2})
	if err != nil {
		t.Fatal(err)
	}
	left = 6
	for _, err := range c.Follow(t.Context(), "x", 1) {
		if err != nil {
			t.Errorf("events: %v", err)
		}
		break
	}
	left = 6
	lost, back := 0, 0
	for _, err := range c.FollowLogs(t.Context(), "x", func(err error) {
		if lost++; err == nil {
			lost, back = lost-1, back+1
		}
	}) {
		if err != nil {
			t.Errorf("logs: %v", err)
		}
		break
	}
	if lost != 5 || back != 5 {
		t.Errorf("lost %d times, back %d times", lost, back)
	}
}

// TestSilentStreamsAreLeft: a server that is gone without a word is asked again,
// from where it fell silent.
func TestSilentStreamsAreLeft(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		last, _ := strconv.Atoi(r.Header.Get("Last-Event-ID")) // 0: none
		fmt.Fprintf(w, "id: %d\ndata: {\"id\":\"%d\"}\n\n", last+1, last+1)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	defer server.Close()
	c, err := client.New(client.Config{URL: server.URL, Key: "key", Silence: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got []string
	for e, err := range c.Follow(ctx, "x", 1) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e.ID); len(got) == 3 {
			break
		}
	}
	if !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("got %v", got)
	}
}

// TestClientsOutliveTheirKey: a platform that was started again has other keys,
// and says which a moment after it answers.
func TestClientsOutliveTheirKey(t *testing.T) {
	var valid atomic.Value
	var asked atomic.Int32
	valid.Store("one")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.Header.Get("Authorization") != "Bearer "+valid.Load().(string) {
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error": {"code": "invalid_api_key", "message": "unknown"}}`)
			return
		}
		if r.Header.Get("Accept") != "text/event-stream" {
			fmt.Fprint(w, `{"data": {"id": "x"}}`)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		last, _ := strconv.Atoi(r.Header.Get("Last-Event-ID")) // 0: none
		fmt.Fprintf(w, "id: %d\ndata: {\"id\":\"%d\"}\n\n", last+1, last+1)
		if last == 0 {
			valid.Store("two") // the stream breaks: another process answers
		}
	}))
	defer server.Close()
	looks := 0
	c, err := client.New(client.Config{URL: server.URL, Key: "one", Renew: func() (string, error) {
		if looks++; looks < 3 {
			return "one", nil // it is not written yet
		}
		return "two", nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for e, err := range c.Follow(t.Context(), "x", 1) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e.ID); len(got) == 2 {
			break
		}
	}
	if !slices.Equal(got, []string{"1", "2"}) || looks != 3 {
		t.Errorf("got %v after %d looks", got, looks)
	}
	valid.Store("three")
	if _, err := c.Deployment(t.Context(), "x"); client.Status(err) != 401 {
		t.Errorf("a key that nobody replaced: %v", err)
	}
	valid.Store("two")
	if c, err = client.New(client.Config{URL: server.URL, Key: "one", Renew: func() (string, error) { return "two", nil }}); err != nil {
		t.Fatal(err)
	}
	if d, err := c.Deployment(t.Context(), "x"); d.ID != "x" || err != nil {
		t.Errorf("a key that was replaced: %v", err)
	}
	// What never was open is refused at once.
	if c, err = client.New(client.Config{URL: server.URL, Key: "zero", Renew: func() (string, error) { return "zero", nil }}); err != nil {
		t.Fatal(err)
	}
	before := asked.Load()
	for _, err := range c.FollowLogs(t.Context(), "x", nil) {
		if client.Status(err) != 401 || asked.Load() != before+1 {
			t.Errorf("a wrong key: %v after %d requests", err, asked.Load()-before)
		}
	}
}
