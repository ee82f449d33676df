package logs

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/miosa/miosa"
)

const (
	maxSearch = 1000 // bytes of a search
	maxTerms  = 32
)

// Search is a parsed text search; the zero value matches every line.
type Search struct {
	terms []term
}

// term is one condition; all must hold.
type term struct {
	not  bool
	key  string // "": anywhere in the line
	text string // lower case, not empty

	finder *finder  // of the text; of a value: of what every line with it contains; nil: nothing
	keys   []string // what the key may be called, lower case
	values []string // what the value may be, lower case
}

// ParseSearch reads a search as a person writes it. All terms must hold:
//
//	timeout            the line contains the word
//	"no such file"     … the phrase; \" and \\ stand for themselves
//	-debug             … does not; also -"a phrase" and -key:value
//	level:error        the line is a JSON object or logfmt, and the key has the value
//	http.path:"/a b"   a dotted path leads into objects
//
// Upper and lower case are the same. An error is a miosa.Invalid for the
// person who wrote it.
func ParseSearch(q string) (Search, error) {
	if len(q) > maxSearch {
		return Search{}, miosa.Errorf(miosa.Invalid, "may have at most %d bytes, it has %d", maxSearch, len(q))
	}
	if !utf8.ValidString(q) {
		return Search{}, miosa.Errorf(miosa.Invalid, "must be UTF-8")
	}
	var s Search
	for {
		q = strings.TrimLeftFunc(q, unicode.IsSpace)
		if q == "" {
			return s, nil
		}
		if len(s.terms) == maxTerms {
			return Search{}, miosa.Errorf(miosa.Invalid, "may have at most %d terms", maxTerms)
		}
		t, rest, err := parseTerm(q)
		if err != nil {
			return Search{}, err
		}
		s.terms = append(s.terms, t)
		q = rest
	}
}

// parseTerm reads the first term of q, which begins with it.
func parseTerm(q string) (t term, rest string, err error) {
	if q[0] == '-' && len(q) > 1 {
		// A dash alone, before a space, is a word.
		if r, _ := utf8.DecodeRuneInString(q[1:]); !unicode.IsSpace(r) {
			t.not, q = true, q[1:]
		}
	}
	end := strings.IndexFunc(q, unicode.IsSpace)
	if end < 0 {
		end = len(q)
	}
	text, rest := q[:end], q[end:]
	if key, value, ok := strings.Cut(text, ":"); ok && isKey(key) && value != "" && !strings.HasPrefix(value, "//") {
		t.key, text = strings.ToLower(key), value
		q = q[len(key)+1:]
	}
	if q[0] == '"' {
		if text, rest, err = parseQuoted(q); err != nil {
			return term{}, "", err
		}
	}
	t.text = lowered(text)
	if t.key == "" {
		t.finder = newFinder(t.text)
	} else {
		t.keys, t.values = aliases(t.key, t.text)
		if n := t.needle(); n != "" {
			t.finder = newFinder(n)
		}
	}
	return t, rest, nil
}

// parseQuoted reads the phrase that q begins with.
func parseQuoted(q string) (text, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(q); i++ {
		switch c := q[i]; {
		case c == '"' && b.Len() == 0:
			return "", "", miosa.Errorf(miosa.Invalid, `holds an empty phrase: write something between the quotes`)
		case c == '"':
			return b.String(), q[i+1:], nil
		case c == '\\' && i+1 < len(q) && (q[i+1] == '"' || q[i+1] == '\\'):
			i++
			b.WriteByte(q[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", miosa.Errorf(miosa.Invalid, `has a quote that is not closed: "…`)
}

// isKey tells a key from the beginnings of 12:30 and http://.
func isKey(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || lower[c] >= 'a' && lower[c] <= 'z'
		if !letter && (i == 0 || c != '.' && c != '-' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != ""
}

// levelKeys are the names that loggers give the level; levelNames those that
// they give the same level.
var (
	levelKeys  = []string{"level", "lvl", "severity"}
	levelNames = [][]string{{"warn", "warning"}, {"err", "error"}, {"info", "information"}, {"crit", "critical"}, {"dbg", "debug"}}
)

func aliases(key, value string) (keys, values []string) {
	keys, values = []string{key}, []string{value}
	for _, k := range levelKeys {
		if k != key {
			continue
		}
		keys = levelKeys
		for _, names := range levelNames {
			for _, name := range names {
				if name == value {
					values = names
				}
			}
		}
	}
	return keys, values
}

// Empty reports whether it matches every line.
func (s Search) Empty() bool { return len(s.terms) == 0 }

// Match reports whether the line holds every term. It takes time in proportion
// to the line for each term, and allocates nothing.
func (s Search) Match(text []byte) bool {
	for i := range s.terms {
		t := &s.terms[i]
		if t.holds(text) == t.not {
			return false
		}
	}
	return true
}

func (t *term) holds(text []byte) bool {
	if t.finder != nil && !t.finder.in(text) {
		return false
	}
	return t.key == "" || hasValue(text, t.keys, t.values)
}

// Needles are lower-case texts that every line which matches contains, in
// whatever case: what a store may skip lines by. They are ASCII.
func (s Search) Needles() []string {
	var all []string
	for _, t := range s.terms {
		if n := t.needle(); n != "" && !t.not {
			all = append(all, n)
		}
	}
	return all
}

// needle is ASCII that every line with the term contains; "": none is known.
func (t *term) needle() string {
	text := t.text
	if t.key != "" {
		if text = inAll(t.values); !unescaped(text) {
			return "" // the line may have it with escapes
		}
	}
	return longestASCII(text)
}

// inAll is the shortest of the values if it is in all of them, else "".
func inAll(values []string) string {
	short := values[0]
	for _, v := range values {
		if len(v) < len(short) {
			short = v
		}
	}
	for _, v := range values {
		if !strings.Contains(v, short) {
			return ""
		}
	}
	return short
}

// plain reports whether nobody writes the character of a JSON string as an
// escape: a value that has one so is not found by its key.
func plain(c byte) bool {
	return c >= ' ' && c < 0x7f && strings.IndexByte("\"\\/<>&'=+`", c) < 0
}

func unescaped(s string) bool {
	for i := range len(s) {
		if !plain(s[i]) {
			return false
		}
	}
	return true
}

func longestASCII(s string) string {
	best, from := "", 0
	for i := 0; i <= len(s); i++ {
		if i == len(s) || s[i] >= utf8.RuneSelf {
			if i-from > len(best) {
				best = s[from:i]
			}
			from = i + 1
		}
	}
	return best
}

// lower maps the ASCII letters to their lower case, other bytes to themselves.
var lower = func() (t [256]byte) {
	for i := range t {
		t[i] = byte(i)
		if i >= 'A' && i <= 'Z' {
			t[i] = byte(i) + 'a' - 'A'
		}
	}
	return t
}()

// fold is what upper and lower case have in common. ASCII stays ASCII and
// nothing else becomes it, so that bytes can be searched for an ASCII word.
func fold(r rune) rune {
	if r < utf8.RuneSelf {
		return rune(lower[r])
	}
	if l := unicode.ToLower(r); l >= utf8.RuneSelf {
		return l
	}
	return r
}

func lowered(s string) string { return strings.Map(fold, s) }

// decode is utf8.DecodeRune, folded. A byte that is no UTF-8 is like no rune.
func decode(b []byte) (rune, int) {
	if b[0] < utf8.RuneSelf {
		return rune(lower[b[0]]), 1
	}
	r, n := utf8.DecodeRune(b)
	if r == utf8.RuneError && n == 1 {
		return -1, 1
	}
	return fold(r), n
}

// finder finds one text in many lines, upper and lower case alike.
type finder struct {
	text  []byte
	exact bool    // no case to ignore
	runes []rune  // of a text that is not ASCII
	part  *finder // of what is ASCII in such a text; nil: nothing
	// border of each beginning of text (or runes): the length of the longest
	// proper beginning that is also its end (Knuth, Morris, Pratt).
	border []int
	rare   int // index in text of the byte that lines hold least often
}

func newFinder(text string) *finder {
	f := &finder{text: []byte(text), exact: true}
	ascii := true
	for _, r := range text {
		ascii = ascii && r < utf8.RuneSelf
		f.exact = f.exact && !cased(r)
	}
	if f.exact {
		return f
	}
	if !ascii {
		f.runes = []rune(text)
		f.border = borders(f.runes)
		if part := longestASCII(text); part != "" {
			f.part = newFinder(part)
		}
		return f
	}
	f.border = borders(f.text)
	for i, c := range f.text {
		if rarity(c) < rarity(f.text[f.rare]) {
			f.rare = i
		}
	}
	return f
}

// cased reports whether another rune than r folds to r.
func cased(r rune) bool {
	for o := unicode.SimpleFold(r); o != r; o = unicode.SimpleFold(o) {
		if fold(o) == r {
			return true
		}
	}
	// A few have a lower case that is not their simple fold.
	return unicode.ToUpper(r) != r || unicode.ToTitle(r) != r
}

func borders[T comparable](text []T) []int {
	b := make([]int, len(text))
	k := 0
	for i := 1; i < len(text); i++ {
		for k > 0 && text[i] != text[k] {
			k = b[k-1]
		}
		if text[i] == text[k] {
			k++
		}
		b[i] = k
	}
	return b
}

// common are the bytes of log lines, the most frequent first; by eye, over
// JSON, logfmt and access logs.
const common = " e0\"1t2a:ion3srl-/4c,.5d6m879ph=ug{}_f[]bvyw()kxTjz'qIESORA"

// rarity is lower for what is rarer. A letter is looked for twice, as it has two cases.
func rarity(c byte) int {
	n := strings.IndexByte(common, c)
	if n < 0 {
		return 0
	}
	if c >= 'a' && c <= 'z' {
		return 2 * (len(common) - n)
	}
	return len(common) - n
}

func (f *finder) in(line []byte) bool {
	switch {
	case f.exact:
		return bytes.Contains(line, f.text)
	case f.runes != nil:
		return (f.part == nil || f.part.in(line)) && f.inRunes(line)
	case len(line) < len(f.text):
		return false
	}
	// The rare byte can stand in hay only. Each of its two cases is looked for
	// on its own, which the machine does many bytes at a time.
	hay := line[f.rare : len(line)-len(f.text)+f.rare+1]
	c := f.text[f.rare]
	upper := c
	if c >= 'a' && c <= 'z' {
		upper = c - 'a' + 'A'
	}
	low, up := bytes.IndexByte(hay, c), -1
	if upper != c {
		up = bytes.IndexByte(hay, upper)
	}
	work := 4*len(line) + 64
	for low >= 0 || up >= 0 {
		at := low
		if low < 0 || up >= 0 && up < low {
			at = up
		}
		n := agree(line[at:at+len(f.text)], f.text)
		if n == len(f.text) {
			return true
		}
		// A text that almost matches again and again would take its length
		// for each byte of the line.
		if work -= n; work < 0 {
			return f.inBytes(line[at:])
		}
		if at == low {
			low = after(hay, c, at)
		} else {
			up = after(hay, upper, at)
		}
	}
	return false
}

// after is where c is next in hay, behind at.
func after(hay []byte, c byte, at int) int {
	n := bytes.IndexByte(hay[at+1:], c)
	if n < 0 {
		return n
	}
	return at + 1 + n
}

// agree is how many bytes of a are those of b, which is lower case and as long.
func agree[T []byte | string](a []byte, b T) int {
	b = b[:len(a)]
	for i, c := range a {
		if lower[c] != b[i] {
			return i
		}
	}
	return len(a)
}

func (f *finder) inBytes(line []byte) bool {
	k := 0
	for _, c := range line {
		c = lower[c]
		for k > 0 && c != f.text[k] {
			k = f.border[k-1]
		}
		if c == f.text[k] {
			k++
		}
		if k == len(f.text) {
			return true
		}
	}
	return false
}

func (f *finder) inRunes(line []byte) bool {
	k := 0
	for len(line) > 0 {
		r, n := decode(line)
		line = line[n:]
		for k > 0 && r != f.runes[k] {
			k = f.border[k-1]
		}
		if r == f.runes[k] {
			k++
		}
		if k == len(f.runes) {
			return true
		}
	}
	return false
}
