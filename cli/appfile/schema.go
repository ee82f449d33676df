package appfile

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
)

// Schema is the file's JSON schema (2020-12), with a line's end. It is looser
// than Parse where a schema cannot say it: the ends of durations, and what goes
// with what.
func Schema() []byte {
	whole := tableSchema(reflect.TypeFor[File]())
	whole["$schema"], whole["$id"] = "https://json-schema.org/draft/2020-12/schema", SchemaURL
	whole["title"], whole["description"] = Name, "What an app is to miosa publish: its services, variables and settings."
	var b bytes.Buffer
	out := json.NewEncoder(&b)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	if err := out.Encode(whole); err != nil {
		panic(err) // maps, strings and numbers
	}
	return b.Bytes()
}

type object = map[string]any

func tableSchema(t reflect.Type) object {
	properties := object{}
	for _, k := range keysOf(t) {
		properties[k.Name] = k.schema()
	}
	return object{"type": "object", "additionalProperties": false, "properties": properties}
}

// durations is how one is written; its ends are words in the description.
const durations = `^([0-9]+(\.[0-9]+)?(ms|h|m|s))+$|^0$`

const (
	labels    = `^[a-z0-9]+(-[a-z0-9]+)*$`
	variables = `^[A-Za-z_][A-Za-z0-9_.-]*$`
)

func (k Key) schema() object {
	out := k.typed()
	doc := k.Doc
	if r := k.Range(); r != "" && k.Enum == nil {
		doc += "; " + r
	}
	if k.Default != "" {
		doc += " (default: " + k.Default + ")"
	}
	out["description"] = doc
	if k.Example != "" && k.Kind() == "string" {
		out["examples"] = []any{k.Example}
	}
	return out
}

func (k Key) typed() object {
	text := object{"type": "string"}
	most, _ := strconv.Atoi(k.Max)
	switch k.Kind() {
	case "duration":
		text["pattern"] = durations
		return text
	case "number":
		least, _ := strconv.Atoi(k.Min)
		out := object{"type": "integer", "minimum": least, "maximum": most}
		if k.Zero != "" {
			out["minimum"] = 0
		}
		return out
	case "number or percentage":
		return object{"type": []any{"integer", "string"}, "minimum": 0, "maximum": most, "pattern": `^[0-9]+%?$`}
	case "boolean":
		return object{"type": "boolean"}
	case "list of strings":
		if k.Name == "required_variables" {
			text["pattern"] = variables
		}
		return object{"type": "array", "items": text, "maxItems": most}
	case "table":
		switch {
		case k.Type.Kind() == reflect.Struct:
			return tableSchema(k.Type)
		case k.Type.Elem().Kind() == reflect.String:
			out := object{"type": "object", "additionalProperties": text, "maxProperties": most}
			if k.Name == "variables" {
				out["propertyNames"] = object{"pattern": variables}
			}
			return out
		}
		return object{
			"type": "object", "maxProperties": most, "propertyNames": object{"pattern": labels, "maxLength": longestLabel},
			"additionalProperties": tableSchema(k.Type.Elem().Elem()),
		}
	}
	if k.Enum != nil {
		values := []any{}
		for _, v := range k.Enum {
			values = append(values, v)
		}
		text["enum"] = values
		return text
	}
	if k.Min == "1" {
		text["minLength"] = 1
	}
	if most > 0 {
		text["maxLength"] = most
	}
	return text
}
