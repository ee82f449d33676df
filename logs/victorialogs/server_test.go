package victorialogs

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// program is the environment's variable that says where VictoriaLogs is.
const program = "MIOSA_VICTORIA_LOGS"

// real is VictoriaLogs: one process, that all tests of the package share. It
// begins when the first asks for it.
var real process

type process struct {
	once sync.Once
	cmd  *exec.Cmd
	dir  string
	base *url.URL
	err  error
	end  sync.WaitGroup // of who reads what it says
	said bytes.Buffer   // to be read when end is over
}

func TestMain(m *testing.M) {
	code := m.Run()
	real.stop(code != 0)
	os.Exit(code)
}

// at is its address. A machine without it skips the test.
func (p *process) at(t *testing.T) *url.URL {
	t.Helper()
	path := os.Getenv(program)
	if path == "" {
		t.Skip("VictoriaLogs is not here: `make test` fetches it, and says where it is in " + program)
	}
	p.once.Do(func() { p.err = p.start(path) })
	if p.err != nil {
		t.Fatalf("start VictoriaLogs: %v", p.err)
	}
	return p.base
}

var listens = regexp.MustCompile(`started server at (http://[0-9.:]+)/`)

// start runs it and waits until it says where it listens.
func (p *process) start(path string) (err error) {
	if p.dir, err = os.MkdirTemp("", "victorialogs-"); err != nil {
		return err
	}
	// The suite's lines are of no certain time.
	p.cmd = exec.Command(path, "-httpListenAddr=127.0.0.1:0", "-storageDataPath="+p.dir, "-retentionPeriod=100y", "-futureRetention=100y",
		"-memory.allowedBytes=256MiB", "-insert.maxLineSizeBytes=262144")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	told := make(chan string, 1)
	p.end.Go(func() {
		defer close(told)
		in := bufio.NewReader(out)
		for {
			line, err := in.ReadString('\n')
			if !strings.Contains(line, "flushing storage") {
				p.said.WriteString(line)
			}
			if m := listens.FindStringSubmatch(line); m != nil {
				told <- m[1]
			}
			if err != nil {
				return
			}
		}
	})
	select {
	case address, ok := <-told:
		if !ok {
			return fmt.Errorf("it ended, saying\n%s", &p.said)
		}
		p.base, err = url.Parse(address)
		return err
	case <-time.After(time.Minute):
		return fmt.Errorf("it did not say in a minute where it listens")
	}
}

func (p *process) stop(tell bool) {
	if p.cmd != nil && p.cmd.Process != nil {
		_ = p.cmd.Process.Kill() // its data goes with it
		p.end.Wait()
		_ = p.cmd.Wait()
		if tell {
			fmt.Printf("VictoriaLogs says:\n%s", &p.said)
		}
	}
	if p.dir != "" {
		_ = os.RemoveAll(p.dir)
	}
}

// server is a VictoriaLogs of the test's own: accounts of the one that all
// share, behind a proxy that fails the test on any request but those that this
// package makes, to the letter, and that can be made to misbehave.
type server struct {
	t *testing.T
	*httptest.Server
	behind *url.URL
	number uint32 // which accounts are its own

	mu      sync.Mutex
	lagging bool // it is not made to find at once what it took
	single  bool // all tenants have one account
	used    map[[2]string]bool
	queries []string
	faults  []fault // one for each request to come, then none
}

// fault is a way to misbehave.
type fault int

const (
	none   fault = iota
	busy         // 503, nothing done
	full         // 429 of a full disk
	wrong        // 400
	lost         // done, but the connection breaks before the answer
	halved       // the connection breaks in the middle of the answer
	stuck        // no answer until the client goes away
)

var servers atomic.Uint32

func newServer(t *testing.T) *server {
	s := &server{t: t, behind: real.at(t), number: servers.Add(1), used: map[[2]string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /insert/jsonline", s.insert)
	mux.HandleFunc("POST /select/logsql/query", s.query)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("VictoriaLogs was asked for %s %s", r.Method, r.URL)
		http.NotFound(w, r)
	})
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

// fail queues what the next requests meet.
func (s *server) fail(faults ...fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, faults...)
}

// lag leaves it to VictoriaLogs when what it takes is found.
func (s *server) lag(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lagging = on
}

// share gives all tenants one account from now on.
func (s *server) share() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.single = true
}

// settle lets all that was taken be found.
func (s *server) settle() {
	if _, err := s.ask("/internal/force_flush", nil, "", nil); err != nil {
		s.t.Errorf("flush VictoriaLogs: %v", err)
	}
}

// count is how many rows it has, doubles included, and how many it was asked.
func (s *server) count() (rows, queries int) {
	s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	for account := range s.used {
		answer, err := s.ask("/select/logsql/query", map[string]string{"AccountID": account[0], "ProjectID": account[1]},
			"application/x-www-form-urlencoded", []byte(url.Values{"query": {"* | stats count() n"}}.Encode()))
		var line struct{ N string }
		if err == nil {
			err = json.Unmarshal(answer, &line)
		}
		n, wrong := strconv.Atoi(line.N)
		if err != nil || wrong != nil {
			s.t.Fatalf("count the rows: %q, %v", answer, err)
		}
		rows += n
	}
	return rows, len(s.queries)
}

// ask is a request of the test's own.
func (s *server) ask(path string, header map[string]string, kind string, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.behind.JoinPath(path).String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", kind)
	for name, value := range header {
		r.Header.Set(name, value)
	}
	answer, err := s.Client().Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode/100 != 2 {
		err = fmt.Errorf("status %d: %.500q", answer.StatusCode, text)
	}
	return text, err
}

func (s *server) reject(w http.ResponseWriter, format string, args ...any) {
	s.t.Errorf("VictoriaLogs: "+format, args...)
	http.Error(w, fmt.Sprintf(format, args...), http.StatusBadRequest)
}

// begin reads a request and checks what all have; it tells the body, the fault,
// and whether the request was answered. The account becomes one of the test's
// own.
func (s *server) begin(w http.ResponseWriter, r *http.Request) (body []byte, f fault, answered bool) {
	for _, name := range []string{"AccountID", "ProjectID"} {
		if _, err := strconv.ParseUint(r.Header.Get(name), 10, 32); err != nil {
			s.reject(w, "header %s is %q", name, r.Header.Get(name))
			return nil, none, true
		}
	}
	s.mu.Lock()
	if len(s.faults) > 0 {
		f, s.faults = s.faults[0], s.faults[1:]
	}
	account, _ := strconv.ParseUint(r.Header.Get("AccountID"), 10, 32)
	if s.single {
		account = 0
		r.Header.Set("ProjectID", "0")
	}
	r.Header.Set("AccountID", fmt.Sprint(uint32(account)+s.number))
	s.mu.Unlock()
	switch f {
	case busy:
		http.Error(w, "busy", http.StatusServiceUnavailable)
	case full:
		http.Error(w, "cannot add rows into storage in read-only mode; the storage can be in read-only mode because of lack of free disk space", http.StatusTooManyRequests)
	case wrong:
		http.Error(w, strings.Repeat("wrong ", 1<<20), http.StatusBadRequest)
	case stuck:
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	default:
		body, err := io.ReadAll(r.Body)
		return body, f, err != nil
	}
	return nil, f, true
}

// forward hands the request to VictoriaLogs, and its answer back.
func (s *server) forward(w http.ResponseWriter, r *http.Request, body []byte, f fault) {
	to := *s.behind
	to.Path, to.RawQuery = r.URL.Path, r.URL.RawQuery
	out, err := http.NewRequestWithContext(r.Context(), r.Method, to.String(), bytes.NewReader(body))
	if err != nil {
		s.reject(w, "%v", err)
		return
	}
	out.Header = r.Header.Clone()
	answer, err := s.Client().Do(out)
	if err != nil {
		if r.Context().Err() == nil {
			s.t.Errorf("VictoriaLogs: %v", err)
		}
		panic(http.ErrAbortHandler)
	}
	defer answer.Body.Close()
	if answer.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		s.reject(w, "status %d: %s", answer.StatusCode, text)
		return
	}
	if f == lost {
		_, _ = io.Copy(io.Discard, answer.Body)
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), answer.Header)
	w.WriteHeader(answer.StatusCode)
	if f == halved {
		text, _ := io.ReadAll(answer.Body)
		_, _ = w.Write(text[:len(text)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = io.Copy(w, answer.Body)
}

var known = []string{
	"_time", "_msg", "tenant_id", "deployment_id", "service_id", "task_id", "instance_id", "version_id", "host_id", "workspace_id",
	"stream", "epoch", "seq", "order", "stamp", "days", "raw", "partial", "lost",
}

func (s *server) insert(w http.ResponseWriter, r *http.Request) {
	body, f, answered := s.begin(w, r)
	if answered {
		return
	}
	want := url.Values{"_msg_field": {"_msg"}, "_time_field": {"_time"}, "_stream_fields": {"deployment_id,service_id,instance_id"}}
	if got := r.URL.Query(); got.Encode() != want.Encode() {
		s.reject(w, "insert with the arguments %v", got)
		return
	}
	if r.Header.Get("Content-Type") != "application/stream+json" || r.Header.Get("Content-Encoding") != "gzip" {
		s.reject(w, "insert of type %q, encoding %q", r.Header.Get("Content-Type"), r.Header.Get("Content-Encoding"))
		return
	}
	if err := checkLines(body); err != nil {
		s.reject(w, "insert: %v", err)
		return
	}
	s.mu.Lock()
	s.used[[2]string{r.Header.Get("AccountID"), r.Header.Get("ProjectID")}] = true
	lagging := s.lagging
	s.mu.Unlock()
	if !lagging {
		// Who gets the answer reads at once.
		defer s.settle()
	}
	s.forward(w, r, body, f)
}

// checkLines looks for what VictoriaLogs would drop without a word.
func checkLines(body []byte) error {
	unpacked, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return err
	}
	in := bufio.NewScanner(unpacked)
	in.Buffer(nil, 256<<10) // -insert.maxLineSizeBytes
	n := 0
	for ; in.Scan(); n++ {
		var line map[string]string
		if err := json.Unmarshal(in.Bytes(), &line); err != nil {
			return fmt.Errorf("%.200q: %w", in.Bytes(), err)
		}
		for name, value := range line {
			if !slices.Contains(known, name) || value == "" {
				return fmt.Errorf("a field %q = %q", name, value)
			}
		}
		for _, name := range []string{"_time", "_msg", "tenant_id", "instance_id", "stream", "epoch", "seq", "order", "stamp", "days"} {
			if line[name] == "" {
				return fmt.Errorf("without %s", name)
			}
		}
		if _, err := time.Parse(timeFormat, line["_time"]); err != nil {
			return err
		}
	}
	if in.Err() == nil && n == 0 {
		return fmt.Errorf("no lines")
	}
	return in.Err()
}

func (s *server) query(w http.ResponseWriter, r *http.Request) {
	body, f, answered := s.begin(w, r)
	if answered {
		return
	}
	form, err := url.ParseQuery(string(body))
	text := form.Get("query")
	if err != nil || r.URL.RawQuery != "" || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" || len(form) != 1 || len(form["query"]) != 1 {
		s.reject(w, "query with the arguments %q, type %q, form %v", r.URL.RawQuery, r.Header.Get("Content-Type"), form)
		return
	}
	if !strings.Contains(text, "tenant_id:=") || !strings.Contains(text, " | sort by (") || !strings.Contains(text, " limit ") {
		s.reject(w, "query %s: not of one tenant, in order, up to a limit", text)
		return
	}
	s.mu.Lock()
	s.queries = append(s.queries, text)
	s.mu.Unlock()
	s.forward(w, r, body, f)
}
