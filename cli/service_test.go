package cli_test

import (
	"strings"
	"testing"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

// Without --service, commands mean the service that requests go to, also where
// another one comes first.
func TestTheServiceThatRequestsGoToIsMeant(t *testing.T) {
	s := newShell(t)
	file := s.file("a.tar")
	s.prints("publish", file, "--name", "shop", "--worker", "--run", "/app/jobs")
	s.settle()
	c, err := client.New(client.Config{URL: s.p.URL, Key: s.p.Key})
	if err != nil {
		t.Fatal(err)
	}
	dep, err := c.Deployment(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	v, err := c.Version(t.Context(), dep.ID, *dep.ActiveVersionID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Publish(t.Context(), "shop", resource.Publish{ReleaseID: *v.ReleaseID, Services: []resource.PublishService{
		{Name: "admin", Type: "web", RunCommand: "/app/admin"}, {Name: "jobs", Type: "worker", RunCommand: "/app/jobs"}, {Name: "web", Type: "api", RunCommand: "/app/server"},
	}}, client.Wait()); err != nil {
		t.Fatal(err)
	}
	s.settle()
	for _, c := range []struct{ command, want string }{
		{"log-limit shop", "Each instance of web of shop may write"},
		{"restart shop", "a rolling restart of service web was asked for"},
		{"scale shop 2", "is to have 2 instances"},
		{"log-limit shop --service jobs", "Each instance of jobs of shop may write"},
	} {
		if out := s.prints(strings.Fields(c.command)...); !strings.Contains(out, c.want) {
			t.Errorf("%s says\n%s, not %q", c.command, out, c.want)
		}
		s.settle()
	}
	s.prints("publish", file, "--name", "shop", "--replicas", "3")
	s.settle()
	replicas := map[string]int{}
	for service, err := range c.Services(t.Context(), "shop") {
		if err != nil {
			t.Fatal(err)
		}
		replicas[service.Name] = service.DesiredReplicas
	}
	if len(replicas) != 3 || replicas["web"] != 3 || replicas["admin"] != 1 || replicas["jobs"] != 1 {
		t.Errorf("replicas: %v", replicas)
	}

	// Those that left are not there for who changes something; their lines are.
	s.prints("publish", file, "--name", "shop", "--worker", "--run", "/app/jobs")
	s.settle()
	if out := s.says(3, "log-limit", "shop", "--service", "admin"); !strings.Contains(out, "has no service") {
		t.Error(out)
	}
	s.prints("drains", "add", "https://logs.example/in", "--deployment", "shop", "--service", "admin")
}
