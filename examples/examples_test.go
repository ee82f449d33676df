package examples_test

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/klauspost/compress/zstd"
)

// packedFromDebian names the variable that lets the tests fetch Debian's
// packages: examples/check sets it.
const packedFromDebian = "MIOSA_EXAMPLES_FROM_DEBIAN"

// patience bounds each wait; a loaded machine is slow, and nothing here
// asserts how fast an app is.
const patience = time.Minute

// app is one example running as a process of this machine.
type app struct {
	t    *testing.T
	cmd  *exec.Cmd
	url  string
	http *http.Client
	done chan struct{} // closed once the process was reaped

	mu    sync.Mutex // guards lines
	lines []string
}

var listening = regexp.MustCompile(`listening on port (\d+)$`)

// start runs argv with PORT=0 and waits until it says where it listens, or
// ends. With a root directory it runs inside of it, as in a VM.
func start(t *testing.T, root string, argv []string, env ...string) *app {
	t.Helper()
	a := &app{t: t, http: http.DefaultClient, done: make(chan struct{})}
	a.cmd = exec.Command(argv[0], argv[1:]...)
	a.cmd.Env = append([]string{"PORT=0", "PATH=" + os.Getenv("PATH")}, env...)
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if root != "" {
		a.cmd.SysProcAttr.Chroot = root
		a.cmd.Dir = "/"
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	a.cmd.Stdout, a.cmd.Stderr = writer, writer
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	port := make(chan string, 1)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer reader.Close()
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			a.mu.Lock()
			a.lines = append(a.lines, lines.Text())
			a.mu.Unlock()
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				port <- m[1]
			}
		}
	})
	go func() {
		reading.Wait()
		_ = a.cmd.Wait() // how it ended is in ProcessState
		close(a.done)
	}()
	t.Cleanup(func() {
		_ = a.cmd.Process.Kill() // most have ended already
		<-a.done
		if t.Failed() {
			t.Logf("%s said:\n%s", argv[0], a.output())
		}
	})
	select {
	case p := <-port:
		a.url = "http://127.0.0.1:" + p
	case <-a.done:
	case <-time.After(patience):
		t.Fatalf("%s neither listened nor ended", argv[0])
	}
	return a
}

func (a *app) output() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.lines, "\n")
}

func (a *app) request(method, path, body string) (int, http.Header, string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, a.url+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	answer, err := a.http.Do(r)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer.StatusCode, answer.Header, string(content)
}

// expect asks for a path and checks the status and a part of the answer.
func (a *app) expect(method, path, body string, status int, part string) {
	a.t.Helper()
	got, _, content := a.request(method, path, body)
	if got != status || !strings.Contains(content, part) {
		a.t.Errorf("%s %s: %d %q, want %d and %q in it", method, path, got, content, status, part)
	}
}

// ended waits for the process and returns how it ended.
func (a *app) ended() *os.ProcessState {
	a.t.Helper()
	select {
	case <-a.done:
	case <-time.After(patience):
		a.t.Fatalf("%s did not end", a.cmd.Path)
	}
	return a.cmd.ProcessState
}

// stopsWell sends SIGTERM and expects a deliberate end.
func (a *app) stopsWell() {
	a.t.Helper()
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		a.t.Fatal(err)
	}
	if state := a.ended(); state.ExitCode() != 0 {
		a.t.Errorf("after SIGTERM: %v, want exit 0", state)
	}
}

func (a *app) dial() *websocket.Conn {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	conn, answer, err := websocket.Dial(ctx, a.url+"/ws", &websocket.DialOptions{HTTPClient: a.http})
	if err != nil {
		a.t.Fatal(err)
	}
	if answer.Body != nil {
		answer.Body.Close()
	}
	a.t.Cleanup(func() { conn.CloseNow() })
	return conn
}

func (a *app) say(conn *websocket.Conn, text string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	if err := conn.Write(ctx, websocket.MessageText, []byte(text)); err != nil {
		a.t.Fatal(err)
	}
}

// hear reads until a message holds the part.
func (a *app) hear(conn *websocket.Conn, part string) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	for {
		_, message, err := conn.Read(ctx)
		if err != nil {
			a.t.Fatalf("waiting for %q: %v", part, err)
		}
		if strings.Contains(string(message), part) {
			return
		}
	}
}

// closedWith reads until the other side closes.
func (a *app) closedWith(conn *websocket.Conn, want websocket.StatusCode) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), patience)
	defer cancel()
	for {
		if _, _, err := conn.Read(ctx); err != nil {
			if got := websocket.CloseStatus(err); got != want {
				a.t.Errorf("closed with %d (%v), want %d", got, err, want)
			}
			return
		}
	}
}

// packed is an example, packed with its own script.
func packed(t *testing.T, name, version string) string {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "rootfs.tar.zst")
	cmd := exec.CommandContext(t.Context(), filepath.Join(name, "pack"))
	cmd.Env = append(os.Environ(), "OUT="+archive, "VERSION="+version)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s/pack: %v\n%s", name, err, said)
	}
	return archive
}

// unpack lays a packed example out in a new directory, so that what runs is
// what a release holds.
func unpack(t *testing.T, name, version string) string {
	t.Helper()
	archive := packed(t, name, version)
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plain, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for r := tar.NewReader(plain); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err == nil {
			err = lay(root, h, r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func lay(root *os.Root, h *tar.Header, content io.Reader) error {
	switch name := strings.TrimSuffix(h.Name, "/"); h.Typeflag {
	case tar.TypeDir:
		return root.Mkdir(name, 0o755)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, h.FileInfo().Mode().Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	default:
		return fmt.Errorf("%s: unexpected entry type %q", h.Name, h.Typeflag)
	}
}

// chrootOrSkip skips the test where no process may be confined to a
// directory.
func chrootOrSkip(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("running inside the packed root file system needs root")
	}
}

func TestHello(t *testing.T) {
	chrootOrSkip(t)
	a := start(t, unpack(t, "hello", "7"), []string{"/app/server"}, "SECRET=never-shown", "MIOSA_RUNTIME_INSTANCE_ID=ri_test")
	status, header, body := a.request("GET", "/", "")
	var g struct {
		Version  string `json:"version"`
		Instance string `json:"instance"`
	}
	if err := json.Unmarshal([]byte(body), &g); err != nil || status != 200 {
		t.Fatalf("%d %q: %v", status, body, err)
	}
	if g.Version != "7" || g.Instance != "ri_test" || header.Get("X-App-Version") != "7" {
		t.Errorf("greeting %+v, headers %v", g, header)
	}
	a.expect("GET", "/healthz", "", 200, "ok")
	a.expect("GET", "/work?ms=1", "", 200, "worked_ms")
	a.expect("GET", "/work?ms=99999999", "", 422, "10000")
	a.expect("POST", "/leak?mb=1", "", 200, "leaked_mb")
	a.expect("GET", "/nowhere", "", 404, "")
	a.expect("GET", "/env", "", 200, `"SECRET"`)
	if _, _, names := a.request("GET", "/env", ""); strings.Contains(names, "never-shown") {
		t.Errorf("/env shows values: %s", names)
	}
	conn := a.dial()
	a.say(conn, "one")
	a.hear(conn, "one")
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		a.closedWith(conn, websocket.StatusGoingAway)
	}()
	a.stopsWell()
	<-closed
}

func TestHelloCrashesOnDemand(t *testing.T) {
	chrootOrSkip(t)
	a := start(t, unpack(t, "hello", "1"), []string{"/app/server"})
	if r, err := http.Post(a.url+"/crash", "", nil); err == nil {
		r.Body.Close()
		t.Errorf("answered %s, want a broken connection", r.Status)
	}
	if code := a.ended().ExitCode(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
}

// It is started where it can harm nobody only: the platform's own test of it
// does (TestAHostileGuest in cmd/miosa).
func TestHostileRunsInAnInstanceAlone(t *testing.T) {
	chrootOrSkip(t)
	a := start(t, unpack(t, "hostile", "1"), []string{"/app/server"})
	if code := a.ended().ExitCode(); code != 2 || !strings.Contains(a.output(), "runs nowhere else") {
		t.Errorf("exit code %d, saying %q", code, a.output())
	}
}

func TestCrasher(t *testing.T) {
	chrootOrSkip(t)
	a := start(t, unpack(t, "crasher", "1"), []string{"/app/server"})
	if code := a.ended().ExitCode(); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	if !strings.Contains(a.output(), "DATABASE_PASSWORD is not set") {
		t.Errorf("it does not say why: %q", a.output())
	}
}

func TestFiveHundred(t *testing.T) {
	chrootOrSkip(t)
	a := start(t, unpack(t, "five-hundred", "1"), []string{"/app/server"}, "HEALTHY_REQUESTS=1")
	a.expect("GET", "/healthz", "", 200, "ok")
	a.expect("GET", "/healthz", "", 500, "the cache is gone")
	a.expect("GET", "/", "", 500, "the cache is gone")
}

func TestLeaky(t *testing.T) {
	chrootOrSkip(t)
	a := start(t, unpack(t, "leaky", "1"), []string{"/app/server"}, "LEAK_MB_PER_SECOND=256")
	a.expect("GET", "/", "", 200, "leaked")
	deadline := time.After(patience)
	for !strings.Contains(a.output(), "holding 64 MB") && !strings.Contains(a.output(), "holding 128 MB") {
		select {
		case <-deadline:
			t.Fatal("it does not leak")
		case <-time.Tick(20 * time.Millisecond):
		}
	}
}

// interpreted runs an example that needs an interpreter: the machine's own
// by default, Debian's from the packed release where that was asked for.
func interpreted(t *testing.T, name, interpreter, file string, env ...string) *app {
	t.Helper()
	if os.Getenv(packedFromDebian) != "" {
		chrootOrSkip(t)
		return start(t, unpack(t, name, "1"), []string{"/usr/bin/" + interpreter, "/app/" + file}, env...)
	}
	path, err := exec.LookPath(interpreter)
	if err != nil {
		t.Skipf("no %s on this machine; examples/check fetches Debian's", interpreter)
	}
	env = append(slices.Clone(env), "DATA="+t.TempDir(), "HOME="+os.Getenv("HOME"))
	return start(t, "", []string{path, filepath.Join(name, file)}, env...)
}

func TestPython(t *testing.T) {
	a := interpreted(t, "python", "python3", "app.py", "START_SECONDS=0.1")
	a.expect("GET", "/healthz", "", 200, "true")
	a.expect("POST", "/", "grüße", 201, "gr\\u00fc\\u00dfe")
	a.expect("GET", "/", "", 200, "gr\\u00fc\\u00dfe")
	a.expect("POST", "/", strings.Repeat("x", 1001), 413, "1000")
	a.expect("GET", "/nowhere", "", 404, "not here")
	a.stopsWell()
}

func TestNodeChat(t *testing.T) {
	a := interpreted(t, "node-chat", "node", "server.js")
	a.expect("GET", "/healthz", "", 200, "ok")
	a.expect("GET", "/", "", 200, "<title>Chat</title>")
	one, two := a.dial(), a.dial()
	a.say(one, "hello, two")
	a.hear(two, "hello, two")
	a.hear(one, "hello, two")
	a.say(two, strings.Repeat("y", 300))
	a.hear(one, "yyy")
	ping, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// A ping is answered while somebody reads.
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		a.hear(one, "after the ping")
	}()
	if err := one.Ping(ping); err != nil {
		t.Errorf("ping: %v", err)
	}
	a.say(two, "after the ping")
	<-heard

	tooLong := a.dial()
	a.say(tooLong, strings.Repeat("z", 5000))
	a.closedWith(tooLong, websocket.StatusMessageTooBig)

	var closing sync.WaitGroup
	for _, conn := range []*websocket.Conn{one, two} {
		closing.Go(func() { a.closedWith(conn, websocket.StatusGoingAway) })
	}
	a.stopsWell()
	closing.Wait()
}
