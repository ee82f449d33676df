package edge

import (
	"bufio"
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
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

	"github.com/miosa/miosa/balance"
	"github.com/miosa/miosa/routing"
)

// The backend and the client run in a process of their own, so that what is
// measured is the CPU time of the proxies alone.
const driverEnv = "EDGE_BENCH_DRIVER"

// routerEnv names the backend that the router of BenchmarkBuilds is in front of.
const routerEnv = "EDGE_BENCH_ROUTER"

// TestMain turns the test binary into the driver, or into a router, when it is
// asked to.
func TestMain(m *testing.M) {
	var err error
	switch backend := os.Getenv(routerEnv); {
	case backend != "":
		err = serveFor(backend)
	case os.Getenv(driverEnv) != "":
		err = drive()
	default:
		os.Exit(m.Run())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// serveFor runs a router in front of the backend until its input ends. It says
// its address, and to each line that it reads its CPU time.
func serveFor(backend string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	feed := newTestFeed()
	rt, err := New(Config{RouterID: "router-1", Listener: l, StickyKey: testKey, AccessLog: io.Discard}, feed, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- rt.Run(ctx) }()
	generation := feed.set(map[string]routing.Pool{"app.test": poolOf(at("ri_a", backend))})
	if err := feed.await(ctx, func(r routing.Report) bool { return r.Generation >= generation }); err != nil {
		stop()
		return err
	}
	fmt.Println(l.Addr())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(cpuTime())
	}
	stop()
	return <-ended
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
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // that of oneself can always be had
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// startDriver starts the backend and the client; the function makes n requests
// at an address.
func startDriver(b *testing.B) (backend string, ask func(addr string, n int)) {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	say, hear := startBeside(b, exec.Command(exe), driverEnv+"=1")
	return hear(), func(addr string, n int) {
		say(fmt.Sprintln(addr, n))
		hear()
	}
}

// startBeside starts a process that is talked to in lines, until the benchmark
// ends.
func startBeside(b *testing.B, cmd *exec.Cmd, env string) (say func(line string), hear func() string) {
	b.Helper()
	cmd.Env = append(os.Environ(), env)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	said := bufio.NewScanner(stdout)
	say = func(line string) { _, _ = io.WriteString(stdin, line) }
	hear = func() string {
		if !said.Scan() {
			b.Fatalf("%s ended", cmd.Path)
		}
		return said.Text()
	}
	return say, hear
}

// BenchmarkProxy prints the CPU time that a request costs the router, and
// what it costs httputil.ReverseProxy in the same run.
//
//	go test -run '^$' -bench Proxy -benchtime 1x ./edge
func BenchmarkProxy(b *testing.B) {
	backend, ask := startDriver(b)
	g, _ := newRig(b, Config{AccessLog: io.Discard})
	g.route(map[string]routing.Pool{"app.test": poolOf(at("ri_a", backend))})
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
			before := cpuTime()
			ask(addr, n)
			used[i] += cpuTime() - before
		}
	}
	per := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / float64(n*turns) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(per(used[0]), "cpu-ns/req")
	b.ReportMetric(per(used[1]), "reverseproxy-cpu-ns/req")
	b.ReportMetric(float64(used[0])/float64(used[1]), "ratio")
}

// BenchmarkReport is what a report costs a router of 50,000 backends, of which ten
// have something in flight.
func BenchmarkReport(b *testing.B) {
	l := newLoop(&Router{table: newTable(), cfg: Config{StickyKey: testKey}}, make(chan routing.Report, 1))
	l.rt.applied.Store(true)
	routes := map[string]routing.Pool{}
	for n := range 50_000 {
		routes[fmt.Sprintf("app-%d.test", n)] = poolOf(at(fmt.Sprintf("ri_%05d", n), "127.0.0.1:1"))
	}
	l.carry(balance.Updated{Update: routing.Table{Generation: 1, Routes: routes}.Whole()})
	for n := range 10 {
		l.rt.table.find(fmt.Sprintf("app-%d.test", n*4999)).acquire(&exchange{})
	}
	for b.Loop() {
		l.carry(balance.Updated{Update: routing.Update{Generation: 1}}) // it has that one, and says so
	}
	if r := <-l.reports; len(r.InFlight) != 10 {
		b.Fatalf("%d instances with requests in flight", len(r.InFlight))
	}
}

// BenchmarkAcquire is what it costs to pick a backend and to count a request in
// there and out.
func BenchmarkAcquire(b *testing.B) {
	l := newLoop(&Router{table: newTable(), cfg: Config{StickyKey: testKey}}, make(chan routing.Report, 1))
	var pool routing.Pool
	for n := range 10 {
		pool.Backends = append(pool.Backends, at(fmt.Sprintf("ri_%d", n), "127.0.0.1:1"))
	}
	l.rt.table.set("app.test", l.pool(pool))
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		x := &exchange{now: time.Now()}
		for p.Next() {
			_, backend := l.rt.table.find("app.test").acquire(x)
			backend.release()
		}
	})
}

var against = flag.String("against", "", "the test binary of another build of this package, for BenchmarkBuilds; none: this one's, which tells the spread of the measurement")

// BenchmarkBuilds prints what a request costs the routers of two builds: this
// one, and the one of -against. Both run all the time, in processes of their
// own, and take requests by many short turns in an order of chance. What else the
// machine does falls on both: the mean of some hundred turns tells a
// percent, where two runs of BenchmarkProxy differ by five.
//
//	go test -c -o /tmp/before.test ./edge # in a checkout of the other build, with this file
//	go test -run '^$' -bench Builds -benchtime 1x ./edge -against /tmp/before.test
func BenchmarkBuilds(b *testing.B) {
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	backend, ask := startDriver(b)
	type build struct {
		addr string
		cpu  func() time.Duration
		per  []float64 // nanoseconds a request, of each turn
	}
	start := func(binary string) *build {
		say, hear := startBeside(b, exec.Command(binary), routerEnv+"="+backend)
		out := &build{addr: hear()}
		out.cpu = func() time.Duration {
			say("\n")
			used, err := time.ParseDuration(hear())
			if err != nil {
				b.Fatal(err)
			}
			return used
		}
		ask(out.addr, 5000)
		return out
	}
	builds := []*build{start(exe), start(cmp.Or(*against, exe))}
	const turns, n = 300, 3000
	for range turns {
		for _, i := range rand.Perm(len(builds)) {
			x := builds[i]
			before := x.cpu()
			ask(x.addr, n)
			x.per = append(x.per, float64((x.cpu()-before).Nanoseconds())/n)
		}
	}
	var sum, squares, here, there float64
	for i := range turns {
		d := 100 * (builds[0].per[i]/builds[1].per[i] - 1)
		sum, squares = sum+d, squares+d*d
		here, there = here+builds[0].per[i], there+builds[1].per[i]
	}
	mean := sum / turns
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(here/turns, "cpu-ns/req")
	b.ReportMetric(there/turns, "other-cpu-ns/req")
	b.ReportMetric(100*(here/there-1), "%more")
	b.ReportMetric(math.Sqrt((squares/turns-mean*mean)/turns), "±%")
}
