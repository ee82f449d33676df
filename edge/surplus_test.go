package edge

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/miosa/miosa/routing"
)

var wrongRequests = flag.Int("requests", 10_000, "how many requests TestWrongAnswers makes, in rounds")

// wrongAnswer is one way in which an app sends more than it was asked for.
type wrongAnswer struct {
	name    string
	method  string
	answer  string // to the request; %s is its ID
	surplus string // what follows it and belongs to nobody
}

const (
	answerOK     = "HTTP/1.1 200 OK\r\nX-Id: %[1]s\r\nContent-Length: 10\r\n\r\n%[1]s"
	answerNone   = "HTTP/1.1 204 No Content\r\nX-Id: %[1]s\r\n\r\n"
	answerSame   = "HTTP/1.1 304 Not Modified\r\nX-Id: %[1]s\r\nEtag: \"x\"\r\n\r\n"
	answerHead   = "HTTP/1.1 200 OK\r\nX-Id: %[1]s\r\nContent-Length: 10\r\n\r\n"
	answerChunks = "HTTP/1.1 200 OK\r\nX-Id: %[1]s\r\nTransfer-Encoding: chunked\r\n\r\na\r\n%[1]s\r\n0\r\n\r\n"
	foreign      = "HTTP/1.1 200 OK\r\nX-Id: foreign\r\nContent-Length: 10\r\n\r\nforeign!!!"
)

var wrongAnswers = []wrongAnswer{
	{"204 with a body", "GET", answerNone, "null"},
	{"204 with a body that looks like an answer", "GET", answerNone, foreign},
	{"204 with a last chunk", "GET", answerNone, "0\r\n\r\n"},
	{"304 with a last chunk", "GET", answerSame, "0\r\n\r\n"},
	{"304 with a body", "GET", answerSame, "<html>not modified</html>"},
	{"304 with another answer", "GET", answerSame, foreign},
	{"HEAD with a body", "HEAD", answerHead, "0123456789"},
	{"HEAD with a last chunk", "HEAD", answerHead, "0\r\n\r\n"},
	{"HEAD with another answer", "HEAD", answerHead, foreign},
	{"two answers", "GET", answerOK, foreign},
	{"two answers to a POST", "POST", answerOK, foreign},
	{"three answers", "GET", answerOK, foreign + foreign},
	{"an error behind the answer", "GET", answerOK, "HTTP/1.1 500 Internal Server Error\r\nX-Id: foreign\r\nContent-Length: 0\r\n\r\n"},
	{"a redirect behind the answer", "GET", answerOK, "HTTP/1.1 302 Found\r\nX-Id: foreign\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"},
	{"204 behind the answer", "GET", answerOK, "HTTP/1.1 204 No Content\r\nX-Id: foreign\r\n\r\n"},
	{"100 (Continue) behind the answer", "GET", answerOK, "HTTP/1.1 100 Continue\r\n\r\n"},
	{"103 (Early Hints) and an answer", "GET", answerOK, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + foreign},
	{"101 behind the answer", "GET", answerOK, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"},
	{"an answer in HTTP/1.0", "GET", answerOK, "HTTP/1.0 200 OK\r\nX-Id: foreign\r\n\r\nforeign!!!"},
	{"an empty line", "GET", answerOK, "\r\n"},
	{"a body longer than its length", "GET", answerOK, "and so on"},
	{"a chunked answer and another", "GET", answerChunks, foreign},
	{"two last chunks", "GET", answerChunks, "0\r\n\r\n"},
	{"half of a head", "GET", answerOK, "HTTP/1.1 200 OK\r\nX-Id: for"},
	{"zeros", "GET", answerOK, "\x00\x00\x00\x00"},
	{"an answer of HTTP/0.9", "GET", answerOK, "<html>"},
}

// classes of delay between the answer and the surplus. In the last the app
// waits until it has the next request, and only then sends what it owes to
// nobody.
var delayClasses = []struct {
	name  string
	delay time.Duration
	apart bool // in a write of its own
}{
	{"in one write", 0, false},
	{"at once", 0, true},
	{"0.3 ms", 300 * time.Microsecond, true},
	{"1 ms", time.Millisecond, true},
	{"3 ms", 3 * time.Millisecond, true},
	{"30 ms", 30 * time.Millisecond, true},
	{"with the next request", -1, true},
}

// wrongApp answers rightly, but for one surplus on each connection, behind its
// second answer.
type wrongApp struct {
	wrongAnswer
	delay   time.Duration
	apart   bool
	service time.Duration // it takes to answer

	early atomic.Int64 // surpluses that could be read a while before another request was there
	close atomic.Int64 // those where the router may have begun to write it: see certain
	late  atomic.Int64 // the others
	after atomic.Int64 // requests that came behind an early surplus

	// A client may have its answer before the app has counted what it sent or
	// has read the request: busy is held while a surplus is not yet counted,
	// and seen has each request that was read, by ID, and whether each time it
	// came it was behind an early surplus.
	busy sync.WaitGroup
	mu   sync.Mutex
	seen map[string]bool
}

func (a *wrongApp) saw(who string, behind bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before, again := a.seen[who]
	a.seen[who] = behind && (before || !again)
	if behind {
		a.after.Add(1)
	}
}

// wasBehind says whether a request came behind an early surplus and never
// otherwise. It waits until the app has read it.
func (a *wrongApp) wasBehind(t *testing.T, who string) bool {
	for until := time.Now().Add(30 * time.Second); ; {
		a.mu.Lock()
		behind, seen := a.seen[who]
		a.mu.Unlock()
		if seen {
			return behind
		}
		if time.Now().After(until) {
			t.Errorf("%s got another's answer, and the app never saw its request", who)
			return false
		}
		runtime.Gosched()
	}
}

// certain is how long after a surplus no request has come, if the router had
// not begun to write one by then: the app sees when a request arrives, not when
// its writing began.
const certain = time.Millisecond

func (a *wrongApp) serve(c net.Conn, br *bufio.Reader) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return
	}
	spoilt := false
	for n := 0; ; n++ {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		a.saw(req.Header.Get("X-Id"), spoilt)
		if a.delay < 0 && n == 2 {
			a.late.Add(1)
			_, _ = io.WriteString(c, a.surplus)
		}
		if a.service > 0 {
			time.Sleep(a.service) //nolint:forbidigo // the app's own pace
		}
		answer := fmt.Sprintf(a.answer, req.Header.Get("X-Id"))
		if n != 1 || a.delay < 0 {
			if _, err := io.WriteString(c, answer); err != nil {
				return
			}
			continue
		}
		var ok bool
		if spoilt, ok = a.spoil(c, br, raw, answer); !ok {
			return
		}
	}
}

// spoil sends an answer and its surplus, and counts it: early says that it
// could be read a while before another request was there, ok that it was sent.
func (a *wrongApp) spoil(c net.Conn, br *bufio.Reader, raw syscall.RawConn, answer string) (early, ok bool) {
	a.busy.Add(1)
	defer a.busy.Done()
	if !a.apart {
		answer += a.surplus
	}
	if _, err := io.WriteString(c, answer); err != nil {
		return false, false
	}
	if a.apart {
		if a.delay > 0 {
			time.Sleep(a.delay) //nolint:forbidigo // the class of delay itself
		}
		if _, err := io.WriteString(c, a.surplus); err != nil {
			return false, false
		}
	}
	// Over loopback what was written can be read by now. If no request is
	// there yet, the surplus was there before the next is written.
	waiting := func() (is bool) {
		is = br.Buffered() > 0
		_ = raw.Control(func(fd uintptr) {
			var b [1]byte
			n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			is = is || err == nil && n > 0
		})
		return is
	}
	if waiting() {
		a.late.Add(1)
		return false, true
	}
	time.Sleep(certain) //nolint:forbidigo // a fact about the router's write, not a wait for it
	if waiting() {
		a.close.Add(1)
		return false, true
	}
	a.early.Add(1)
	return true, true
}

// TestWrongAnswers has apps send what nobody asked for, in many ways and after
// many delays, to many clients that know what is theirs, beside an app that
// does nothing wrong and must not be touched. A backend is found out by its
// first surplus, so that a long run (-requests 1000000) is many rounds of new
// ones.
func TestWrongAnswers(t *testing.T) {
	// What came late may look like an answer that ends with its connection.
	g, _ := newRig(t, Config{IdleTimeout: 3 * time.Second})
	innocent := at("ri_innocent", rawApp(t, func(c net.Conn, br *bufio.Reader) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if _, err := fmt.Fprintf(c, answerOK, req.Header.Get("X-Id")); err != nil {
				return
			}
		}
	}))
	const perApp = 27
	services := []time.Duration{0, 2 * time.Millisecond}
	round := len(delayClasses) * len(wrongAnswers) * len(services) * perApp
	totals := make([]tally, len(delayClasses))
	for n := range max(1, (*wrongRequests+round/2)/round) {
		t.Run(fmt.Sprintf("round %d", n+1), func(t *testing.T) {
			for number, class := range delayClasses {
				for kind, wrong := range wrongAnswers {
					for _, service := range services {
						a := &wrongApp{wrongAnswer: wrong, delay: class.delay, apart: class.apart, service: service, seen: map[string]bool{}}
						id := fmt.Sprintf("ri_%d_%d_%d_%d", n, number, kind, service)
						g.route(map[string]routing.Pool{"app.test": poolOf(at(id, rawApp(t, a.serve))), "innocent.test": poolOf(innocent)})
						mine, others := g.check(t, a, perApp, id)
						a.busy.Wait()
						where := fmt.Sprintf("%s, %s, the app takes %v", wrong.name, class.name, service)
						totals[number].add(t, where, a, perApp, mine)
						if len(others.foreign) > 0 || others.refused > 0 || others.odd != "" {
							t.Errorf("%s: the clients of another app: %+v", where, others)
						}
					}
				}
			}
		})
	}
	all := 0
	for number, class := range delayClasses {
		total := &totals[number]
		all += total.requests
		t.Logf("%-22s %7d requests; %5d surpluses that could be read before the next request: %d such requests went out, %d got one; %4d as it was written and %5d later: %d clients got one, %d were refused",
			class.name+":", total.requests, total.early, total.after, total.wrong, total.close, total.late, total.foreign-total.wrong, total.refused)
		if late := total.close + total.late; total.foreign+total.refused > 2*late {
			t.Errorf("%s: %d surpluses that came late spoilt %d exchanges", class.name, late, total.foreign+total.refused)
		}
		if total.early+total.close+total.late == 0 {
			t.Errorf("%s: the apps did nothing wrong", class.name)
		}
	}
	t.Logf("%d requests to apps that send too much, and as many to the one beside them", all)
}

// tally is what came of one class of delay.
type tally struct {
	requests                                           int
	early, close, late, foreign, refused, after, wrong int64
}

// add counts n requests of one app, and judges them.
func (sum *tally) add(t *testing.T, where string, a *wrongApp, n int, v verdict) {
	late := a.late.Load() + a.close.Load()
	sum.requests += n
	sum.early += a.early.Load()
	sum.close += a.close.Load()
	sum.late += a.late.Load()
	sum.foreign += int64(len(v.foreign))
	sum.refused += v.refused
	sum.after += a.after.Load()
	for _, who := range v.foreign {
		if a.wasBehind(t, who) {
			sum.wrong++
			t.Errorf("%s: %s got what could be read before its request was written", where, who)
		}
	}
	// One that comes late spoils one exchange. A second follows only where the
	// app took much longer than it ever had.
	if bad := int64(len(v.foreign)) + v.refused; bad > 0 && late == 0 {
		t.Errorf("%s: %d clients got what is not theirs or an error, and no surplus came late", where, bad)
	}
	if v.odd != "" {
		t.Errorf("%s: %s", where, v.odd)
	}
}

// verdict is what clients got that was not theirs.
type verdict struct {
	foreign []string // who got another's answer
	refused int64    // an error of the router's
	odd     string
}

// check makes n requests of the app, and n of the innocent one beside it.
func (g *rig) check(t *testing.T, a *wrongApp, n int, id string) (mine, others verdict) {
	const clients = 4
	var mu sync.Mutex
	var all sync.WaitGroup
	for client := range clients {
		for _, host := range []string{"app.test", "innocent.test"} {
			all.Go(func() {
				method, v := "GET", &others
				if host == "app.test" {
					method, v = a.method, &mine
				}
				for i := client; i < n; i += clients {
					who := fmt.Sprintf("%02d-%07d", client, i)
					req, err := http.NewRequestWithContext(t.Context(), method, "http://"+host+"/"+id, nil)
					if err != nil {
						t.Error(err)
						return
					}
					req.Header.Set("X-Id", who)
					res, err := g.noRedirects().Do(req)
					if err != nil {
						mu.Lock()
						// Cut off by the router, which saw half an answer: a
						// refusal too.
						v.refused++
						mu.Unlock()
						continue
					}
					body, err := io.ReadAll(res.Body)
					res.Body.Close()
					mu.Lock()
					got := res.Header.Get("X-Id")
					switch {
					case err != nil:
						v.refused++
					case got == who && (string(body) == who || len(body) == 0 && (method == "HEAD" || res.StatusCode == 204 || res.StatusCode == 304)):
					case got == "" && res.StatusCode == http.StatusBadGateway && strings.Contains(res.Header.Get("Content-Type"), "json"):
						v.refused++
					case got != "":
						v.foreign = append(v.foreign, who)
					default:
						v.odd = fmt.Sprintf("%s %v %q", res.Status, res.Header, body)
					}
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	return mine, others
}

func (g *rig) noRedirects() *http.Client {
	c := *g.http
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &c
}

// TestAppThatSendsTooMuchIsTold of it, once, in its own log.
func TestAppThatSendsTooMuchIsTold(t *testing.T) {
	var conns atomic.Int64
	g := oneRaw(t, Config{}, func(c net.Conn, br *bufio.Reader) {
		conns.Add(1)
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if conns.Load() > 1 && !req.Close {
				t.Error("the app is not told that its connection ends")
			}
			_, _ = io.WriteString(c, fmt.Sprintf(answerNone, "x")+"null")
		}
	})
	for n := range 5 {
		if got := g.get("http://app.test/"); got.StatusCode != 204 {
			t.Errorf("request %d: %s", n, got.Status)
		}
	}
	if n := conns.Load(); n != 5 {
		t.Errorf("%d connections for 5 requests", n)
	}
	if err := g.feed.await(t.Context(), func(r routing.Report) bool { return strings.Contains(r.Faults["ri_a"], "more than the one answer") }); err != nil {
		t.Error(err)
	}
}

// TestAppsThatHangUp close each connection after an answer, and do not say so:
// no request is lost for it.
func TestAppsThatHangUp(t *testing.T) {
	var conns atomic.Int64
	g := oneRaw(t, Config{}, func(c net.Conn, br *bufio.Reader) {
		conns.Add(1)
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, req.Body)
		_, _ = fmt.Fprintf(c, answerOK, "0123456789")
	})
	var all sync.WaitGroup
	var failed atomic.Int64
	for range 8 {
		all.Go(func() {
			for range 100 {
				if got := g.do("POST", "http://app.test/", strings.NewReader("x")); got.StatusCode != 200 {
					failed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of 800 POSTs failed, over %d connections", n, conns.Load())
	}
}

// TestSpokeBefore: what came before the request was written is told from what
// came after, though both can be read.
func TestSpokeBefore(t *testing.T) {
	words := make(chan string)
	addr := rawApp(t, func(c net.Conn, _ *bufio.Reader) {
		if word, ok := <-words; ok {
			_, _ = io.WriteString(c, word)
			_, _ = io.Copy(io.Discard, c)
		}
	})
	defer close(words)
	release, err := keepDates()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	b := newBackend(at("ri_a", addr), "", nil, new(busy))
	spoke := func(after bool) bool {
		c, err := b.dial(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		var at time.Time
		if after {
			at = time.Now()
		}
		words <- "HTTP/1.1 200 OK"
		for c.look() != surplus {
			runtime.Gosched()
		}
		if !after {
			at = time.Now()
		}
		return c.spokeBefore(at)
	}
	// The kernel begins to date packets a moment after it is asked to.
	for until := time.Now().Add(30 * time.Second); !spoke(false); {
		if time.Now().After(until) {
			t.Fatal("what came before the request counts as its answer")
		}
	}
	for range 50 {
		if !spoke(false) {
			t.Fatal("what came before the request counts as its answer")
		}
		if spoke(true) {
			t.Fatal("an answer counts as what came before its request")
		}
	}
}

// TestReuse: what is learnt of a backend's connections, and what follows.
func TestReuse(t *testing.T) {
	var u reuse
	now := epoch
	if !u.keeps(now) || u.safe(0) || !u.safe(proof) || u.safe(soon+1) {
		t.Error("at first a connection is kept, but not trusted with everything")
	}
	u.answered(40*time.Millisecond, true)
	if !u.safe(0) || u.rest() != 80*time.Millisecond {
		t.Errorf("one that has served twice may carry anything; it rests %v", u.rest())
	}
	for range 500 {
		u.answered(0, true)
	}
	if u.rest() != restLeast {
		t.Errorf("one slow answer is not forgotten: %v", u.rest())
	}
	u.answered(time.Minute, true)
	if u.rest() != restMost {
		t.Errorf("rests %v", u.rest())
	}
	u.hungUp(now, 1, time.Minute)
	u.hungUp(now, 7, 0)
	if !u.safe(0) {
		t.Error("one that had rested, or served for long, tells nothing")
	}
	for n := range hangUpsMost {
		if !u.keeps(now) {
			t.Errorf("given up after %d", n)
		}
		u.hungUp(now, 1, 0)
		if u.safe(proof) {
			t.Error("a POST may be lost on it")
		}
	}
	if u.keeps(now) || !u.keeps(now.Add(hangUpsBelieved)) {
		t.Error("connections that do not last are kept")
	}
	if !u.distrust("x") || u.distrust("y") || u.keeps(now.Add(time.Hour)) || u.broken != "x" {
		t.Error("an app that sent too much is trusted again")
	}
}

// TestNoEmptySuccess: whatever a client's body does, its connection never
// carries an answer that nobody gave.
func TestNoEmptySuccess(t *testing.T) {
	refuses := func(c net.Conn, br *bufio.Reader) { // from the head alone
		for {
			if _, err := readHead(br); err != nil {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno")
			_, _ = io.Copy(io.Discard, br)
		}
	}
	reads := func(c net.Conn, br *bufio.Reader) {
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			_, _ = fmt.Fprintf(c, answerOK, "0123456789")
		}
	}
	const get = "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"
	for name, c := range map[string]struct {
		app    func(net.Conn, *bufio.Reader)
		head   string
		body   string // what comes of it at once
		rest   string // what comes of it after the answer
		status int
	}{
		"refused from the head":                 {refuses, "Content-Length: 50000", "x", strings.Repeat("y", 49_999), 401},
		"refused from the head, never complete": {refuses, "Content-Length: 50000", "x", "yyy", 401},
		"refused from the head, in chunks":      {refuses, "Transfer-Encoding: chunked", "1\r\nx\r\n", "1\r\ny\r\n0\r\n\r\n", 401},
		"nobody there":                          {nil, "Content-Length: 50000", "x", strings.Repeat("y", 49_999), 404},
		"nobody there, small":                   {nil, "Content-Length: 5", "x", "yyyy", 404},
		"stands still, small":                   {reads, "Content-Length: 100", "x", "", 408},
		"stands still, large":                   {reads, "Content-Length: 100000", "x", "", 408},
		"stands still, in chunks":               {reads, "Transfer-Encoding: chunked", "1\r\nx\r\n", "", 408},
		"broken chunks":                         {reads, "Transfer-Encoding: chunked", "1\r\nx\r\nzz\r\n", "", 400},
		"whole":                                 {reads, "Content-Length: 5", "xxxxx", "", 200},
		"whole, in chunks":                      {reads, "Transfer-Encoding: chunked", "1\r\nx\r\n0\r\n\r\n", "", 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, _ := newRig(t, Config{StallTimeout: 300 * time.Millisecond})
			host := "nobody.test"
			if c.app != nil {
				host = "app.test"
				g.route(map[string]routing.Pool{host: poolOf(at("ri_a", rawApp(t, c.app)))})
			} else {
				g.route(nil)
			}
			conn := g.dial()
			_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: "+host+"\r\n"+c.head+"\r\n\r\n"+c.body)
			br := bufio.NewReader(conn)
			res, err := http.ReadResponse(br, &http.Request{Method: "POST"})
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != c.status || len(body) == 0 {
				t.Errorf("%s %q %v, want %d", res.Status, body, err, c.status)
			}
			// The client goes on as if nothing had been.
			_, _ = io.WriteString(conn, c.rest+get+get+get)
			answers := 0
			for {
				res, err := http.ReadResponse(br, &http.Request{Method: "GET"})
				if err != nil {
					break
				}
				body, err := io.ReadAll(res.Body)
				if res.StatusCode == 200 && (len(body) == 0 || c.app == nil) || err != nil {
					t.Errorf("an answer that nobody gave: %s %q %v", res.Status, body, err)
				}
				if answers++; answers == 3 {
					break
				}
			}
			if want := c.status == 200; want != (answers == 3) || !want && (answers > 0 || !res.Close) {
				t.Errorf("%d answers on that connection afterwards; it was said to close: %v", answers, res.Close)
			}
		})
	}
}

// TestAStalledUploadInHTTP2 gets 408 too.
func TestAStalledUploadInHTTP2(t *testing.T) {
	g := one(t, Config{StallTimeout: 300 * time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	client := g.http2Client()
	for name, length := range map[string]int64{"small": 100, "large": 100_000, "unknown": -1} {
		pr, pw := io.Pipe()
		go func() { _, _ = pw.Write([]byte("x")) }()
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://app.test/", pr)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		res, err := client.Do(req)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else {
			if res.StatusCode != http.StatusRequestTimeout {
				t.Errorf("%s: %s", name, res.Status)
			}
			res.Body.Close()
		}
		pw.CloseWithError(errors.New("enough"))
	}
}

// TestNoRequestEndsWithoutAStatus: a handler that gives none has the client's
// connection cut, where net/http would have said 200.
func TestNoRequestEndsWithoutAStatus(t *testing.T) {
	g, _ := newRig(t, Config{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := &exchange{rt: g.rt, w: w, r: r, started: time.Now(), served: true}
		x.end()
	}))
	defer server.Close()
	res, err := http.Get(server.URL) //nolint:noctx // a test's
	if err == nil {
		res.Body.Close()
		t.Errorf("answered with %s", res.Status)
	}
}
