package appfile

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miosa/miosa"
)

// Key is one key of the file: its name and what its tags say.
type Key struct {
	Name     string // the last part: "interval"
	Doc      string
	Default  string   // in words or as a value; "": none
	Enum     []string // nil: any
	Min, Max string   // in the key's own unit; "": no end
	Zero     string   // what 0, or of a flag the empty text, means where it may be that too; "": it may not
	Example  string
	Type     reflect.Type // without a pointer
}

func keyOf(f reflect.StructField) Key {
	k := Key{
		Name: f.Tag.Get("toml"), Doc: f.Tag.Get("doc"), Default: f.Tag.Get("default"),
		Min: f.Tag.Get("min"), Max: f.Tag.Get("max"), Zero: f.Tag.Get("zero"), Example: f.Tag.Get("example"), Type: f.Type,
	}
	if enum := f.Tag.Get("enum"); enum != "" {
		k.Enum = strings.Split(enum, ",")
	}
	if k.Type.Kind() == reflect.Pointer {
		k.Type = k.Type.Elem()
	}
	return k
}

// fieldOf is the field of a table that a key is, as a value to be set.
func fieldOf(table reflect.Value, name string) (reflect.Value, Key, bool) {
	for f, v := range table.Fields() {
		if k := keyOf(f); k.Name == name && name != "-" {
			return v, k, true
		}
	}
	return reflect.Value{}, Key{}, false
}

// OfService is the key of a service at a dotted path like "health.interval".
// It panics for a path that is none: it stands in the program.
func OfService(path string) Key {
	table := reflect.New(reflect.TypeFor[Service]()).Elem()
	_, key := at(table, path)
	return key
}

func at(table reflect.Value, path string) (reflect.Value, Key) {
	for {
		name, rest, deeper := strings.Cut(path, ".")
		v, key, ok := fieldOf(table, name)
		if !ok {
			panic("no key " + path)
		}
		if !deeper {
			return v, key
		}
		table, path = v, rest
	}
}

// Range is what a value may be, in words; "" where anything may be.
func (k Key) Range() string {
	switch {
	case k.Enum != nil:
		return "one of " + strings.Join(k.Enum, ", ")
	case k.either():
		return "0–" + k.Max + " or 0%–100%"
	case !k.counts() || k.Min == "" && k.Max == "":
		return ""
	}
	ends := cmp.Or(k.Min, "0") + "–" + k.Max
	if k.Zero != "" {
		ends += " or 0 (" + k.Zero + ")"
	}
	return ends
}

// counts: its range is one of the value, not of how much there is in it.
func (k Key) counts() bool {
	return k.Type.Kind() == reflect.Int || k.Type == reflect.TypeFor[Duration]()
}

// either: it is a number or a percentage.
func (k Key) either() bool { return k.Type == reflect.TypeFor[CountOrPercent]() }

// Kind is what a value is, in words.
func (k Key) Kind() string {
	switch {
	case k.Type == reflect.TypeFor[Duration]():
		return "duration"
	case k.Type.Kind() == reflect.Int:
		return "number"
	case k.Type.Kind() == reflect.Bool:
		return "boolean"
	case k.either():
		return "number or percentage"
	case k.Type.Kind() == reflect.Slice:
		return "list of strings"
	case k.Type.Kind() == reflect.Map, k.Type.Kind() == reflect.Struct:
		return "table"
	}
	return "string"
}

// Set gives a service's key the value that a flag was given: of a list or a
// table one item more, and with an empty text the default where the key has
// Zero. The error says what it must be.
func (s *Service) Set(path, text string) error {
	v, key := at(reflect.ValueOf(s).Elem(), path)
	switch {
	case text == "" && key.Zero != "" && !key.counts():
		switch key.Type.Kind() {
		case reflect.Slice:
			v.Set(reflect.MakeSlice(key.Type, 0, 0))
		case reflect.Map:
			v.Set(reflect.MakeMap(key.Type))
		default:
			v.Set(reflect.New(key.Type))
		}
		return nil
	case key.Type.Kind() == reflect.Slice:
		for item := range strings.SplitSeq(text, ",") {
			v.Set(reflect.Append(v, reflect.ValueOf(strings.TrimSpace(item))))
		}
		return nil
	case key.Type.Kind() == reflect.Map:
		separator := ":"
		if !strings.Contains(key.Example, separator) {
			separator = "="
		}
		name, value, ok := strings.Cut(text, separator)
		if name = strings.TrimSpace(name); !ok || name == "" {
			return fmt.Errorf("must be like %q", key.Example)
		}
		if value = strings.TrimSpace(value); key.Name == "labels" && !validLabel(name, value) {
			return errors.New(labelRule)
		}
		if v.IsNil() {
			v.Set(reflect.MakeMap(v.Type()))
		}
		v.SetMapIndex(reflect.ValueOf(name), reflect.ValueOf(value))
		return nil
	case key.Type.Kind() == reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("must be a whole number%s", among(key))
		}
		return key.put(v, int64(n))
	case key.Type.Kind() == reflect.Bool:
		yes, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("must be true or false, not %q", text)
		}
		return key.put(v, yes)
	}
	return key.put(v, text)
}

func among(k Key) string {
	if r := k.Range(); r != "" {
		return ", " + r
	}
	return ""
}

// put checks one value as TOML has it (string, int64 …) and sets the field,
// a pointer or not.
func (k Key) put(field reflect.Value, value any) error {
	checked, err := k.value(value)
	if err != nil {
		return err
	}
	if field.Kind() == reflect.Pointer {
		field.Set(reflect.New(k.Type))
		field = field.Elem()
	}
	field.Set(checked)
	return nil
}

// value is a checked string, number or duration.
func (k Key) value(value any) (reflect.Value, error) {
	none := reflect.Value{}
	switch v := value.(type) {
	case bool:
		if k.Type.Kind() == reflect.Bool {
			return reflect.ValueOf(v), nil
		}
	case int64:
		if k.either() {
			return k.countOrPercent(strconv.FormatInt(v, 10))
		}
		if k.Type.Kind() != reflect.Int {
			break
		}
		low, high := k.bounds()
		if (float64(v) < low || float64(v) > high) && (v != 0 || k.Zero == "") {
			return none, fmt.Errorf("must be %s, not %d", k.Range(), v)
		}
		return reflect.ValueOf(int(v)), nil
	case string:
		switch {
		case k.Type == reflect.TypeFor[Duration]():
			return k.duration(v)
		case k.either():
			return k.countOrPercent(v)
		case k.Type.Kind() != reflect.String:
			break
		case k.Enum != nil && !slices.Contains(k.Enum, v):
			near := nearest(v, k.Enum)
			if near != "" {
				near = fmt.Sprintf("; did you mean %q?", near)
			}
			return none, fmt.Errorf("must be %s, not %q%s", k.Range(), v, near)
		default:
			return reflect.ValueOf(v), k.long(len(v))
		}
	}
	return none, fmt.Errorf("must be %s, not %s", k.wanted(), shown(value))
}

func (k Key) countOrPercent(text string) (reflect.Value, error) {
	is, err := miosa.ParseMaxUnavailable(text)
	if _, most := k.bounds(); err != nil || float64(is.Count) > most {
		return reflect.Value{}, fmt.Errorf("must be a number or a percentage like \"25%%\", %s, not %q", k.Range(), text)
	}
	return reflect.ValueOf(CountOrPercent(text)), nil
}

func (k Key) duration(text string) (reflect.Value, error) {
	d, err := time.ParseDuration(text)
	low, _ := time.ParseDuration(k.Min)
	high, _ := time.ParseDuration(k.Max)
	if err != nil {
		return reflect.Value{}, fmt.Errorf("must be a duration like \"30s\", %s, not %q", k.Range(), text)
	}
	if (d < low || d > high) && (d != 0 || k.Zero == "") {
		return reflect.Value{}, fmt.Errorf("must be %s, not %s", k.Range(), text)
	}
	return reflect.ValueOf(Duration(d)), nil
}

// bounds are the ends of a number's range, or of how much there may be.
func (k Key) bounds() (low, high float64) {
	low, high = 0, math.Inf(1)
	if n, err := strconv.ParseFloat(k.Min, 64); err == nil {
		low = n
	}
	if n, err := strconv.ParseFloat(k.Max, 64); err == nil {
		high = n
	}
	return low, high
}

// long checks how much is in a text, a list or a table.
func (k Key) long(n int) error {
	low, high := k.bounds()
	what := map[string]string{"string": "characters", "list of strings": "items", "table": "entries"}[k.Kind()]
	switch {
	case float64(n) < low && low == 1:
		return fmt.Errorf("is empty")
	case float64(n) > high:
		return fmt.Errorf("may have at most %g %s, it has %d", high, what, n)
	}
	return nil
}

// wanted is what a value must be, with an example.
func (k Key) wanted() string {
	switch k.Kind() {
	case "duration":
		return "a duration in quotes like \"30s\", " + k.Range()
	case "number":
		return "a whole number without quotes" + among(k)
	case "number or percentage":
		return "a number, or a percentage in quotes like \"25%\", " + k.Range()
	case "boolean":
		return "true or false without quotes"
	case "table":
		return "a table"
	case "list of strings":
		return "a list of strings like [" + strconv.Quote(cmp.Or(k.Example, "…")) + "]"
	}
	return "a string in quotes" + among(k)
}

// shown is a value as it stands in the file, or what kind of value it is.
func shown(value any) string {
	switch v := value.(type) {
	case string:
		return strconv.Quote(v)
	case int64, float64, bool:
		return fmt.Sprint(v)
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date"
}

// keysOf are a table's keys, in the order of the struct.
func keysOf(t reflect.Type) []Key {
	var out []Key
	for f := range t.Fields() {
		if k := keyOf(f); k.Name != "-" {
			out = append(out, k)
		}
	}
	return out
}

// Copy gives a service's key the value that another's has.
func (s *Service) Copy(path string, from *Service) {
	to, _ := at(reflect.ValueOf(s).Elem(), path)
	v, _ := at(reflect.ValueOf(from).Elem(), path)
	to.Set(v)
}
