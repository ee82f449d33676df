// Command five-hundred is an app that runs and listens and answers every
// request, its health check too, with 500: alive for the operating system,
// broken for everybody else.
//
// Environment: PORT (8080; 0 is any free one), HEALTHY_REQUESTS (0): how many requests are
// answered well before it breaks.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "five-hundred: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	port, ok := os.LookupEnv("PORT")
	if !ok {
		port = "8080"
	}
	healthy := int64(0)
	if v := os.Getenv("HEALTHY_REQUESTS"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return fmt.Errorf("HEALTHY_REQUESTS: %w", err)
		}
		healthy = n
	}
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	var requests atomic.Int64
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if requests.Add(1) <= healthy {
				fmt.Fprintln(w, "ok")
				return
			}
			fmt.Fprintf(os.Stderr, "five-hundred: %s %q: the cache is gone, answering 500\n", r.Method, r.URL.Path)
			http.Error(w, "the cache is gone", http.StatusInternalServerError)
		}),
	}
	fmt.Printf("five-hundred: listening on port %d\n", listener.Addr().(*net.TCPAddr).Port)
	return server.Serve(listener)
}
