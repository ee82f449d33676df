package cli_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/cli/appfile"
	"github.com/miosa/miosa/client"
)

// folder is one with those files in it, by name.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const twoServices = `name = "shop"

[variables]
LOG_LEVEL = "info"

[services.jobs]
type = "worker"
command = "/app/jobs"

[services.web]
command = "/app/server"
port = 8000
stop_grace = "1m"
health.path = "/healthz"
`

// live are the services of a deployment's live version, and its number.
func (s *shell) live(name string) (number int, services map[string]resource.VersionService) {
	s.t.Helper()
	s.settle()
	dep, err := s.client().Deployment(s.t.Context(), name)
	if err != nil || dep.ActiveVersionID == nil {
		s.t.Fatalf("%s has nothing live: %v", name, err)
	}
	v, err := s.client().Version(s.t.Context(), dep.ID, *dep.ActiveVersionID)
	if err != nil {
		s.t.Fatal(err)
	}
	services = map[string]resource.VersionService{}
	for _, service := range v.Services {
		services[service.Name] = service
	}
	return v.VersionNumber, services
}

// TestPublishReadsTheFile: flags win over it, what it does not say is the
// default, and what it does not name ends.
func TestPublishReadsTheFile(t *testing.T) {
	s := newShell(t)
	dir := folder(t, map[string]string{"app.tar": "one", "miosa.toml": twoServices})
	archive := filepath.Join(dir, "app.tar")
	if out := s.prints("publish", archive); !strings.Contains(out, "Settings are those of "+filepath.Join(dir, "miosa.toml")) {
		t.Errorf("no word of the file:\n%s", out)
	}
	_, live := s.live("shop")
	if web := live["web"]; len(live) != 2 || *web.Port != 8000 || web.StopGraceSeconds != 60 || web.HealthCheck.Path != "/healthz" || live["jobs"].Type != "worker" {
		t.Errorf("live are %+v", live)
	}
	if out := s.prints("env", "ls", "shop"); !strings.Contains(out, "LOG_LEVEL") {
		t.Errorf("variables:\n%s", out)
	}

	s.prints("publish", archive, "--port", "9000", "--health-grace", "2m", "--service", "web", "--name", "other", "--environment", "staging")
	s.settle()
	env := map[string]string{}
	for e, err := range s.client().Environments(t.Context(), "other") {
		if err != nil {
			t.Fatal(err)
		}
		if e.ActiveVersionID != nil {
			env[e.Name] = *e.ActiveVersionID
		}
	}
	if env["staging"] == "" || env["production"] != "" {
		t.Fatalf("--name and --environment do not win: %v", env)
	}
	v, err := s.client().Version(t.Context(), "other", env["staging"])
	if err != nil {
		t.Fatal(err)
	}
	for _, web := range v.Services {
		if web.Name == "web" && (*web.Port != 9000 || web.HealthCheck.GracePeriodSeconds != 120 || web.HealthCheck.Path != "/healthz") {
			t.Errorf("flags do not win: %+v", web)
		}
	}

	s.prints("services", "set", "shop", "web", "--health-interval", "9s", "--replicas", "3")
	s.settle()
	if err := os.WriteFile(filepath.Join(dir, "miosa.toml"), []byte("name = \"shop\"\nservices.web.command = \"/app/server\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.prints("publish", archive)
	_, live = s.live("shop")
	if web := live["web"]; len(live) != 1 || *web.Port != 8080 || web.StopGraceSeconds != 10 || web.HealthCheck.IntervalSeconds != 5 {
		t.Errorf("what the file does not say is not the default: %+v", live)
	}
	s.serviceIs("shop", `{"desired_replicas":3}`)
	// Without the file, things stay as they are.
	s.prints("publish", archive, "--no-config", "--name", "shop", "--port", "7000")
	s.prints("publish", archive, "--no-config", "--name", "shop", "--stop-grace", "20s")
	if _, live = s.live("shop"); *live["web"].Port != 7000 || live["web"].StopGraceSeconds != 20 {
		t.Errorf("%+v", live)
	}
}

// TestWhereTheFileIsLookedFor: beside the archive, else here, else where
// --config says, which must be there.
func TestWhereTheFileIsLookedFor(t *testing.T) {
	s := newShell(t)
	beside := folder(t, map[string]string{"app.tar": "one", "miosa.toml": "name = \"beside\"\nservices.web.command = \"/x\"\n"})
	here := folder(t, map[string]string{"miosa.toml": "name = \"here\"\nservices.web.command = \"/x\"\n", "other.toml": "name = \"other\"\nservices.web.command = \"/x\"\n", "dist/app.tar": "two"})
	t.Chdir(here)
	for _, c := range []struct {
		args []string
		name string
	}{
		{[]string{filepath.Join(beside, "app.tar")}, "beside"},
		{[]string{"dist/app.tar"}, "here"},
		{[]string{"dist/app.tar", "--config", "other.toml"}, "other"},
		{[]string{filepath.Join(beside, "app.tar"), "--config", "other.toml"}, "other"},
		{[]string{"dist/app.tar", "--no-config", "--name", "none", "--run", "/x"}, "none"},
	} {
		if out := s.prints(append([]string{"publish"}, c.args...)...); !strings.Contains(out, "of "+c.name+" is live") {
			t.Errorf("%q is published as\n%s", c.args, out)
		}
		s.settle()
	}
	if out := s.says(1, "publish", "dist/app.tar", "--config", "nowhere.toml"); !strings.Contains(out, "nowhere.toml") {
		t.Error(out)
	}
	for want, args := range map[string][]string{
		"give one":              {"--config", "other.toml", "--no-config"},
		`has no service "db"`:   {"--service", "db"},
		"--worker goes without": {"--worker"},
		"--name is needed":      {"--no-config"},
	} {
		if out := s.says(2, append([]string{"publish", "dist/app.tar"}, args...)...); !strings.Contains(out, want) {
			t.Errorf("%q says\n%s", args, out)
		}
	}
}

// TestARequiredVariableIsMissed before anything is uploaded, with the command
// that sets it, which then works.
func TestARequiredVariableIsMissed(t *testing.T) {
	s := newShell(t)
	t.Chdir(folder(t, map[string]string{"app.tar": "one", "miosa.toml": "name = \"shop\"\nrequired_variables = [\"DATABASE_URL\", \"TOKEN\"]\nservices.web.command = \"/app/server\"\n"}))
	out := s.says(1, "publish", "app.tar", "--environment", "staging")
	for _, want := range []string{"staging of shop lacks what miosa.toml requires, nothing was uploaded: DATABASE_URL, TOKEN", "\n  miosa env set shop TOKEN --secret --environment staging\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("says\n%s\nnot %s", out, want)
		}
	}
	if releases, err := client.Collect(s.client().Releases(t.Context(), "shop")); err != nil || len(releases) > 0 {
		t.Errorf("uploaded %v, %v", releases, err)
	}
	for line := range strings.Lines(out) {
		if args := strings.Fields(line); len(args) > 2 && args[0] == "miosa" && args[1] == "env" {
			s.stdin = "value"
			s.prints(args[1:]...)
		}
	}
	s.prints("publish", "app.tar", "--environment", "staging")
	if out := s.says(1, "publish", "app.tar"); !strings.Contains(out, "miosa env set shop TOKEN --secret\n") {
		t.Error(out)
	}
}

// TestFaultsOfTheFile come all at once, and nothing is done.
func TestFaultsOfTheFile(t *testing.T) {
	s := newShell(t)
	t.Chdir(folder(t, map[string]string{"app.tar": "one", "miosa.toml": "nam = \"shop\"\n[services.web]\nport = 0\n", "regions.toml": "name = \"shop\"\nservices.web.command = \"/x\"\n[services.front]\nregions = [\"nowhere\"]\n"}))
	if out := s.says(2, "publish", "app.tar"); !strings.Contains(out, "miosa.toml has 2 faults:\n  miosa.toml:1: nam: there is no such key; did you mean name?\n  miosa.toml:3: services.web.port: must be 1–65535, not 0\n") {
		t.Error(out)
	}
	if out := s.prints("deployments", "ls"); !strings.Contains(out, "No deployments") {
		t.Error(out)
	}
	// What only the platform knows is said in the file's words, too.
	if out := s.says(2, "publish", "app.tar", "--config", "regions.toml"); !strings.Contains(out, "services.front.regions[0] must be one of") {
		t.Error(out)
	}
}

// TestTheFilesRangesAreTheAPIs: what the file takes at the ends of a range the
// API takes, and what is beyond them neither does.
func TestTheFilesRangesAreTheAPIs(t *testing.T) {
	s := newShell(t)
	t.Chdir(folder(t, map[string]string{"app.tar": "one"}))
	s.prints("publish", "app.tar", "--name", "shop", "--run", "/x")
	s.settle()
	releases, err := client.Collect(s.client().Releases(t.Context(), "shop"))
	if err != nil {
		t.Fatal(err)
	}
	refused := func(service resource.PublishService) bool {
		_, err := s.client().Publish(t.Context(), "shop", resource.Publish{ReleaseID: releases[0].ID, Services: []resource.PublishService{service}}, client.Wait())
		s.settle()
		// More than the plan has is another question than what may be asked for.
		if code := client.Code(err); err != nil && code != "validation_failed" && code != "quota_exceeded" {
			t.Fatal(err, code)
		}
		return client.Code(err) == "validation_failed"
	}
	for _, path := range []string{
		"port", "response_timeout", "replicas", "resources.vcpus", "resources.memory_mb", "resources.disk_mb", "resources.gpu", "resources.egress_mbps",
		"health.interval", "health.timeout", "health.grace", "health.threshold", "health.stable", "stop_grace", "restart.max_age", "stop_after_disconnect",
	} {
		key := appfile.OfService(path)
		for end, step := range map[string]float64{key.Min: -1, key.Max: 1} {
			var at appfile.Service
			if err := at.Set(path, end); err != nil {
				t.Errorf("%s = %s: %v", path, end, err)
			}
			service := at.Publish("web")
			if refused(service) {
				t.Errorf("the API refuses %s = %s", path, end)
			}
			if !refused(beyond(t, service, step)) {
				t.Errorf("the API takes what is beyond %s = %s", path, end)
			}
		}
	}
	for _, path := range []string{"protocol", "size", "sticky.mode", "health.type", "health.scheme", "restart.policy"} {
		for _, value := range appfile.OfService(path).Enum {
			at := appfile.Service{}
			for _, set := range [][2]string{{"health.command", "/x"}, {"sticky.name", "x"}, {path, value}} {
				if set[0] == "sticky.name" && path != "sticky.mode" {
					continue
				}
				if err := at.Set(set[0], set[1]); err != nil {
					t.Fatal(err)
				}
			}
			if refused(at.Publish("web")) {
				t.Errorf("the API refuses %s = %s", path, value)
			}
		}
	}
}

// beyond is a service whose only number is one more, or less.
func beyond(t *testing.T, service resource.PublishService, step float64) (out resource.PublishService) {
	t.Helper()
	raw, err := json.Marshal(service)
	if err != nil {
		t.Fatal(err)
	}
	changed := 0
	var walk func(v any) any
	walk = func(v any) any {
		switch v := v.(type) {
		case float64:
			changed++
			return v + step
		case map[string]any:
			for name := range v {
				v[name] = walk(v[name])
			}
		}
		return v
	}
	var tree any
	if err := json.Unmarshal(raw, &tree); err != nil {
		t.Fatal(err)
	}
	if raw, err = json.Marshal(walk(tree)); err != nil || changed != 1 {
		t.Fatalf("%d numbers in %s: %v", changed, raw, err)
	}
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestFlagsWinOverTheFile: also where they put something of it out of effect,
// and what does not go together then is told before anything is done.
func TestFlagsWinOverTheFile(t *testing.T) {
	s := newShell(t)
	t.Chdir(folder(t, map[string]string{"app.tar": "one", "miosa.toml": `name = "shop"

[services.web]
command = "/app/server"
resources = { memory_mb = 3000, vcpus = 4, gpu = 0 }
health = { command = "/app/check", interval = "9s" }

[services.db]
command = "/app/db"
protocol = "tcp"
sticky.mode = "client_ip"

[services.api]
type = "api"
command = "/app/api"
response_timeout = "1m"
health = { path = "/healthz", host = "api.example" }

[services.jobs]
type = "worker"
command = "/app/jobs"
health = { command = "/app/alive", grace = "2m" }
`}))
	publish := func(want string, service string, flags ...string) {
		t.Helper()
		s.prints(append([]string{"publish", "app.tar", "--service", service}, flags...)...)
		_, live := s.live("shop")
		w := live[service]
		got := fmt.Sprintf("%s %s %s %d MB %d CPU", w.HealthCheck.Type, w.HealthCheck.Path, text(w.HealthCheck.Command), w.Resources.MemoryMB, w.Resources.VCPUs)
		if got != want {
			t.Errorf("%v: it is %s, want %s", flags, got, want)
		}
	}
	publish("exec / /app/check 3000 MB 4 CPU", "web")
	publish("exec / /app/check 2048 MB 2 CPU", "web", "--size", "medium")
	publish("exec / /app/check 2500 MB 2 CPU", "web", "--memory", "2500", "--size", "medium")
	publish("http /up - 3000 MB 4 CPU", "web", "--health", "/up")
	publish("tcp / - 3000 MB 4 CPU", "web", "--health-type", "tcp")
	publish("exec / /app/look 512 MB 1 CPU", "api", "--health-command", "/app/look")
	publish("grpc /healthz - 512 MB 1 CPU", "api", "--health-type", "grpc")
	publish("http /up - 512 MB 1 CPU", "db", "--health", "/up")
	publish("none / - 512 MB 1 CPU", "jobs", "--health-type", "none", "--health-stable", "20s")
	n, _ := s.live("shop")
	for want, args := range map[string][]string{
		"--health: has no meaning where the health check's type is exec":                                  {"--service", "jobs", "--health", "/up"},
		"--health-type: must be exec or none: a worker has no port to be asked on":                        {"--service", "jobs", "--health-type", "http"},
		"--protocol: a worker has none":                                                                   {"--service", "jobs", "--protocol", "tcp"},
		"--port: a worker has none":                                                                       {"--service", "jobs", "--port", "80"},
		"miosa.toml: services.api.response_timeout: has no meaning where the protocol is tcp":             {"--service", "api", "--protocol", "tcp"},
		"--response-timeout: has no meaning where the protocol is tcp":                                    {"--service", "db", "--response-timeout", "5s"},
		"--health-stable: has no meaning where the health check's type is http":                           {"--service", "api", "--health-stable", "5s"},
		"--health-type: exec needs a command beside it":                                                   {"--service", "api", "--health-type", "exec"},
		"--sticky: header needs a name beside it":                                                         {"--service", "api", "--sticky", "header"},
		"--health: has no meaning where the health check's type is exec: it is for http and grpc":         {"--service", "api", "--health", "/up", "--health-command", "/x"},
		"--sticky: must be client_ip or none where the protocol is tcp: there are no cookies and headers": {"--service", "db", "--sticky", "cookie"},
	} {
		if out := s.says(2, append([]string{"publish", "app.tar"}, args...)...); !strings.Contains(out, want) {
			t.Errorf("%q says\n%s\nnot %s", args, out, want)
		}
	}
	for want, args := range map[string][]string{
		"--protocol: a worker has none":                                  {"--protocol", "tcp"},
		"--port: a worker has none":                                      {"--port", "80"},
		"--health: has no meaning where the health check's type is none": {"--health", "/up"},
	} {
		if out := s.says(2, append([]string{"publish", "app.tar", "--no-config", "--name", "shop", "--worker"}, args...)...); !strings.Contains(out, want) {
			t.Errorf("%q says\n%s\nnot %s", args, out, want)
		}
	}
	if now, _ := s.live("shop"); now != n {
		t.Errorf("a refused publish made version %d", now)
	}
}

func text(p *string) string {
	if p == nil {
		return "-"
	}
	return *p
}
