package routing_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/miosa/miosa/routing"
)

func TestHostName(t *testing.T) {
	label := strings.Repeat("a", 63)
	for in, want := range map[string]string{
		"example.com":              "example.com",
		"Example.COM":              "example.com",
		"example.com.":             "example.com",
		"example.com:8080":         "example.com",
		"example.com.:8080":        "example.com",
		"example.com:":             "example.com",
		"my_app.Default.localhost": "my_app.default.localhost",
		"127.0.0.1:80":             "127.0.0.1",
		"[::1]":                    "::1",
		"[2001:DB8:0::1]:443":      "2001:db8::1",
		label + ".example":         label + ".example",
	} {
		if got, ok := routing.HostName(in); !ok || got != want {
			t.Errorf("HostName(%q) = %q, %v, want %q", in, got, ok, want)
		}
	}
	for _, in := range []string{
		"", ".", ":80", "..", "a..b", ".a", "a..", "a b", "a/b", "a@b", "a\r\nb", "a\x00", "exämple.com",
		"example.com:http", "example.com:65536", "example.com:999999", "a:b:80", "::1",
		"[::1", "[::1]x", "[::1]:x", "[127.0.0.1]", "[fe80::1%25eth0]", "[]", "*", "a,b",
		label + "a.example", strings.Repeat("abc.", 64) + "example",
	} {
		if got, ok := routing.HostName(in); ok {
			t.Errorf("HostName(%q) = %q, want it refused", in, got)
		}
	}
}

func TestHostNameIsIdempotent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.OneOf(rapid.String(), rapid.StringMatching(`[A-Za-z0-9_-]{1,9}(\.[A-Za-z0-9-]{1,9}){0,3}\.?(:[0-9]{0,5})?`)).Draw(t, "host")
		once, ok := routing.HostName(in)
		if !ok || strings.Contains(once, ":") { // an IPv6 address needs its brackets to be read again
			return
		}
		if twice, ok := routing.HostName(once); !ok || twice != once {
			t.Fatalf("HostName(%q) = %q, and of that %q, %v", in, once, twice, ok)
		}
	})
}

func TestHostNameOfAPlainNameDoesNotAllocate(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { routing.HostName("hello.default.localhost:7080") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
