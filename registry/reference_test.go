package registry

import (
	"crypto/sha256"
	"hash"
	"net"
	"strings"
	"testing"
)

func newHash() hash.Hash { return sha256.New() }

func listen(address string) (net.Listener, error) { return net.Listen("tcp", address) }

func TestParse(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for in, want := range map[string]string{
		"nginx": "docker.io/library/nginx:latest", "nginx:1.27": "docker.io/library/nginx:1.27", "team/shop": "docker.io/team/shop:latest",
		"docker.io/nginx": "docker.io/library/nginx:latest", "index.docker.io/team/shop:1": "docker.io/team/shop:1",
		"registry.example/shop:1.4": "registry.example/shop:1.4", "registry.example:5000/a/b/c": "registry.example:5000/a/b/c:latest",
		"http://10.0.0.1:5000/shop": "http://10.0.0.1:5000/shop:latest", "https://registry.example/shop:1": "registry.example/shop:1",
		"registry.example/shop@" + digest: "registry.example/shop@" + digest, "registry.example/shop:1@" + digest: "registry.example/shop@" + digest,
		"localhost:5000/shop": "localhost:5000/shop:latest", "localhost/shop": "localhost/shop:latest", "http://localhost/shop": "http://localhost/shop:latest",
		"http://registry:80/shop": "http://registry:80/shop:latest", "https://registry:443/team/shop:1": "registry:443/team/shop:1",
		"registry/shop": "docker.io/registry/shop:latest", "https://docker.io/nginx": "docker.io/library/nginx:latest",
	} {
		got, err := Parse(in)
		if err != nil || got.String() != want {
			t.Errorf("%s: got %s (%v), wanted %s", in, got, err, want)
		}
		if again, err := Parse(got.String()); err != nil || again.String() != want {
			t.Errorf("%s: read again it is %s (%v)", want, again, err)
		}
	}
	for _, in := range []string{"", "Shop", "shop:", "a b", "shop:1:2", "registry.example/Shop", "http://", "registry.example/shop@sha256:12", "-", "ssh://host/shop", "http://https://registry.example/shop", "http:///shop", "https://", "u:p@registry.example/shop", strings.Repeat("a/", 300)} {
		if got, err := Parse(in); err == nil {
			t.Errorf("%q is read as %s", in, got)
		}
	}
}

// A host that could be part of a name on Docker Hub is not taken for one.
func TestHostOfOneLabel(t *testing.T) {
	for in, want := range map[string]string{
		"http://registry/shop:1": "write its port, like http://registry:80/shop:1", "https://registry/team/shop": "write its port, like https://registry:443/team/shop",
		"http://nginx": "write its port, like http://nginx:80", "http://library/nginx": "like http://library:80/nginx",
	} {
		if got, err := Parse(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %s, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{"registry": "registry:443", "http://registry": "registry:80", "https://registry/": "registry:443"} {
		if got, err := ParseHost(in); err == nil || !strings.Contains(err.Error(), "write its port, like "+want) {
			t.Errorf("%s: got %s, %v", in, got, err)
		}
	}
}

func TestParseHost(t *testing.T) {
	for in, want := range map[string]string{
		"docker.io": "docker.io", "index.docker.io": "docker.io", "https://index.docker.io/v1/": "docker.io", "registry-1.docker.io": "docker.io",
		"Registry.Example": "registry.example", "registry.example:5000": "registry.example:5000", "https://ghcr.io/": "ghcr.io", "http://10.0.0.1:5000": "10.0.0.1:5000",
		"registry:443": "registry:443", "localhost": "localhost",
	} {
		if got, err := ParseHost(in); err != nil || got != want {
			t.Errorf("%s: got %s (%v), wanted %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", "a/b", "user@host", "a b", "host:port:1"} {
		if got, err := ParseHost(in); err == nil {
			t.Errorf("%q is read as %s", in, got)
		}
	}
}
