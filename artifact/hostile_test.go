package artifact_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/artifact"
	. "github.com/miosa/miosa/artifact/artifacttest"
)

// A few kilobytes must not keep a processor busy for an hour: paths that go
// through long links, again and again, are refused at some point.
func TestLinksAreFollowedWithinLimits(t *testing.T) {
	var layer []Entry
	for i := range 39 {
		layer = append(layer, Symlink(fmt.Sprintf("l%d", i), strings.Repeat("./", 2000)+fmt.Sprintf("l%d", i+1)))
	}
	layer = append(layer, Dir("l39"))
	for i := range 300 {
		layer = append(layer, File(fmt.Sprintf("l0/f%d", i), ""))
	}
	s := newShelf(t)
	_, err := artifact.Receive(t.Context(), s, artifact.Upload{Kind: miosa.KindOCI, Body: strings.NewReader(string(Layout(Image{Layers: [][]byte{Tar(layer...)}})))}, artifact.Limits{})
	if miosa.CodeOf(err) != miosa.TooLarge || !strings.Contains(fmt.Sprint(err), "l0/f") {
		t.Errorf("received: %v", err)
	}
	if left := s.files(t); len(left) > 0 {
		t.Errorf("the store holds %v", left)
	}
	// An ordinary image has many, and short ones.
	layer = []Entry{Symlink("lib", "usr/lib"), Dir("usr/"), Symlink("usr/lib", "../opt/lib"), Dir("opt/lib/")}
	for i := range 10_000 {
		layer = append(layer, File(fmt.Sprintf("lib/f%d", i), ""))
	}
	receive(t, s, miosa.KindOCI, Zstd(Layout(Image{Layers: [][]byte{Tar(layer...)}})))
}

// Nor may a layer that hides what lies below it, over and over.
func TestHidingTwiceCostsOnce(t *testing.T) {
	const many = 60_000
	lower, upper := []Entry{File("d/old", "")}, []Entry{File("d/sub/new", "")}
	for i := range many {
		upper = append(upper, File(fmt.Sprintf("d/f%d", i), ""))
	}
	for range many {
		upper = append(upper, File("d/.wh..wh..opq", ""))
	}
	upper = append(upper, File(".wh.d", ""))
	s := newShelf(t)
	stored := receive(t, s, miosa.KindOCI, Zstd(Layout(Image{Layers: [][]byte{Tar(lower...), Tar(upper...)}})))
	if stored.Manifest.Files != many+1 {
		t.Errorf("%+v", stored.Manifest)
	}
}
