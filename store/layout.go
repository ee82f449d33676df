package store

import (
	"bytes"
	"encoding"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// layout is the tree of JSON fields a record struct knows. Against it an
// older binary tells what a newer one added, and keeps that when it rewrites
// the record.
type layout struct {
	names    []string           // known fields in the struct's order
	fields   map[string]*layout // of those which are structs or slices of structs
	list     bool               // the value is an array of such objects
	identity string             // of a list: the field by which elements are told apart; "": by none
}

// layoutOf reads R's JSON tags. An element struct of a slice names its
// identifying field with the tag `store:"identity"`.
func layoutOf[R any]() *layout { return structLayout(reflect.TypeFor[R]()) }

func structLayout(t reflect.Type) *layout {
	l := &layout{fields: map[string]*layout{}}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		l.names = append(l.names, name)
		if f.Tag.Get("store") == "identity" {
			l.identity = name
		}
		inner := f.Type
		list := inner.Kind() == reflect.Slice
		if list {
			inner = inner.Elem()
		}
		if inner.Kind() != reflect.Struct || inner.Implements(reflect.TypeFor[encoding.TextMarshaler]()) {
			continue
		}
		sub := structLayout(inner)
		sub.list = list
		l.fields[name] = sub
	}
	return l
}

// preserve returns after with the fields of before that the layout does not
// know.
func (l *layout) preserve(before, after json.RawMessage) (json.RawMessage, error) {
	if l.list {
		return l.preserveList(before, after)
	}
	var old, now map[string]json.RawMessage
	if err := json.Unmarshal(before, &old); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(after, &now); err != nil {
		return nil, err
	}
	changed := false
	for _, name := range slices.Sorted(maps.Keys(old)) {
		value := old[name]
		if !slices.Contains(l.names, name) {
			now[name], changed = value, true
			continue
		}
		sub := l.fields[name]
		if sub == nil || !isContainer(value) {
			continue
		}
		present, ok := now[name]
		switch {
		case ok && isContainer(present):
			merged, err := sub.preserve(value, present)
			if err != nil {
				return nil, err
			}
			if !bytes.Equal(merged, present) {
				now[name], changed = merged, true
			}
		case !ok && !sub.list && sub.knowsNothingIn(value):
			// Empty to this binary before and now: it did not clear it.
			now[name], changed = value, true
		}
	}
	if !changed {
		return after, nil
	}
	return l.render(now)
}

// preserveList matches elements by identity; without one nothing can be
// carried over.
func (l *layout) preserveList(before, after json.RawMessage) (json.RawMessage, error) {
	if l.identity == "" {
		return after, nil
	}
	var old, now []json.RawMessage
	if err := json.Unmarshal(before, &old); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(after, &now); err != nil {
		return nil, err
	}
	element := *l
	element.list = false
	byID := make(map[string]json.RawMessage, len(old))
	for _, e := range old {
		byID[l.identify(e)] = e
	}
	changed := false
	for i, e := range now {
		was, ok := byID[l.identify(e)]
		if !ok {
			continue
		}
		merged, err := element.preserve(was, e)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(merged, e) {
			now[i], changed = merged, true
		}
	}
	if !changed {
		return after, nil
	}
	return json.Marshal(now)
}

func (l *layout) identify(element json.RawMessage) string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(element, &fields) != nil {
		return ""
	}
	return string(fields[l.identity])
}

func (l *layout) knowsNothingIn(object json.RawMessage) bool {
	var fields map[string]json.RawMessage
	if json.Unmarshal(object, &fields) != nil {
		return false
	}
	for name, value := range fields {
		if sub := l.fields[name]; sub != nil && !sub.list && isContainer(value) && sub.knowsNothingIn(value) {
			continue
		}
		if slices.Contains(l.names, name) {
			return false
		}
	}
	return true
}

// render writes known fields in the struct's order, then the others sorted.
func (l *layout) render(fields map[string]json.RawMessage) (json.RawMessage, error) {
	var b bytes.Buffer
	write := func(name string, value json.RawMessage) error {
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		quoted, err := json.Marshal(name)
		if err != nil {
			return err
		}
		b.Write(quoted)
		b.WriteByte(':')
		b.Write(value)
		return nil
	}
	b.WriteByte('{')
	for _, name := range l.names {
		if value, ok := fields[name]; ok {
			if err := write(name, value); err != nil {
				return nil, err
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(l.names, name) {
			if err := write(name, fields[name]); err != nil {
				return nil, err
			}
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func isContainer(value json.RawMessage) bool {
	value = bytes.TrimLeft(value, " \t\r\n")
	return len(value) > 0 && (value[0] == '{' || value[0] == '[')
}
