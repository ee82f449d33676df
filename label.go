package miosa

// MaxLabel is the longest key or value of a host's label, in bytes.
const MaxLabel = 63

// ValidLabel reports whether text may be the key or the value of a host's label:
// 1 to MaxLabel letters, digits and "-", "_", "." and "/", beginning with a letter
// or digit.
func ValidLabel(text string) bool {
	for n, c := range []byte(text) {
		switch {
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9':
		case n > 0 && (c == '-' || c == '_' || c == '.' || c == '/'):
		default:
			return false
		}
	}
	return text != "" && len(text) <= MaxLabel
}
