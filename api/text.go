package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/miosa/miosa"
)

// What is not text is refused: a JSON decoder puts U+FFFD in its place, and
// another value would be kept than was sent.

// onlyText refuses a JSON body that holds bytes which are not UTF-8, or half a
// surrogate pair.
func onlyText(raw []byte) error {
	at, what := notText(raw)
	if at < 0 {
		return nil
	}
	message := fmt.Sprintf("holds %s (byte %d of the body): send text as UTF-8, and what is no text in a form of text like base64", what, at)
	if field := fieldAt(raw, at); field != "" {
		return invalidField(field, message)
	}
	return &miosa.Error{Code: miosa.Invalid, Public: "validation_failed", Message: "the body " + message}
}

// notText is where JSON holds what is not text; -1: nowhere.
func notText(raw []byte) (at int, what string) {
	inString := false
	for i := 0; i < len(raw); {
		c := raw[i]
		switch {
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRune(raw[i:])
			if r == utf8.RuneError && n == 1 {
				return i, "bytes that are not UTF-8"
			}
			i += n
		case inString && c == '\\':
			n := escape(raw[i:])
			if n < 0 {
				return i, "half of a surrogate pair"
			}
			i += n
		default:
			if c == '"' {
				inString = !inString
			}
			i++
		}
	}
	return -1, ""
}

// escape is the length of the escape that raw begins with; -1 for half of a
// surrogate pair. What is no escape at all the decoder finds.
func escape(raw []byte) int {
	unit := func(at int) (rune, bool) {
		if len(raw) < at+6 || raw[at] != '\\' || raw[at+1] != 'u' {
			return 0, false
		}
		n, err := strconv.ParseUint(string(raw[at+2:at+6]), 16, 16)
		return rune(n), err == nil //nolint:gosec // 16 bits
	}
	first, ok := unit(0)
	if !ok {
		return 2
	}
	if !utf16.IsSurrogate(first) {
		return 6
	}
	second, _ := unit(6)
	if utf16.DecodeRune(first, second) == utf8.RuneError {
		return -1
	}
	return 12
}

// fieldAt names the field whose value covers a byte of a JSON object; "" when
// that is not clear.
func fieldAt(raw []byte, at int) string {
	type level struct {
		object, valueNext bool
		path              string
		index             int
	}
	var stack []level
	path := ""
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err != nil {
			return ""
		}
		var top *level
		if len(stack) > 0 {
			top = &stack[len(stack)-1]
		}
		key, isText := token.(string)
		delim, isDelim := token.(json.Delim)
		closing := isDelim && (delim == '}' || delim == ']')
		switch {
		case closing:
		case top == nil:
		case top.object && !top.valueNext && isText:
			if d.InputOffset() > int64(at) {
				return top.path // it is the name that is none
			}
			path, top.valueNext = join(top.path, key), true
			continue
		case top.object:
			top.valueNext = false
		default:
			path = fmt.Sprintf("%s[%d]", top.path, top.index)
			top.index++
		}
		switch {
		case d.InputOffset() > int64(at):
			return path
		case closing:
			stack = stack[:len(stack)-1]
		case isDelim:
			stack = append(stack, level{object: delim == '{', path: path})
		}
	}
}

// onlyTextIn refuses query parameters of a mutation that are not text: they may
// be kept.
func onlyTextIn(q url.Values) error {
	for name, values := range q {
		for _, v := range values {
			if !utf8.ValidString(name) || !utf8.ValidString(v) {
				return invalidField(strings.ToValidUTF8(name[:min(len(name), 100)], "?"), "is not UTF-8 in the query")
			}
		}
	}
	return nil
}
