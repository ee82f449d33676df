// Command hello is the example app that the platform publishes at its first
// start, and what its tests and benchmarks publish: it greets, says which
// version and instance answered, and misbehaves on demand.
//
//	GET /          a greeting, as a page or (Accept: application/json) JSON
//	GET /healthz   200 while serving, 503 once it was asked to stop
//	GET /ws        WebSocket: every message comes back
//	GET /work?ms=N burns N ms of CPU time, then answers (N ≤ 10000)
//	GET /sleep?ms=N answers after N ms (N ≤ 60000)
//	GET /env       the names of its environment variables, never the values
//	POST /crash    exits with code 1 without another word
//	POST /leak?mb=N keeps N MB more memory (N ≤ 4096)
//
// Environment: PORT (8080; 0 is any free one), APP_VERSION (else what the build gave it).
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// version is given by the build: -ldflags "-X main.version=2".
var version = "dev"

// shutdownLimit is how long requests may go on after SIGTERM; less than the
// platform's own 10 s before SIGKILL.
const shutdownLimit = 8 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "hello: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// run serves until ctx ends, then lets requests in flight finish.
func run(ctx context.Context) error {
	listener, err := net.Listen("tcp", ":"+envOr("PORT", "8080"))
	if err != nil {
		return err
	}
	out := log.New(os.Stdout, "", 0)
	app := newApp(envOr("APP_VERSION", version), out)
	server := &http.Server{
		Handler:           app.handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          log.New(os.Stderr, "", 0),
	}
	out.Printf("hello %s listening on port %d", app.version, listener.Addr().(*net.TCPAddr).Port)

	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	out.Printf("asked to stop: finishing %d requests and %d websockets", app.inFlight.Load(), app.sockets.Load())
	app.stop()
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownLimit)
	defer cancel()
	if err := server.Shutdown(limit); err != nil {
		return fmt.Errorf("requests still running after %s: %w", shutdownLimit, err)
	}
	if err := app.waitSockets(limit); err != nil {
		return err
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	out.Print("stopped")
	return nil
}

func envOr(name, fallback string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return fallback
}
