package miosa_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// These tests are the import law of ARCHITECTURE.md: what each part of the
// tree may know of the others. They read the non-test files of the module;
// each rule says why it is there, so that whoever breaks one knows what to do.

const module = "github.com/miosa/miosa"

// pure packages decide. The root package, the domain itself, obeys the same
// rules.
var pure = []string{"cell", "plan", "reconcile", "rollout", "task", "schedule", "lifecycle", "health", "liveness", "disruption", "routing", "balance", "metering", "timekeeping"}

// ports are what the loops know of the outside world: types and an interface.
// A folder inside a port's is one of its adapters unless it is its conformance
// suite ("storetest"), one of the loops, or listed below.
var ports = []string{"store", "artifact", "vmm", "network", "secret", "logs", "events", "metrics", "usage"}

// notAdapters are the other folders inside a port's that are no implementation.
var notAdapters = map[string]string{
	"vmm/bundle": "the guest bundle, shared by all drivers",
}

// loops run for as long as the process does. One that is all about what a port
// keeps lies in the port's folder, beside what keeps it: who looks for logs finds
// their port, their stores and their loops in one place.
var loops = []string{"control", "agent", "edge", "api", "logs/plane", "logs/drain", "events/timeline", "events/webhook", "registry/pull", "metrics/plane", "usage/ledger", "trace"}

// joins are the only folders that may join loops to adapters.
var joins = []string{"cmd", "sim", "bench"}

// engine is what the built-in stores lie in, and what opens it for them.
const (
	engine       = "github.com/cockroachdb/pebble/v2"
	engineOpener = "pebbledb"
)

// guests ship inside every VM.
var guests = []string{"guest", "wire/guest", "transfer", "cmd/miosa-init"}

// guestAllowed is all that a guest package may import from outside the
// standard library.
var guestAllowed = []string{
	module + "/guest", module + "/wire/guest", module + "/transfer",
	"github.com/vishvananda/netlink", "golang.org/x/sys/unix",
}

// guestForbidden are parts of the standard library that a guest must not
// drag in.
var guestForbidden = []string{"net/http", "crypto/tls", "html/template", "text/template", "encoding/xml", "encoding/gob", "go/", "database/sql"}

// effects are the imports that a decision must not have.
var effects = map[string]string{
	"os":           "reading the machine",
	"net":          "talking (net/netip has the address types)",
	"net/http":     "talking",
	"log":          "logging: return a reason instead",
	"log/slog":     "logging: return a reason instead",
	"context":      "waiting",
	"sync":         "sharing: the owner of a decision calls it from one goroutine",
	"sync/atomic":  "sharing: the owner of a decision calls it from one goroutine",
	"math/rand":    "chance: take what is random as an argument",
	"math/rand/v2": "chance: take what is random as an argument",
	"crypto/rand":  "chance: take an io.Reader",
	"hash/maphash": "chance: its seed differs in every process",
	"syscall":      "reading the machine",
	"runtime":      "reading the machine",
	"unsafe":       "reaching around the types",
}

// clock are the functions of package time that read it or wait for it.
var clock = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"}

// shared are the process-wide registries and defaults that no package uses.
var shared = map[string][]string{
	"net/http": {"Handle", "HandleFunc", "DefaultServeMux", "ListenAndServe", "ListenAndServeTLS"},
	"log/slog": {"Default", "SetDefault", "Debug", "Info", "Warn", "Error", "Log", "DebugContext", "InfoContext", "WarnContext", "ErrorContext"},
	"flag":     {"CommandLine", "Parse", "String", "Int", "Bool", "Duration", "StringVar", "IntVar", "BoolVar", "DurationVar", "Var"},
	"github.com/prometheus/client_golang/prometheus": {"DefaultRegisterer", "DefaultGatherer", "Register", "MustRegister"},
}

// sharedByImport register themselves on the default mux when imported.
var sharedByImport = []string{"expvar", "net/http/pprof"}

// vagueNames say nothing about what a package is for.
var vagueNames = []string{"util", "utils", "common", "helper", "helpers", "types", "misc", "base", "shared", "lib", "internal"}

// folder is one package as the rules see it.
type folder struct {
	dir   string // from the module's root, "" is the root itself
	fset  *token.FileSet
	files []*ast.File
}

// rule is one law. broken is called once for each folder and tells every
// violation through report.
type rule struct {
	name   string
	reason string
	broken func(f *folder, report func(token.Pos, string))
}

var rules = []rule{{
	name:   "the domain knows nobody",
	reason: "the root package is the vocabulary of all others; it imports the standard library only",
	broken: func(f *folder, report func(token.Pos, string)) {
		if f.dir == "" {
			f.eachImport(func(pos token.Pos, p string) {
				if !standard(p) {
					report(pos, "imports "+p)
				}
			})
		}
	},
}, {
	name:   "decisions know the domain and each other only",
	reason: "a pure package that knows a port or another module cannot be driven by the simulation with plain values",
	broken: func(f *folder, report func(token.Pos, string)) {
		if !within(f.dir, pure) {
			return
		}
		f.eachImport(func(pos token.Pos, p string) {
			if in, ok := inModule(p); !standard(p) && (!ok || in != "" && !within(in, pure)) {
				report(pos, "imports "+p)
			}
		})
	},
}, {
	name:   "decisions have no effects",
	reason: "the same inputs must give the same decision, in a test, in the simulation and in production",
	broken: func(f *folder, report func(token.Pos, string)) {
		if f.dir != "" && !within(f.dir, pure) {
			return
		}
		f.eachImport(func(pos token.Pos, p string) {
			if why, ok := effects[p]; ok || strings.HasPrefix(p, "os/") {
				report(pos, strings.TrimSuffix(fmt.Sprintf("imports %s: %s", p, why), ": "))
			}
		})
		f.eachUse("time", func(pos token.Pos, name string) {
			if slices.Contains(clock, name) {
				report(pos, "reads the clock with time."+name+": take now as an argument")
			}
		})
		f.inspect(func(n ast.Node) {
			if g, ok := n.(*ast.GoStmt); ok {
				report(g.Pos(), "starts a goroutine")
			}
		})
	},
}, {
	name:   "ports know no implementation and no loop",
	reason: "a port is what both sides agree on; it must not depend on either",
	broken: func(f *folder, report func(token.Pos, string)) {
		if !slices.Contains(ports, f.dir) {
			return
		}
		f.eachImport(func(pos token.Pos, p string) {
			if in, ok := inModule(p); ok && (adapter(in) != "" || within(in, loops) || within(in, joins)) {
				report(pos, "imports "+p)
			}
		})
	},
}, {
	name:   "only cmd/, sim/ and bench/ join loops to adapters",
	reason: "a loop or a tool that names an adapter cannot be run over another one, nor be simulated",
	broken: func(f *folder, report func(token.Pos, string)) {
		if within(f.dir, joins) || adapter(f.dir) != "" {
			return // adapters have their own rule
		}
		f.eachImport(func(pos token.Pos, p string) {
			if in, ok := inModule(p); ok && adapter(in) != "" {
				report(pos, "imports the adapter "+p)
			}
		})
	},
}, {
	name:   "an adapter imports its port, never another adapter and never a loop",
	reason: "an adapter must be replaceable alone; what two of them share belongs to their port",
	broken: func(f *folder, report func(token.Pos, string)) {
		mine := adapter(f.dir)
		if mine == "" {
			return
		}
		f.eachImport(func(pos token.Pos, p string) {
			in, ok := inModule(p)
			if !ok {
				return
			}
			if other := adapter(in); other != "" && other != mine {
				report(pos, "imports the adapter "+p)
			}
			if within(in, loops) || within(in, joins) {
				report(pos, "imports "+p)
			}
		})
	},
}, {
	name:   "a Pebble database is opened by pebbledb, for adapters",
	reason: "opened by anybody else it ends the whole process when its disk fails; and what a store lies in is its adapter's secret",
	broken: func(f *folder, report func(token.Pos, string)) {
		if within(f.dir, []string{engineOpener}) {
			f.eachImport(func(pos token.Pos, p string) {
				if in, ok := inModule(p); ok && in != "" && !within(in, []string{engineOpener}) {
					report(pos, "imports "+p)
				}
			})
			return
		}
		f.eachUse(engine, func(pos token.Pos, name string) {
			if name == "Open" {
				report(pos, "opens one on its own")
			}
		})
		f.eachImport(func(pos token.Pos, p string) {
			if adapter(f.dir) == "" && (p == engine || p == module+"/"+engineOpener) {
				report(pos, "imports "+p)
			}
		})
	},
}, {
	name:   "what is written whole is written by disk",
	reason: "a file that takes another's place must be synced before and its directory after, and what a crash leaves of it swept: disk.Replace, disk.Create and disk.Rename do so",
	broken: func(f *folder, report func(token.Pos, string)) {
		if within(f.dir, []string{"disk"}) {
			return
		}
		f.eachUse("os", func(pos token.Pos, name string) {
			if name == "Rename" || name == "CreateTemp" {
				report(pos, "uses os."+name)
			}
		})
	},
}, {
	name:   "loops do not know each other",
	reason: "they run in different processes once roles are apart: they meet in the store and in wire/cell only",
	broken: func(f *folder, report func(token.Pos, string)) {
		mine := owner(f.dir, loops)
		if mine == "" {
			return
		}
		f.eachImport(func(pos token.Pos, p string) {
			if in, ok := inModule(p); ok && owner(in, loops) != "" && owner(in, loops) != mine {
				report(pos, "imports "+p)
			}
		})
	},
}, {
	name:   "a loop lies with the port that it is about",
	reason: "a folder inside a port's is an adapter or a loop of that port's; a loop that does not know the port belongs elsewhere, or is an adapter that hides from its rules",
	broken: func(f *folder, report func(token.Pos, string)) {
		port, _, _ := strings.Cut(f.dir, "/")
		if !slices.Contains(loops, f.dir) || !slices.Contains(ports, port) || f.dir == port {
			return
		}
		knows := false
		f.eachImport(func(_ token.Pos, p string) {
			in, ok := inModule(p)
			knows = knows || ok && in == port
		})
		if !knows {
			report(f.files[0].Package, "does not import "+port)
		}
	},
}, {
	name:   "only programs import programs",
	reason: "cmd/ is wiring: what others need from it belongs in a package",
	broken: func(f *folder, report func(token.Pos, string)) {
		if within(f.dir, joins) || within(f.dir, []string{"examples"}) { // which run a platform, too
			return
		}
		f.eachImport(func(pos token.Pos, p string) {
			if in, ok := inModule(p); ok && within(in, joins) {
				report(pos, "imports "+p)
			}
		})
	},
}, {
	name:   "what is for tests stays in tests",
	reason: "the suites and the transcript player bring package testing and flags along",
	broken: func(f *folder, report func(token.Pos, string)) {
		if forTests(f.dir) || within(f.dir, []string{"bench"}) {
			return
		}
		f.eachImport(func(pos token.Pos, p string) {
			if in, ok := inModule(p); p == "testing" || ok && forTests(in) {
				report(pos, "imports "+p)
			}
		})
	},
}, {
	name:   "the client and the CLI stand outside the server",
	reason: "they speak the public API as any other client does; importing the server would hide gaps in it",
	broken: func(f *folder, report func(token.Pos, string)) {
		if !within(f.dir, []string{"client", "cli"}) {
			return
		}
		f.eachImport(func(pos token.Pos, p string) {
			in, ok := inModule(p)
			if ok && in != "api/resource" && (within(in, loops) || within(in, ports)) {
				report(pos, "imports "+p)
			}
		})
	},
}, {
	name:   "the guest stays small",
	reason: "it ships inside every VM and PID 1 must stay under 4 MB: a new import needs a measured size and an entry in guestAllowed",
	broken: func(f *folder, report func(token.Pos, string)) {
		if !within(f.dir, guests) {
			return
		}
		f.eachImport(func(pos token.Pos, p string) {
			heavy := slices.ContainsFunc(guestForbidden, func(bad string) bool {
				return p == bad || strings.HasSuffix(bad, "/") && strings.HasPrefix(p, bad)
			})
			if heavy || !standard(p) && !slices.Contains(guestAllowed, p) {
				report(pos, "imports "+p)
			}
		})
	},
}, {
	name:   "one package comment",
	reason: "the package's documentation is written once, in the file of its main noun",
	broken: func(f *folder, report func(token.Pos, string)) {
		var first *ast.File
		for _, file := range f.files {
			if file.Doc == nil {
				continue
			}
			if first != nil {
				report(file.Package, "a second package comment; the first is in "+path.Base(f.fset.Position(first.Pos()).Filename))
			}
			first = file
		}
		if first == nil {
			report(f.files[0].Package, "no package comment")
			return
		}
		want := "Package " + first.Name.Name + " "
		if first.Name.Name == "main" {
			want = "Command "
		}
		if text := first.Doc.Text(); !strings.HasPrefix(text, want) {
			report(first.Doc.Pos(), fmt.Sprintf("the package comment begins %q, want %q", firstWords(text), want))
		}
	},
}, {
	name:   "names mean something",
	reason: "a package is named after what it provides; these names collect what has no home",
	broken: func(f *folder, report func(token.Pos, string)) {
		if slices.Contains(vagueNames, f.files[0].Name.Name) || slices.Contains(vagueNames, path.Base(f.dir)) {
			report(f.files[0].Package, "is called "+f.files[0].Name.Name)
		}
	},
}, {
	name:   "nothing happens at import",
	reason: "what a program does stands in its main, in an order one can read",
	broken: func(f *folder, report func(token.Pos, string)) {
		for _, file := range f.files {
			for _, d := range file.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
					report(fn.Pos(), "has an init function")
				}
			}
		}
	},
}, {
	name:   "nothing process-wide",
	reason: "two platforms in one process (a test, the simulation) must not meet: muxes, registries, loggers and flag sets are made and passed on",
	broken: func(f *folder, report func(token.Pos, string)) {
		f.eachImport(func(pos token.Pos, p string) {
			if slices.Contains(sharedByImport, p) {
				report(pos, "imports "+p+", which registers itself on the default mux")
			}
		})
		for _, pkg := range slices.Sorted(maps.Keys(shared)) {
			if pkg == "flag" && f.files[0].Name.Name == "main" {
				continue // a program's flags are its own
			}
			f.eachUse(pkg, func(pos token.Pos, name string) {
				if slices.Contains(shared[pkg], name) {
					report(pos, "uses "+path.Base(pkg)+"."+name)
				}
			})
		}
	},
}}

// standard tells a standard library path: its first element has no dot.
func standard(p string) bool {
	first, _, _ := strings.Cut(p, "/")
	return !strings.Contains(first, ".")
}

// inModule is the folder of an import path of this module.
func inModule(p string) (string, bool) {
	if p == module {
		return "", true
	}
	return strings.CutPrefix(p, module+"/")
}

// owner is the entry of list that dir is, or lies in; "" for none.
func owner(dir string, list []string) string {
	for _, top := range list {
		if dir == top || strings.HasPrefix(dir, top+"/") {
			return top
		}
	}
	return ""
}

func within(dir string, list []string) bool { return owner(dir, list) != "" }

// adapter is the adapter that dir belongs to ("vmm/qemu"), "" for none.
func adapter(dir string) string {
	port, rest, ok := strings.Cut(dir, "/")
	if !ok || !slices.Contains(ports, port) {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	in := port + "/" + name
	if _, not := notAdapters[in]; not || name == port+"test" || slices.Contains(loops, in) {
		return ""
	}
	return port + "/" + name
}

// forTests: conformance suites, fixtures, and the transcript player.
func forTests(dir string) bool {
	return within(dir, []string{"transcript"}) || strings.HasSuffix(dir, "test") && strings.Contains(dir, "/")
}

func firstWords(text string) string {
	words := strings.Fields(text)
	return strings.Join(words[:min(4, len(words))], " ")
}

func (f *folder) eachImport(visit func(token.Pos, string)) {
	for _, file := range f.files {
		for _, spec := range file.Imports {
			if p, err := strconv.Unquote(spec.Path.Value); err == nil {
				visit(spec.Pos(), p)
			}
		}
	}
}

func (f *folder) inspect(visit func(ast.Node)) {
	for _, file := range f.files {
		ast.Inspect(file, func(n ast.Node) bool {
			visit(n)
			return true
		})
	}
}

// eachUse visits every pkg.Name of an imported package, under whatever name
// it was imported.
func (f *folder) eachUse(pkg string, visit func(token.Pos, string)) {
	for _, file := range f.files {
		local := ""
		for _, spec := range file.Imports {
			if spec.Path.Value != strconv.Quote(pkg) {
				continue
			}
			if local = path.Base(pkg); strings.HasPrefix(local, "v") && strings.Trim(local[1:], "0123456789") == "" {
				local = path.Base(path.Dir(pkg)) // its major version
			}
			if spec.Name != nil {
				local = spec.Name.Name
			}
		}
		if local == "" {
			continue
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				// An identifier that the file itself declares has an object.
				if x, ok := s.X.(*ast.Ident); ok && x.Name == local && x.Obj == nil {
					visit(s.Pos(), s.Sel.Name)
				}
			}
			return true
		})
	}
}

// load parses the non-test Go files of a tree into folders, sorted.
func load(tree fs.FS) ([]*folder, error) {
	folders := map[string]*folder{}
	err := fs.WalkDir(tree, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := path.Base(name)
		if entry.IsDir() {
			if name != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") ||
				slices.Contains([]string{"testdata", "node_modules", "bin", "build"}, base)) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(base, ".go") || strings.HasSuffix(base, "_test.go") {
			return nil
		}
		dir := strings.TrimPrefix(path.Dir(name), ".")
		f := folders[dir]
		if f == nil {
			f = &folder{dir: dir, fset: token.NewFileSet()}
			folders[dir] = f
		}
		source, err := fs.ReadFile(tree, name)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(f.fset, name, source, parser.ParseComments)
		if err != nil {
			return err
		}
		f.files = append(f.files, file)
		return nil
	})
	if err != nil {
		return nil, err
	}
	var sorted []*folder
	for _, dir := range slices.Sorted(maps.Keys(folders)) {
		sorted = append(sorted, folders[dir])
	}
	return sorted, nil
}

// judge tells how often a rule is broken in the tree, and where.
func judge(r rule, folders []*folder) []string {
	var broken []string
	for _, f := range folders {
		r.broken(f, func(pos token.Pos, what string) {
			broken = append(broken, fmt.Sprintf("%s: %s %s", f.fset.Position(pos), described(f.dir), what))
		})
	}
	return broken
}

func described(dir string) string {
	if dir == "" {
		return "the root package"
	}
	return dir
}

func TestArchitecture(t *testing.T) {
	folders, err := load(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			for _, b := range judge(r, folders) {
				t.Errorf("%s\n\twhy not: %s", b, r.reason)
			}
		})
	}
}

// TestRulesSeeViolations plants violations of every rule in a small tree: a
// rule that sees nothing is worse than none.
func TestRulesSeeViolations(t *testing.T) {
	const doc = "// Package %[1]s is planted.\npackage %[1]s\n\n"
	pkg := func(name, rest string) string { return fmt.Sprintf(doc, name) + rest }
	imports := func(name, p string) string { return pkg(name, "import _ "+strconv.Quote(p)+"\n") }

	lawful := fstest.MapFS{}
	for name, source := range map[string]string{
		"miosa.go":               pkg("miosa", "import _ \"errors\"\n"),
		"reconcile/pass.go":      pkg("reconcile", "import (\n_ \""+module+"\"\n_ \""+module+"/health\"\n\"time\"\n)\n\nvar _ time.Duration\n"),
		"health/verdict.go":      imports("health", "net/netip"),
		"store/store.go":         imports("store", module),
		"store/etcd/store.go":    imports("etcd", module+"/store"),
		"pebbledb/pebbledb.go":   pkg("pebbledb", "import (\n_ \""+module+"\"\nlsm \""+engine+"\"\n)\n\nvar _ = lsm.Open\n"),
		"logs/pebble/store.go":   pkg("pebble", "import (\n_ \""+module+"/pebbledb\"\nlsm \""+engine+"\"\n)\n\nvar _ lsm.Iterator\n"),
		"vmm/vmm.go":             pkg("vmm", ""),
		"vmm/bundle/bundle.go":   pkg("bundle", ""),
		"vmm/qemu/driver.go":     imports("qemu", module+"/vmm/bundle"),
		"agent/agent.go":         imports("agent", module+"/vmm"),
		"usage/usage.go":         pkg("usage", ""),
		"usage/ledger/ledger.go": imports("ledger", module+"/usage"),
		"api/server.go":          imports("api", module+"/api/resource"),
		"api/resource/app.go":    pkg("resource", ""),
		"client/client.go":       imports("client", module+"/api/resource"),
		"guest/phases.go":        imports("guest", "github.com/vishvananda/netlink"),
		"cmd/miosa/main.go":      "// Command miosa is planted.\npackage main\n\nimport _ \"" + module + "/store/etcd\"\n\nfunc main() {}\n",
		"sim/cell.go":            imports("sim", module+"/agent"),
		"sim/cell_test.go":       "package sim\n\nfunc init() {}\n",
		"sim/testdata/any/a.go":  "package util\n",
	} {
		lawful[name] = &fstest.MapFile{Data: []byte(source)}
	}
	folders, err := load(lawful)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		for _, b := range judge(r, folders) {
			t.Errorf("%s: accuses a lawful tree: %s", r.name, b)
		}
	}

	plants := map[string][]struct{ file, source string }{
		"the domain knows nobody": {
			{"id.go", "package miosa\n\nimport _ \"github.com/google/uuid\"\n"},
			{"id.go", "package miosa\n\nimport _ \"" + module + "/store\"\n"},
		},
		"decisions know the domain and each other only": {
			{"rollout/step.go", imports("rollout", module+"/store")},
			{"rollout/step.go", imports("rollout", "github.com/google/btree")},
			{"routing/table/table.go", imports("table", module+"/wire/cell")},
		},
		"decisions have no effects": {
			{"id.go", "package miosa\n\nimport _ \"crypto/rand\"\n"},
			{"schedule/filter.go", imports("schedule", "os")},
			{"schedule/filter.go", imports("schedule", "os/exec")},
			{"schedule/filter.go", imports("schedule", "math/rand/v2")},
			{"schedule/filter.go", imports("schedule", "sync")},
			{"liveness/host.go", pkg("liveness", "import \"time\"\n\nvar _ = time.Now()\n")},
			{"liveness/host.go", pkg("liveness", "import clock \"time\"\n\nvar _ = clock.Since\n")},
			{"lifecycle/step.go", pkg("lifecycle", "func f() { go f() }\n")},
		},
		"ports know no implementation and no loop": {
			{"store/open.go", "package store\n\nimport _ \"" + module + "/store/etcd\"\n"},
			{"vmm/watch.go", "package vmm\n\nimport _ \"" + module + "/agent\"\n"},
		},
		"only cmd/, sim/ and bench/ join loops to adapters": {
			{"agent/boot.go", "package agent\n\nimport _ \"" + module + "/vmm/qemu\"\n"},
			{"cli/up.go", imports("cli", module+"/store/etcd")},
			{"vmm/vmmtest/suite.go", imports("vmmtest", module+"/vmm/qemu")},
		},
		"an adapter imports its port, never another adapter and never a loop": {
			{"vmm/qemu/net.go", "package qemu\n\nimport _ \"" + module + "/network/tap\"\n"},
			{"store/memory/store.go", imports("memory", module+"/store/etcd")},
			{"store/etcd/feed.go", "package etcd\n\nimport _ \"" + module + "/control\"\n"},
		},
		"a Pebble database is opened by pebbledb, for adapters": {
			{"logs/pebble/own.go", "package pebble\n\nimport \"" + engine + "\"\n\nvar _ = pebble.Open\n"},
			{"logs/pebble/own.go", "package pebble\n\nimport lsm \"" + engine + "\"\n\nvar _ = lsm.Open\n"},
			{"agent/own.go", "package agent\n\nimport _ \"" + engine + "\"\n"},
			{"agent/own.go", "package agent\n\nimport _ \"" + module + "/pebbledb\"\n"},
			{"pebbledb/logs.go", "package pebbledb\n\nimport _ \"" + module + "/logs\"\n"},
		},
		"what is written whole is written by disk": {
			{"agent/state.go", "package agent\n\nimport \"os\"\n\nvar _ = os.Rename\n"},
			{"cli/context.go", pkg("cli", "import \"os\"\n\nvar _ = os.CreateTemp\n")},
		},
		"loops do not know each other": {
			{"api/publish.go", "package api\n\nimport _ \"" + module + "/control\"\n"},
			{"edge/page.go", imports("edge", module+"/api/resource")},
		},
		"a loop lies with the port that it is about": {
			{"events/webhook/webhook.go", imports("webhook", module+"/store")},
			{"logs/plane/plane.go", pkg("plane", "")},
		},
		"only programs import programs": {
			{"agent/main.go", "package agent\n\nimport _ \"" + module + "/cmd/miosa\"\n"},
		},
		"what is for tests stays in tests": {
			{"agent/check.go", "package agent\n\nimport _ \"testing\"\n"},
			{"control/play.go", imports("control", module+"/transcript")},
			{"api/fill.go", "package api\n\nimport _ \"" + module + "/store/storetest\"\n"},
		},
		"the client and the CLI stand outside the server": {
			{"cli/ps.go", imports("cli", module+"/store")},
			{"client/do.go", "package client\n\nimport _ \"" + module + "/api\"\n"},
		},
		"the guest stays small": {
			{"guest/http.go", "package guest\n\nimport _ \"net/http\"\n"},
			{"wire/guest/pb.go", imports("guest", "google.golang.org/protobuf/proto")},
			{"cmd/miosa-init/main.go", "// Command miosa-init is planted.\npackage main\n\nimport _ \"" + module + "\"\n"},
			{"guest/ast.go", "package guest\n\nimport _ \"go/ast\"\n"},
		},
		"one package comment": {
			{"edge/proxy.go", "package edge\n"},
			{"store/doc.go", pkg("store", "")},
			{"edge/proxy.go", "// This package proxies.\npackage edge\n"},
			{"cmd/tool/main.go", "// Package main is a tool.\npackage main\n"},
		},
		"names mean something": {
			{"edge/util/strings.go", pkg("util", "")},
			{"types/all.go", pkg("types", "")},
		},
		"nothing happens at import": {
			{"agent/register.go", "package agent\n\nfunc init() {}\n"},
		},
		"nothing process-wide": {
			{"api/mux.go", "package api\n\nimport \"net/http\"\n\nvar _ = http.DefaultServeMux\n"},
			{"api/mux.go", "package api\n\nimport web \"net/http\"\n\nvar _ = web.HandleFunc\n"},
			{"api/debug.go", "package api\n\nimport _ \"net/http/pprof\"\n"},
			{"agent/flags.go", "package agent\n\nimport \"flag\"\n\nvar _ = flag.String\n"},
			{"agent/log.go", "package agent\n\nimport \"log/slog\"\n\nvar _ = slog.Info\n"},
		},
	}
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			if len(plants[r.name]) == 0 {
				t.Fatal("no violation is planted for this rule")
			}
			for _, plant := range plants[r.name] {
				tree := maps.Clone(lawful)
				tree[plant.file] = &fstest.MapFile{Data: []byte(plant.source)}
				folders, err := load(tree)
				if err != nil {
					t.Fatal(err)
				}
				if len(judge(r, folders)) == 0 {
					t.Errorf("does not see:\n--- %s\n%s", plant.file, plant.source)
				}
			}
		})
	}
}
