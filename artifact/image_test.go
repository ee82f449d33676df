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
			Variant      string `json:"variant"`
		}{fmt.Sprintf("os%d", i%30), strings.Repeat("x", 1000), ""}
		list = append(list, d)
	}
	c := collection{a: &archive{}}
	if err := c.collect(list, "", 0); err != nil {
		t.Fatal(err)
	}
	size := 0
	for _, o := range c.others {
		size += len(o)
	}
	if len(c.others) == 0 || size > 4<<10 {
		t.Errorf("%d others, %d bytes", len(c.others), size)
	}
}
