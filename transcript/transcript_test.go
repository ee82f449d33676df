package transcript

import (
	"errors"
	"testing"
	"time"
)

func echo(l Line) (string, error) {
	switch l.Word(0) {
	case "say":
		return l.Text("what", "nothing"), nil
	case "quiet":
		return "", nil
	}
	return "", errors.New("what is that?")
}

func TestPlay(t *testing.T) {
	for _, c := range []struct {
		name, script, played string
		diffs                int
	}{
		{"right", "say what=a\n----\na\n", "say what=a\n----\na\n", 0},
		{"wrong", "say what=a\n----\nb\n\nquiet\n", "say what=a\n----\na\n\nquiet\n", 1},
		{"missing", "say what=\"a b\"\n", "say what=\"a b\"\n----\na b\n", 1},
		{"too much", "quiet\n----\nb\n", "quiet\n", 1},
		{"several lines, comments", "# words\n\n# more\nsay\nquiet\nsay what=2\n----\nnothing\n2\n", "# words\n\n# more\nsay\nquiet\nsay what=2\n----\nnothing\n2\n", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			played, diffs, err := play(c.script, echo)
			if err != nil {
				t.Fatal(err)
			}
			if played != c.played || len(diffs) != c.diffs {
				t.Errorf("played %q with %d differences %q; want %q with %d", played, len(diffs), diffs, c.played, c.diffs)
			}
		})
	}
	if _, _, err := play("shout\n", echo); err == nil {
		t.Error("an unknown command passes")
	}
}

func TestLine(t *testing.T) {
	l := Line(`boot 3 after=1m30s n=7 why="out of memory" now`)
	if l.Word(1) != "3" || l.Word(2) != "now" || l.Word(3) != "" || !l.Has("now") || l.Has("n") {
		t.Errorf("words %q", l.Words())
	}
	if l.Int("n", 0) != 7 || l.Int("m", 5) != 5 || l.Duration("after", 0) != 90*time.Second || l.Text("why", "") != "out of memory" {
		t.Error("values are read wrongly")
	}
}
