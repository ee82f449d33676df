package transfer

import (
	"encoding/base64"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

const (
	maxName  = 4096 // bytes
	maxDepth = 128
)

// Name is the place of an entry in what is copied, slash-separated; "." is the
// thing itself. It is any bytes, as Linux has it, and base64 in JSON, which is not.
type Name string

// MarshalText implements encoding.TextMarshaler.
func (n Name) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, []byte(n)), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (n *Name) UnmarshalText(text []byte) error {
	b, err := base64.StdEncoding.AppendDecode(nil, text)
	*n = Name(b)
	return err
}

// check is an error unless the name leads to somewhere below the thing itself, or
// to it.
func (n Name) check() error {
	if len(n) > maxName {
		return fmt.Errorf("the name %q... has %d bytes; at most %d are copied", n[:64], len(n), maxName)
	}
	parts := n.parts()
	if len(parts) > maxDepth {
		return fmt.Errorf("the name %q... lies %d directories deep; at most %d are copied", n[:64], len(parts), maxDepth)
	}
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.ContainsAny(p, "\x00"+string(filepath.Separator)) {
			return fmt.Errorf("the name %q is not one of a file in what is copied", n)
		}
	}
	return nil
}

// baseName is the name that what lies at a path is known by; "": it has none.
func baseName(at string) Name {
	at = strings.TrimRight(filepath.ToSlash(at), "/")
	base := at[strings.LastIndexByte(at, '/')+1:]
	if base == "." || base == ".." {
		return ""
	}
	return Name(base)
}

func (n Name) parts() []string {
	if n == "." {
		return nil
	}
	return strings.Split(string(n), "/")
}

// compare orders names as they are sent.
func (n Name) compare(m Name) int { return slices.Compare(n.parts(), m.parts()) }

func (n Name) dir() Name { return Name(path.Dir(string(n))) }

func (n Name) join(base string) Name { return Name(path.Join(string(n), base)) }

// above tells whether n is a directory that m lies in, or m itself.
func (n Name) above(m Name) bool {
	return n == "." || n == m || strings.HasPrefix(string(m), string(n)+"/")
}
