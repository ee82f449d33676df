package draft

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cli/appfile"
)

// Text is the draft as a miosa.toml.
func (d Draft) Text() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "#:schema %s\n", appfile.SchemaURL)
	b.WriteString("# What this app is to \"miosa publish\", which reads this file beside what is\n# published, or in the folder that it runs in. Its flags win over what is here;\n# what is not here is the default. All keys: miosa schema\n")
	for _, note := range d.Notes {
		fmt.Fprintf(&b, "#\n%s", comment(note))
	}
	b.WriteString("\n# Name of the deployment, and part of its address.\n")
	fmt.Fprintf(&b, "name = %s\n\n", quote(d.Name))
	fmt.Fprintf(&b, "# Variables that must be set before anything is published; their values stand in\n# no file:  miosa env set %s NAME --secret\n", d.Name)
	if len(d.Required) > 0 {
		b.WriteString("required_variables = [\n")
		for _, name := range d.Required {
			fmt.Fprintf(&b, "  %s,\n", quote(name))
		}
		b.WriteString("]\n")
	} else {
		b.WriteString("# required_variables = [\"DATABASE_URL\"]\n")
	}
	b.WriteString("\n# Variables that are no secret: a publish sets them.\n# [variables]\n")
	if len(d.Examples) == 0 {
		b.WriteString("# LOG_LEVEL = \"info\"\n")
	}
	for _, e := range d.Examples {
		name := e[0]
		if strings.Contains(name, ".") {
			name = quote(name)
		}
		fmt.Fprintf(&b, "# %s = %s\n", name, quote(e[1]))
	}
	for _, s := range d.Services {
		s.write(&b)
	}
	return []byte(b.String())
}

// comment wraps a sentence into lines of comments.
func comment(text string) string {
	var b strings.Builder
	line := "#"
	for word := range strings.FieldsSeq(printable(text)) {
		if len(line)+1+len(word) > 80 && line != "#" {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	return b.String() + line + "\n"
}

// printable has no characters that would end a comment, or steer a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
}

// quote is a TOML string: as JSON has it, which TOML reads as well.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func (s Service) write(b *strings.Builder) {
	b.WriteString("\n")
	if s.From != "" {
		b.WriteString(comment("From " + s.From + "."))
	}
	fmt.Fprintf(b, "[services.%s]\n", s.Name)
	key := func(path, value, absent string) {
		name := path[strings.LastIndex(path, ".")+1:]
		line := name + " = " + value
		if value == "" {
			line = "# " + name + " = " + absent
		}
		fmt.Fprintf(b, "%-32s # %s\n", line, appfile.OfService(path).Doc)
	}
	text := func(v string) string {
		if v == "" {
			return ""
		}
		return quote(v)
	}
	if s.Worker {
		key("type", quote("worker"), "")
	}
	switch {
	case s.Command != "":
		fmt.Fprintf(b, "command = %s\n", quote(s.Command))
	case s.Own != "":
		b.WriteString(comment("command = " + quote(s.Own) + ", the image's own, unless it stands here"))
	default:
		key("command", "", quote("/app/server"))
	}
	if !s.Worker {
		port := ""
		if s.Port != 0 {
			port = strconv.Itoa(s.Port)
		}
		key("port", port, "8080")
	}
	key("replicas", "", "1")
	key("size", text(s.Size), quote("small"))
	signal, ok := miosa.ParseSignal(s.StopSignal)
	if !ok {
		signal = ""
	}
	key("stop_signal", text(signal), quote("SIGTERM"))
	key("stop_grace", "", quote("10s"))
	fmt.Fprintf(b, "\n[services.%s.health]\n", s.Name)
	if s.Worker {
		key("health.stable", "", quote("10s"))
		key("health.command", "", quote("/app/check"))
		return
	}
	key("health.path", text(s.HealthPath), quote("/"))
	key("health.interval", "", quote("5s"))
	key("health.grace", text(s.Grace), quote("1m"))
}
