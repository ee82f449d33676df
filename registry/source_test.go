package registry

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/outbound"
	"github.com/miosa/miosa/registry/registrytest"
)

// only allows one address of the loopback, which is where tests listen.
var only = outbound.Guard{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32"), netip.MustParsePrefix("::1/128")}}

// open makes a source that does not rest between attempts.
func open(t *testing.T, guard outbound.Guard, reference string, login Login) *Source {
	t.Helper()
	ref, err := Parse(reference)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Guard: guard, Pause: time.Microsecond}, ref, login)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// pull gets a whole image, and gives it to what reads uploads.
func pull(t *testing.T, s *Source) (Image, artifact.Stored, error) {
	t.Helper()
	img, err := s.Resolve(t.Context(), Here)
	if err != nil {
		return img, artifact.Stored{}, err
	}
	dir := t.TempDir()
	for _, b := range img.Blobs() {
		f, err := os.Create(filepath.Join(dir, b.hex()))
		if err != nil {
			t.Fatal(err)
		}
		err = s.Fetch(t.Context(), b, f, func(int64) {})
		if cerr := f.Close(); cerr != nil {
			t.Fatal(cerr)
		}
		if err != nil {
			return img, artifact.Stored{}, err
		}
	}
	var packed bytes.Buffer
	if err := img.WriteLayout(&packed, func(b Blob) (io.ReadCloser, error) { return os.Open(filepath.Join(dir, b.hex())) }); err != nil {
		t.Fatal(err)
	}
	stored, err := artifact.Receive(t.Context(), artifacttest.NewMemory(time.Now), artifact.Upload{Kind: miosa.KindOCI, Body: &packed}, artifact.Limits{})
	return img, stored, err
}

// says checks an error's public code and that its message has words in it.
func says(t *testing.T, err error, public string, words ...string) {
	t.Helper()
	e, ok := errors.AsType[*miosa.Error](err)
	if !ok {
		t.Fatalf("got %v, wanted %s", err, public)
	}
	if e.Public != public {
		t.Errorf("got %s (%v), wanted %s", e.Public, err, public)
	}
	for _, w := range words {
		if !strings.Contains(e.Message, w) {
			t.Errorf("the message lacks %q: %s", w, e.Message)
		}
	}
}

func shop(t *testing.T, size int) v1.Image {
	t.Helper()
	return registrytest.Image(t, "amd64", v1.Config{Cmd: []string{"/app"}, ExposedPorts: map[string]struct{}{"8080/tcp": {}}},
		registrytest.Layer(t, map[string]string{"app": "#!/bin/sh\n"}), registrytest.Layer(t, map[string]string{"data": registrytest.Noise(1, size)}))
}

// TestPull pulls from the real registry, as all sorts of people.
func TestPull(t *testing.T) {
	ca := registrytest.NewCA(t)
	r := registrytest.Start(t, registrytest.Options{CA: ca, User: "ann", Password: "secret"})
	img := shop(t, 100_000)
	r.Push(t, "team/shop:1.4", img)
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ann := Login{User: "ann", Secret: "secret", CA: string(ca.PEM)}
	var first string
	for _, reference := range []string{r.Host + "/team/shop:1.4", r.Host + "/team/shop@" + digest.String(), "https://" + r.Host + "/team/shop:1.4"} {
		got, stored, err := pull(t, open(t, only, reference, ann))
		if err != nil {
			t.Fatal(err)
		}
		if got.Digest != digest.String() || stored.Manifest.Files != 2 || stored.Config.Cmd[0] != "/app" || stored.Config.ExposedPorts[0] != 8080 {
			t.Errorf("%s: got %s with %+v", reference, got.Digest, stored)
		}
		if first == "" {
			first = stored.Blob.SHA256
		}
		if stored.Blob.SHA256 != first {
			t.Errorf("%s: the same image became other bytes", reference)
		}
	}
	for _, c := range []struct {
		name, reference string
		login           Login
		public          string
		words           []string
	}{
		{"nobody", "/team/shop:1.4", Login{CA: ann.CA}, CodeLogin, []string{"wants a login", "miosa registry login " + r.Host}},
		{"a wrong password", "/team/shop:1.4", Login{User: "ann", Secret: "wrong", CA: ann.CA}, CodeLogin, []string{`refuses the login of "ann"`, "miosa registry login " + r.Host}},
		{"no such tag", "/team/shop:2", ann, CodeAbsent, []string{"has no tag 2 of team/shop"}},
		{"no such repository", "/team/nothing:1", ann, CodeAbsent, []string{"has no"}},
		{"no such digest", "/team/shop@sha256:" + strings.Repeat("0", 64), ann, CodeAbsent, []string{"has no image sha256:00"}},
		{"an authority that nobody knows", "/team/shop:1.4", Login{User: "ann", Secret: "secret"}, CodeTrust, []string{"signed by an unknown authority", "--ca FILE"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := pull(t, open(t, only, r.Host+c.reference, c.login))
			says(t, err, c.public, c.words...)
		})
	}
	t.Run("a certificate for another name", func(t *testing.T) {
		host := registrytest.Serve(t, ca, http.NotFoundHandler(), "registry.example")
		_, _, err := pull(t, open(t, only, host+"/shop:1", Login{CA: ann.CA}))
		says(t, err, CodeTrust, "it is for registry.example, not for "+host)
	})
	t.Run("a target that is not allowed", func(t *testing.T) {
		_, _, err := pull(t, open(t, outbound.Guard{}, r.Host+"/team/shop:1.4", ann))
		says(t, err, CodeUnreached, "may not be called from here", "--allow-target")
	})
	t.Run("no such name", func(t *testing.T) {
		_, _, err := pull(t, open(t, outbound.Guard{}, "registry.invalid/shop:1", Login{}))
		says(t, err, CodeUnreached, "the name of registry.invalid cannot be resolved")
	})
}

// TestPullWithoutTLS: only where the reference asks for it and the operator
// allows the address.
func TestPullWithoutTLS(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	r.Push(t, "shop:1", shop(t, 1000))
	if _, _, err := pull(t, open(t, only, "http://"+r.Host+"/shop:1", Login{})); err != nil {
		t.Error(err)
	}
	_, _, err := pull(t, open(t, only, r.Host+"/shop:1", Login{}))
	says(t, err, CodeUnreached, "speaks no TLS", "http://"+r.Host)
	_, _, err = pull(t, open(t, outbound.Guard{}, "http://"+r.Host+"/shop:1", Login{}))
	says(t, err, CodeUnreached, "--allow-target")
}

// TestPullByToken has the registry send us to a token server first.
func TestPullByToken(t *testing.T) {
	ca := registrytest.NewCA(t)
	tokens := registrytest.NewTokenServer(t, ca, "ann", "secret")
	r := registrytest.Start(t, registrytest.Options{CA: ca, Token: tokens, User: "ann", Password: "secret"})
	r.Push(t, "team/shop:1.4", shop(t, 1000))
	before := tokens.Given.Load()
	if _, _, err := pull(t, open(t, only, r.Host+"/team/shop:1.4", Login{User: "ann", Secret: "secret", CA: string(ca.PEM)})); err != nil {
		t.Fatal(err)
	}
	if tokens.Given.Load() == before {
		t.Error("no token was asked for")
	}
	_, _, err := pull(t, open(t, only, r.Host+"/team/shop:1.4", Login{User: "ann", Secret: "wrong", CA: string(ca.PEM)}))
	says(t, err, CodeLogin, "refuses the login", "miosa registry login "+r.Host)
}

// TestTokenServerByAddress: what the library does not go to is not tried again, and
// the registry's operator is told what to mend.
func TestTokenServerByAddress(t *testing.T) {
	for name, realm := range map[string]string{"a private address": "http://10.0.0.1/token", "redirected to one": "", "without TLS": "ftp://registry.example/token"} {
		asked := 0
		var front string
		front = registrytest.Front(t, "", func(w http.ResponseWriter, q *http.Request) bool {
			if q.URL.Path == "/token" {
				http.Redirect(w, q, "http://10.0.0.1/token", http.StatusTemporaryRedirect)
				return true
			}
			asked++
			w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q", cmp.Or(realm, "http://"+front+"/token")))
			w.WriteHeader(http.StatusUnauthorized)
			return true
		})
		_, err := open(t, only, "http://"+front+"/shop:1", Login{}).Resolve(t.Context(), Here)
		says(t, err, CodeFailing, "has to name the token server by a host name")
		if asked != 1 {
			t.Errorf("%s: asked %d times", name, asked)
		}
	}
}

// TestRefreshTokens has a token server give out what is good for one request, and
// a refresh token with it, while several layers come at once: the library takes
// one answer at a time.
func TestRefreshTokens(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	var layers []v1.Layer
	for n := range 6 {
		layers = append(layers, registrytest.Layer(t, map[string]string{"data": registrytest.Noise(uint64(n), 1000)}))
	}
	r.Push(t, "shop:1", registrytest.Image(t, "amd64", v1.Config{Cmd: []string{"/app"}}, layers...))
	var given, refreshed atomic.Int64
	var used, busy sync.Map
	var front string
	front = registrytest.Front(t, r.Host, func(w http.ResponseWriter, q *http.Request) bool {
		switch _, again := used.LoadOrStore(q.Header.Get("Authorization"), true); {
		case q.URL.Path == "/token":
			n := given.Add(1)
			refresh := fmt.Sprintf("r%d", n)
			if q.Method == http.MethodPost {
				refresh = q.PostFormValue("refresh_token")
				if _, twice := busy.LoadOrStore(refresh, true); twice {
					t.Errorf("%s is used twice at a time", refresh)
				}
				<-time.After(20 * time.Millisecond) // as others would come
				busy.Delete(refresh)
				refreshed.Add(1)
			}
			_, _ = fmt.Fprintf(w, `{"token": "t%d", "refresh_token": %q}`, n, refresh)
		case again || q.URL.Path == "/v2/":
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+front+`/token",service="test"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			return false
		}
		return true
	})
	s := open(t, only, "http://"+front+"/shop:1", Login{})
	img, err := s.Resolve(t.Context(), Here)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var all sync.WaitGroup
	for _, b := range img.Blobs() {
		all.Go(func() {
			f, err := os.Create(filepath.Join(dir, b.hex()))
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if err := s.Fetch(t.Context(), b, f, func(int64) {}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if refreshed.Load() == 0 {
		t.Error("nothing was refreshed")
	}
}

// TestPlatform picks by platform, and says what there is instead.
func TestPlatform(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	layer := registrytest.Layer(t, map[string]string{"app": "x"})
	mine := registrytest.Image(t, "amd64", v1.Config{Cmd: []string{"/app"}}, layer)
	arm := registrytest.Image(t, "arm64", v1.Config{}, layer)
	about := registrytest.Image(t, "unknown", v1.Config{}, registrytest.Layer(t, map[string]string{"sbom": "{}"}))
	r.Push(t, "both:1", registrytest.Index(t, map[string]v1.Image{"linux/amd64": mine, "linux/arm64": arm, "unknown/unknown": about}))
	r.Push(t, "arm:1", registrytest.Index(t, map[string]v1.Image{"linux/arm64/v8": arm, "linux/s390x": arm, "unknown/unknown": about}))
	r.Push(t, "armalone:1", arm)
	got, _, err := pull(t, open(t, only, "http://"+r.Host+"/both:1", Login{}))
	digest, derr := mine.Digest()
	if err != nil || derr != nil || got.Digest != digest.String() {
		t.Errorf("got %s (%v, %v), wanted %s", got.Digest, err, derr, digest)
	}
	_, _, err = pull(t, open(t, only, "http://"+r.Host+"/arm:1", Login{}))
	says(t, err, CodePlatform, "no image for linux/amd64", "there is: linux/arm64/v8, linux/s390x.", "--platform linux/amd64")
	_, _, err = pull(t, open(t, only, "http://"+r.Host+"/armalone:1", Login{}))
	says(t, err, CodePlatform, "there is: linux/arm64")
}

// TestRefusedForms: what is in a registry and no image that runs.
func TestRefusedForms(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	layer := registrytest.Layer(t, map[string]string{"app": "x"})
	chart := mutate.ConfigMediaType(registrytest.Image(t, "amd64", v1.Config{}, layer), "application/vnd.cncf.helm.config.v1+json")
	r.Push(t, "chart:1", mutate.MediaType(chart, types.OCIManifestSchema1))
	foreign, err := mutate.AppendLayers(registrytest.Image(t, "amd64", v1.Config{}, layer), static.NewLayer([]byte("windows"), types.DockerForeignLayer))
	if err != nil {
		t.Fatal(err)
	}
	r.Push(t, "plainlayer:1", shop(t, 10))
	front := registrytest.Front(t, r.Host, func(w http.ResponseWriter, q *http.Request) bool {
		switch {
		case strings.HasSuffix(q.URL.Path, "/manifests/foreign"):
			raw, err := foreign.RawManifest()
			if err != nil {
				t.Error(err)
			}
			w.Header().Set("Content-Type", string(types.DockerManifestSchema2))
			_, _ = w.Write(raw)
		case strings.HasSuffix(q.URL.Path, "/manifests/old"):
			w.Header().Set("Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws")
			_, _ = io.WriteString(w, `{"schemaVersion": 1, "name": "shop", "fsLayers": []}`)
		default:
			return false
		}
		return true
	})
	for tag, words := range map[string]string{
		"/plainlayer:foreign": "is a foreign one", "/plainlayer:old": "schema 1", "/chart:1": `something of type "application/vnd.cncf.helm.config.v1+json"`,
	} {
		_, _, err := pull(t, open(t, only, "http://"+front+tag, Login{}))
		says(t, err, CodeFormat, words)
	}
}

// TestCut cuts the connection in the middle of a layer, again and again: it goes
// on behind what it has.
func TestCut(t *testing.T) {
	ca := registrytest.NewCA(t)
	r := registrytest.Start(t, registrytest.Options{CA: ca})
	const size = 3 << 20
	r.Push(t, "shop:1", shop(t, size))
	cutter := registrytest.Cut(t, r.Host, 400<<10, 6)
	s := open(t, only, cutter.Host+"/shop:1", Login{CA: string(ca.PEM)})
	if _, stored, err := pull(t, s); err != nil || stored.Manifest.TotalBytes < size {
		t.Fatalf("got %+v, %v", stored, err)
	}
	if cutter.Done() != 6 {
		t.Errorf("%d connections were cut, wanted 6", cutter.Done())
	}
}

// watching tells of each answer, or failure to have one.
type watching struct {
	http.RoundTripper
	told func(error)
}

func (w watching) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := w.RoundTripper.RoundTrip(r)
	w.told(err)
	return resp, err
}

// TestGoneForAMoment: in the middle of a layer the registry is gone, and back after
// a few attempts to reach it.
func TestGoneForAMoment(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	const size = 1 << 20
	r.Push(t, "shop:1", shop(t, size))
	cutter := registrytest.Cut(t, r.Host, 400<<10, 1)
	cutter.Vanish()
	s := open(t, only, "http://"+cutter.Host+"/shop:1", Login{})
	refused := 0
	s.base.plain = watching{s.base.plain, func(err error) {
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return
		}
		if refused++; refused == 3 {
			if err := cutter.Return(); err != nil {
				t.Error(err)
			}
		}
	}}
	if _, stored, err := pull(t, s); err != nil || stored.Manifest.TotalBytes < size {
		t.Fatalf("got %+v, %v", stored, err)
	}
	if cutter.Done() != 1 || refused != 3 {
		t.Errorf("%d connections were cut, %d refused; wanted 1, 3", cutter.Done(), refused)
	}
}

// TestRecordsFailForAMoment: that the guard can't tell our own addresses is no
// refusal; that one is our own is one.
func TestRecordsFailForAMoment(t *testing.T) {
	for want, cell := range map[int]func() ([]netip.Addr, error){
		5: func() ([]netip.Addr, error) { return nil, errors.New("the records fail") },
		1: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil },
	} {
		asked := 0
		s := open(t, outbound.Guard{Cell: func(context.Context) ([]netip.Addr, error) {
			asked++
			return cell()
		}}, "192.0.2.1:5000/shop:1", Login{})
		_, err := s.Resolve(t.Context(), Here)
		says(t, err, CodeUnreached, "may not be called from here")
		if asked != want || strings.Contains(err.Error(), "tried") {
			t.Errorf("asked %d times, wanted %d: %v", asked, want, err)
		}
	}
}

// TestCutForGood gives up after a bounded number of tries, and goes on with what
// came when it is called again.
func TestCutForGood(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	r.Push(t, "shop:1", shop(t, 1<<20))
	var left atomic.Int64
	left.Store(300_000) // bytes of the layer that are given
	var asked []string
	front := registrytest.Front(t, r.Host, func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.Contains(q.URL.Path, "/blobs/") || left.Load() < 0 {
			return false
		}
		asked = append(asked, q.Header.Get("Range"))
		resp, err := http.DefaultTransport.RoundTrip(mustRequest(t, q, "http://"+r.Host+q.URL.Path))
		if err != nil {
			t.Error(err)
			return true
		}
		defer resp.Body.Close()
		for k := range resp.Header {
			w.Header().Set(k, resp.Header.Get(k))
		}
		w.WriteHeader(resp.StatusCode)
		n, _ := io.CopyN(w, resp.Body, left.Load())
		left.Add(-n)
		if left.Load() <= 0 {
			left.Store(0)
			panic(http.ErrAbortHandler)
		}
		return true
	})
	s := open(t, only, "http://"+front+"/shop:1", Login{})
	img, err := s.Resolve(t.Context(), Here)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "layer"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = s.Fetch(t.Context(), img.Layers[1], f, func(int64) {})
	says(t, err, CodeUnreached, "cut the connection", "tried")
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil || at == 0 {
		t.Fatalf("%d bytes stayed (%v)", at, err)
	}
	left.Store(-1)
	var least int64 = 1 << 40
	if err := s.Fetch(t.Context(), img.Layers[1], f, func(n int64) { least = min(least, n) }); err != nil {
		t.Fatal(err)
	}
	if least < at {
		t.Errorf("it began again at %d, though %d bytes were there", least, at)
	}
	if last := asked[len(asked)-1]; last != fmt.Sprintf("bytes=%d-", at) {
		t.Errorf("asked for %q at last, with %d bytes there", last, at)
	}
}

func mustRequest(t *testing.T, from *http.Request, to string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(from.Context(), from.Method, to, nil)
	if err != nil {
		t.Fatal(err)
	}
	if v := from.Header.Get("Range"); v != "" {
		r.Header.Set("Range", v)
	}
	return r
}

// TestLies: a registry that gives other bytes than it names, or more of them,
// and leads elsewhere.
func TestLies(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	img := shop(t, 10_000)
	r.Push(t, "shop:1", img)
	inside := serveAt(t, "127.0.0.2:0", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the address inside was called") }))
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	digest, err := layers[1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := layers[1].Size()
	if err != nil {
		t.Fatal(err)
	}
	ranges := 0
	for name, c := range map[string]struct {
		odd    func(w http.ResponseWriter, r *http.Request)
		on     string
		public string
		words  string
	}{
		"other bytes": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", int(size))) }, "/blobs/" + digest.String(), CodeDigest, "that have the digest"},
		"more bytes": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Repeat("x", int(size)+1))
		}, "/blobs/" + digest.String(), CodeDigest, "more bytes"},
		"no end": {func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, "/manifests/1", CodeTooLarge, "more than 4194304 bytes"},
		"another tag's digest": {func(w http.ResponseWriter, _ *http.Request) {
			raw, _ := img.RawManifest()
			w.Header().Set("Content-Type", string(types.DockerManifestSchema2))
			w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("1", 64))
			_, _ = w.Write(raw)
		}, "/manifests/1", CodeDigest, "changed on the way"},
		"inside": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://"+inside+"/secret", http.StatusTemporaryRedirect)
		}, "/blobs/" + digest.String(), CodeUnreached, "sends on to"},
		"in circles": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}, "/blobs/" + digest.String(), CodeFailing, "in circles"},
		"too often": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "3600")
			http.Error(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}`, http.StatusTooManyRequests)
		}, "/manifests/1", CodeLimited, "come back in 1h0m0s"},
		"failing": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oh", http.StatusBadGateway) }, "/manifests/1", CodeFailing, "status 502"},
		"another part": {func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				w.Header().Set("Content-Length", fmt.Sprint(size))
				_, _ = w.Write([]byte("x"))
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			ranges++
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", size-1, size))
			w.WriteHeader(http.StatusPartialContent)
		}, "/blobs/" + digest.String(), CodeFailing, "another part"},
	} {
		t.Run(name, func(t *testing.T) {
			front := registrytest.Front(t, r.Host, func(w http.ResponseWriter, q *http.Request) bool {
				if strings.HasSuffix(q.URL.Path, c.on) {
					c.odd(w, q)
					return true
				}
				return false
			})
			_, _, err := pull(t, open(t, only, "http://"+front+"/shop:1", Login{}))
			says(t, err, c.public, c.words)
		})
	}
	if ranges == 0 {
		t.Error("nothing was asked for by range")
	}
}

// TestDamagedBeginning: what lay there from before is the damage.
func TestDamagedBeginning(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	r.Push(t, "shop:1", shop(t, 10_000))
	s := open(t, only, "http://"+r.Host+"/shop:1", Login{})
	img, err := s.Resolve(t.Context(), Here)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "layer")
	if err := os.WriteFile(path, []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := s.Fetch(t.Context(), img.Layers[1], f, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil || digestOf(raw) != img.Layers[1].Digest {
		t.Errorf("the file holds %s (%v)", digestOf(raw), err)
	}
}

// TestDiskFull has the platform's disk fail, not the registry.
func TestDiskFull(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	r.Push(t, "shop:1", shop(t, 10_000))
	s := open(t, only, "http://"+r.Host+"/shop:1", Login{})
	img, err := s.Resolve(t.Context(), Here)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		t.Skip("no /dev/full: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// Reading /dev/full never ends: it stands for a file without anything in it.
	l := &fetching{s: s, blob: img.Layers[1], f: f, progress: func(int64) {}, hash: newHash()}
	_, err = l.once(t.Context())
	if disk, ok := errors.AsType[*diskError](err); !ok || !errors.Is(disk, syscall.ENOSPC) || miosa.CodeOf(artifact.StorageError(err)) != miosa.NoSpace {
		t.Errorf("got %v", err)
	}
}

// TestSilence: a registry that says nothing more is left.
func TestSilence(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	r.Push(t, "shop:1", shop(t, 10_000))
	front := registrytest.Front(t, r.Host, func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.Contains(q.URL.Path, "/manifests/") {
			return false
		}
		_, _ = io.WriteString(w, "{")
		_ = http.NewResponseController(w).Flush()
		<-q.Context().Done()
		return true
	})
	ref, err := Parse("http://" + front + "/shop:1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(Config{Guard: only, Pause: time.Microsecond, Silence: 50 * time.Millisecond, Tries: 2}, ref, Login{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = s.Resolve(t.Context(), Here)
	says(t, err, CodeUnreached, "does not answer in time")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Resolve(ctx, Here); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// TestDrip: a registry that sends a document byte by byte has none of the memory
// that others read with, and not for ever our ear.
func TestDrip(t *testing.T) {
	r := registrytest.Start(t, registrytest.Options{})
	r.Push(t, "shop:1", shop(t, 10_000))
	for _, on := range []string{"/manifests/", "/blobs/"} {
		dripping := make(chan struct{}, 1)
		front := registrytest.Front(t, r.Host, func(w http.ResponseWriter, q *http.Request) bool {
			if !strings.Contains(q.URL.Path, on) {
				return false
			}
			for q.Context().Err() == nil {
				if _, err := io.WriteString(w, " "); err != nil {
					break
				}
				_ = http.NewResponseController(w).Flush()
				select {
				case dripping <- struct{}{}:
				case <-time.After(10 * time.Millisecond):
				case <-q.Context().Done():
				}
			}
			return true
		})
		ref, err := Parse("http://" + front + "/shop:1")
		if err != nil {
			t.Fatal(err)
		}
		memory := artifact.NewMemory()
		s, err := Open(Config{Guard: only, Pause: time.Microsecond, Memory: memory}, ref, Login{})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := s.Resolve(ctx, Here)
			ended <- err
		}()
		<-dripping
		<-dripping
		if now, _ := memory.Held(); now != 0 {
			t.Errorf("%s: %d MB are held while it drips", on, now>>20)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", on, err)
		}
		s.Close()
		if s, err = Open(Config{Guard: only, Pause: time.Microsecond, Document: 300 * time.Millisecond}, ref, Login{}); err != nil {
			t.Fatal(err)
		}
		_, err = s.Resolve(t.Context(), Here)
		says(t, err, CodeUnreached, "takes more than 300ms to send")
		s.Close()
	}
}

func serveAt(t *testing.T, address string, h http.Handler) string {
	t.Helper()
	l, err := listen(address)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute, TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return l.Addr().String()
}
