package logs_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

func parse(t testing.TB, q string) logs.Search {
	t.Helper()
	s, err := logs.ParseSearch(q)
	if err != nil {
		t.Fatalf("%q: %v", q, err)
	}
	return s
}

func TestSearch(t *testing.T) {
	object := `{"level":"WARN","msg":"Timeout after 30s","http":{"path":"/a b","status":500,"ok":true},"a.b":"dotted","tags":["x"],"n":null,"u":"\u00e4\"q\n"}`
	pairs := `ts=12 Level=error msg="no such file" path=/etc x.y=1 empty= user="O\"Hara"`
	for _, c := range []struct {
		line, yes, no string // searches, by |
	}{
		{"GET /index.html 12:30 took 5ms", `get|INDEX|/index|12:30|"took 5ms"|-nothing|get -post| | took  get |"GET /"`, `post|-get|get post|"get took"`},
		{"see http://x.y/z: done - at last", `http://x.y|HTTP://X|z:|done -|"-"|last`, `-http://x|https://x|-last`},
		{`say "hi" \ there`, `"say \"hi\""|"\\"`, `"say hi"`},
		{"Straße ÄRGER 日本語", `äRGER|straße|日本|"ärger 日"`, `arger|ärgers|日語`},
		{object, `level:warn|LEVEL:Warning|severity:warn|level:"warn"|http.status:500|http.ok:true|http.path:"/a b"|a.b:dotted|n:null|u:"ä\"q` + "\n" + `"|-level:error|timeout level:warn`,
			`level:error|http.status:50|status:500|tags:x|http:500|a:dotted|msg:timeout|-level:warn|level:wa`},
		{pairs, `level:err|level:ERROR|msg:"no such file"|path:/etc|x.y:1|ts:12|user:"o\"hara"|-level:warn`, `level:warn|msg:no|such:file|path:etc|empty:x|-msg:"no such file"`},
		{`{"lvl":"err","broken":`, `lvl:error`, `broken:x`},
		{`{"a":{"a":{"b":1}},"c":"\u0061"}`, `a.a.b:1`, `a.b:1|c:a`},
		{"", ` |-x`, `x|level:error`},
		{"\xff\x00odd\xfe", `odd`, `ödd`},
		{"a=1\x01b=2 \x00", `b:2|a:1`, `b:1`},
	} {
		for q := range strings.SplitSeq(c.yes, "|") {
			if !parse(t, q).Match([]byte(c.line)) {
				t.Errorf("%q does not find %q", q, c.line)
			}
		}
		for q := range strings.SplitSeq(c.no, "|") {
			if parse(t, q).Match([]byte(c.line)) {
				t.Errorf("%q finds %q", q, c.line)
			}
		}
	}
}

func TestSearchThatIsWrong(t *testing.T) {
	for q, words := range map[string]string{
		`"open`: "not closed", `a:"open`: "not closed", `""`: "empty phrase", `k:""`: "empty phrase", "\xff": "UTF-8",
		strings.Repeat("x", 1001): "1000 bytes", strings.Repeat("x ", 33): "32 terms",
	} {
		_, err := logs.ParseSearch(q)
		if miosa.CodeOf(err) != miosa.Invalid || !strings.Contains(err.Error(), words) {
			t.Errorf("%.20q: %v", q, err)
		}
	}
	parse(t, strings.Repeat("x", 1000))
	parse(t, strings.Repeat("x ", 32))
}

func TestNeedles(t *testing.T) {
	for q, want := range map[string]string{
		"": "[]", `Foo "B ar" -baz`: `["foo" "b ar"]`, "level:warn": `["warn"]`, "level:dbg": "[]", "a:b/c": "[]", "-a:b ärger": `["rger"]`, "日本": "[]", "k:V": `["v"]`,
	} {
		if got := fmt.Sprintf("%q", parse(t, q).Needles()); got != want {
			t.Errorf("%q: %s, want %s", q, got, want)
		}
	}
}

// fold is a plain reading of what upper and lower case have in common.
func fold(s string) string {
	var b strings.Builder
	for s != "" {
		r, n := utf8.DecodeRuneInString(s)
		switch l := unicode.ToLower(r); {
		case r == utf8.RuneError && n == 1:
			b.WriteByte(s[0])
		case r < utf8.RuneSelf || l >= utf8.RuneSelf:
			b.WriteRune(l)
		default:
			b.WriteRune(r)
		}
		s = s[n:]
	}
	return b.String()
}

// TestSearchAgreesWithTheObvious: words and phrases, over an alphabet that
// makes near misses likely.
func TestSearchAgreesWithTheObvious(t *testing.T) {
	letters := rapid.SampledFrom([]string{"a", "A", "b", "é", "É", "ſ", "s", "K", "k", "İ", "i", "ς", "Σ", "1", ".", "日", "\xff", "\xe6", "\x97"})
	rapid.Check(t, func(t *rapid.T) {
		word := strings.ToValidUTF8(strings.Join(rapid.SliceOfN(letters, 1, 5).Draw(t, "word"), ""), "x")
		line := strings.Join(rapid.SliceOfN(letters, 0, 40).Draw(t, "line"), "")
		s, err := logs.ParseSearch(`"` + word + `"`)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := s.Match([]byte(line)), strings.Contains(fold(line), fold(word)); got != want {
			t.Fatalf("%q in %q: %v, want %v", word, line, got, want)
		}
	})
}

// TestValuesAgreeWithEncodingJSON: what an object holds is found, whatever is beside it.
func TestValuesAgreeWithEncodingJSON(t *testing.T) {
	key := rapid.StringMatching(`[a-c]{1,2}`)
	rapid.Check(t, func(t *rapid.T) {
		var object func(depth int) map[string]any
		object = func(depth int) map[string]any {
			m := map[string]any{}
			for range rapid.IntRange(0, 4).Draw(t, "n") {
				switch k := key.Draw(t, "key"); rapid.IntRange(0, 3-min(depth, 1)).Draw(t, "kind") {
				case 0:
					m[k] = rapid.String().Draw(t, "value")
				case 1:
					m[k] = rapid.IntRange(0, 3).Draw(t, "number")
				case 2:
					m[k] = []any{"x", map[string]any{"a": 1}}
				default:
					m[k] = object(depth + 1)
				}
			}
			return m
		}
		o := object(0)
		line, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		a, b := key.Draw(t, "a"), key.Draw(t, "b")
		want, path := o[a], a
		if inner, ok := want.(map[string]any); ok {
			want, path = inner[b], a+"."+b
		}
		value := fmt.Sprint(want)
		switch want.(type) {
		case string, int:
		default:
			value = "nothing of the kind"
		}
		if value == "" || len(value) > 500 || !utf8.ValidString(value) {
			return
		}
		q := path + `:"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value) + `"`
		s, err := logs.ParseSearch(q)
		if err != nil {
			t.Fatal(err)
		}
		_, isText := want.(string)
		_, isNumber := want.(int)
		if got := s.Match(line); got != (isText || isNumber) {
			t.Fatalf("%s in %s: %v", q, line, got)
		}
		for _, n := range s.Needles() {
			if s.Match(line) && !bytes.Contains(bytes.ToLower(line), []byte(n)) {
				t.Fatalf("%s matches %s without %q", q, line, n)
			}
		}
	})
}

func TestMatchAllocatesNothing(t *testing.T) {
	s := parse(t, `error "no such" -debug ärger level:error http.path:"/x y" -`+strings.Repeat("long", 20)+`:v`)
	for _, line := range []string{
		strings.Repeat("error no such ÄRGER ", 20), `{"level":"error","http":{"path":"\/x y"},"m":"error no such ärger"}`, `level=error msg="no such error ärger"`,
	} {
		if n := testing.AllocsPerRun(100, func() { s.Match([]byte(line)[:len(line)]) }); n > 1 { // the conversion of the line
			t.Errorf("%v allocations for %.30q", n, line)
		}
	}
}

// TestMatchIsLinear: a text that nearly occurs everywhere is done with in time
// that a test can wait for.
func TestMatchIsLinear(t *testing.T) {
	line := bytes.Repeat([]byte("ab"), logs.MaxText/2)
	for _, q := range []string{
		strings.Repeat("ab", 400) + "b", "bb" + strings.Repeat("ab", 400), strings.Repeat("aB", 200) + "ä", strings.Repeat("a.b.", 100) + "c:1",
		strings.Repeat("x ", 31) + "x",
	} {
		s := parse(t, q)
		for range 30 {
			if s.Match(line) {
				t.Fatalf("%.20q is found", q)
			}
		}
	}
	deep := []byte(strings.Repeat(`{"a":`, logs.MaxText/5))
	if parse(t, strings.Repeat("a.", 400)+"b:1").Match(deep) {
		t.Error("found in what is no JSON")
	}
}

func FuzzParseSearch(f *testing.F) {
	for _, q := range []string{`a "b c" -d`, `level:error`, `-k:"v w"`, `http://x 12:30`, `"`, `a.b:"\"" -`, `ärger`, `"" x:`} {
		f.Add(q, []byte(`{"a":{"b":"\""},"level":"err"}`))
		f.Add(q, []byte(`level=error k="v w" Ärger http://x`))
	}
	// What nobody writes who means well.
	for _, line := range []string{
		strings.Repeat(`{"a":`, 200), strings.Repeat(`[`, 200), `{"a":"\ud800\udc00\ud800","a":"\"}`, "\x00\xff\xfe\x80", "\x1b[2J\u202egro\u2066", `a="`, `a=b=c="d"e`,
		"İıſK\u0130", strings.Repeat("ab", 300) + "b", `{"level":"\u0065rror"}`, "{\"k\":1e9999,\"k\":-0}", "\u2028k=v\u00a0w",
	} {
		for _, q := range []string{"a.a.a:b", strings.Repeat("ab", 40) + "b", "-level:error", `k:"\""`, "ıſK", "level:err İ"} {
			f.Add(q, []byte(line))
		}
	}
	f.Fuzz(func(t *testing.T, q string, line []byte) {
		s, err := logs.ParseSearch(q)
		if err != nil {
			if miosa.CodeOf(err) != miosa.Invalid {
				t.Fatalf("%q: %v", q, err)
			}
			return
		}
		found := s.Match(line)
		if len(s.Needles()) > 32 {
			t.Fatalf("%d needles", len(s.Needles()))
		}
		for _, n := range s.Needles() {
			if found && !bytes.Contains(bytes.ToLower(line), []byte(n)) {
				t.Fatalf("%q finds %q, which has no %q", q, line, n)
			}
		}
		// Plain words have an obvious meaning.
		if strings.ContainsAny(q, `":-`) {
			return
		}
		want := true
		for word := range strings.FieldsSeq(q) {
			want = want && strings.Contains(fold(string(line)), fold(word))
		}
		if found != want {
			t.Fatalf("%q in %q: %v, want %v", q, line, found, want)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	line := []byte(`2026-03-01T12:30:45.123456Z INFO request served method=GET path=/api/v1/deployments/hello status=200 duration=12.5ms bytes=5120 remote=10.0.0.12 agent="curl/8.5"`)
	object := []byte(`{"time":"2026-03-01T12:30:45.123456Z","level":"info","msg":"request served","http":{"method":"GET","path":"/api/v1/deployments","status":200},"duration_ms":12.5}`)
	for _, c := range []struct {
		name, q string
		line    []byte
	}{
		{"absent", "timeout", line}, {"absent-json", "exception", object}, {"digits", "504", line}, {"phrase", `"connection refused"`, line},
		{"unicode", "ärger", line}, {"pairs", "level:error", line}, {"json", "http.status:500", object},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := parse(b, c.q)
			b.SetBytes(int64(len(c.line)))
			b.ReportAllocs()
			for b.Loop() {
				if s.Match(c.line) {
					b.Fatal("found")
				}
			}
		})
	}
}
