package logs

import (
	"strings"
	"unicode/utf8"
)

// hasValue reports whether a line that is a JSON object, or logfmt, has one of
// the values under one of the keys.
func hasValue(line []byte, keys, values []string) bool {
	i := blank(line, 0)
	for _, key := range keys {
		if i < len(line) && line[i] == '{' {
			if found, _ := inObject(line, i, key, values); found {
				return true
			}
		} else if inPairs(line, key, values) {
			return true
		}
	}
	return false
}

// inObject looks for a key in the object at i, and says where that ends; -1
// when it is no JSON or the search is over. Its depth is that of the key.
func inObject(b []byte, i int, key string, values []string) (found bool, end int) {
	i = blank(b, i+1)
	for i < len(b) && b[i] == '"' {
		name := i
		if i = skipString(b, i); i < 0 {
			return false, -1
		}
		whole, rest := matchKey(b[name+1:i-1], key)
		if i = blank(b, i); i >= len(b) || b[i] != ':' {
			return false, -1
		}
		if i = blank(b, i+1); i >= len(b) {
			return false, -1
		}
		from := i
		if rest != "" && b[i] == '{' {
			if found, i = inObject(b, i, rest, values); found {
				return true, -1
			}
		} else {
			i = skipValue(b, i)
		}
		if i < 0 {
			return false, -1
		}
		if whole && isScalar(b[from:i], values) {
			return true, -1
		}
		if i = blank(b, i); i >= len(b) || b[i] != ',' {
			break
		}
		i = blank(b, i+1)
	}
	if i >= len(b) || b[i] != '}' {
		return false, -1
	}
	return false, i + 1
}

// matchKey compares a name with a dotted path: whole when it is all of it;
// rest is what is left of the path inside of the name's object.
func matchKey(name []byte, key string) (whole bool, rest string) {
	if len(name) > len(key) || len(name) == 0 || agree(name, key[:len(name)]) != len(name) {
		return false, ""
	}
	if len(name) == len(key) {
		return true, ""
	}
	if key[len(name)] == '.' {
		return false, key[len(name)+1:]
	}
	return false, ""
}

// isScalar compares a JSON string, number or word.
func isScalar(raw []byte, values []string) bool {
	for _, v := range values {
		switch raw[0] {
		case '{', '[':
			return false
		case '"':
			if equalQuoted(raw[1:len(raw)-1], v) {
				return true
			}
		default:
			if equal(raw, v) {
				return true
			}
		}
	}
	return false
}

// equal reports whether b is v, upper and lower case alike; v is folded.
func equal(b []byte, v string) bool {
	for len(b) > 0 && v != "" {
		r, n := decode(b)
		w, m := utf8.DecodeRuneInString(v)
		if r != w {
			return false
		}
		b, v = b[n:], v[m:]
	}
	return len(b) == 0 && v == ""
}

// equalQuoted is equal over what stands between quotes, with escapes.
func equalQuoted(b []byte, v string) bool {
	for len(b) > 0 && v != "" {
		r, n := unescape(b)
		w, m := utf8.DecodeRuneInString(v)
		if r != w {
			return false
		}
		b, v = b[n:], v[m:]
	}
	return len(b) == 0 && v == ""
}

// unescape reads one character, folded; -1 for what is none.
func unescape(b []byte) (rune, int) {
	if b[0] != '\\' || len(b) == 1 {
		return decode(b)
	}
	if b[1] != 'u' {
		if at := strings.IndexByte("ntrbf", b[1]); at >= 0 {
			return rune("\n\t\r\b\f"[at]), 2
		}
		return decode2(b)
	}
	r, ok := hex(b)
	if !ok {
		return -1, 1
	}
	if r >= 0xd800 && r < 0xdc00 {
		if low, ok := hex(b[6:]); ok && low >= 0xdc00 && low < 0xe000 {
			return fold((r-0xd800)<<10 + (low - 0xdc00) + 0x10000), 12
		}
	}
	if r < utf8.RuneSelf && plain(byte(r)) {
		return -1, 6 // see plain
	}
	return fold(r), 6
}

// decode2 is an escape that stands for its second character.
func decode2(b []byte) (rune, int) {
	r, n := decode(b[1:])
	if r < utf8.RuneSelf && r >= 0 && plain(byte(r)) {
		return -1, 1 + n
	}
	return r, 1 + n
}

// hex reads \uXXXX.
func hex(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		c = lower[c]
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		default:
			return 0, false
		}
	}
	return r, true
}

// blank is the first place from i on that is no white space.
func blank(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// skipString is behind the string that begins at i, -1 when it does not end.
func skipString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return -1
}

// skipValue is behind the JSON value at i, -1 when it does not end.
func skipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		depth := 0
		for i < len(b) {
			switch b[i] {
			case '"':
				if i = skipString(b, i); i < 0 {
					return -1
				}
				continue
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
			i++
		}
		return -1
	}
	from := i
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && b[i] > ' ' {
		i++
	}
	if i == from {
		return -1
	}
	return i
}

// inPairs looks for a key in logfmt: key=value key="v v", with other words
// before and between.
func inPairs(b []byte, key string, values []string) bool {
	for i := 0; i < len(b); {
		if b[i] <= ' ' {
			i++
			continue
		}
		name := i
		for i < len(b) && b[i] > ' ' && b[i] != '=' && b[i] != '"' {
			i++
		}
		if i == len(b) {
			return false
		}
		if b[i] != '=' { // a word without a value, or a quoted one
			if b[i] == '"' {
				if i = skipString(b, i); i < 0 {
					return false
				}
			}
			continue
		}
		named := i-name == len(key) && agree(b[name:i], key) == len(key)
		i++
		from := i
		if i < len(b) && b[i] == '"' {
			if i = skipString(b, i); i < 0 {
				return false
			}
			if named && isScalar(b[from:i], values) {
				return true
			}
			continue
		}
		for i < len(b) && b[i] > ' ' {
			i++
		}
		if !named {
			continue
		}
		for _, v := range values {
			if equal(b[from:i], v) {
				return true
			}
		}
	}
	return false
}
