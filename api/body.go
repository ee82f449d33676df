package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/ration"
)

const (
	// maxBody bounds a JSON body.
	maxBody = 1 << 20
	// bodyIdle is how long a client may be silent in the middle of a body.
	bodyIdle = 60 * time.Second
	// maxFields bounds how many wrong fields one answer names.
	maxFields = 20
)

// readBody reads a JSON body whole.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > maxBody {
		return nil, tooLarge()
	}
	encoding, err := encodingOf(r.Header)
	if err != nil {
		w.Header().Set("Accept-Encoding", "gzip")
		return nil, err
	}
	var body io.Reader = http.MaxBytesReader(w, &patientReader{body: r.Body, control: http.NewResponseController(w)}, maxBody)
	if encoding == "gzip" {
		body = &unzipped{body: body}
	}
	raw, err := io.ReadAll(io.LimitReader(body, maxBody+1))
	if len(raw) > maxBody {
		return nil, tooLarge() // a few bytes may stand for any number
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, tooLarge()
	}
	if err != nil {
		return nil, &miosa.Error{Code: miosa.Malformed, Public: "malformed_body", Message: "the request's body was cut off, or is not compressed as it says", Err: err}
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return nil, nil
	}
	if t := r.Header.Get("Content-Type"); t != "" {
		media, _, err := mime.ParseMediaType(t)
		if err != nil || media != "application/json" && !strings.HasSuffix(media, "+json") {
			return nil, &miosa.Error{
				Code: miosa.Unsupported, Public: "unsupported_media_type",
				Message: fmt.Sprintf("the body's Content-Type is %q; send application/json", t),
			}
		}
	}
	return raw, onlyText(raw)
}

// encodingOf is how a request's body is compressed: "" or "gzip".
func encodingOf(h http.Header) (string, error) {
	list := strings.Join(h.Values("Content-Encoding"), ",")
	encoding := ""
	for name := range strings.SplitSeq(list, ",") {
		name = strings.ToLower(strings.TrimSpace(name))
		switch {
		case name == "" || name == "identity":
		case (name == "gzip" || name == "x-gzip") && encoding == "":
			encoding = "gzip"
		default:
			return "", &miosa.Error{
				Code: miosa.Unsupported, Public: "unsupported_content_encoding",
				Message: fmt.Sprintf("a JSON body with Content-Encoding %q cannot be read: send it with gzip, or as it is", list),
			}
		}
	}
	return encoding, nil
}

// unzipped reads a compressed body; an empty one is empty.
type unzipped struct {
	body io.Reader
	in   *gzip.Reader
}

func (u *unzipped) Read(p []byte) (int, error) {
	if u.in == nil {
		in, err := gzip.NewReader(u.body)
		if err != nil {
			return 0, err // io.EOF: nothing came
		}
		u.in = in
	}
	return u.in.Read(p)
}

func tooLarge() error {
	return &miosa.Error{Code: miosa.TooLarge, Public: "body_too_large", Message: "a JSON body may have at most 1 MB"}
}

// patientReader gives a body a deadline that moves with every byte: a client
// may be slow, but not silent.
type patientReader struct {
	body    io.ReadCloser
	control *http.ResponseController
}

func (p *patientReader) Read(b []byte) (int, error) {
	// Not every transport has deadlines (a test's recorder has none).
	_ = p.control.SetReadDeadline(time.Now().Add(bodyIdle))
	n, err := p.body.Read(b)
	if err != nil {
		_ = p.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

func (p *patientReader) Close() error { return p.body.Close() }

// What a document may become in memory, in bytes: of each of its own, of each
// value that it lists, and of each object, which is a map for a while.
const (
	costByte   = 4
	costValue  = 96
	costObject = 400
	// freely is how large a document is read whatever others do: small ones must
	// never wait for those who upload.
	freely = 32 << 10
	// documentPatience is how long a large one waits.
	documentPatience = 10 * time.Second
)

// decode reads a JSON object into v, a large one when there is memory for it.
func (s *Server) decode(ctx context.Context, raw []byte, v any) error {
	if len(raw) <= freely {
		return decode(raw, v)
	}
	share, err := s.memory.Take(ctx, ration.Terms{Patience: documentPatience}, min(documentCost(raw), s.memory.Most()))
	switch {
	case errors.Is(err, ration.ErrBusy):
		return &miosa.Error{Code: miosa.Limited, Public: "documents_busy", Err: err,
			Message: "the platform reads as many large requests as it has memory for; send this one again in a moment"}
	case err != nil:
		return err
	}
	defer share.Release()
	return decode(raw, v)
}

func documentCost(raw []byte) int64 {
	values := bytes.Count(raw, []byte{','}) + bytes.Count(raw, []byte{'['})
	objects := bytes.Count(raw, []byte{'{'})
	return int64(costByte*len(raw) + costValue*(values+1) + costObject*objects)
}

// decode reads a JSON object into v. Malformed JSON is Malformed; a field of
// a wrong type is Invalid, with every such field named. Fields that v does
// not know are ignored.
func decode(raw []byte, v any) error {
	if len(raw) == 0 {
		raw = []byte("{}")
	}
	var loose any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&loose); err != nil {
		return malformed(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return &miosa.Error{Code: miosa.Malformed, Public: "malformed_json", Message: "the body holds more than one JSON value"}
	}
	object, ok := loose.(map[string]any)
	if !ok {
		return &miosa.Error{Code: miosa.Malformed, Public: "malformed_json", Message: "the body must be a JSON object"}
	}
	var fields []miosa.Field
	mismatches(object, reflect.TypeOf(v).Elem(), "", &fields)
	if len(fields) > 0 {
		return invalid(fields[:min(len(fields), maxFields)])
	}
	if err := json.Unmarshal(raw, v); err != nil {
		// Names that differ only in case get here.
		if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return invalidField(t.Field, "must be "+kindWords(t.Type))
		}
		return malformed(err)
	}
	return nil
}

func malformed(err error) error {
	where := ""
	if s, ok := errors.AsType[*json.SyntaxError](err); ok {
		where = fmt.Sprintf(" at byte %d", s.Offset)
	}
	return &miosa.Error{
		Code: miosa.Malformed, Public: "malformed_json",
		Message: "the body is not valid JSON" + where, Err: err,
	}
}

// orText is implemented by what may be written as a string too.
type orText interface{ OrText() }

// orNumber is implemented by texts that may be written as a number too.
type orNumber interface{ OrNumber() }

// nullable is implemented by resource.Nullable.
type nullable interface{ NullableElem() any }

// mismatches collects the fields of a JSON value that don't fit a Go type.
func mismatches(v any, t reflect.Type, path string, fields *[]miosa.Field) {
	wrong := func() {
		*fields = append(*fields, miosa.Field{Name: path, Message: "must be " + kindWords(t)})
	}
	if v == nil {
		// null is "absent" for everything but a list's or object's element.
		return
	}
	if n, ok := reflect.Zero(t).Interface().(nullable); ok {
		t = reflect.TypeOf(n.NullableElem())
	}
	if t.Kind() == reflect.Struct && t.Implements(reflect.TypeFor[orText]()) {
		if _, ok := v.(string); ok {
			return
		}
	}
	switch t.Kind() {
	case reflect.Pointer:
		mismatches(v, t.Elem(), path, fields)
	case reflect.Interface:
	case reflect.String:
		_, ok := v.(string)
		if !ok && t.Implements(reflect.TypeFor[orNumber]()) {
			_, ok = v.(json.Number)
		}
		if !ok {
			wrong()
		}
	case reflect.Bool:
		if _, ok := v.(bool); !ok {
			wrong()
		}
	case reflect.Int, reflect.Int64:
		n, ok := v.(json.Number)
		if !ok {
			wrong()
			return
		}
		if _, err := n.Int64(); err != nil {
			wrong()
		}
	case reflect.Float64:
		n, ok := v.(json.Number)
		if !ok {
			wrong()
			return
		}
		if _, err := n.Float64(); err != nil {
			wrong()
		}
	case reflect.Slice:
		list, ok := v.([]any)
		if !ok {
			wrong()
			return
		}
		for i, e := range list {
			if e == nil && t.Elem().Kind() != reflect.Interface {
				*fields = append(*fields, miosa.Field{Name: fmt.Sprintf("%s[%d]", path, i), Message: "must be " + kindWords(t.Elem())})
				continue
			}
			mismatches(e, t.Elem(), fmt.Sprintf("%s[%d]", path, i), fields)
		}
	case reflect.Map:
		object, ok := v.(map[string]any)
		if !ok {
			wrong()
			return
		}
		for _, name := range slices.Sorted(maps.Keys(object)) {
			mismatches(object[name], t.Elem(), join(path, name), fields)
		}
	case reflect.Struct:
		object, ok := v.(map[string]any)
		if !ok {
			wrong()
			return
		}
		structMismatches(object, t, path, fields)
	}
}

func structMismatches(object map[string]any, t reflect.Type, path string, fields *[]miosa.Field) {
	for f := range t.Fields() {
		if f.Anonymous {
			structMismatches(object, f.Type, path, fields)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if v, ok := object[name]; ok {
			mismatches(v, f.Type, join(path, name), fields)
		}
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func kindWords(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return kindWords(t.Elem())
	case reflect.String:
		if t.Implements(reflect.TypeFor[orNumber]()) {
			return "a number or a string"
		}
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list"
	}
	return "an object"
}
