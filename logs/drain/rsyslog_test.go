package drain_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miosa/miosa"
)

// syslogIP is where rsyslog listens, and again after it was away: an address
// where nobody else's test asks for just any port.
const syslogIP = "127.0.0.2"

// rsyslog is Debian's, in the foreground, over TLS on a loopback port, with
// everything it keeps in a directory of the test's.
type rsyslog struct {
	t    *testing.T
	ca   authority
	dir  string
	conf string
	port string
	cmd  *exec.Cmd
	said *safeBuffer
}

func newRsyslog(t *testing.T) *rsyslog {
	t.Helper()
	r := &rsyslog{t: t, ca: newAuthority(t), dir: t.TempDir(), said: &safeBuffer{}}
	l, err := net.Listen("tcp", syslogIP+":0")
	if err != nil {
		t.Fatal(err)
	}
	_, r.port, err = net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	cert, key, _ := r.ca.issue(t)
	r.write("ca.pem", []byte(r.ca.pem))
	r.write("cert.pem", cert)
	r.write("key.pem", key)
	r.conf = r.write("rsyslog.conf", fmt.Appendf(nil, `
global(workDirectory="%[1]s" maxMessageSize="256k" defaultNetstreamDriver="ossl" defaultNetstreamDriverCAFile="%[1]s/ca.pem"
	defaultNetstreamDriverCertFile="%[1]s/cert.pem" defaultNetstreamDriverKeyFile="%[1]s/key.pem" parser.escapeControlCharactersOnReceive="off")
main_queue(queue.timeoutShutdown="30000") # what was read is written
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")
template(name="fields" type="list" option.jsonf="on") {
	property(outname="severity" name="syslogseverity-text" format="jsonf")
	property(outname="facility" name="syslogfacility-text" format="jsonf")
	property(outname="host" name="hostname" format="jsonf")
	property(outname="app" name="app-name" format="jsonf")
	property(outname="proc" name="procid" format="jsonf")
	property(outname="id" name="msgid" format="jsonf")
	property(outname="at" name="timereported" dateFormat="rfc3339" format="jsonf")
	property(outname="data" name="structured-data" format="jsonf")
	property(outname="msg" name="msg" format="jsonf")
}
input(type="imtcp" address="%[3]s" port="%[2]s" ruleset="received")
ruleset(name="received") { action(type="omfile" file="%[1]s/received" template="fields") }
`, r.dir, r.port, syslogIP))
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Logf("rsyslogd says: %s", r.said)
		}
	})
	return r
}

func (r *rsyslog) write(name string, content []byte) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// start runs it and waits until it listens.
func (r *rsyslog) start() {
	r.t.Helper()
	path, err := exec.LookPath("rsyslogd")
	if err != nil {
		path = "/usr/sbin/rsyslogd"
	}
	if _, err := os.Stat(path); err != nil {
		r.t.Fatalf("rsyslog is not installed: run `make setup` (Debian packages rsyslog and rsyslog-openssl): %v", err)
	}
	r.cmd = exec.CommandContext(context.WithoutCancel(r.t.Context()), path, "-n", "-f", r.conf, "-i", filepath.Join(r.dir, "pid"))
	r.cmd.Stdout, r.cmd.Stderr = r.said, r.said
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	await(r.t, "rsyslog listens", func() bool {
		conn, err := net.DialTimeout("tcp", syslogIP+":"+r.port, time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// stop ends it as an administrator does: it writes what it read.
func (r *rsyslog) stop() {
	r.t.Helper()
	if r.cmd == nil {
		return
	}
	if err := r.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Error(err)
	}
	if err := r.cmd.Wait(); err != nil {
		r.t.Logf("rsyslogd: %v", err)
	}
	r.cmd = nil
}

type syslogLine struct{ Severity, Facility, Host, App, Proc, ID, At, Data, Msg string }

// received are the messages that it wrote so far.
func (r *rsyslog) received() []syslogLine {
	r.t.Helper()
	raw, err := os.ReadFile(filepath.Join(r.dir, "received"))
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	var all []syslogLine
	for line := range strings.Lines(string(raw)) {
		var l syslogLine
		if !strings.HasSuffix(line, "\n") {
			break // it is just being written
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			r.t.Fatalf("rsyslog wrote %q: %v", line, err)
		}
		all = append(all, l)
	}
	return all
}

func (r *rsyslog) texts() []string {
	var out []string
	for _, l := range r.received() {
		// rsyslog keeps the byte order mark of RFC 5424 as part of the message.
		out = append(out, strings.TrimPrefix(l.Msg, "\ufeff"))
	}
	return out
}

// cutter is a wire to rsyslog that is cut after so many bytes, for as many
// connections as it is told to.
type cutter struct {
	l    net.Listener
	cuts chan int64
	done sync.WaitGroup
}

func newCutter(t *testing.T, to string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{l: l, cuts: make(chan int64, 100)}
	c.done.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			c.done.Go(func() { c.carry(in, to) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.done.Wait()
	})
	return c
}

func (c *cutter) carry(in net.Conn, to string) {
	defer in.Close()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	limit := int64(1 << 40)
	select {
	case limit = <-c.cuts:
	default:
	}
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(in, out)
		_ = in.(*net.TCPConn).CloseWrite()
	}()
	if n, _ := io.CopyN(out, in, limit); n == limit {
		// Both ends at once, the sender's first: nothing comes back on a cut wire.
		_ = in.(*net.TCPConn).SetLinger(0)
		in.Close()
		return
	}
	_ = out.(*net.TCPConn).CloseWrite()
	<-back
}

// TestRsyslog: Debian's rsyslog finds every field again, and gets every line
// while it is away and comes back.
func TestRsyslog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tenant := newID(t, miosa.PrefixTenant)
	a := w.addApp(tenant, "shop", `a "b" ]c\`)
	r := newRsyslog(t)
	r.start()
	wire := newCutter(t, syslogIP+":"+r.port)
	d := w.addDrain(tenant, miosa.DrainSyslog, "syslog+tls://"+wire.l.Addr().String(), r.ca.pem, nil)
	w.start()
	long := strings.Repeat("long ", 12000)
	special := []string{"plain", "", "a\x1b[31mb\x00c\nd\te", "größer\xff", "  spaces  ", "[not=\"data\"] %s", long}
	want := []string{"plain", "", `a\x1b[31mb\x00c\x0ad` + "\te", "größer\ufffd", "  spaces  ", "[not=\"data\"] %s", long}
	w.write(a, special...)
	await(t, "the first lines", func() bool { return len(r.received()) >= len(special) })
	for i, text := range r.texts()[:len(special)] {
		if text != want[i] {
			t.Errorf("line %d is %.100q, want %.100q", i, text, want[i])
		}
	}
	l := r.received()[0]
	if l.Severity != "info" || l.Facility != "user" || l.Host != "shop" || l.App != "web" || l.Proc != a.instance || l.ID != "stdout" ||
		!strings.HasPrefix(l.Data, `[miosa@32473 id="`+a.instance+`.1.1" `) || !strings.HasSuffix(l.Data, ` external_workspace_id="a \"b\" \]c\\"]`) {
		t.Errorf("line %+v", l)
	}
	const rounds, each = 3, 800
	for round := range rounds {
		switch round % 3 {
		case 1:
			w.awaitStatus(d, "all is delivered", func(s miosa.DrainStatus) bool { return s.Lag == 0 })
			r.stop()
		case 2: // in the handshake, and in the middle of the lines
			wire.cuts <- 100
			wire.cuts <- 20000
			wire.cuts <- 70000
		}
		w.write(a, numbered("line", round*each, (round+1)*each)...)
		switch round % 3 {
		case 2:
			w.awaitStatus(d, "the wire was cut and is whole again", func(s miosa.DrainStatus) bool {
				return len(wire.cuts) == 0 && s.State == miosa.DrainDelivering && s.Lag == 0
			})
		case 1:
			w.awaitStatus(d, "the receiver is missed", func(s miosa.DrainStatus) bool { return s.State == miosa.DrainRetrying && s.Lag > 0 })
			r.start()
		}
	}
	w.awaitStatus(d, "everything is delivered", func(s miosa.DrainStatus) bool {
		return s.State == miosa.DrainDelivering && s.Lag == 0 && s.Delivered >= rounds*each+uint64(len(special))
	})
	r.stop()
	complete(t, r.texts(), "line", rounds*each)
	if s := w.f.Status(d); s.Dropped != 0 {
		t.Errorf("status %+v", s)
	}
}
