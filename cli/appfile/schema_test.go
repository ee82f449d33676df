package appfile_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/miosa/miosa/cli/appfile"
)

var update = flag.Bool("update", false, "write docs/miosa.schema.json anew")

const docs = "../../docs/"

func schema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(appfile.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(appfile.SchemaURL, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(appfile.SchemaURL)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// valid reports whether the schema takes a text; one that is no TOML is none.
func valid(t *testing.T, s *jsonschema.Schema, text string) error {
	t.Helper()
	var v map[string]any
	if err := toml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return s.Validate(v)
}

// TestSchemaIsCurrent: what the documents carry is what the types say.
func TestSchemaIsCurrent(t *testing.T) {
	path := docs + "miosa.schema.json"
	if *update {
		if err := os.WriteFile(path, appfile.Schema(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, appfile.Schema()) {
		t.Errorf("docs/miosa.schema.json is not current (%v): run go test ./cli/appfile -run TestSchemaIsCurrent -update", err)
	}
}

// TestExamplesAreValid: what there is of files here is taken by the schema and
// by the reader.
func TestExamplesAreValid(t *testing.T) {
	s := schema(t)
	texts := map[string]string{"shop": shop}
	for _, pattern := range []string{"draft/testdata/*.toml", "../../examples/*/miosa.toml", "../../examples/real/*/miosa.toml"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			texts[path] = string(raw)
		}
	}
	page, err := os.ReadFile(docs + "miosa-toml.md")
	if err != nil {
		t.Fatal(err)
	}
	for n, part := range strings.Split(string(page), "```toml\n")[1:] {
		texts["docs/miosa-toml.md "+string(rune('1'+n))], _, _ = strings.Cut(part, "```")
	}
	if len(texts) < 6 {
		t.Errorf("%d files only", len(texts))
	}
	for name, text := range texts {
		if err := valid(t, s, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := appfile.Parse(name, []byte(text)); err != nil {
			t.Error(err)
		}
	}
}

// TestSchemaRefuses what the reader refuses for its form.
func TestSchemaRefuses(t *testing.T) {
	s := schema(t)
	for _, text := range []string{
		"nam = \"x\"", "name = 3", "name = \"\"", "required_variables = \"A\"", "required_variables = [\"1x\"]", "variables.A = 1", "variables.\"a b\" = \"x\"",
		"services.web.prot = 80", "services.web.port = 0", "services.web.port = 70000", "services.web.port = \"80\"", "services.Web = {}", "services.web = 3",
		"services.web.type = \"cron\"", "services.web.health.interval = 5", "services.web.health.interval = \"soon\"", "services.web.health.headers.A = 1",
		"services.web.restart.policy = \"on-failure\"", "services.web.resources.memory_mb = 63", "services.web.size = \"big\"", "services.web.regions = [1]",
		"services.web.health.threshold = 101", "services.web.replicas = -1", "services.web.resources.egress_mbps = 400001", "services.web.sticky.kind = \"x\"",
	} {
		if valid(t, s, text) == nil {
			t.Errorf("the schema takes %s", text)
		}
		if _, err := appfile.Parse("f", []byte(text)); err == nil {
			t.Errorf("the reader takes %s", text)
		}
	}
}
