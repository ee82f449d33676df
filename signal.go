package miosa

import (
	"slices"
	"strconv"
	"strings"
)

// signals are those that an app can be asked to end with, and their numbers on
// Linux.
var signals = []signal{
	{"SIGHUP", 1}, {"SIGINT", 2}, {"SIGQUIT", 3}, {"SIGABRT", 6}, {"SIGKILL", 9}, {"SIGUSR1", 10}, {"SIGUSR2", 12},
	{"SIGALRM", 14}, {"SIGTERM", 15}, {"SIGCONT", 18}, {"SIGTSTP", 20}, {"SIGWINCH", 28}, {"SIGPWR", 30},
}

type signal struct {
	name   string
	number int
}

// realTime is SIGRTMIN's number by the C library, and lastSignal SIGRTMAX's.
const realTime, lastSignal = 34, 64

// ParseSignal is the proper name of a signal that an app may be asked to end
// with: from "SIGQUIT", "quit", "3", "SIGRTMIN+3" or "37", as images name them.
func ParseSignal(s string) (name string, ok bool) {
	s = strings.ToUpper(s)
	if n, err := strconv.Atoi(s); err == nil {
		for _, known := range signals {
			if known.number == n {
				return known.name, true
			}
		}
		if n >= realTime && n <= lastSignal {
			return "SIGRTMIN+" + strconv.Itoa(n-realTime), true
		}
		return "", false
	}
	if !strings.HasPrefix(s, "SIG") {
		s = "SIG" + s
	}
	n, ok := SignalNumber(s)
	if !ok {
		return "", false
	}
	if n >= realTime {
		return "SIGRTMIN+" + strconv.Itoa(n-realTime), true
	}
	return s, true
}

// SignalNumber is the number, on Linux, of a signal's proper name.
func SignalNumber(name string) (n int, ok bool) {
	if i := slices.IndexFunc(signals, func(s signal) bool { return s.name == name }); i >= 0 {
		return signals[i].number, true
	}
	for prefix, base := range map[string]int{"SIGRTMIN": realTime, "SIGRTMAX": lastSignal} {
		rest, found := strings.CutPrefix(name, prefix)
		if !found {
			continue
		}
		offset := 0
		if rest != "" {
			var err error
			if offset, err = strconv.Atoi(rest); err != nil || rest[0] != '+' && rest[0] != '-' {
				return 0, false
			}
		}
		if n := base + offset; n >= realTime && n <= lastSignal {
			return n, true
		}
	}
	return 0, false
}
