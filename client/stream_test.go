package client_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

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
