package pebble

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	lsm "github.com/cockroachdb/pebble/v2"
	"pgregory.net/rapid"

	"github.com/miosa/miosa/logs"
)

// texts are near misses: few letters, with others that look like them.
var texts = rapid.Custom(func(t *rapid.T) string {
	return string(rapid.SliceOfN(rapid.SampledFrom([]rune("aAbBkKſKİi\"z1 :äÄ")), 0, 24).Draw(t, "runes"))
})

func searchOf(t *rapid.T) (string, logs.Search) {
	q := texts.Draw(t, "search")
	s, err := logs.ParseSearch(q)
	if err != nil {
		t.Skip(err)
	}
	return q, s
}

// TestNothingIsPassedOver: what a search matches has its needles, and its
// letters, byte by byte.
func TestNothingIsPassedOver(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q, s := searchOf(t)
		text := []byte(texts.Draw(t, "text"))
		if rapid.Bool().Draw(t, "planted") {
			text = append(text, strings.ToUpper(q)...)
		}
		if !s.Match(text) {
			return
		}
		p := pass{reading: &reading{needles: needles(s.Needles())}}
		if !p.may(text) {
			t.Fatalf("%q is in %q, without its needles", q, text)
		}
		var all trigrams
		all.add(text)
		all.tidy()
		if value := appendLetters(nil, all.take(nil)); !want(p.needles).in(value) {
			t.Fatalf("%q is in %q, without its letters", q, text)
		}
	})
}

// TestTrigrams holds the set of bits against a plain one.
func TestTrigrams(t *testing.T) {
	isLetter := func(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-zA-Z@\[\x60{0 ]{0,40}`)).Draw(t, "text")
		plain := map[string]bool{}
		for i := 0; i+3 <= len(text); i++ {
			if three := text[i : i+3]; isLetter(three[0]) && isLetter(three[1]) && isLetter(three[2]) {
				plain[strings.ToLower(three)] = true
			}
		}
		var set trigrams
		set.add([]byte(text))
		set.tidy()
		var have []string
		anything, err := eachLetters(appendLetters(nil, set.take(nil)), func(at uint16) {
			have = append(have, string([]byte{'`' + byte(at>>10), '`' + byte(at>>5&31), '`' + byte(at&31)}))
		})
		if err != nil || anything || len(have) != len(plain) || slices.ContainsFunc(have, func(s string) bool { return !plain[s] }) {
			t.Fatalf("%q has %v, want %v (%v)", text, have, plain, err)
		}
	})
}

func TestDamagedLetters(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "value")
		_, _ = eachLetters(value, func(at uint16) {
			if at >= everything {
				t.Fatalf("trigram %d", at)
			}
		})
	})
}

// found is what a search finds, oldest first, with the text of each line.
func found(t *testing.T, s *Store, q logs.Query) (all []string) {
	t.Helper()
	for e, err := range s.Read(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, fmt.Sprintf("%s/%d %s", e.Origin.InstanceID, e.Position.Seq, e.Text))
	}
	return all
}

// TestSearchFindsWhatAScanFinds: over many instances, hours and days, in memory,
// in tables, after a restart, in both directions, in parts or as a whole.
func TestSearchFindsWhatAScanFinds(t *testing.T) {
	words := []string{"xylophone", "Timeout", "x1y", "ab", "Lophon", "äöü", "level=warn", "504", `{"level":"error"}`, "deadline", "XYLOPHONE2"}
	searches := []string{
		"xylophone", "XYLO", "lop", "timeout", `"out ab"`, "-timeout", "level:warn", "level:error -ab", "504", "ab", "äöü", "phone2", "absent", "deadline xylophone", "hon lop",
	}
	dir := t.TempDir()
	s := openIn(t, dir)
	defer func() { _ = s.Close() }()
	r := uint64(7)
	below := func(n int) int {
		r = r*6364136223846793005 + 1442695040888963407
		return int(r>>33) % n
	}
	seqs := map[string]uint64{}
	begin := time.Unix(1_800_000_000, 0)
	check := func() {
		t.Helper()
		all := logs.Query{Scope: logs.Scope{TenantID: "ten"}, Since: begin.Add(90 * time.Minute), Until: begin.Add(250 * time.Minute)}
		for _, scope := range []logs.Scope{{TenantID: "ten"}, {TenantID: "ten", DeploymentID: "dep"}, {TenantID: "ten", InstanceID: "ins_3"}, {TenantID: "ten", ServiceID: "svc"}, {TenantID: "other"}} {
			for _, q := range []logs.Query{{}, {Backward: true}, all} {
				q.Scope = scope
				plain := found(t, s, q)
				for _, text := range searches {
					search, err := logs.ParseSearch(text)
					if err != nil {
						t.Fatal(err)
					}
					want := slices.DeleteFunc(slices.Clone(plain), func(line string) bool {
						_, text, _ := strings.Cut(line, " ")
						return !search.Match([]byte(text))
					})
					q.Search = search
					if got := found(t, s, q); !slices.Equal(got, want) {
						t.Fatalf("%q in %+v finds %d lines, a scan %d", text, q, len(got), len(want))
					}
				}
			}
		}
	}
	for round := range 3 {
		for range 300 {
			instance := fmt.Sprintf("ins_%d", below(20))
			var line []string
			for range 1 + below(3) {
				line = append(line, words[below(len(words)-below(2))])
			}
			seqs[instance]++
			b := kept(instance, seqs[instance], begin.Add(time.Duration(seqs[instance])*17*time.Minute), strings.Join(line, " "))
			b.Days = 7 + below(2)
			if _, err := s.Append(t.Context(), []logs.Kept{b}); err != nil {
				t.Fatal(err)
			}
			if below(100) == 0 {
				clear(s.letters) // as when they are too many to remember
			}
		}
		check()
		switch round {
		case 0:
			if err := s.db.Do(func(db *lsm.DB) error { return db.Flush() }); err != nil {
				t.Fatal(err)
			}
		case 1:
			if err := s.db.Do(func(db *lsm.DB) error { return db.Compact(t.Context(), []byte{0}, []byte{0xff}, true) }); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openIn(t, dir)
		}
		check()
	}
	if err := s.Purge(t.Context(), "ten", "dep"); err != nil {
		t.Fatal(err)
	}
	it, err := s.db.NewIter(&lsm.IterOptions{LowerBound: []byte{kindLetters}, UpperBound: []byte{kindLetters + 1}})
	if err != nil {
		t.Fatal(err)
	}
	if it.First() {
		t.Errorf("letters of what was purged are left: %q", it.Key())
	}
	if err := it.Close(); err != nil {
		t.Fatal(err)
	}
	check()
}

// TestLettersOfTooManyKinds: an hour that holds nearly every trigram is read.
func TestLettersOfTooManyKinds(t *testing.T) {
	s := openIn(t, t.TempDir())
	defer s.Close()
	var all []string
	for a := range 26 {
		var b strings.Builder
		for c := range 26 {
			for d := range 26 {
				b.WriteString(string([]byte{'a' + byte(a), 'a' + byte(c), 'a' + byte(d), ' '}))
			}
		}
		all = append(all, b.String())
	}
	if _, err := s.Append(t.Context(), []logs.Kept{kept("ins", 1, time.Unix(0, 0), all...), kept("ins", 27, time.Unix(0, 0), "xyzzy")}); err != nil {
		t.Fatal(err)
	}
	search, err := logs.ParseSearch("xyzzy")
	if err != nil {
		t.Fatal(err)
	}
	if got := found(t, s, logs.Query{Scope: logs.Scope{TenantID: "ten", Search: search}}); len(got) != 1 {
		t.Errorf("found %q", got)
	}
	size := 0
	found, err := s.db.Get(lettersKey(bucket{30, 0}, names(nil, "ten", "dep", "svc", "ins")), func(value []byte) error {
		size = len(value)
		return nil
	})
	if !found || err != nil || size > 4*mostTrigrams {
		t.Errorf("the set takes %d bytes, %v", size, err)
	}
}

// TestStoreFromBeforeLetters: what it held is found, with what came since.
func TestStoreFromBeforeLetters(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir)
	at := time.Unix(1_800_000_000, 0)
	if _, err := s.Append(t.Context(), []logs.Kept{kept("ins", 1, at, "the old xylophone")}); err != nil {
		t.Fatal(err)
	}
	// As the format before left it.
	b := s.db.NewBatch()
	for _, err := range []error{
		b.DeleteRange([]byte{kindLetters}, []byte{kindLetters + 1}, nil),
		b.Delete(metaKey("plain"), nil),
		b.Set(metaKey("format"), binary.AppendUvarint(nil, 1), nil),
		s.db.Commit(b),
		s.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	search, err := logs.ParseSearch("xylophone")
	if err != nil {
		t.Fatal(err)
	}
	for n := uint64(2); n < 5; n++ {
		s = openIn(t, dir)
		if _, err := s.Append(t.Context(), []logs.Kept{kept("ins", n, at.Add(time.Second), "a new xylophone"), kept("ins2", 2*n, at.Add(5*time.Hour), "xylophone", "viola")}); err != nil {
			t.Fatal(err)
		}
		if got := found(t, s, logs.Query{Scope: logs.Scope{TenantID: "ten", Search: search}}); len(got) != 2*int(n)-1 {
			t.Errorf("found %q", got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
