// Command app is every kind of customer's app that the journeys need: one
// that serves well, and one for each way of not doing so.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	mode := "serve"
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	fmt.Println("app starts in mode", mode)
	port := os.Getenv("PORT")
	addr := ":" + port
	switch mode {
	case "exit":
		code, _ := strconv.Atoi(os.Args[2])
		for n := range 60 {
			fmt.Fprintln(os.Stderr, "line", n, "before the end")
		}
		os.Exit(code)
	case "sleep": // never listens
		time.Sleep(time.Hour)
	case "loopback":
		addr = "127.0.0.1:" + port
	case "ipv6":
		addr = "[::1]:" + port
	case "elsewhere":
		addr = ":8081"
	case "daemon":
		child := exec.Command("/proc/self/exe", "serve")
		child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := child.Start(); err != nil {
			fmt.Println(err)
		}
		time.Sleep(time.Second) // long enough for the child to answer
		return
	case "late":
		d, _ := time.ParseDuration(os.Args[2])
		time.Sleep(d)
	}
	var sick atomic.Bool
	health := func(w http.ResponseWriter, r *http.Request) {
		switch mode {
		case "404":
			http.NotFound(w, r)
		case "500":
			http.Error(w, "sick", http.StatusInternalServerError)
		case "redirect":
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		case "hang":
			select {
			case <-r.Context().Done():
			case <-time.After(time.Hour):
			}
		default:
			if sick.Load() {
				http.Error(w, "sick", http.StatusServiceUnavailable)
				return
			}
			fmt.Fprintln(w, "ok")
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", health)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-App-Mode", mode)
		fmt.Fprintf(w, "%s %s\n", mode, os.Getenv("MIOSA_RUNTIME_INSTANCE_ID"))
	})
	mux.HandleFunc("/env", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, os.Getenv(r.URL.Query().Get("key")))
	})
	mux.HandleFunc("/twice", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
		_, _ = io.WriteString(conn, answer+"a\n"+answer+"b\n")
		time.Sleep(time.Second)
	})
	mux.HandleFunc("POST /sick", func(_ http.ResponseWriter, r *http.Request) { sick.Store(r.URL.Query().Get("on") != "false") })
	mux.HandleFunc("POST /die", func(_ http.ResponseWriter, _ *http.Request) { os.Exit(7) })
	mux.HandleFunc("POST /kill", func(_ http.ResponseWriter, _ *http.Request) { _ = syscall.Kill(os.Getpid(), syscall.SIGKILL) })
	mux.HandleFunc("POST /freeze", func(_ http.ResponseWriter, _ *http.Request) { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) })
	mux.HandleFunc("POST /panic", func(w http.ResponseWriter, _ *http.Request) {
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("POST /leak", func(_ http.ResponseWriter, _ *http.Request) {
		go func() {
			var all [][]byte
			for {
				b := make([]byte, 1<<20)
				for i := 0; i < len(b); i += 4096 {
					b[i] = 1
				}
				all = append(all, b)
			}
		}()
	})
	mux.HandleFunc("POST /fill", func(w http.ResponseWriter, _ *http.Request) {
		f, err := os.Create("/var/fill")
		if err == nil {
			_, err = io.Copy(f, zeros{})
		}
		fmt.Fprintln(w, err)
	})
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		fmt.Println("app was asked to stop")
		os.Exit(0)
	}()
	fmt.Println("app listens on", addr)
	if err := server.Serve(l); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }
