// Command leaky serves well and takes ever more memory, until the kernel of
// its VM kills it: what a slow leak looks like, in fast motion.
//
// Environment: PORT (8080; 0 is any free one), LEAK_MB_PER_SECOND (32).
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

// step is how often memory is taken.
const step = 250 * time.Millisecond

func main() {
	if err := run(); err != nil {
		fmt.Fprintf(os.Stderr, "leaky: %v\n", err)
		os.Exit(1)
	}
}

func run() error {
	port, ok := os.LookupEnv("PORT")
	if !ok {
		port = "8080"
	}
	rate := 32
	if v := os.Getenv("LEAK_MB_PER_SECOND"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 4096 {
			return fmt.Errorf("LEAK_MB_PER_SECOND is %q: want a number from 1 to 4096", v)
		}
		rate = n
	}
	listener, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	var taken atomic.Int64 // bytes
	go leak(int64(rate)<<20, &taken)

	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "leaked %d MB so far\n", taken.Load()>>20)
		}),
	}
	fmt.Printf("leaky: leaking %d MB/s, listening on port %d\n", rate, listener.Addr().(*net.TCPAddr).Port)
	return server.Serve(listener)
}

// leak takes rate bytes a second and never gives them back.
func leak(rate int64, taken *atomic.Int64) {
	var blocks [][]byte
	reported := int64(0)
	for range time.Tick(step) {
		block := make([]byte, rate*int64(step)/int64(time.Second))
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1 // touched, so that the memory is really taken
		}
		blocks = append(blocks, block)
		if mb := taken.Add(int64(len(block))) >> 20; mb-reported >= 64 {
			reported = mb
			fmt.Printf("leaky: holding %d MB in %d blocks\n", mb, len(blocks))
		}
	}
}
