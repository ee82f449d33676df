// Package registrytest runs a real registry (the distribution project's own
// program) for tests, fills it with images, and stands in front of it where one
// has to misbehave.
package registrytest

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"golang.org/x/sys/unix"
)

// Program is the environment's variable that says where the registry is.
const Program = "MIOSA_REGISTRY"

// Options are what a registry asks of who comes.
type Options struct {
	User, Password string // "": nobody is asked
	CA             *CA    // that its certificate, for 127.0.0.1, is signed by; nil: no TLS
	Token          *TokenServer
}

// Registry is one that runs.
type Registry struct {
	Host string // 127.0.0.1 and its port
	opts Options
}

// Start runs a registry until the test ends. A machine without the program skips
// the test.
func Start(t *testing.T, o Options) *Registry {
	t.Helper()
	program := os.Getenv(Program)
	if program == "" {
		t.Skip("the registry is not here: `make test` fetches it, and says where it is in " + Program)
	}
	dir := t.TempDir()
	var config strings.Builder
	fmt.Fprintf(&config, "version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %q}, maintenance: {uploadpurging: {enabled: false}}}\n", filepath.Join(dir, "data"))
	fmt.Fprintf(&config, "http:\n  addr: 127.0.0.1:0\n  secret: of-the-test\n")
	if o.CA != nil {
		cert, key := o.CA.Files(t, dir)
		fmt.Fprintf(&config, "  tls: {certificate: %q, key: %q}\n", cert, key)
	}
	switch {
	case o.Token != nil:
		bundle := filepath.Join(dir, "token.pem")
		write(t, bundle, o.Token.certificate)
		fmt.Fprintf(&config, "auth: {token: {realm: %q, service: test, issuer: test, rootcertbundle: %q, signingalgorithms: [ES256]}}\n", o.Token.URL, bundle)
	case o.User != "":
		hash, err := bcrypt.GenerateFromPassword([]byte(o.Password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		users := filepath.Join(dir, "htpasswd")
		write(t, users, []byte(o.User+":"+string(hash)+"\n"))
		fmt.Fprintf(&config, "auth: {htpasswd: {realm: test, path: %q}}\n", users)
	}
	file := filepath.Join(dir, "config.yml")
	write(t, file, []byte(config.String()))
	return &Registry{Host: run(t, program, file), opts: o}
}

func write(t *testing.T, path string, raw []byte) {
	t.Helper()
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

var listens = regexp.MustCompile(`listening on (127\.0\.0\.1:[0-9]+)`)

// run starts the program and waits until it says where it listens.
func run(t *testing.T, program, config string) string {
	t.Helper()
	cmd := exec.Command(program, "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var end sync.WaitGroup
	var said strings.Builder // to be read when end is over
	told := make(chan string, 1)
	end.Go(func() {
		defer close(told)
		in := bufio.NewReader(out)
		for {
			line, err := in.ReadString('\n')
			if said.Len() < 4<<10 {
				said.WriteString(line)
			}
			if m := listens.FindStringSubmatch(line); m != nil {
				select {
				case told <- m[1]:
				default:
				}
			}
			if err != nil {
				return
			}
		}
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		end.Wait()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the registry said:\n%s", &said)
		}
	})
	select {
	case host, ok := <-told:
		if !ok {
			t.Fatal("the registry ended at once")
		}
		return host
	case <-time.After(time.Minute):
		t.Fatal("the registry did not say in a minute where it listens")
	}
	return ""
}

// CA signs certificates.
type CA struct {
	PEM  []byte
	Pool *x509.CertPool
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes one of its own.
func NewCA(t *testing.T) *CA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "of the test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c := &CA{PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), Pool: x509.NewCertPool(), key: key}
	if c.cert, err = x509.ParseCertificate(raw); err != nil {
		t.Fatal(err)
	}
	c.Pool.AddCert(c.cert)
	return c
}

// Certificate signs one for names and addresses.
func (c *CA) Certificate(t *testing.T, names ...string) (cert, key []byte) {
	t.Helper()
	mine, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, c.cert, mine.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := x509.MarshalPKCS8PrivateKey(mine)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: packed})
}

// Files writes a certificate for 127.0.0.1 and localhost, and its key.
func (c *CA) Files(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	rawCert, rawKey := c.Certificate(t, "127.0.0.1", "localhost")
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, cert, rawCert)
	write(t, key, rawKey)
	return cert, key
}

// Serve serves HTTPS at 127.0.0.1 with a certificate for names until the test
// ends, and returns its host and port.
func Serve(t *testing.T, c *CA, h http.Handler, names ...string) string {
	t.Helper()
	cert, key := c.Certificate(t, names...)
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var end sync.WaitGroup
	end.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		_ = s.Close()
		end.Wait()
	})
	return l.Addr().String()
}

// Front stands in front of a registry without TLS until the test ends, and returns
// its host and port. odd answers itself, or lets the registry do it.
func Front(t *testing.T, host string, odd func(w http.ResponseWriter, r *http.Request) bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !odd(w, r) {
			proxy.ServeHTTP(w, r)
		}
	})}
	var end sync.WaitGroup
	end.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() {
		_ = s.Close()
		end.Wait()
	})
	return l.Addr().String()
}

// Cutter stands in front of a server and cuts connections.
type Cutter struct {
	Host string

	host string // that it stands in front of
	ctx  context.Context
	end  sync.WaitGroup

	mu       sync.Mutex   // guards the rest
	listener net.Listener // nil: nobody listens
	after    int64        // bytes of one connection that are let through; below 0: all
	cuts     int          // that are left to do
	done     int
	vanish   bool
}

// Cut stands in front of a host. Of the next connections that bring more than
// after bytes, cuts are cut behind those.
func Cut(t *testing.T, host string, after int64, cuts int) *Cutter {
	t.Helper()
	// The port stays ours while nobody listens there.
	keeper, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(keeper) })
	if err := share(uintptr(keeper)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(keeper, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(keeper)
	if err != nil {
		t.Fatal(err)
	}
	at, ok := name.(*unix.SockaddrInet4)
	if !ok {
		t.Fatalf("bound to a %T", name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Cutter{Host: fmt.Sprintf("127.0.0.1:%d", at.Port), host: host, ctx: ctx, after: after, cuts: cuts}
	t.Cleanup(func() {
		cancel()
		c.mu.Lock()
		c.shut()
		c.mu.Unlock()
		c.end.Wait()
	})
	if err := c.Return(); err != nil {
		t.Fatal(err)
	}
	return c
}

// share lets another socket of ours have the same port.
func share(fd uintptr) error {
	return unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
}

// Vanish has nobody listen any more from the next cut on, until Return.
func (c *Cutter) Vanish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.vanish = true
}

// Return listens again.
func (c *Cutter) Return() error {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) (err error) {
		if cerr := raw.Control(func(fd uintptr) { err = share(fd) }); cerr != nil {
			return cerr
		}
		return err
	}}
	l, err := config.Listen(c.ctx, "tcp", c.Host)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listener = l
	c.end.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.end.Go(func() { c.pass(conn) })
		}
	})
	return nil
}

// shut ends the listening; c.mu is held.
func (c *Cutter) shut() {
	if c.listener != nil {
		_ = c.listener.Close()
		c.listener = nil
	}
}

// Done is how many connections were cut.
func (c *Cutter) Done() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// Left sets how many are still to be cut.
func (c *Cutter) Left(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cuts = n
}

func (c *Cutter) pass(down net.Conn) {
	defer down.Close()
	up, err := net.Dial("tcp", c.host)
	if err != nil {
		return
	}
	defer up.Close()
	stop := context.AfterFunc(c.ctx, func() {
		_ = up.Close()
		_ = down.Close()
	})
	defer stop()
	var end sync.WaitGroup
	end.Go(func() {
		_, _ = io.Copy(up, down)
		_ = up.Close()
	})
	if _, err := io.CopyN(down, up, c.after); err == nil {
		c.mu.Lock()
		cut := c.cuts > 0
		if cut {
			c.cuts--
			c.done++
			if c.vanish {
				c.vanish = false
				c.shut()
			}
		}
		c.mu.Unlock()
		if !cut {
			_, _ = io.Copy(down, up)
		}
	}
	_ = down.Close()
	_ = up.Close()
	end.Wait()
}
