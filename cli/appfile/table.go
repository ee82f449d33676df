package appfile

import (
	"cmp"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// Table is one table of the file with its keys, as its page shows them.
type Table struct {
	Title  string
	Doc    string
	Prefix string // before its keys where they stand in a service: "health."
	Keys   []Key  // without those that are tables of their own
	in     string // a file's text before a key of it
}

// In is a file that has a line of the table.
func (t Table) In(line string) string {
	if t.Prefix == "sticky." && strings.HasPrefix(line, "name") {
		line += "\nmode = \"cookie\"" // which it goes with
	}
	if t.Prefix == "health." && strings.HasPrefix(line, "stable") {
		line += "\ntype = \"none\""
	}
	return t.in + line + "\n"
}

// Tables are all of the file's tables.
func Tables() []Table {
	out := []Table{
		{Title: "The file", Doc: "Above all tables."},
		{Title: "`[services.NAME]`", Doc: "A service: its name is 1–40 lower-case letters, digits and single hyphens.", in: "[services.web]\n"},
	}
	out[0].Keys = flat(reflect.TypeFor[File]())
	out[1].Keys = flat(reflect.TypeFor[Service]())
	for _, k := range keysOf(reflect.TypeFor[Service]()) {
		if k.Type.Kind() == reflect.Struct {
			doc := "Of a service: " + k.Doc + "."
			out = append(out, Table{fmt.Sprintf("`[services.NAME.%s]`", k.Name), doc, k.Name + ".", flat(k.Type), "[services.web." + k.Name + "]\n"})
		}
	}
	return out
}

// flat are a table's keys that are no structs.
func flat(t reflect.Type) []Key {
	var out []Key
	for _, k := range keysOf(t) {
		if k.Type.Kind() != reflect.Struct {
			out = append(out, k)
		}
	}
	return out
}

// Sample is a value of the key as TOML has it.
func (k Key) Sample() string {
	value := cmp.Or(k.Example, k.Default)
	switch {
	case k.Kind() == "number":
		if n, err := strconv.Atoi(k.Default); err == nil && n > 0 {
			return k.Default
		}
		return map[string]string{"port": "8080", "replicas": "2", "egress_mbps": "100", "gpu": "1"}[k.Name]
	case k.Kind() == "duration":
		if value == "never" {
			value = "24h"
		}
		return strconv.Quote(value)
	case k.Kind() == "boolean":
		return "true"
	case k.Kind() == "list of strings":
		return "[" + strconv.Quote(k.Example) + "]"
	case k.Name == "services":
		return `{ web = { port = 8080 } }`
	case k.Kind() == "table":
		return cmp.Or(map[string]string{"variables": `{ LOG_LEVEL = "info" }`, "headers": `{ Accept = "text/plain" }`, "labels": `{ disk = "nvme" }`}[k.Name], "{}")
	case k.Enum != nil && k.Default == "":
		value = k.Enum[0]
	case k.Enum != nil:
		for _, v := range k.Enum {
			if v != k.Default {
				value = v
				break
			}
		}
	}
	return strconv.Quote(value)
}
