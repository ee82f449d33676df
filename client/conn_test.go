package client

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// refuser answers every request by its head alone, and closes at once whatever
// still comes: the client's system is told that nothing more is wanted.
func refuser(t *testing.T, answer string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for line := ""; line != "\r\n"; {
					if line, err = r.ReadString('\n'); err != nil {
						return
					}
				}
				if _, err := io.CopyN(io.Discard, r, 1<<20); err != nil { // it is in full swing
					return
				}
				_, _ = io.WriteString(c, answer)
			}()
		}
	}()
	return "http://" + l.Addr().String()
}

// An answer reaches the caller though the server took no more of the request.
func TestAnAnswerWinsOverAFailedWrite(t *testing.T) {
	body := `{"error":{"code":"upload_too_large","message":"too much"},"message":"too much"}`
	url := refuser(t, fmt.Sprintf("HTTP/1.1 413 Too Large\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	c, err := New(Config{URL: url, Key: "msk_key", Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 32<<20)
	for i := range 100 {
		r, err := c.request(http.MethodPost, "/x", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.open = func() (io.ReadCloser, int64, error) {
			return io.NopCloser(strings.NewReader(large)), int64(len(large)), nil
		}
		_, err = c.send(t.Context(), r)
		if Status(err) != 413 || Code(err) != "upload_too_large" {
			t.Fatalf("attempt %d: %v", i, err)
		}
	}
	// Without an answer the failed write is what there is to say.
	if c, err = New(Config{URL: refuser(t, ""), Key: "msk_key", Attempts: 1}); err != nil {
		t.Fatal(err)
	}
	r, err := c.request(http.MethodPost, "/x", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.open = func() (io.ReadCloser, int64, error) {
		return io.NopCloser(strings.NewReader(large)), int64(len(large)), nil
	}
	if _, err := c.send(t.Context(), r); !Unreachable(err) {
		t.Errorf("no answer: %v", err)
	}
}
