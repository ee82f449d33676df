package appfile_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cli/appfile"
	"pgregory.net/rapid"
)

const shop = `name = "shop"
environment = "staging"
required_variables = ["DATABASE_URL", "api.key"]

[variables]
LOG_LEVEL = "info"

[services.jobs]
type = "worker"
command = "/app/jobs"
health = { command = "/app/alive", interval = "30s" }
restart.policy = "on_failure"
stop_after_disconnect = "2m"
disruption.max_unavailable = "25%"
placement.labels = {}

[services.web]
command = "/app/server"
port = 8000
size = "medium"
resources.memory_mb = 3000
regions = ["eu", "us"]
stop_grace = "1m30s"

[services.web.health]
path = "/healthz"
headers = { Accept = "text/plain" }
grace = "2m"

[services.web.restart]
max_age = "24h"

[services.web.disruption]
max_unavailable = 1

[services.web.placement]
labels = { disk = "nvme" }
apart = true
`

func TestParse(t *testing.T) {
	f, err := appfile.Parse("miosa.toml", []byte(shop))
	if err != nil {
		t.Fatal(err)
	}
	if f.Name != "shop" || f.Environment != "staging" || !slices.Equal(f.RequiredVariables, []string{"DATABASE_URL", "api.key"}) || f.Variables["LOG_LEVEL"] != "info" {
		t.Errorf("%+v", f)
	}
	if !slices.Equal(f.Order, []string{"jobs", "web"}) || f.Routed() != "web" {
		t.Errorf("order %q, requests go to %q", f.Order, f.Routed())
	}
	for name, want := range map[string]string{
		"web": `{"name":"web","run_command":"/app/server","port":8000,"stop_grace_seconds":90,"health_check":{"path":"/healthz","headers":{"Accept":"text/plain"},"grace_period_seconds":120},` +
			`"resources":{"vcpus":2,"memory_mb":3000,"disk_mb":4096},"regions":["eu","us"],"restart":{"max_age_seconds":86400},` +
			`"disruption":{"max_unavailable":"1"},"placement":{"labels":{"disk":"nvme"},"apart":true}}`,
		"jobs": `{"name":"jobs","type":"worker","run_command":"/app/jobs","health_check":{"type":"exec","command":"/app/alive","interval_seconds":30},"restart":{"policy":"on_failure"},` +
			`"disruption":{"max_unavailable":"25%"},"stop_after_disconnect_seconds":120,"placement":{"labels":{}}}`,
	} {
		got, err := json.Marshal(f.Services[name].Publish(name))
		if err != nil || string(got) != want {
			t.Errorf("%s is published as\n%s, %v\nnot\n%s", name, got, err, want)
		}
	}
}

// Requests go to none that speaks raw TCP, whatever its name and place.
func TestRouted(t *testing.T) {
	for text, want := range map[string]string{
		"[services.db]\nprotocol = \"tcp\"\n[services.shop]\n":                                  "shop",
		"[services.web]\nprotocol = \"tcp\"\n[services.shop]\ntype = \"api\"\n":                 "shop",
		"[services.db]\nprotocol = \"tcp\"\n[services.jobs]\ntype = \"worker\"\n":               "",
		"[services.rpc]\nprotocol = \"h2c\"\n[services.db]\nprotocol = \"tcp\"\n":               "rpc",
		"[services.shop]\n[services.web]\n":                                                     "web",
		"[services.jobs]\ntype = \"worker\"\n[services.api]\ntype = \"api\"\n[services.shop]\n": "shop",
	} {
		f, err := appfile.Parse("miosa.toml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if f.Routed() != want {
			t.Errorf("requests go to %q, not %q, of\n%s", f.Routed(), want, text)
		}
	}
}

// TestFaults: all at once, each with its line and key, and what was meant.
func TestFaults(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"many at once": {`nam = "shop"
required_variables = "DATABASE_URL"

[services.web]
prot = 80
port = 70000
replicas = "2"
health.intervall = "5s"
health.timeout = 5
[services.web.restart]
policy = "on-failure"
max_age = "5s"
`, `miosa.toml has 9 faults:
  miosa.toml:1: nam: there is no such key; did you mean name?
  miosa.toml:2: required_variables: must be a list of strings like ["DATABASE_URL"], not "DATABASE_URL"
  miosa.toml:5: services.web.prot: there is no such key; did you mean port?
  miosa.toml:6: services.web.port: must be 1–65535, not 70000
  miosa.toml:7: services.web.replicas: must be a whole number without quotes, 0–10000, not "2"
  miosa.toml:8: services.web.health.intervall: there is no such key; did you mean interval?
  miosa.toml:9: services.web.health.timeout: must be a duration in quotes like "30s", 100ms–1m, not 5
  miosa.toml:11: services.web.restart.policy: must be one of always, on_failure, never, not "on-failure"; did you mean "on_failure"?
  miosa.toml:12: services.web.restart.max_age: must be 1m–8760h or 0 (never), not 5s`},
		"no TOML":                    {"name = \"shop\n", `miosa.toml:1: this is no TOML: `},
		"twice":                      {"name = \"a\"\nname = \"b\"\n", `miosa.toml:2: name: this is no TOML: `},
		"another platform's words":   {"[services.web]\ninstances = 2\nenv = {}\nhealth_check_path = \"/\"\nmemory_mb = 9\ncmd = \"x\"\n", "services.web.instances: there is no such key; did you mean replicas?\n  miosa.toml:3: services.web.env: there is no such key; variables is a key of the file, above all tables\n  miosa.toml:4: services.web.health_check_path: there is no such key; did you mean health.path?\n  miosa.toml:5: services.web.memory_mb: there is no such key; did you mean resources.memory_mb?\n  miosa.toml:6: services.web.cmd: there is no such key; did you mean command?"},
		"of a service, at the top":   {"port = 80\n", "miosa.toml:1: port: there is no such key; port is a key of a service, in a table like [services.web]"},
		"nothing like it":            {"[services.web.sticky]\nquux = 1\n", "miosa.toml:2: services.web.sticky.quux: there is no such key; there are mode, name"},
		"services by number":         {"[[services]]\nname = \"web\"\n", "miosa.toml:1: services: must be a table, not a list"},
		"service of another kind":    {"services.web = 3\n", "miosa.toml:1: services.web: must be a table like [services.web], not 3"},
		"name of a service":          {"[services.Web_1]\n", "miosa.toml:1: services.Web_1: a service's name must be 1–40 lower-case letters"},
		"worker with a port":         {"[services.jobs]\ntype = \"worker\"\nport = 80\nhealth.type = \"http\"\n", "miosa.toml:3: services.jobs.port: a worker has none: it gets no requests\n  miosa.toml:4: services.jobs.health.type: must be exec or none"},
		"worker that is spoken to":   {"[services.jobs]\ntype = \"worker\"\nprotocol = \"tcp\"\nresponse_timeout = \"5s\"\n", "miosa.toml:3: services.jobs.protocol: a worker has none: it gets no requests\n  miosa.toml:4: services.jobs.response_timeout: a worker has none: it gets no requests"},
		"answers of tcp":             {"[services.db]\nprotocol = \"tcp\"\nresponse_timeout = \"5s\"\nsticky.mode = \"cookie\"\n", "miosa.toml:3: services.db.response_timeout: has no meaning where the protocol is tcp: the router knows of no answers\n  miosa.toml:4: services.db.sticky.mode: must be client_ip or none where the protocol is tcp"},
		"stable of what is asked":    {"[services.web]\nhealth.stable = \"5s\"\n[services.jobs]\ntype = \"worker\"\nhealth = { command = \"/x\", stable = \"5s\" }\n", "miosa.toml:2: services.web.health.stable: has no meaning where the health check's type is http: it is for none\n  miosa.toml:5: services.jobs.health.stable: has no meaning where the health check's type is exec: it is for none"},
		"how often nothing is asked": {"[services.jobs]\ntype = \"worker\"\nhealth.interval = \"5s\"\nhealth.grace = \"5s\"\n", "miosa.toml:3: services.jobs.health.interval: has no meaning where the health check's type is none: it is for http, tcp, grpc and exec\n  miosa.toml:4: services.jobs.health.grace: has no meaning"},
		"path of tcp":                {"[services.db]\nprotocol = \"tcp\"\nhealth.path = \"/\"\n", "miosa.toml:3: services.db.health.path: has no meaning where the health check's type is tcp: it is for http and grpc"},
		"path without /":             {"[services.web]\nhealth.path = \"healthz\"\n", "services.web.health.path: must begin with /"},
		"exec without command":       {"[services.web]\nhealth.type = \"exec\"\n", "services.web.health.type: exec needs a command beside it"},
		"a signal":                   {"[services.web]\nstop_signal = \"STOPPIT\"\n", `services.web.stop_signal: must be the name of a signal, like SIGTERM or SIGQUIT, not "STOPPIT"`},
		"sticky by which header":     {"[services.web]\nsticky.mode = \"header\"\n", "services.web.sticky.mode: header needs a name beside it"},
		"variables that are no one":  {"required_variables = [\"A\", \"A\", \"B\", \"1x\", \"PORT\"]\n[variables]\nB = \"x\"\nMIOSA_X = \"y\"\nN = 3\n", "miosa.toml:1: required_variables: A is named twice\n  miosa.toml:1: required_variables: B has its value in variables: leave it out in one of both\n  miosa.toml:1: required_variables: \"1x\" is no name for a variable\n  miosa.toml:1: required_variables: PORT is set by the platform\n  miosa.toml:4: variables.MIOSA_X: MIOSA_X is set by the platform\n  miosa.toml:5: variables.N: must be a string in quotes, not 3"},
		"a date":                     {"name = 2026-01-01\n", "miosa.toml:1: name: must be a string in quotes, not a date"},
		"inline":                     {"services = { web = { health = {\n grce = \"1s\" } } }\n", "services.web.health.grce: there is no such key; did you mean grace?"},
		"empty":                      {"name = \"\"\n", "miosa.toml:1: name: is empty"},
		"environment":                {"environment = \"Big City\"\n", "miosa.toml:1: environment: must be lower-case letters"},
		"what may be missing":        {"[services.web.disruption]\nmax_unavailable = \"some\"\n[services.api.disruption]\nmax_unavailable = -1\n[services.jobs.disruption]\nmax_unavailable = true\n", "miosa.toml:2: services.web.disruption.max_unavailable: must be a number or a percentage like \"25%\", 0–10000 or 0%–100%, not \"some\"\n  miosa.toml:4: services.api.disruption.max_unavailable: must be a number or a percentage like \"25%\", 0–10000 or 0%–100%, not \"-1\"\n  miosa.toml:6: services.jobs.disruption.max_unavailable: must be a number, or a percentage in quotes like \"25%\", 0–10000 or 0%–100%, not true"},
		"a label":                    {"[services.web.placement]\nlabels = { disk = \"\" }\napart = \"yes\"\n", "miosa.toml:3: services.web.placement.apart: must be true or false without quotes, not \"yes\""},
		"a label's value":            {"[services.web]\nplacement.labels.disk = \"a b\"\n", "miosa.toml:2: services.web.placement.labels.disk: a label's key and value are each 1–63 letters"},
		"a list of numbers":          {"[services.web]\nregions = [1]\n", "services.web.regions: must be strings in quotes, not 1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := appfile.Parse("miosa.toml", []byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("says\n%v\nnot\n%s", err, c.want)
			}
			wrong, ok := errors.AsType[*appfile.Faults](err)
			if !ok {
				return
			}
			for _, f := range wrong.Faults {
				if lines := strings.Count(c.text, "\n"); f.Line < 1 || f.Line > lines+1 || f.Column < 1 {
					t.Errorf("%d:%d of %d lines: %s", f.Line, f.Column, lines, f.Message)
				}
			}
		})
	}
}

// TestNoTextBreaksTheReader: whatever it is, it is read or refused with a line
// that is in it.
func TestNoTextBreaksTheReader(t *testing.T) {
	words := []string{"name", "services", "web", "health", "port", "=", "=", ".", "[", "]", "{", "}", "\"x\"", "3", "1.5", "true", "\n", "\n", ",", "'", "2026-01-01", "#", "\x00", "ü", "variables", "[services.web]\n", "\"\"", " "}
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(words), 0, 40).Draw(t, "words"), "")
		_, err := appfile.Parse("f", []byte(text))
		if err == nil {
			return
		}
		wrong, ok := errors.AsType[*appfile.Faults](err)
		if !ok || len(wrong.Faults) == 0 {
			t.Fatalf("%q: %v", text, err)
		}
		for _, f := range wrong.Faults {
			if f.Line < 1 || f.Line > strings.Count(text, "\n")+1 || f.Message == "" {
				t.Fatalf("%q: line %d: %q", text, f.Line, f.Message)
			}
		}
	})
}

func TestSizesAreThoseOfThePlatform(t *testing.T) {
	var slugs []string
	for _, s := range miosa.Sizes() {
		slugs = append(slugs, s.Slug)
	}
	if got := appfile.OfService("size").Enum; !slices.Equal(got, slugs) {
		t.Errorf("sizes are %q, want %q", got, slugs)
	}
}

func ExampleParse() {
	_, err := appfile.Parse("miosa.toml", []byte("[services.web]\nhelth = { path = \"/\" }\n"))
	fmt.Println(err)
	// Output: miosa.toml:2: services.web.helth: there is no such key; did you mean health?
}
