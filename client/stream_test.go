package client_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
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
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
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
