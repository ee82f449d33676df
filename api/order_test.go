package api_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/miosa/miosa/api"
)

// All entries come, each once and by their names, and none after who takes them
// has enough.
func TestInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.MapOf(rapid.String(), rapid.Int()).Draw(t, "entries")
		most := rapid.IntRange(0, len(m)).Draw(t, "enough")
		var names []string
		for name, v := range api.InOrder(m) {
			if v != m[name] {
				t.Fatalf("%q has %d, not %d", name, v, m[name])
			}
			if names = append(names, name); len(names) == most {
				break
			}
		}
		want := slices.Sorted(maps.Keys(m))
		if most > 0 {
			want = want[:most]
		}
		if !slices.Equal(names, want) {
			t.Fatalf("%q, not %q", names, want)
		}
	})
}

// Who sends the same wrong request again reads the same words.
func TestFaultsComeInTheSameOrder(t *testing.T) {
	p := start(t, api.Config{})
	dep := p.deploy("x")
	long := strings.Repeat("x", 300)
	ids := map[string]any{"external_workspace_id": long, "external_user_id": long, "external_project_id": long, "project_id": long}
	headers, vars := map[string]any{}, map[string]any{}
	for name := range strings.FieldsSeq("h a g b f c e d") {
		headers["no header "+name], vars["no variable "+name] = "x", "x"
	}
	for name, try := range map[string]func() answer{
		"deployment": func() answer { return p.want(422, "PATCH", "/deployments/"+dep, ids) },
		"drain": func() answer {
			return p.want(422, "POST", "/log-drains", map[string]any{"url": "https://logs.example/in", "headers": headers})
		},
		"variables": func() answer {
			return p.want(422, "POST", "/deployments/"+dep+"/env", map[string]any{"env": vars})
		},
		"usage": func() answer {
			return p.want(422, "GET", "/usage/summary?since=1960-01-01&until=1961-01-01", nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			first := try()
			fields, _ := first.at("error.details.fields").([]any)
			if len(fields) < 2 {
				t.Fatalf("it names too little: %s", first.Raw)
			}
			for range 20 {
				if again := try(); again.text("message") != first.text("message") {
					t.Fatalf("%s\nthen\n%s", first.text("message"), again.text("message"))
				}
			}
		})
	}
}
