package api

import (
	"bytes"
	"fmt"
	"html/template"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// page is the reference for people: one file, no script, nothing from elsewhere.
func (d *document) page() ([]byte, error) {
	t, err := template.New("reference").Parse(referencePage)
	if err != nil {
		return nil, err
	}
	type field struct{ Name, Type, Doc string }
	type operation struct {
		Method, Path, Summary, Notes, Access string
		Query                                []param
		Body                                 string
		Answer                               string
	}
	type shape struct {
		Name   string
		Fields []field
	}
	type section struct {
		Tag        string
		Operations []operation
	}
	var sections []*section
	shapes := map[string]reflect.Type{}
	var visit func(t reflect.Type)
	visit = func(t reflect.Type) {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
			t = t.Elem()
		}
		if _, ok := reflect.Zero(t).Interface().(nullable); ok || t.Kind() != reflect.Struct || t.PkgPath() == "time" || t == reflect.TypeFor[none]() || shapes[t.Name()] != nil {
			return
		}
		shapes[t.Name()] = t
		for _, f := range fieldsOf(t) {
			visit(f.Type)
		}
	}
	keys := map[access]string{accessTenant: "user or platform key", accessAdmin: "admin key", accessOpen: "no key"}
	for _, r := range d.routes {
		n := slices.IndexFunc(sections, func(s *section) bool { return s.Tag == r.tag() })
		if n < 0 {
			n = len(sections)
			sections = append(sections, &section{Tag: r.tag()})
		}
		o := operation{
			Method: r.Method, Path: BasePath + r.Pattern, Summary: r.Summary, Notes: strings.ReplaceAll(r.Notes, "`", ""),
			Access: keys[r.Access], Query: r.Query, Answer: fmt.Sprintf("%d %s", r.status(), typeWords(r.Handle.out)),
		}
		if r.Handle.list {
			o.Answer = fmt.Sprintf("%d list of %s", r.status(), typeWords(r.Handle.out))
		}
		switch {
		case r.Upload:
			o.Body = "the artefact"
		case r.Handle.in != reflect.TypeFor[none]():
			o.Body = typeWords(r.Handle.in)
		}
		sections[n].Operations = append(sections[n].Operations, o)
		visit(r.Handle.in)
		visit(r.Handle.out)
	}
	var all []shape
	for _, name := range slices.Sorted(maps.Keys(shapes)) {
		s := shape{Name: name}
		for _, f := range fieldsOf(shapes[name]) {
			doc := f.Tag.Get("doc")
			if enum := f.Tag.Get("enum"); enum != "" {
				doc = strings.TrimSpace(doc + " One of " + strings.ReplaceAll(enum, ",", ", ") + ".")
			}
			if f.Tag.Get("required") != "" {
				doc = strings.TrimSpace("Needed. " + doc)
			}
			s.Fields = append(s.Fields, field{jsonName(f), typeWords(f.Type), doc})
		}
		all = append(all, s)
	}
	var out bytes.Buffer
	err = t.Execute(&out, map[string]any{"Version": d.version, "Base": BasePath, "Sections": sections, "Shapes": all})
	return out.Bytes(), err
}

// typeWords names a type as a reader of JSON sees it.
func typeWords(t reflect.Type) string {
	if n, ok := reflect.Zero(t).Interface().(nullable); ok {
		return typeWords(reflect.TypeOf(n.NullableElem())) + " or null"
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeWords(t.Elem()) + " or null"
	case reflect.Slice:
		return "list of " + typeWords(t.Elem())
	case reflect.Map:
		return "object"
	case reflect.Interface:
		return "anything"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "whole number"
	case reflect.Float64:
		return "number"
	case reflect.String:
		return "string"
	}
	if t.PkgPath() == "time" {
		return "time"
	}
	return t.Name()
}

const referencePage = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>MIOSA runtime API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}
code{font:14px/1.4 ui-monospace,monospace}h2{margin-top:3rem;border-bottom:1px solid #ccc}
details{border:1px solid #ddd;border-radius:6px;margin:.5rem 0;padding:.4rem .8rem}summary{cursor:pointer}
b.m{display:inline-block;width:4.5rem;font:bold 13px ui-monospace,monospace}table{border-collapse:collapse;width:100%}
td{border-top:1px solid #eee;padding:.2rem .8rem .2rem 0;vertical-align:top}
@media (prefers-color-scheme:dark){body{color:#ddd;background:#161616}details{border-color:#444}td{border-color:#333}a{color:#8bf}}
</style></head><body>
<h1>MIOSA runtime API</h1>
<p>Version {{.Version}}. The same as a document for programs: <a href="{{.Base}}/openapi.json">openapi.json</a>.</p>
<p>Send <code>Authorization: Bearer msk_…</code>. One resource answers as <code>{"data": {…}}</code>, a list as <code>{"data": […], "page": {…}}</code>,
an error as <code>{"error": {"code", "message", "request_id", "details"}, "message"}</code>. Lists take <code>page</code> and <code>page_size</code>, or <code>limit</code>
and <code>cursor</code>. Mutations take <code>Idempotency-Key</code>; <code>If-Match</code> with an object's <code>ETag</code> guards a change.</p>
{{range .Sections}}<h2 id="{{.Tag}}">{{.Tag}}</h2>
{{range .Operations}}<details><summary><b class="m">{{.Method}}</b> <code>{{.Path}}</code> — {{.Summary}}</summary>
{{if .Notes}}<p>{{.Notes}}</p>{{end}}<table><tr><td>Key</td><td>{{.Access}}</td></tr>
{{range .Query}}<tr><td>Query <code>{{.Name}}</code></td><td>{{.Doc}}</td></tr>
{{end}}{{if .Body}}<tr><td>Body</td><td><a href="#shape-{{.Body}}">{{.Body}}</a></td></tr>
{{end}}<tr><td>Answer</td><td>{{.Answer}}</td></tr></table></details>
{{end}}{{end}}<h2 id="shapes">Shapes</h2>
{{range .Shapes}}<details id="shape-{{.Name}}"><summary>{{.Name}}</summary><table>
{{range .Fields}}<tr><td><code>{{.Name}}</code></td><td>{{.Type}}</td><td>{{.Doc}}</td></tr>
{{end}}</table></details>
{{end}}</body></html>
`
