package api_test

import (
	"io"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/miosa/miosa/api"
)

func slogTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

func TestSlugs(t *testing.T) {
	for name, want := range map[string]string{
		"Hello World!": "hello-world", "  a--b  ": "a-b", "Bob's shop": "bobs-shop", "x_y.z": "x-y-z", "-": "app-3973e022", "é": "app-4a99557e",
		strings.Repeat("a", 60): strings.Repeat("a", 40), strings.Repeat("a", 39) + " b": strings.Repeat("a", 39),
	} {
		if got := api.SlugOf(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.String().Draw(t, "name")
		slug := api.SlugOf(name)
		if !api.ValidSlug(slug) {
			t.Fatalf("%q gives %q, which is no slug", name, slug)
		}
		if api.SlugOf(slug) != slug {
			t.Fatalf("the slug of %q is %q", slug, api.SlugOf(slug))
		}
	})
}

func TestPreviewsReveal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value, secret := rapid.String().Draw(t, "value"), rapid.Bool().Draw(t, "secret")
		shown := []rune(strings.TrimRight(api.Preview(value, secret), "•"))
		if len(shown) > 2 || secret && len(shown) > 0 {
			t.Fatalf("%q is previewed as %q", value, api.Preview(value, secret))
		}
	})
}
