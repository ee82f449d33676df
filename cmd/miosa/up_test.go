package main

import (
	"strings"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
)

func TestAllowTarget(t *testing.T) {
	for v, want := range map[string]string{
		"10.0.0.0/8": "10.0.0.0/8", "127.0.0.1": "127.0.0.1/32", "::1": "::1/128", "fd00::/8": "fd00::/8", "::ffff:10.0.0.1": "10.0.0.1/32", "0.0.0.0/0": "0.0.0.0/0",
		"10.0.0.1/8": "", "::ffff:10.0.0.0/104": "", "localhost": "", "": "", "10.0.0.0/33": "", "fe80::1%eth0": "",
	} {
		got, err := parseRange("--allow-target", v)
		if want == "" {
			if miosa.CodeOf(err) != miosa.Invalid {
				t.Errorf("parseRange(%q) = %s, %v", v, got, err)
			}
			continue
		}
		if err != nil || got.String() != want {
			t.Errorf("parseRange(%q) = %s, %v, want %s", v, got, err, want)
		}
	}
}

// A negative size would leave no room for a single line.
func TestLogSpoolIsNoDebt(t *testing.T) {
	for mb, want := range map[int]miosa.Code{-1: miosa.Invalid, 0: "", 1: ""} {
		f := upFlags{driver: "sim", accel: "auto", domain: "localhost", overcommit: 1, logSpoolMB: mb}
		if _, err := f.config(); miosa.CodeOf(err) != want {
			t.Errorf("%d MB: %v", mb, err)
		}
	}
}

// Ports for raw TCP are a range that nothing else of the platform is in.
func TestTCPPorts(t *testing.T) {
	base := upFlags{driver: "sim", accel: "auto", domain: "localhost", overcommit: 1, http: "127.0.0.1:7080"}
	for v, want := range map[string]store.PortRange{"": {}, "30000-30999": {First: 30000, Last: 30999}, "5432": {First: 5432, Last: 5432}} {
		f := base
		f.tcpPorts = v
		if cfg, err := f.config(); err != nil || cfg.tcpPorts != want {
			t.Errorf("%q: %v, %v", v, cfg.tcpPorts, err)
		}
	}
	for _, v := range []string{"x", "0-5", "5-4", "1-70000", "1-", "7000-7100"} {
		f := base
		f.tcpPorts = v
		if _, err := f.config(); miosa.CodeOf(err) != miosa.Invalid || !strings.Contains(err.Error(), "--tcp-ports") {
			t.Errorf("%q: %v", v, err)
		}
	}
}

func TestPlacement(t *testing.T) {
	base := upFlags{driver: "sim", accel: "auto", domain: "localhost", overcommit: 1}
	for v, ok := range map[string]bool{"": true, "spread": true, "pack": true, "Pack": false, "fill": false} {
		f := base
		f.placement = v
		if cfg, err := f.config(); (err == nil) != ok || ok && string(cfg.placement) != v || !ok && !strings.Contains(err.Error(), "--placement") {
			t.Errorf("%q: %q, %v", v, cfg.placement, err)
		}
	}
}

// Proxies are named as ranges, and nobody is taken at their word by oversight.
func TestTrustedProxies(t *testing.T) {
	base := upFlags{driver: "sim", accel: "auto", domain: "localhost", overcommit: 1}
	f := base
	f.trustedProxies, f.proxyProtocol = []string{"10.0.0.2", "fd00::/8"}, true
	if cfg, err := f.config(); err != nil || len(cfg.trustedProxies) != 2 || cfg.trustedProxies[0].String() != "10.0.0.2/32" || !cfg.proxyProtocol {
		t.Errorf("%+v, %v", cfg.trustedProxies, err)
	}
	for name, f := range map[string]upFlags{
		"the protocol from nobody": {proxyProtocol: true},
		"a name":                   {trustedProxies: []string{"balancer"}},
		"bits behind the length":   {trustedProxies: []string{"10.0.0.1/8"}},
	} {
		f.driver, f.accel, f.domain, f.overcommit = base.driver, base.accel, base.domain, base.overcommit
		if _, err := f.config(); miosa.CodeOf(err) != miosa.Invalid || !strings.Contains(err.Error(), "--trusted-proxy") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
