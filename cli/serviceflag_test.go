package cli_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/miosa/miosa/api/resource"
)

// all are flags for every setting that is not that of a worker, with values
// that are no defaults, and how the API shows them.
const all = `--run /app/server --port 9000 --protocol h2c --response-timeout 5m
 --health /healthz --health-type http --health-host shop.example --health-scheme https --health-header X-Probe:one --health-header Accept:text/plain
 --health-interval 7s --health-timeout 900ms --health-grace 3m --health-threshold 5 --health-stable 20s
 --replicas 2 --size medium --memory 1500 --gpu 0 --egress 90 --sticky header --sticky-name X-Session --label disk=nvme --label zone=a --apart
 --stop-signal quit --stop-grace 1m30s --restart on_failure --max-age 24h --max-unavailable 25% --stop-after-disconnect 1m30s`

const allShown = `{
 "type":"web","desired_replicas":2,"run_command":"/app/server","port":9000,"protocol":"h2c","response_timeout_seconds":300,"stop_signal":"SIGQUIT","stop_grace_seconds":90,
 "health_check":{"type":"http","path":"/healthz","scheme":"https","host":"shop.example","headers":{"Accept":"text/plain","X-Probe":"one"},"command":null,"stable_seconds":20,"interval_seconds":7,"timeout_seconds":0.9,"grace_period_seconds":180,"unhealthy_threshold":5},
 "resources":{"vcpus":2,"memory_mb":1500,"disk_mb":4096,"gpu":0,"egress_mbps":90},
 "sticky":{"mode":"header","name":"X-Session"},"restart":{"policy":"on_failure","max_age_seconds":86400},
 "disruption":{"max_unavailable":"25%"},"stop_after_disconnect_seconds":90,"placement":{"labels":{"disk":"nvme","zone":"a"},"apart":true}}`

// TestEverySettingHasAFlag: with a publish, and without one.
func TestEverySettingHasAFlag(t *testing.T) {
	s := newShell(t)
	file := s.file("a.tar")
	s.prints(append([]string{"publish", file, "--name", "shop"}, strings.Fields(all)...)...)
	s.settle()
	s.serviceIs("shop", allShown)

	s.prints("publish", file, "--name", "plain", "--run", "/app/server")
	s.settle()
	s.prints(append([]string{"services", "set", "plain"}, strings.Fields(all)...)...)
	s.settle()
	s.serviceIs("plain", allShown)
	// What is not said stays; 0 takes back what may be none.
	s.prints(strings.Fields("services set plain web --health-command /app/check --egress 0 --max-age 0")...)
	s.settle()
	s.serviceIs("plain", `{"port":9000,"health_check":{"type":"exec","command":"/app/check","interval_seconds":7},"resources":{"memory_mb":1500,"egress_mbps":null},"restart":{"policy":"on_failure","max_age_seconds":0}}`)
	// So it does with the next publish.
	s.prints(strings.Fields("publish " + file + " --name plain --health-grace 10s")...)
	s.settle()
	s.serviceIs("plain", `{"protocol":"h2c","health_check":{"type":"exec","grace_period_seconds":10,"interval_seconds":7},"restart":{"policy":"on_failure"}}`)

	s.prints(strings.Fields("publish " + file + " --name jobs --worker --run /app/jobs --health-command /app/alive --stop-grace 5m")...)
	s.settle()
	s.serviceIs("jobs", `{"type":"worker","port":null,"stop_grace_seconds":300,"health_check":{"type":"exec","command":"/app/alive"}}`)
}

// TestFlagsOfOneOfSeveralServices are for that one, and the order stays: of
// several of type web, requests go to the first.
func TestFlagsOfOneOfSeveralServices(t *testing.T) {
	s := newShell(t)
	file := s.file("a.tar")
	s.prints("publish", file, "--name", "shop", "--service", "front", "--run", "/app/front")
	s.settle()
	s.prints("publish", file, "--name", "shop", "--service", "admin", "--run", "/app/admin")
	s.settle()
	s.prints("publish", file, "--name", "shop", "--service", "jobs", "--worker", "--run", "/app/jobs")
	s.settle()
	s.prints("publish", file, "--name", "shop", "--service", "admin", "--port", "9001")
	s.settle()
	out := s.prints("services", "ls", "shop")
	for _, want := range []string{"front", "admin", "9001", "jobs", "/app/jobs"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s among the services:\n%s", want, out)
		}
	}
	if out := s.prints("services", "get", "shop"); !strings.Contains(out, "/app/front") {
		t.Errorf("requests go to another service than before:\n%s", out)
	}
}

// serviceIs checks that the service of a deployment that stands for it has what
// is in want.
func (s *shell) serviceIs(name, want string) {
	s.t.Helper()
	var got resource.Service
	for v, err := range s.client().Services(s.t.Context(), name) {
		if err != nil {
			s.t.Fatal(err)
		}
		got = v
	}
	raw, err := json.Marshal(got)
	if err != nil {
		s.t.Fatal(err)
	}
	var has, wants map[string]any
	for text, to := range map[string]*map[string]any{string(raw): &has, want: &wants} {
		if err := json.Unmarshal([]byte(text), to); err != nil {
			s.t.Fatal(err)
		}
	}
	s.t.Helper()
	holds(s.t, "", has, wants)
}

func holds(t *testing.T, at string, has, wants map[string]any) {
	t.Helper()
	for key, want := range wants {
		if table, ok := want.(map[string]any); ok && key != "headers" && len(table) > 0 {
			inner, _ := has[key].(map[string]any)
			holds(t, at+key+".", inner, table)
			continue
		}
		got, _ := json.Marshal(has[key])
		if wanted, _ := json.Marshal(want); string(got) != string(wanted) {
			t.Errorf("%s%s is %s, want %s", at, key, got, wanted)
		}
	}
}

func TestFlagsSayWhatTheyTake(t *testing.T) {
	s := newShell(t)
	for flag, want := range map[string]string{
		"--health-interval=5":        `must be a duration like "30s", 1s–5m, not "5"`,
		"--health-interval=10m":      "must be 1s–5m, not 10m",
		"--port=70000":               "must be 1–65535, not 70000",
		"--replicas=many":            "must be a whole number, 0–10000",
		"--health-type=htpp":         `must be one of http, tcp, grpc, exec, none, not "htpp"; did you mean "http"?`,
		"--health-header=Accept":     "must be like",
		"--stop-grace=1h":            "must be 1s–5m, not 1h",
		"--max-age=5s":               "must be 1m–8760h or 0 (never), not 5s",
		"--restart=on-failure":       `did you mean "on_failure"?`,
		"--size=enormous":            "must be one of micro, small, medium, large, xlarge",
		"--response-timeout=2h":      "must be 1s–1h, not 2h",
		"--health-command=":          "is empty",
		"--egress=400001":            "must be 1–400000 or 0 (no limit), not 400001",
		"--health-threshold=3.5":     "must be a whole number, 1–100",
		"--health-timeout=1ms":       "must be 100ms–1m, not 1ms",
		"--health-scheme=ftp":        "must be one of http, https",
		"--protocol=grpc":            "must be one of http1, h2c, tcp",
		"--sticky=ip":                "must be one of none, cookie, client_ip, header",
		"--health-stable=eventually": "must be a duration",
		"--max-unavailable=101%":     `must be a number or a percentage like "25%", 0–10000 or 0%–100%, not "101%"`,
		"--max-unavailable=some":     "must be a number or a percentage",
		"--stop-after-disconnect=5s": "must be 10s–24h or 0 (never), not 5s",
		"--label=disk":               `must be like "disk=nvme"`,
		"--label=disk=":              "a label's key and value are each 1–63 letters",
		"--apart=perhaps":            `must be true or false, not "perhaps"`,
	} {
		for _, command := range [][]string{{"publish", "a.tar", "--name", "x"}, {"services", "set", "x"}} {
			if out := s.says(2, append(command, flag)...); !strings.Contains(out, want) {
				t.Errorf("%s %s says\n%s, not %q", command[0], flag, out, want)
			}
		}
	}
}

// TestAnEmptyValueIsTheDefault takes back what has no other word for it.
func TestAnEmptyValueIsTheDefault(t *testing.T) {
	s := newShell(t)
	file := s.file("a.tar")
	s.prints(strings.Fields("publish " + file + " --name shop --run /app/server --stop-signal QUIT --region local --health-host shop.example --label disk=nvme --apart")...)
	s.settle()
	s.serviceIs("shop", `{"stop_signal":"SIGQUIT","regions":["local"],"health_check":{"host":"shop.example"},"placement":{"labels":{"disk":"nvme"},"apart":true}}`)
	s.prints("services", "set", "shop", "--stop-signal", "", "--region", "", "--health-host", "", "--label", "", "--apart=false")
	s.settle()
	s.serviceIs("shop", `{"stop_signal":null,"regions":[],"health_check":{"host":null},"placement":{"labels":{},"apart":false}}`)
	// With a publish, too; elsewhere nothing is no value.
	s.prints(strings.Fields("publish " + file + " --name shop --stop-signal QUIT --region local --health-host shop.example")...)
	s.settle()
	s.prints("publish", file, "--name", "shop", "--stop-signal=", "--region=", "--health-host=")
	s.settle()
	s.serviceIs("shop", `{"stop_signal":null,"regions":[],"health_check":{"host":null}}`)
	for _, flag := range []string{"--health-command", "--run", "--sticky-name"} {
		if out := s.says(2, "services", "set", "shop", flag, ""); !strings.Contains(out, "is empty") {
			t.Errorf("%s says\n%s", flag, out)
		}
	}
}

// TestPsNamesTheEnvironmentOfAnAddress where it is not production.
func TestPsNamesTheEnvironmentOfAnAddress(t *testing.T) {
	s := newShell(t)
	file := s.file("a.tar")
	for _, environment := range []string{"production", "staging"} {
		s.prints("publish", file, "--name", "shop", "--service", "db", "--protocol", "tcp", "--run", "/app/db", "--environment", environment)
		s.settle()
	}
	out := s.prints("ps", "shop")
	if !strings.Contains(out, "\ndb: tcp://") || !strings.Contains(out, "\ndb of staging: tcp://") || strings.Count(out, "tcp://") != 2 {
		t.Error(out)
	}
}
