// Package draft writes a first miosa.toml from what lies in an app's folder: a
// Procfile, an image or a Dockerfile, or what its language's tools keep there.
// It guesses; the file that it writes says what it guessed from, and teaches
// what else may be said.
package draft

import (
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

// Draft is what was found.
type Draft struct {
	Name     string      // of the deployment
	Sources  []string    // the files that it was made of, in the order they were looked at
	Services []Service   // at least one
	Required []string    // names of variables that must be set
	Examples [][2]string // names and values of others, as an example has them
	Notes    []string    // what the owner should know, a sentence each
	Image    bool        // an image, or a Dockerfile that makes one, is there
}

// Service is one of the app, as far as it is known.
type Service struct {
	Name       string
	Worker     bool
	Command    string // "": the image's own
	Own        string // the image's own, to be shown
	Port       int    // 0: unknown
	StopSignal string
	HealthPath string
	Grace      string
	Size       string
	From       string // the file that named it
}

// maxFile bounds what is read of one file, in bytes.
const maxFile = 1 << 20

// Look makes a draft of the app in a folder, whose name is the deployment's
// unless it is no label.
func Look(dir fs.FS, name string) Draft {
	d := Draft{Name: label(name, "app")}
	l := looking{dir, &d}
	image := l.image()
	if image == nil {
		image = l.dockerfile()
	}
	d.Image = image != nil
	l.procfile()
	if len(d.Services) == 0 && image == nil {
		l.language()
	}
	if len(d.Services) == 0 {
		from := ""
		if image != nil {
			from = image.from
		}
		d.Services = []Service{{Name: "web", From: from}}
	}
	if image != nil {
		image.into(&d)
	}
	l.variables()
	if !d.Image && d.Services[0].Command == "" {
		d.note("Nothing here says how the app is started: write its command.")
	}
	return d
}

func (d *Draft) note(s string) {
	if !slices.Contains(d.Notes, s) {
		d.Notes = append(d.Notes, s)
	}
}

// known reports whether the variable was met before.
func (d *Draft) known(variable string) bool {
	return slices.Contains(d.Required, variable) || slices.ContainsFunc(d.Examples, func(e [2]string) bool { return e[0] == variable })
}

// web is the service that gets requests, if one does.
func (d *Draft) web() *Service {
	n := slices.IndexFunc(d.Services, func(s Service) bool { return s.Name == "web" })
	if n < 0 {
		n = slices.IndexFunc(d.Services, func(s Service) bool { return !s.Worker })
	}
	if n < 0 {
		return nil
	}
	return &d.Services[n]
}

// looking reads the folder.
type looking struct {
	dir fs.FS
	d   *Draft
}

// text is a file's, "" where there is none that can be read.
func (l looking) text(name string) string {
	f, err := l.dir.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return ""
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return ""
	}
	return strings.ReplaceAll(string(raw), "\r\n", "\n")
}

func (l looking) has(name string) bool {
	_, err := fs.Stat(l.dir, name)
	return err == nil
}

func (l looking) source(name string) {
	if !slices.Contains(l.d.Sources, name) {
		l.d.Sources = append(l.d.Sources, name)
	}
}

var notLabel = regexp.MustCompile(`[^a-z0-9]+`)

// label makes a name one: lower-case letters, digits, single hyphens, at most 40.
func label(name, absent string) string {
	name = strings.Trim(notLabel.ReplaceAllString(strings.ToLower(name), "-"), "-")
	name = strings.Trim(name[:min(len(name), 40)], "-")
	if name == "" {
		return absent
	}
	return name
}

var process = regexp.MustCompile(`^([A-Za-z0-9_-]+):\s*(\S.*)$`)

// procfile takes the processes: web gets requests, the others are workers.
func (l looking) procfile() {
	for line := range strings.Lines(l.text("Procfile")) {
		m := process.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		l.source("Procfile")
		name := label(m[1], "")
		switch {
		case name == "release":
			l.d.note("The Procfile's release command (" + m[2] + ") is not run by a publish: run it before, or at the start of web's command.")
			continue
		case name == "" || slices.ContainsFunc(l.d.Services, func(s Service) bool { return s.Name == name }):
			continue
		}
		l.d.Services = append(l.d.Services, Service{Name: name, Worker: name != "web", Command: m[2], From: "Procfile"})
	}
}

var assignment = regexp.MustCompile(`^(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)=(.*)$`)

// variables takes the names of an example's variables that have no value there,
// and the others as examples.
func (l looking) variables() {
	for _, name := range []string{".env.example", ".env.sample", ".env.template"} {
		for line := range strings.Lines(l.text(name)) {
			m := assignment.FindStringSubmatch(strings.TrimSpace(line))
			if m == nil || m[1] == "PORT" || strings.HasPrefix(m[1], "MIOSA_") || l.d.known(m[1]) {
				continue
			}
			l.source(name)
			if value := strings.Trim(m[2], `"' `); value != "" {
				l.d.Examples = append(l.d.Examples, [2]string{m[1], value})
				continue
			}
			l.d.Required = append(l.d.Required, m[1])
		}
	}
}
