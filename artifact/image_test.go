package artifact

import (
	"fmt"
	"strings"
	"testing"
)

// What an archive's indexes say of images that do not run here is kept for one
// sentence, not for all of their length.
func TestOtherPlatformsAreNotPiledUp(t *testing.T) {
	var list []descriptor
	for i := range 1000 {
		d := descriptor{}
		d.Platform = &struct {
			OS           string `json:"os"`
			Architecture string `json:"architecture"`
		}{fmt.Sprintf("os%d", i%30), strings.Repeat("x", 1000)}
		list = append(list, d)
	}
	var others []string
	if err := collectManifests(&archive{}, list, 0, map[string]bool{}, map[string]descriptor{}, &others); err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, o := range others {
		size += len(o)
	}
	if len(others) == 0 || size > 4<<10 {
		t.Errorf("%d others, %d bytes", len(others), size)
	}
}
