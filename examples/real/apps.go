package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"

	"github.com/coder/websocket"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// password is the database's, for as long as this runs.
const password = "for one run only"

var apps = []app{
	{name: "nginx", what: "nginx (Debian), an image with a user of its own on port 80", check: says("/", "Hello from nginx")},
	{name: "caddy", what: "Caddy (Debian), an image", check: says("/", "Hello from Caddy")},
	{name: "flask", what: "Flask + gunicorn (PyPI)", check: says("/", "Hello from Flask")},
	{
		name: "django", what: "Django + gunicorn (PyPI), SQLite, ALLOWED_HOSTS", secrets: map[string]string{"SECRET_KEY": password},
		check: all(says("/", "Hello from Django, 0 users"), says("/admin/login/", "Django administration")),
	},
	{name: "express", what: "Express + WebSockets (npm)", check: all(says("/", "Hello from Express"), echoes)},
	{name: "nextjs", what: "Next.js, standalone (npm)", check: says("/", "Hello from Next.js")},
	{name: "php", what: "PHP-FPM behind nginx (Debian)", check: says("/", "Hello from PHP 8")},
	{name: "sinatra", what: "Sinatra + Puma (Debian)", check: says("/", "Hello from Sinatra")},
	{name: "spring", what: "Spring Boot, a jar (Maven)", check: says("/", "Hello from Spring Boot")},
	{name: "grpc", what: "a gRPC server (Go proxy)", check: calls},
	{name: "redis", what: "Redis (Debian), an image, over TCP", check: stores},
	{
		name: "postgres", what: "PostgreSQL (Debian), an image, over TCP", secrets: map[string]string{"POSTGRES_PASSWORD": password},
		check: queries,
	},
}

func all(checks ...func(context.Context, place) error) func(context.Context, place) error {
	return func(ctx context.Context, at place) error {
		for _, check := range checks {
			if err := check(ctx, at); err != nil {
				return err
			}
		}
		return nil
	}
}

// says asks for a path as a browser would, and wants the text in the answer.
func says(path, text string) func(context.Context, place) error {
	return func(ctx context.Context, at place) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, at.url+path, nil)
		if err != nil {
			return err
		}
		req.Host = at.host
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK || !strings.Contains(string(body), text) {
			return fmt.Errorf("GET %s: %s: %.300s", path, resp.Status, body)
		}
		return nil
	}
}

// echoes talks over a WebSocket.
func echoes(ctx context.Context, at place) error {
	conn, _, err := websocket.Dial(ctx, at.url+"/echo", &websocket.DialOptions{Host: at.host}) //nolint:bodyclose // of a WebSocket there is none
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseNow() }()
	if err := conn.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		return err
	}
	_, message, err := conn.Read(ctx)
	if err != nil {
		return err
	}
	if string(message) != "echo hello" {
		return fmt.Errorf("the WebSocket says %q", message)
	}
	return conn.Close(websocket.StatusNormalClosure, "")
}

// calls makes a call and begins a stream, over HTTP/2 through the router.
func calls(ctx context.Context, at place) error {
	router, err := url.Parse(at.url)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("passthrough:///"+router.Host, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(at.host))
	if err != nil {
		return err
	}
	defer conn.Close()
	client := healthpb.NewHealthClient(conn)
	answer, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("the call says %s", answer.GetStatus())
	}
	stream, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("the stream says %s", first.GetStatus())
	}
	return nil
}

// stores speaks to Redis.
func stores(ctx context.Context, at place) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", at.tcp)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := io.WriteString(conn, "SET one 1\r\nINCR one\r\n"); err != nil {
		return err
	}
	answers := bufio.NewReader(conn)
	for _, want := range []string{"+OK\r\n", ":2\r\n"} {
		if line, err := answers.ReadString('\n'); err != nil || line != want {
			return fmt.Errorf("redis says %q, %w", line, err)
		}
	}
	return nil
}

// queries asks PostgreSQL with its own client.
func queries(ctx context.Context, at place) error {
	host, port, err := net.SplitHostPort(at.tcp)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--host", host, "--port", port, "--username", "postgres",
		"--command", "create table t as select generate_series(1, 1000) as n", "--command", "select sum(n) from t")
	cmd.Env = append(os.Environ(), "PGPASSWORD="+password)
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("psql is not installed: apt install postgresql-client")
	}
	if err != nil || !strings.Contains(string(out), "500500") {
		return fmt.Errorf("psql: %w: %s", err, out)
	}
	return nil
}
