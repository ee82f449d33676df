package appfile

import (
	"regexp"
	"slices"
	"strings"

	"github.com/miosa/miosa"
)

var (
	label    = regexp.MustCompile(labels)
	variable = regexp.MustCompile(variables)
)

const longestLabel = 40

// check finds what is wrong with keys that are right each by itself.
func (r *reading) check(f *File) {
	if f.Environment != "" && !label.MatchString(f.Environment) {
		r.fault([]string{"environment"}, "must be lower-case letters, digits and single hyphens, not at its ends")
	}
	for name := range f.Variables {
		r.variable([]string{"variables", name}, name)
	}
	seen := map[string]bool{}
	for _, name := range f.RequiredVariables {
		path := []string{"required_variables"}
		r.variable(path, name)
		if seen[name] {
			r.fault(path, "%s is named twice", name)
		}
		seen[name] = true
		if _, given := f.Variables[name]; given {
			r.fault(path, "%s has its value in variables: leave it out in one of both", name)
		}
	}
	for _, name := range f.Order {
		path := []string{"services", name}
		if !label.MatchString(name) || len(name) > longestLabel {
			r.fault(path, "a service's name must be 1–%d lower-case letters, digits and single hyphens, not at its ends", longestLabel)
		}
		r.service(path, f.Services[name])
	}
}

func (r *reading) variable(path []string, name string) {
	switch {
	case !variable.MatchString(name):
		r.fault(path, "%q is no name for a variable", name)
	case name == "PORT", strings.HasPrefix(name, "MIOSA_"):
		r.fault(path, "%s is set by the platform", name)
	}
}

func (r *reading) service(path []string, s *Service) {
	in := func(more ...string) []string { return append(slices.Clone(path), more...) }
	h := s.Health
	kind := deref(h.Type)
	if kind == "" && h.Command != nil {
		kind = "exec"
	}
	if deref(s.Type) == "worker" {
		if s.Port != nil {
			r.fault(in("port"), "a worker has none: it gets no requests")
		}
		if s.Sticky.Mode != nil {
			r.fault(in("sticky"), "a worker has none: it gets no requests")
		}
		if kind == "http" || kind == "tcp" || kind == "grpc" {
			r.fault(in("health", "type"), "must be exec or none: a worker has no port to be asked on")
		}
		if kind == "" {
			kind = "none"
		}
	}
	if kind == "" && deref(s.Protocol) == "tcp" {
		kind = "tcp"
	}
	if kind == "" {
		kind = "http"
	}
	if h.Path != nil && *h.Path != "" && (*h.Path)[0] != '/' {
		r.fault(in("health", "path"), "must begin with /")
	}
	if kind == "exec" && h.Command == nil {
		r.fault(in("health", "type"), "exec needs a command beside it")
	}
	for _, only := range []struct {
		key   string
		said  bool
		types []string
	}{
		{"path", h.Path != nil, []string{"http", "grpc"}},
		{"host", h.Host != nil, []string{"http"}},
		{"scheme", h.Scheme != nil, []string{"http"}},
		{"headers", h.Headers != nil, []string{"http"}},
		{"command", h.Command != nil, []string{"exec"}},
	} {
		if only.said && !slices.Contains(only.types, kind) {
			r.fault(in("health", only.key), "has no meaning where the health check's type is %s: it is for %s", kind, strings.Join(only.types, " and "))
		}
	}
	if s.StopSignal != nil {
		if _, ok := miosa.ParseSignal(*s.StopSignal); !ok && *s.StopSignal != "" {
			r.fault(in("stop_signal"), "must be the name of a signal, like SIGTERM or SIGQUIT, not %q", *s.StopSignal)
		}
	}
	if deref(s.Sticky.Mode) == "header" && s.Sticky.Name == nil {
		r.fault(in("sticky", "mode"), "header needs a name beside it: the header's")
	}
	if s.Sticky.Name != nil && s.Sticky.Mode == nil {
		r.fault(in("sticky", "name"), "needs a mode beside it")
	}
}

// Routed is the name of the service that requests go to: the one named web,
// else the first of type web, else the first with a port; "" of workers alone.
func (f *File) Routed() string {
	var specs []miosa.ServiceSpec
	for _, name := range f.Order {
		kind := miosa.ServiceType(deref(f.Services[name].Type))
		if kind == "" {
			kind = miosa.ServiceWeb
		}
		specs = append(specs, miosa.ServiceSpec{ServiceID: name, Name: name, Type: kind, Port: 1})
	}
	return miosa.RoutedService(specs)
}
