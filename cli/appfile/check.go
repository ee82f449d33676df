package appfile

import (
	"fmt"
	"maps"
	"reflect"
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
	for _, f := range s.Check() {
		r.fault(append(slices.Clone(path), strings.Split(f.Key, ".")...), "%s", f.Message)
	}
}

// labelRule is what a host's label must be.
const labelRule = "a label's key and value are each 1–63 letters, digits, -, _, . and /, beginning with a letter or digit"

func validLabel(key, value string) bool { return miosa.ValidLabel(key) && miosa.ValidLabel(value) }

// healthKeys are the keys of a health check that mean something for some of its
// types only.
var healthKeys = []struct {
	key   string
	types []string
}{
	{"path", []string{"http", "grpc"}}, {"host", []string{"http"}}, {"scheme", []string{"http"}}, {"headers", []string{"http"}},
	{"command", []string{"exec"}}, {"stable", []string{"none"}},
	{"interval", asked}, {"timeout", asked}, {"grace", asked}, {"threshold", asked},
}

// asked are the types of a health check that ask something.
var asked = []string{"http", "tcp", "grpc", "exec"}

// HealthType is what the service's health check does, by what is said of it.
func (s *Service) HealthType() string {
	switch {
	case s.Health.Type != nil:
		return *s.Health.Type
	case s.Health.Command != nil:
		return "exec"
	case deref(s.Type) == "worker":
		return "none"
	case deref(s.Protocol) == "tcp":
		return "tcp"
	}
	return "http"
}

// said reports whether a key of the service has a value.
func (s *Service) said(path string) bool {
	v, _ := at(reflect.ValueOf(s).Elem(), path)
	return !v.IsNil()
}

// Prune takes the keys of the health check away that mean nothing for its type,
// but for those that are to be kept.
func (s *Service) Prune(keep func(path string) bool) {
	kind := s.HealthType()
	for _, k := range healthKeys {
		if path := "health." + k.key; !slices.Contains(k.types, kind) && !keep(path) {
			v, _ := at(reflect.ValueOf(s).Elem(), path)
			v.SetZero()
		}
	}
}

// Check finds what is wrong with keys of a service that are right each by
// itself. The faults have no place; their keys are those of a service, like
// "health.type".
func (s *Service) Check() []Fault {
	var out []Fault
	fault := func(key, format string, args ...any) {
		out = append(out, Fault{Key: key, Message: fmt.Sprintf(format, args...)})
	}
	kind := s.HealthType()
	if deref(s.Type) == "worker" {
		for _, key := range []string{"port", "protocol", "response_timeout"} {
			if s.said(key) {
				fault(key, "a worker has none: it gets no requests")
			}
		}
		if s.Sticky.Mode != nil {
			fault("sticky", "a worker has none: it gets no requests")
		}
		if kind == "http" || kind == "tcp" || kind == "grpc" {
			fault("health.type", "must be exec or none: a worker has no port to be asked on")
		}
	} else if deref(s.Protocol) == "tcp" {
		if s.ResponseTimeout != nil {
			fault("response_timeout", "has no meaning where the protocol is tcp: the router knows of no answers")
		}
		if mode := deref(s.Sticky.Mode); mode == "cookie" || mode == "header" {
			fault("sticky.mode", "must be client_ip or none where the protocol is tcp: there are no cookies and headers")
		}
	}
	h := s.Health
	if h.Path != nil && *h.Path != "" && (*h.Path)[0] != '/' {
		fault("health.path", "must begin with /")
	}
	if kind == "exec" && h.Command == nil {
		fault("health.type", "exec needs a command beside it")
	}
	for _, k := range healthKeys {
		if path := "health." + k.key; s.said(path) && !slices.Contains(k.types, kind) {
			fault(path, "has no meaning where the health check's type is %s: it is for %s", kind, words(k.types))
		}
	}
	if s.StopSignal != nil {
		if _, ok := miosa.ParseSignal(*s.StopSignal); !ok && *s.StopSignal != "" {
			fault("stop_signal", "must be the name of a signal, like SIGTERM or SIGQUIT, not %q", *s.StopSignal)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Placement.Labels)) {
		if !validLabel(name, s.Placement.Labels[name]) {
			fault("placement.labels."+name, labelRule)
		}
	}
	if deref(s.Sticky.Mode) == "header" && s.Sticky.Name == nil {
		fault("sticky.mode", "header needs a name beside it: the header's")
	}
	if s.Sticky.Name != nil && s.Sticky.Mode == nil {
		fault("sticky.name", "needs a mode beside it")
	}
	return out
}

// words are "a", "a and b" or "a, b and c".
func words(all []string) string {
	last := len(all) - 1
	if last == 0 {
		return all[0]
	}
	return strings.Join(all[:last], ", ") + " and " + all[last]
}

// Routed is the name of the service that requests go to: the one named web,
// else the first of type web, else the first with a port, of those that speak
// HTTP; "" where none does.
func (f *File) Routed() string {
	var specs []miosa.ServiceSpec
	for _, name := range f.Order {
		kind := miosa.ServiceType(deref(f.Services[name].Type))
		if kind == "" {
			kind = miosa.ServiceWeb
		}
		specs = append(specs, miosa.ServiceSpec{ServiceID: name, Name: name, Type: kind, Port: 1, Protocol: miosa.Protocol(deref(f.Services[name].Protocol))})
	}
	return miosa.RoutedService(specs)
}
