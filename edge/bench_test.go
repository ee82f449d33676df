package edge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miosa/miosa/routing"
)

// The backend and the client run in a process of their own, so that what is
// measured is the CPU time of the proxies alone.
const driverEnv = "EDGE_BENCH_DRIVER"

// TestMain turns the test binary into the driver when it is asked to.
func TestMain(m *testing.M) {
	if os.Getenv(driverEnv) != "" {
		if err := drive(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

const benchBody = 1024

// drive serves a backend, says its address, and then for each line
// "address n" makes n requests there.
func drive() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nServer: app\r\nCache-Control: no-cache\r\nContent-Length: %d\r\n\r\n%s", benchBody, strings.Repeat("x", benchBody))
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				br := bufio.NewReader(c)
				for {
					if _, err := readHead(br); err != nil {
						return
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	fmt.Println(l.Addr())
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var addr string
		var n int
		if _, err := fmt.Sscan(in.Text(), &addr, &n); err != nil {
			return err
		}
		if err := ask(addr, n); err != nil {
			return err
		}
		fmt.Println("done")
	}
	return in.Err()
}

// ask makes n requests over 8 connections.
func ask(addr string, n int) error {
	const workers = 8
	request := []byte("GET /some/path?with=query HTTP/1.1\r\nHost: app.test\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en\r\nAccept-Encoding: gzip, deflate, br\r\nCookie: session=0123456789abcdef\r\n\r\n")
	errs := make(chan error, workers)
	for i := range workers {
		go func() {
			errs <- func() error {
				c, err := net.Dial("tcp", addr)
				if err != nil {
					return err
				}
				defer c.Close()
				br := bufio.NewReader(c)
				for range n/workers + (workers-i-1+n%workers)/workers {
					if _, err := c.Write(request); err != nil {
						return err
					}
					head, err := readHead(br)
					if err != nil {
						return err
					}
					if !strings.HasPrefix(head, "HTTP/1.1 200") {
						return fmt.Errorf("answer %q", head)
					}
					if _, err := br.Discard(benchBody); err != nil {
						return err
					}
				}
				return nil
			}()
		}()
	}
	for range workers {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// cpuTime is what this process has used so far, user and system.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkProxy prints the CPU time that a request costs the router, and
// what it costs httputil.ReverseProxy in the same run.
//
//	go test -run '^$' -bench Proxy -benchtime 1x ./edge
func BenchmarkProxy(b *testing.B) {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	driver := exec.Command(exe)
	driver.Env = append(os.Environ(), driverEnv+"=1")
	driver.Stderr = os.Stderr
	stdin, err := driver.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := driver.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := driver.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		_ = driver.Wait()
	})
	said := bufio.NewScanner(stdout)
	said.Scan()
	backend := said.Text()

	g, _ := newRig(b, Config{AccessLog: io.Discard})
	generation := g.feed.set(map[string]routing.Pool{"app.test": poolOf(at("ri_a", backend))})
	if err := g.feed.await(b.Context(), func(r routing.Report) bool { return r.Generation >= generation }); err != nil {
		b.Fatal(err)
	}
	target := &url.URL{Scheme: "http", Host: backend}
	std := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(target)
			pr.Out.Host = pr.In.Host
			pr.SetXForwarded()
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 100, DisableCompression: true},
	})
	b.Cleanup(std.Close)

	// By turns, so that what else the machine does falls on both.
	const turns = 4
	n := max(b.N/turns, 10_000)
	var used [2]time.Duration
	for range turns {
		for i, addr := range []string{g.addr, std.Listener.Addr().String()} {
			before := cpuTime(b)
			fmt.Fprintln(stdin, addr, n)
			if !said.Scan() {
				b.Fatal("the driver ended")
			}
			used[i] += cpuTime(b) - before
		}
	}
	per := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / float64(n*turns) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(per(used[0]), "cpu-ns/req")
	b.ReportMetric(per(used[1]), "reverseproxy-cpu-ns/req")
	b.ReportMetric(float64(used[0])/float64(used[1]), "ratio")
}
