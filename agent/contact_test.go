package agent

import (
	"os"
	"path/filepath"
	"testing"
)

// When control was heard is taken up by the next process, unless the machine has
// started anew since, or what is there makes no sense: then it was never heard.
func TestContactIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), contactFile)
	opened := func() *contact {
		t.Helper()
		c := &contact{path: path}
		if err := c.open(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	sent := uptime()
	c := opened()
	if never := c.ago(); never < sent {
		t.Errorf("nothing is known, and it was heard %s ago", never)
	}
	if err := c.acknowledged(sent); err != nil {
		t.Fatal(err)
	}
	if c.ago() > uptime()-sent {
		t.Errorf("just heard, %s ago", c.ago())
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("nobody goes by it, and it is written: %v", err)
	}
	if err := c.need(1); err != nil {
		t.Fatal(err)
	}
	if again := opened(); again.sent.Load() != int64(sent) {
		t.Errorf("kept is %d, not %d", again.sent.Load(), sent)
	}
	sent++
	if err := c.acknowledged(sent); err != nil {
		t.Fatal(err)
	}
	if again := opened(); again.sent.Load() != int64(sent) {
		t.Errorf("kept is %d, not %d", again.sent.Load(), sent)
	}
	if err := c.need(-1); err != nil {
		t.Fatal(err)
	}
	if err := c.acknowledged(sent + 1); err != nil {
		t.Fatal(err)
	}
	if again := opened(); again.sent.Load() != int64(sent) {
		t.Errorf("nobody goes by it any more, and kept is %d, not %d", again.sent.Load(), sent)
	}
	for _, text := range []string{
		`{"boot":"another","sent_ns":1}`, `{"boot":"` + c.boot + `","sent_ns":4611686018427387904}`, ``, `{`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if again := opened(); again.sent.Load() != 0 {
			t.Errorf("%s: taken for %d", text, again.sent.Load())
		}
	}
	if err := os.WriteFile(path, []byte(`{"boot":"`+c.boot+`","sent_ns":7}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := opened(); again.sent.Load() != 7 {
		t.Errorf("the file's shape is not read any more: %d", again.sent.Load())
	}
}
