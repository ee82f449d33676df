package store_test

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"pgregory.net/rapid"
)

// drawNoun fills every field of a noun with something arbitrary that a record
// must bring back: what is empty is nil, times are in UTC.
func drawNoun[T any](t *rapid.T) T {
	var v T
	fill(t, reflect.ValueOf(&v).Elem(), "noun")
	// The two fields that no record holds.
	if f := reflect.ValueOf(&v).Elem().FieldByName("Revision"); f.IsValid() {
		f.SetInt(0)
	}
	if f := reflect.ValueOf(&v).Elem().FieldByName("Observed"); f.IsValid() {
		f.SetZero()
	}
	return v
}

var (
	drawID   = rapid.StringMatching(`[a-z]{2,3}_[0-9a-z]{1,26}`)
	drawTime = rapid.Custom(func(t *rapid.T) time.Time {
		// Nanosecond precision from year 1 to 9999; the zero time often.
		if rapid.Bool().Draw(t, "zero") {
			return time.Time{}
		}
		return time.Unix(rapid.Int64Range(-62135596800, 253402300799).Draw(t, "s"),
			rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC()
	})
	drawAddr = rapid.Custom(func(t *rapid.T) netip.AddrPort {
		if rapid.Bool().Draw(t, "none") {
			return netip.AddrPort{}
		}
		b := [4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "addr"))
		return netip.AddrPortFrom(netip.AddrFrom4(b), rapid.Uint16().Draw(t, "port"))
	})
)

// identifying reports whether a field goes into a key.
func identifying(name string) bool {
	return strings.HasSuffix(name, "ID") || name == "Hash" || name == "Name"
}

func fill(t *rapid.T, v reflect.Value, name string) {
	switch v.Type() {
	case reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(drawTime.Draw(t, name)))
		return
	case reflect.TypeFor[netip.AddrPort]():
		v.Set(reflect.ValueOf(drawAddr.Draw(t, name)))
		return
	case reflect.TypeFor[netip.Addr]():
		v.Set(reflect.ValueOf(drawAddr.Filter(netip.AddrPort.IsValid).Draw(t, name).Addr()))
		return
	}
	switch v.Kind() {
	case reflect.String:
		if identifying(name) {
			v.SetString(drawID.Draw(t, name))
		} else {
			v.SetString(rapid.String().Draw(t, name))
		}
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, name))
	case reflect.Int, reflect.Int64:
		v.SetInt(rapid.Int64().Draw(t, name))
	case reflect.Float64:
		v.SetFloat(rapid.Float64().Draw(t, name))
	case reflect.Struct:
		for f, fv := range v.Fields() {
			fill(t, fv, f.Name)
		}
	case reflect.Slice:
		n := rapid.IntRange(0, 3).Draw(t, name+" length")
		if n == 0 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			if v.Type().Elem().Kind() == reflect.Uint8 {
				v.Index(i).SetUint(uint64(rapid.Byte().Draw(t, name)))
				continue
			}
			fill(t, v.Index(i), name)
		}
	case reflect.Map:
		n := rapid.IntRange(0, 3).Draw(t, name+" length")
		if n == 0 {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for range n {
			key := reflect.ValueOf(rapid.String().Draw(t, name+" key"))
			if v.Type().Elem().Kind() == reflect.String {
				v.SetMapIndex(key, reflect.ValueOf(rapid.String().Draw(t, name)))
				continue
			}
			v.SetMapIndex(key, reflect.ValueOf(drawJSON.Draw(t, name)))
		}
	default:
		panic(fmt.Sprintf("no generator for %s %s", name, v.Type()))
	}
}

// drawJSON is a value as decoding JSON gives it.
var drawJSON = rapid.Deferred(func() *rapid.Generator[any] {
	return rapid.OneOf(
		rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.Map(rapid.Float64(), func(f float64) any { return f }),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Map(rapid.MapOfN(rapid.String(), rapid.Bool(), 1, 2), func(m map[string]bool) any {
			object := map[string]any{}
			for k, b := range m {
				object[k] = b
			}
			return object
		}),
		rapid.Map(rapid.SliceOfN(rapid.String(), 1, 2), func(list []string) any {
			array := make([]any, len(list))
			for i, s := range list {
				array[i] = s
			}
			return array
		}),
	)
})
