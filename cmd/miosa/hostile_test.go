package main

import (
	"bufio"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
)

// A guest that tries everything reaches nothing, and its neighbour goes on.
// There is no way out of the namespace that this runs in but into the void.
func TestAHostileGuest(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("without root guests are not kept from the host's network")
	}
	void(t)
	j := begin(t)
	neighbour, _ := j.deploy("neighbour", nil)
	before := j.one(neighbour)
	packed := filepath.Join(t.TempDir(), "hostile.tar.zst")
	pack := exec.CommandContext(t.Context(), "../../examples/hostile/pack")
	pack.Env = append(os.Environ(), "OUT="+packed)
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("pack the hostile app: %v\n%s", err, out)
	}
	dep, err := j.Create(j.ctx, "hostile")
	if err != nil {
		t.Fatal(err)
	}
	rel, err := j.Upload(j.ctx, dep, packed)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := j.Publish(j.ctx, dep, body(rel, "", map[string]any{"path": "/", "grace_period_seconds": 60, "failure_threshold": 20})); err != nil || !p.Promoted {
		t.Fatalf("publish: %+v, %v", p, err)
	}
	j.one(dep)

	stop := j.traffic("neighbour")
	most, watched := entries(t)
	query := url.Values{"neighbour": {net.JoinHostPort(before.IP, "8080")}}
	for _, address := range []string{j.Context.APIURL, j.Context.HTTPURL} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		query.Add("port", u.Port())
	}
	tried := j.attempts("/attempts?" + query.Encode())
	peak := watched()
	if tried != 17 {
		t.Errorf("%d attempts, want 17", tried)
	}
	if peak < 100 || peak > most {
		t.Errorf("the flood came to %d entries of the connection table; want some, and %d at most", peak, most)
	}
	t.Logf("the flood came to %d entries of the connection table; %d are a guest's share", peak, most)
	if sent, failed := stop(); sent == 0 || len(failed) > 0 {
		t.Errorf("of %d requests to the neighbour %d failed: %q", sent, len(failed), failed)
	}
	if after := j.one(neighbour); after.ID != before.ID || after.VMID != before.VMID || after.RestartCount != before.RestartCount {
		t.Errorf("the neighbour is %+v, and was %+v", after, before)
	}
}

// attempts has the hostile app try, for as long as it takes, and says what gave
// way.
func (j *journey) attempts(path string) (tried int) {
	j.t.Helper()
	req, err := http.NewRequestWithContext(j.ctx, http.MethodPost, j.Context.HTTPURL+path, nil)
	if err != nil {
		j.t.Fatal(err)
	}
	req.Host = "hostile.default.localhost"
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		j.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		j.t.Fatalf("the attempts: %s", resp.Status)
	}
	began, lines := time.Now(), bufio.NewScanner(resp.Body)
	for ; lines.Scan(); tried++ {
		what, came, _ := strings.Cut(lines.Text(), "\t")
		if came != "held" {
			j.t.Errorf("%s: %s", what, came)
		}
		j.t.Logf("%s, %.1f s: %s", what, time.Since(began).Seconds(), came)
		began = time.Now()
	}
	if err := lines.Err(); err != nil {
		j.t.Errorf("after %d attempts: %v", tried, err)
	}
	return tried
}

// void is a default route to nowhere, until the test ends.
func void(t *testing.T) {
	t.Helper()
	// Without somebody who holds it, what is sent there is dropped; and it asks
	// for no neighbour, whose table the whole machine shares.
	link := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "void"}, Mode: netlink.TUNTAP_MODE_TUN}
	if err := netlink.LinkAdd(link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(link); err != nil {
			t.Error(err)
		}
	})
	at, err := netlink.ParseAddr("192.0.2.1/24")
	if err != nil {
		t.Fatal(err)
	}
	_, all, err := net.ParseCIDR("0.0.0.0/0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(link, at); err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: all}); err != nil {
		t.Fatal(err)
	}
}

// entries watches the namespace's connection table until it is asked for the
// most that it held. most is what a single guest may come to, with some room
// for the platform's own.
func entries(t *testing.T) (most int, watched func() int) {
	t.Helper()
	read := func(name string) int {
		raw, err := os.ReadFile("/proc/sys/net/netfilter/" + name)
		if err != nil {
			t.Error(err)
			return 0
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(raw)))
		if err != nil {
			t.Error(err)
		}
		return n
	}
	most = read("nf_conntrack_max") / 32
	done, peak := make(chan struct{}), 0
	var end sync.WaitGroup
	end.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			peak = max(peak, read("nf_conntrack_count"))
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	return most, func() int {
		close(done)
		end.Wait()
		return peak
	}
}
