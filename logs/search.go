package logs

// Search is a parsed text search; the zero value matches every line.
type Search struct {
	terms []term
}

// term is one condition; all must hold.
type term struct {
	not  bool
	key  string // "": anywhere in the line
	text string // lower case, not empty
}

// Match reports whether the line holds every term.
func (s Search) Match(text []byte) bool { return len(s.terms) == 0 }

// Needles are lower-case texts that every line which matches contains, in
// whatever case: what a store may skip lines by.
func (s Search) Needles() []string { return nil }
