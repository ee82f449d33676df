package cli_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/store"
)

// twins are two hosts, whose IDs end with first and what follows; what apitest runs
// is on that of 1.
func (s *shell) twins(first int) {
	s.t.Helper()
	for n, name := range []string{"castor", "pollux"} {
		s.p.Update(func(tx *store.Tx) error {
			return store.Save(tx, store.Hosts, miosa.Host{
				ID: fmt.Sprintf("host_%026d", first+n), Name: name, Region: "local", Zone: string(rune('a' + n)),
				Capacity: miosa.Resources{VCPUs: 4, MemoryMB: 1024, DiskMB: 20480}, Liveness: miosa.Alive, Schedulable: true, Overcommit: 4,
			})
		})
	}
}

// Plans are pages in words, or JSON, and end with 1 where it would not be well.
func TestPlan(t *testing.T) {
	s := newShell(t)
	s.twins(1)
	run := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if code := s.run(t.Context(), &out, args...); code != want {
			t.Fatalf("miosa %s: exit code %d, want %d\n%s", strings.Join(args, " "), code, want, out.String())
		}
		return out.String()
	}
	s.stdin = "one"
	run(0, "publish", "-", "--name", "shop", "--run", "/app/server", "--no-config")
	var services bytes.Buffer
	s.run(t.Context(), &services, "services", "ls", "shop", "--json")
	for _, c := range []struct {
		code int
		args []string
		page string
	}{
		{0, []string{"plan", "scale", "shop", "3"}, `It fits: 2 instances start.
New:
  shop web, version 1, in local (2)
`},
		{1, []string{"plan", "scale", "shop", "6"}, `It is not well: 2 of 5 instances find no host and 1 service ends up with fewer that serve than wanted. Besides, 3 instances start.
No host for:
  shop web (2): 2 hosts without 512 MB of free memory
Fewer serve than are wanted:
  shop web: 4 of 6 serve in the end; before it is 1 of 1
New:
  shop web, version 1, in local (3)
`},
		{0, []string{"plan", "drain", "castor"}, `It fits: 1 instance moves.
Moves:
  default/shop web 0: from castor (local/a) to pollux (local/b)
How full hosts are, by what is promised:
  local/a: 0 hosts of 1, memory 50% → -, vCPUs 6% → -, disk 5% → -
  local/b: 1 host, memory 0% → 50%, vCPUs 0% → 6%, disk 0% → 5%
`},
	} {
		if got := run(c.code, c.args...); got != c.page {
			t.Errorf("miosa %s:\n%s\nwant\n%s", strings.Join(c.args, " "), got, c.page)
		}
	}
	for _, want := range []string{"Version 2 of shop goes live", "shop web, version 2, in local (2)", "shop web, version 1: its version is no longer wanted"} {
		if page := run(0, "plan", "publish", "shop", "--memory", "256", "--replicas", "2", "--cpus", "1", "--disk", "512", "--region", "local"); !strings.Contains(page, want) {
			t.Errorf("the publish's page lacks %q:\n%s", want, page)
		}
	}
	if page := run(1, "plan", "publish", "shop", "--memory", "2048"); !strings.Contains(page, "version 2 does not go live") {
		t.Errorf("no host has so much:\n%s", page)
	}
	for _, args := range [][]string{{"plan", "lose-host", "castor"}, {"plan", "lose-zone", "a"}} {
		if page := run(1, args...); !strings.Contains(page, "1 service is not served for a while") || !strings.Contains(page, "default/shop web: 1 of 1 serve in the end, none at the lowest") {
			t.Errorf("its only instance is there:\n%s", page)
		}
	}
	var out resource.DryRun
	if err := json.Unmarshal([]byte(run(1, "plan", "lose-host", "castor", "--json")), &out); err != nil || out.OK || len(out.Moves) != 1 || *out.Moves[0].To.Host != "pollux" {
		t.Errorf("JSON: %+v, %v", out, err)
	}
	run(3, "plan", "lose-host", "nobody")
	s.p.Update(func(tx *store.Tx) error {
		return store.Save(tx, store.Hosts, miosa.Host{ID: fmt.Sprintf("host_%026d", 3), Name: "castor", Region: "far", Zone: "a", Liveness: miosa.Alive})
	})
	if said := run(2, "plan", "lose-zone", "a"); !strings.Contains(said, "far/a") {
		t.Errorf("which one is meant? %s", said)
	}
	if said := run(2, "plan", "drain", "castor"); !strings.Contains(said, "by its ID") {
		t.Errorf("which one is meant? %s", said)
	}
	run(3, "plan", "scale", "nobody", "2")
	run(2, "plan", "scale", "shop", "many")
	run(2, "plan", "publish", "shop", "--memory", "-1")
	run(2, "plan", "lose-zone")
	if help := run(0, "plan", "lose-zone", "--help"); !strings.Contains(help, "Exit code 1") || !strings.Contains(help, "eu/a") {
		t.Errorf("the help:\n%s", help)
	}
}
