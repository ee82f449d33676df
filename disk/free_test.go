package disk_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/disk"
)

func TestRoom(t *testing.T) {
	var said strings.Builder
	var free, size uint64 = 100, 3000
	var fails error
	looks := 0
	g := &disk.Guard{
		Dir: "/d", Log: slog.New(slog.NewTextHandler(&said, nil)), Share: 100, Least: 16, Most: 64, What: "logs", Refused: "logs are not stored",
		Stat: func(string) (uint64, uint64, error) { looks++; return free, size, fails },
	}
	now := time.Unix(1000, 0)
	want := func(what string, code miosa.Code) {
		t.Helper()
		if err := g.Room(now); miosa.CodeOf(err) != code {
			t.Errorf("%s: %v, want %q", what, err, code)
		}
		now = now.Add(time.Second)
	}
	want("a hundredth is free", "")
	free = 29
	want("less than a hundredth", miosa.NoSpace)
	free = 30
	want("as much again, and no more", miosa.NoSpace)
	free = 31
	want("a sixteenth more", "")
	size, free = 100, 15
	want("less than the least of a small disk", miosa.NoSpace)
	size, free = 1<<40, 64+4
	want("the most of a large one", "")
	if n := strings.Count(said.String(), "level=ERROR"); n != 2 || strings.Count(said.String(), "has room again") != 2 {
		t.Errorf("said %d times:\n%s", n, said.String())
	}
	before := looks
	now = now.Add(-time.Second)
	for range 3 {
		if err := g.Room(now); err != nil || looks != before {
			t.Errorf("looked %d times more within a second, %v", looks-before, err)
		}
	}
	now, fails = now.Add(time.Hour), errors.New("gone")
	if err := g.Room(now); !errors.Is(err, fails) {
		t.Errorf("a disk that cannot be looked at: %v", err)
	}
	if free, size, err := disk.Stat(t.TempDir()); err != nil || size == 0 || free > size {
		t.Errorf("this disk: %d of %d, %v", free, size, err)
	}
}
