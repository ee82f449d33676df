package appfile

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Fault is one thing that is wrong with a file.
type Fault struct {
	Line, Column int    // from 1
	Key          string // dotted: "services.web.port"; "" where the text is no TOML
	Message      string // what is wrong, and what is right
}

// Faults are all that is wrong with a file, in the order of its lines.
type Faults struct {
	Path   string // of the file, as the caller wrote it
	Faults []Fault
}

func (e *Faults) Error() string {
	var b strings.Builder
	if len(e.Faults) > 1 {
		fmt.Fprintf(&b, "%s has %d faults:", e.Path, len(e.Faults))
	}
	for _, f := range e.Faults {
		if len(e.Faults) > 1 {
			b.WriteString("\n  ")
		}
		fmt.Fprintf(&b, "%s:%d: ", e.Path, f.Line)
		if f.Key != "" {
			fmt.Fprintf(&b, "%s: ", f.Key)
		}
		b.WriteString(f.Message)
	}
	return b.String()
}

// Parse reads a file; path is for its errors only, which are *Faults: all that
// is wrong at once, but for a text that is no TOML, which is read no further.
func Parse(path string, raw []byte) (*File, error) {
	fail := func(faults ...Fault) (*File, error) { return nil, &Faults{Path: path, Faults: faults} }
	values := map[string]any{}
	if err := toml.Unmarshal(raw, &values); err != nil {
		if wrong, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, column := wrong.Position()
			return fail(Fault{line, column, strings.Join(wrong.Key(), "."), "this is no TOML: " + strings.TrimPrefix(wrong.Error(), "toml: ")})
		}
		return fail(Fault{1, 1, "", "this is no TOML: " + strings.TrimPrefix(err.Error(), "toml: ")})
	}
	r := reading{where: positions(raw)}
	f := &File{}
	r.table(nil, values, reflect.ValueOf(f).Elem())
	for name := range f.Services {
		f.Order = append(f.Order, name)
	}
	slices.SortFunc(f.Order, func(a, b string) int { return r.at("services", a).compare(r.at("services", b)) })
	r.check(f)
	if len(r.faults) == 0 {
		return f, nil
	}
	slices.SortStableFunc(r.faults, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), strings.Compare(a.Key, b.Key))
	})
	return fail(r.faults...)
}

// place is where a key stands.
type place struct{ line, column int }

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.line, q.line), cmp.Compare(p.column, q.column))
}

// between joins the parts of a key where it is looked up: they may hold dots.
const between = "\x00"

// positions are where keys stand, of a text that is TOML. A table that is only
// named by one inside it stands where that does.
func positions(raw []byte) map[string]place {
	out := map[string]place{}
	var p unstable.Parser
	p.Reset(raw)
	name := func(prefix []string, keys unstable.Iterator) []string {
		path := slices.Clone(prefix)
		for keys.Next() {
			node := keys.Node()
			path = append(path, string(node.Data))
			at := strings.Join(path, between)
			if _, known := out[at]; !known {
				start := p.Shape(node.Raw).Start
				out[at] = place{start.Line, start.Column}
			}
		}
		return path
	}
	var pair func(table []string, node *unstable.Node)
	pair = func(table []string, node *unstable.Node) {
		path := name(table, node.Key())
		if value := node.Value(); value.Kind == unstable.InlineTable {
			for inner := value.Children(); inner.Next(); {
				if inner.Node().Kind == unstable.KeyValue {
					pair(path, inner.Node())
				}
			}
		}
	}
	var table []string
	for p.NextExpression() {
		switch node := p.Expression(); node.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = name(nil, node.Key())
		case unstable.KeyValue:
			pair(table, node)
		}
	}
	return out
}

// reading is one file being read.
type reading struct {
	where  map[string]place
	faults []Fault
}

// at is where a key stands, or the nearest table around it.
func (r *reading) at(path ...string) place {
	for n := len(path); n > 0; n-- {
		if p, ok := r.where[strings.Join(path[:n], between)]; ok {
			return p
		}
	}
	return place{1, 1}
}

func (r *reading) fault(path []string, format string, args ...any) {
	p := r.at(path...)
	r.faults = append(r.faults, Fault{p.line, p.column, strings.Join(path, "."), fmt.Sprintf(format, args...)})
}

// table reads the values into a struct.
func (r *reading) table(path []string, values map[string]any, into reflect.Value) {
	for _, name := range inOrder(values) {
		here := append(slices.Clone(path), name)
		field, key, ok := fieldOf(into, name)
		if !ok {
			r.fault(here, "there is no such key%s", instead(name, into.Type()))
			continue
		}
		r.value(here, key, values[name], field)
	}
}

func inOrder(values map[string]any) []string {
	names := make([]string, 0, len(values))
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (r *reading) value(path []string, key Key, value any, field reflect.Value) {
	wrong := func() { r.fault(path, "must be %s, not %s", key.wanted(), shown(value)) }
	switch key.Kind() {
	case "table":
		values, ok := value.(map[string]any)
		switch {
		case !ok:
			wrong()
		case key.Type.Kind() == reflect.Struct:
			r.table(path, values, field)
		default:
			r.named(path, key, values, field)
		}
	case "list of strings":
		items, ok := value.([]any)
		if !ok {
			wrong()
			return
		}
		if err := key.long(len(items)); err != nil {
			r.fault(path, "%v", err)
		}
		list := []string{}
		for _, item := range items {
			text, ok := item.(string)
			if !ok {
				r.fault(path, "must be strings in quotes, not %s", shown(item))
				return
			}
			list = append(list, text)
		}
		field.Set(reflect.ValueOf(list))
	default:
		if err := key.put(field, value); err != nil {
			r.fault(path, "%v", err)
		}
	}
}

// named reads a table whose names are the file's own: services, headers.
func (r *reading) named(path []string, key Key, values map[string]any, field reflect.Value) {
	if err := key.long(len(values)); err != nil {
		r.fault(path, "%v", err)
	}
	out := reflect.MakeMap(key.Type)
	for _, name := range inOrder(values) {
		here := append(slices.Clone(path), name)
		if key.Type.Elem().Kind() == reflect.String {
			text, ok := values[name].(string)
			if !ok {
				r.fault(here, "must be a string in quotes, not %s", shown(values[name]))
			}
			out.SetMapIndex(reflect.ValueOf(name), reflect.ValueOf(text))
			continue
		}
		inner, ok := values[name].(map[string]any)
		if !ok {
			r.fault(here, "must be a table like [%s], not %s", strings.Join(append(slices.Clone(path), "web"), "."), shown(values[name]))
			continue
		}
		v := reflect.New(key.Type.Elem().Elem())
		r.table(here, inner, v.Elem())
		out.SetMapIndex(reflect.ValueOf(name), v)
	}
	field.Set(out)
}

// others are words that other platforms and the API have for our keys.
var others = map[string]string{
	"run_command": "command", "run": "command", "cmd": "command", "start": "command", "entrypoint": "command", "process": "command",
	"desired_replicas": "replicas", "instances": "replicas", "count": "replicas", "scale": "replicas",
	"health_check": "health", "healthcheck": "health", "check": "health", "health_check_path": "health.path", "healthcheck_path": "health.path",
	"env": "variables", "vars": "variables", "environment_variables": "variables", "secrets": "required_variables", "required": "required_variables",
	"memory": "resources.memory_mb", "cpus": "resources.vcpus", "cpu": "resources.vcpus", "disk": "resources.disk_mb", "gpus": "resources.gpu", "egress": "resources.egress_mbps",
	"response_timeout_seconds": "response_timeout", "stop_grace_seconds": "stop_grace", "kill_timeout": "stop_grace", "kill_signal": "stop_signal",
	"interval_seconds": "interval", "timeout_seconds": "timeout", "grace_period": "grace", "grace_period_seconds": "grace", "start_period": "grace", "unhealthy_threshold": "threshold",
	"retries": "threshold", "stable_seconds": "stable", "max_age_seconds": "max_age", "region": "regions", "app": "name", "kind": "type", "internal_port": "port",
	"service": "services", "processes": "services", "stop_after_disconnect_seconds": "stop_after_disconnect", "anti_affinity": "placement.apart", "node_selector": "placement.labels",
}

// instead names the key that was meant, if one is near: by its letters, by
// another word for it, or in another table.
func instead(written string, table reflect.Type) string {
	known := keysOf(table)
	names := make([]string, 0, len(known))
	for _, k := range known {
		names = append(names, k.Name)
	}
	word := strings.ToLower(strings.ReplaceAll(written, "-", "_"))
	if other := others[word]; other != "" && hasKey(table, other) {
		return "; did you mean " + other + "?"
	}
	if near := nearest(word, names); near != "" {
		return "; did you mean " + near + "?"
	}
	for _, k := range known {
		if k.Type.Kind() == reflect.Struct && hasKey(k.Type, word) {
			return fmt.Sprintf("; did you mean %s.%s?", k.Name, word)
		}
	}
	for _, of := range []struct {
		table reflect.Type
		words string
	}{{reflect.TypeFor[Service](), "of a service, in a table like [services.web]"}, {reflect.TypeFor[File](), "of the file, above all tables"}} {
		for _, name := range []string{word, others[word]} {
			if name != "" && of.table != table && hasKey(of.table, name) {
				return fmt.Sprintf("; %s is a key %s", name, of.words)
			}
		}
	}
	return "; there are " + strings.Join(names, ", ")
}

// hasKey reports whether a table has the dotted key.
func hasKey(table reflect.Type, path string) bool {
	name, rest, deeper := strings.Cut(path, ".")
	for _, k := range keysOf(table) {
		if k.Name == name {
			return !deeper || k.Type.Kind() == reflect.Struct && hasKey(k.Type, rest)
		}
	}
	return false
}
