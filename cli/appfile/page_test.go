package appfile_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/miosa/miosa/cli/appfile"
)

// TestPage: the documents' page has every key, as the types say.
func TestPage(t *testing.T) {
	path := docs + "miosa-toml.md"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- keys: go test ./cli/appfile -run TestPage -update -->\n", "<!-- /keys -->"
	before, rest, ok := strings.Cut(string(raw), begin)
	_, after, closed := strings.Cut(rest, end)
	if !ok || !closed {
		t.Fatal("docs/miosa-toml.md has no place for the keys")
	}
	var b strings.Builder
	for _, table := range appfile.Tables() {
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n| key | what it is | value | default | example |\n|---|---|---|---|---|\n", table.Title, table.Doc)
		for _, k := range table.Keys {
			value := k.Kind()
			if r := k.Range(); r != "" {
				value += ", " + r
			} else if k.Max != "" {
				value += ", at most " + k.Max
			}
			example := k.Sample()
			if _, err := appfile.Parse("f", []byte(table.In(k.Name+" = "+example))); err != nil {
				t.Errorf("the example of %s%s: %v", table.Prefix, k.Name, err)
			}
			fmt.Fprintf(&b, "| `%s%s` | %s | %s | %s | `%s = %s` |\n", table.Prefix, k.Name, k.Doc, value, k.Default, k.Name, example)
		}
	}
	whole := before + begin + b.String() + "\n" + end + after
	if *update {
		if err := os.WriteFile(path, []byte(whole), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if whole != string(raw) {
		t.Error("docs/miosa-toml.md does not have the keys as they are: run go test ./cli/appfile -run TestPage -update")
	}
}
