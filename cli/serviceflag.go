package cli

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/miosa/miosa/cli/appfile"
)

// serviceFlags are the settings of one service, as flags give them. What they
// may be and what they mean is said once, by the keys of miosa.toml.
type serviceFlags struct {
	service appfile.Service
	// given are the flags by the keys that they set, in their order.
	given []givenFlag
}

type givenFlag struct{ name, key string }

// settings are the flags of a service, by concern.
var settings = []struct {
	title string
	flags []givenFlag
}{
	{"The app", []givenFlag{
		{"run", "command"}, {"port", "port"}, {"protocol", "protocol"}, {"response-timeout", "response_timeout"},
	}},
	{"Health", []givenFlag{
		{"health", "health.path"}, {"health-type", "health.type"}, {"health-host", "health.host"}, {"health-scheme", "health.scheme"},
		{"health-header", "health.headers"}, {"health-command", "health.command"}, {"health-interval", "health.interval"},
		{"health-timeout", "health.timeout"}, {"health-grace", "health.grace"}, {"health-threshold", "health.threshold"}, {"health-stable", "health.stable"},
	}},
	{"Size and place", []givenFlag{
		{"replicas", "replicas"}, {"size", "size"}, {"memory", "resources.memory_mb"}, {"cpus", "resources.vcpus"}, {"disk", "resources.disk_mb"},
		{"gpu", "resources.gpu"}, {"egress", "resources.egress_mbps"}, {"region", "regions"}, {"label", "placement.labels"}, {"apart", "placement.apart"}, {"sticky", "sticky.mode"}, {"sticky-name", "sticky.name"},
	}},
	{"Ending and restarting", []givenFlag{
		{"stop-signal", "stop_signal"}, {"stop-grace", "stop_grace"}, {"restart", "restart.policy"}, {"max-age", "restart.max_age"},
		{"max-unavailable", "disruption.max_unavailable"}, {"stop-after-disconnect", "stop_after_disconnect"},
	}},
}

// groups are the flags, to be given to a command.
func (f *serviceFlags) groups() []flagGroup {
	var out []flagGroup
	for _, s := range settings {
		g := newFlagGroup(s.title)
		for _, flag := range s.flags {
			key := appfile.OfService(flag.key)
			g.Var(&keyValue{f, flag, key.Kind(), ""}, flag.name, flagHelp(key))
			if key.Kind() == "boolean" {
				g.Lookup(flag.name).NoOptDefVal = "true"
			}
		}
		out = append(out, g)
	}
	return out
}

// flagHelp is what a key is, its range and what holds without it.
func flagHelp(key appfile.Key) string {
	help := key.Doc
	var notes []string
	if r := strings.TrimPrefix(key.Range(), "one of "); r != "" {
		notes = append(notes, r)
	}
	if key.Kind() == "list of strings" || key.Kind() == "table" {
		notes = append(notes, "may be given several times")
	}
	if key.Kind() == "table" {
		notes = append(notes, fmt.Sprintf("like %q", key.Example))
	}
	if kind := key.Kind(); key.Zero != "" && (kind == "string" || kind == "list of strings" || kind == "table") {
		notes = append(notes, `"" for `+key.Zero)
	}
	if len(notes) > 0 {
		help += "; " + strings.Join(notes, ", ")
	}
	if key.Default != "" {
		help += " (default: " + key.Default + ")"
	}
	return help
}

// has reports whether a flag gave that key.
func (f *serviceFlags) has(key string) bool {
	for _, g := range f.given {
		if g.key == key {
			return true
		}
	}
	return false
}

// applyTo sets what the flags gave over what is there. A named size is one as a
// whole, and what the health check was where it is another now is gone.
func (f *serviceFlags) applyTo(s *appfile.Service) {
	if f.has("size") {
		s.Resources.VCPUs, s.Resources.MemoryMB, s.Resources.DiskMB = nil, nil, nil
	}
	kind := s.HealthType()
	for _, g := range f.given {
		s.Copy(g.key, &f.service)
	}
	switch {
	case f.has("health.type"):
	case f.has("health.command"):
		s.Health.Type = nil // the command says it
	case f.has("health.path") && kind != "http" && kind != "grpc" && s.Type != nil && *s.Type == "worker":
		// Which has no port to be asked on, as it will be told.
	case f.has("health.path") && kind != "http" && kind != "grpc":
		s.Health.Type = new("http")
	}
	s.Prune(f.has)
}

// faults are what is wrong with a service that flags have changed, in words;
// where is what stands before a key that no flag gave.
func (f *serviceFlags) faults(s *appfile.Service, where string) string {
	var out []string
	for _, wrong := range s.Check() {
		who := where + wrong.Key
		for _, g := range f.given {
			if g.key == wrong.Key || wrong.Key == "sticky" && g.key == "sticky.mode" {
				who = "--" + g.name
			}
		}
		out = append(out, who+": "+wrong.Message)
	}
	return strings.Join(out, "\n")
}

// keyValue is a flag's value: it sets a key.
type keyValue struct {
	flags *serviceFlags
	flag  givenFlag
	kind  string
	text  string
}

func (v *keyValue) String() string { return v.text }

// Type is the word behind the flag's name in --help.
func (v *keyValue) Type() string {
	return cmp.Or(map[string]string{"number": "N", "number or percentage": "N", "boolean": "bool", "list of strings": "string", "table": "string"}[v.kind], v.kind)
}

func (v *keyValue) Set(text string) error {
	if err := v.flags.service.Set(v.flag.key, text); err != nil {
		return err
	}
	v.text = text
	if !v.flags.has(v.flag.key) {
		v.flags.given = append(v.flags.given, v.flag)
	}
	return nil
}
