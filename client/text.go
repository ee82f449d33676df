package client

import (
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"
)

// onlyText refuses a body with a string that is not UTF-8: written as JSON it
// would become another value.
func onlyText(body any) error {
	if field, found := notText(reflect.ValueOf(body), ""); found {
		return &localError{fmt.Errorf("%s is not UTF-8 text: send what is no text in a form of text like base64", strings.TrimPrefix(field, "."))}
	}
	return nil
}

func notText(v reflect.Value, path string) (field string, found bool) {
	switch v.Kind() {
	case reflect.String:
		return path, !utf8.ValidString(v.String())
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			return notText(v.Elem(), path)
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return "", false // base64
		}
		for n := range v.Len() {
			if field, found := notText(v.Index(n), fmt.Sprintf("%s[%d]", path, n)); found {
				return field, true
			}
		}
	case reflect.Map:
		for it := v.MapRange(); it.Next(); {
			name := path + "." + fmt.Sprint(it.Key())
			if it.Key().Kind() == reflect.String && !utf8.ValidString(it.Key().String()) {
				return fmt.Sprintf("the name %q in %s", it.Key(), path), true
			}
			if field, found := notText(it.Value(), name); found {
				return field, true
			}
		}
	case reflect.Struct:
		for f, inner := range v.Fields() {
			if !f.IsExported() {
				continue
			}
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			at := path
			if !f.Anonymous {
				at += "." + name
			}
			if field, found := notText(inner, at); found {
				return field, true
			}
		}
	}
	return "", false
}
