package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/miosa/miosa/api/resource"
)

// object is a JSON object of the document. Maps come out with sorted names:
// the same routes, the same bytes.
type object = map[string]any

// document is the API described: by the OpenAPI document and the reference page.
type document struct {
	routes  []*route
	version string
	schemas object
}

func describe(all []*route, version string) *document {
	return &document{routes: all, version: cmp.Or(version, "dev"), schemas: object{}}
}

// json is the OpenAPI 3.1 document.
func (d *document) json() ([]byte, error) {
	paths := object{}
	for _, r := range d.routes {
		item, ok := paths[r.Pattern].(object)
		if !ok {
			item = object{}
			paths[r.Pattern] = item
		}
		item[strings.ToLower(r.Method)] = d.operation(r)
	}
	d.schema(reflect.TypeFor[resource.Problem]())
	return json.MarshalIndent(object{
		"openapi": "3.1.0",
		"info": object{
			"title": "MIOSA runtime", "version": d.version,
			"description": "Publish packaged apps into microVMs, and run them. IDs sort by time; every object has an ETag, which If-Match honours on a change; " +
				"mutations take an Idempotency-Key; unknown fields and query parameters are ignored.",
			"license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"servers":  []any{object{"url": BasePath}},
		"security": []any{object{"key": []any{}}},
		"paths":    paths,
		"components": object{
			"schemas": d.schemas,
			"securitySchemes": object{"key": object{
				"type": "http", "scheme": "bearer", "description": "msk_u_… (user), msk_p_… (platform) for one tenant; msk_a_… (admin) for the operator.",
			}},
			"responses": object{"Problem": object{
				"description": "An error.",
				"content":     object{"application/json": object{"schema": object{"$ref": "#/components/schemas/Problem"}}},
			}},
		},
	}, "", "  ")
}

var pathParam = regexp.MustCompile(`\{([a-z_]+)\}`)

func (d *document) operation(r *route) object {
	responses := object{"default": object{"$ref": "#/components/responses/Problem"}}
	for _, status := range append([]int{r.status()}, r.Also...) {
		responses[fmt.Sprint(status)] = d.response(r, status)
	}
	if r.WebSocket != nil {
		responses = object{"101": object{"description": http.StatusText(http.StatusSwitchingProtocols)}, "426": responses["default"], "default": responses["default"]}
		d.schema(reflect.TypeFor[resource.ExecCommand]())
		d.schema(reflect.TypeFor[resource.ExecEvent]())
	}
	op := object{
		"operationId": r.Operation, "summary": r.Summary, "tags": []any{r.tag()},
		"parameters": d.parameters(r), "responses": responses,
	}
	if r.Notes != "" {
		op["description"] = r.Notes
	}
	if r.Access == accessOpen {
		op["security"] = []any{}
	}
	switch {
	case r.Upload:
		content := object{}
		for _, media := range []string{mediaZstd, mediaTar, mediaGzip, mediaOCI, mediaAny} {
			content[media] = object{"schema": object{"type": "string", "format": "binary"}}
		}
		op["requestBody"] = object{"required": true, "content": content}
	case r.Handle.in != reflect.TypeFor[none]():
		op["requestBody"] = object{
			"required": len(requiredFields(r.Handle.in)) > 0,
			"content":  object{"application/json": object{"schema": d.schema(r.Handle.in)}},
		}
	}
	return op
}

func (d *document) response(r *route, status int) object {
	data := d.schema(r.Handle.out)
	body := object{"type": "object", "required": []any{"data"}, "properties": object{"data": data}}
	if r.Handle.list {
		page := reflect.TypeFor[resource.Page]()
		if r.Handle.stretch {
			page = reflect.TypeFor[resource.CursorPage]()
		}
		body["properties"] = object{"data": object{"type": "array", "items": data}, "page": d.schema(page)}
		body["required"] = []any{"data", "page"}
	}
	if r.Handle.bare {
		body = data
	}
	content := object{"application/json": object{"schema": body}}
	if r.CSV != nil {
		content["text/csv"] = object{"schema": object{"type": "string"}}
	}
	if r.table() {
		delete(content, "application/json")
	}
	if r.Stream != nil {
		content["text/event-stream"] = object{"schema": object{"type": "string"}}
	}
	if r.Text != nil {
		content["text/plain"] = object{"schema": object{"type": "string"}}
	}
	return object{"description": http.StatusText(status), "content": content}
}

func (d *document) parameters(r *route) []any {
	out := []any{}
	add := func(in, name, doc string, schema object) {
		p := object{"in": in, "name": name, "schema": schema}
		if in == "path" {
			p["required"] = true
		}
		if doc != "" {
			p["description"] = doc
		}
		out = append(out, p)
	}
	text, count := object{"type": "string"}, object{"type": "integer", "minimum": 1}
	for _, m := range pathParam.FindAllStringSubmatch(r.Pattern, -1) {
		add("path", m[1], "", text)
	}
	for _, q := range r.Query {
		add("query", q.Name, q.Doc, text)
	}
	if r.Handle.list && !r.Handle.own && !r.mutates() && !r.table() {
		add("query", "page", "Number of the page, from 1.", count)
		add("query", "page_size", "At most 100; default 20.", count)
		add("query", "limit", "Another name for page_size.", count)
		add("query", "cursor", "next_cursor of the answer before.", text)
		for _, name := range []string{"state", "project_id", "external_workspace_id", "external_user_id", "external_project_id"} {
			add("query", name, "Only those that have it.", text)
		}
	}
	if r.mutates() && !r.Dry {
		add("header", "Idempotency-Key", "The same key within 24 hours gives the first answer again.", object{"type": "string", "maxLength": maxIdempotencyKey})
		add("header", "If-Match", "Only if the object still has this ETag; otherwise 412.", text)
	}
	return out
}

// schema is a type's JSON Schema: a reference for structs.
func (d *document) schema(t reflect.Type) object {
	if n, ok := reflect.Zero(t).Interface().(nullable); ok {
		return orNull(d.schema(reflect.TypeOf(n.NullableElem())))
	}
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t.Kind() == reflect.Pointer:
		return orNull(d.schema(t.Elem()))
	}
	switch t.Kind() {
	case reflect.String:
		if t.Implements(reflect.TypeFor[orNumber]()) {
			return object{"anyOf": []any{object{"type": "string"}, object{"type": "integer"}}}
		}
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice:
		return object{"type": "array", "items": d.schema(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": d.schema(t.Elem())}
	case reflect.Struct:
		if _, ok := d.schemas[t.Name()]; !ok {
			d.schemas[t.Name()] = object{} // stops a recursion
			d.schemas[t.Name()] = d.structSchema(t)
		}
		ref := object{"$ref": "#/components/schemas/" + t.Name()}
		if t.Implements(reflect.TypeFor[orText]()) {
			return object{"anyOf": []any{object{"type": "string"}, ref}}
		}
		return ref
	}
	return object{} // anything
}

func orNull(s object) object {
	if list, ok := s["anyOf"].([]any); ok {
		return object{"anyOf": append(list, object{"type": "null"})}
	}
	if kind, ok := s["type"].(string); ok {
		s["type"] = []any{kind, "null"}
		return s
	}
	return object{"anyOf": []any{s, object{"type": "null"}}}
}

func (d *document) structSchema(t reflect.Type) object {
	properties := object{}
	for _, f := range fieldsOf(t) {
		s := d.schema(f.Type)
		if doc := f.Tag.Get("doc"); doc != "" {
			s["description"] = doc
		}
		if list := f.Tag.Get("enum"); list != "" {
			values := []any{}
			for v := range strings.SplitSeq(list, ",") {
				values = append(values, v)
			}
			if f.Type.Kind() == reflect.Pointer {
				values = append(values, nil)
			}
			s["enum"] = values
		}
		properties[jsonName(f)] = s
	}
	out := object{"type": "object", "properties": properties}
	if names := requiredFields(t); len(names) > 0 {
		out["required"] = names
	}
	return out
}

// fieldsOf are a struct's fields, those of embedded ones in their place.
func fieldsOf(t reflect.Type) []reflect.StructField {
	var out []reflect.StructField
	for f := range t.Fields() {
		if f.Anonymous {
			out = append(out, fieldsOf(f.Type)...)
			continue
		}
		out = append(out, f)
	}
	return out
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// requiredFields of a request are those so tagged; of an answer, all that are
// never left out.
func requiredFields(t reflect.Type) []string {
	var tagged, always []string
	request := false
	for _, f := range fieldsOf(t) {
		if f.Tag.Get("required") != "" {
			tagged = append(tagged, jsonName(f))
		}
		if _, options, _ := strings.Cut(f.Tag.Get("json"), ","); options == "" {
			always = append(always, jsonName(f))
		} else {
			request = true
		}
	}
	if len(tagged) > 0 || request {
		return tagged
	}
	slices.Sort(always)
	return always
}
