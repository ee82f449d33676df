package main

import (
	"maps"
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

func TestParseVictoriaLogs(t *testing.T) {
	got, err := parseVictoriaLogs([]string{"7=http://127.0.0.1:9428", "30=https://logs.example/vl?x=1"})
	if err != nil || !maps.Equal(got, map[int]string{7: "http://127.0.0.1:9428", 30: "https://logs.example/vl?x=1"}) {
		t.Errorf("%v, %v", got, err)
	}
	if days := (&platformConfig{victoriaLogs: got}).longestDays(); days != 30 {
		t.Errorf("at most %d days", days)
	}
	if days := (&platformConfig{}).longestDays(); days != logs.MaxDays {
		t.Errorf("built in: at most %d days", days)
	}
	for _, wrong := range [][]string{{"http://127.0.0.1:9428"}, {"0=http://x"}, {"3651=http://x"}, {"x=http://x"}, {"7="}, {"7=http://x", "7=http://y"}} {
		if _, err := parseVictoriaLogs(wrong); miosa.CodeOf(err) != miosa.Invalid {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}
