package sim

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/miosa/miosa/wire/guest"
)

// behaviour is what a command's words ask of the simulated app.
type behaviour struct {
	verb   string // serve, idle, hang, exit, oom, crash, missing
	code   int    // of exit
	after  time.Duration
	slow   time.Duration // before it listens
	delay  time.Duration // of every answer
	status int
	body   string
	lines  int           // written at the start
	every  time.Duration // a line each
	skew   time.Duration // of the guest's wall clock, ahead of the host's
	deaf   bool          // to SIGTERM
}

// parse reads a command:
//
//	sim serve            answer every request with 200 and "ok"
//	sim 500              answer every request with that status
//	sim hang             accept requests and never answer
//	sim never-listen     run and never listen ("idle" too, for workers)
//	sim exit 3           end with code 3
//	sim oom              be killed by the guest's OOM killer
//	sim crash            panic the guest's kernel: no exit is reported
//	sim not-found        as a command that is not in the image
//	sim log 100          write 100 lines "line 1" … and run on
//
// with any of these options:
//
//	after=5s     exit, oom and crash serve until then; default 0: at once
//	slow=2s      time until it listens
//	delay=50ms   time until each answer
//	status=503   status of the answers
//	body=text    body of the answers
//	log=100      lines written at the start
//	every=1s     and one line each
//	skew=-2m     the guest's wall clock is so far ahead of the host's
//	deaf         does not hear SIGTERM: stopping takes the whole deadline
//
// Every other command, a real app's, serves.
func parse(command string) (behaviour, error) {
	b := behaviour{verb: "serve", status: 200, body: "ok"}
	words := strings.Fields(command)
	if len(words) == 0 || words[0] != "sim" {
		return b, nil
	}
	for i := 1; i < len(words); i++ {
		word := words[i]
		key, value, isOption := strings.Cut(word, "=")
		// exit and log take the word after them.
		next := func() (int, error) {
			if i++; i == len(words) {
				return 0, fmt.Errorf("%q lacks its number", word)
			}
			return number(words[i])
		}
		var err error
		switch {
		case isOption:
			err = b.option(key, value)
		case word == "serve", word == "hang", word == "oom", word == "crash", word == "idle":
			b.verb = word
		case word == "never-listen":
			b.verb = "idle"
		case word == "not-found":
			b.verb = "missing"
		case word == "deaf":
			b.deaf = true
		case word == "exit":
			b.verb = "exit"
			b.code, err = next()
		case word == "log":
			b.verb = "idle"
			b.lines, err = next()
		default:
			b.status, err = status(word)
		}
		if err != nil {
			return behaviour{}, fmt.Errorf("simulated command %q: %w", command, err)
		}
	}
	return b, nil
}

func (b *behaviour) option(key, value string) (err error) {
	switch key {
	case "after":
		b.after, err = duration(value)
	case "slow":
		b.slow, err = duration(value)
	case "delay":
		b.delay, err = duration(value)
	case "every":
		b.every, err = duration(value)
	case "skew":
		b.skew, err = time.ParseDuration(value)
	case "status":
		b.status, err = status(value)
	case "body":
		b.body = value
	case "log":
		b.lines, err = number(value)
	default:
		err = fmt.Errorf("there is no option %q", key)
	}
	return err
}

func duration(word string) (time.Duration, error) {
	d, err := time.ParseDuration(word)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is no duration", word)
	}
	return d, nil
}

func status(word string) (int, error) {
	n, err := strconv.Atoi(word)
	if err != nil || n < 200 || n > 599 {
		return 0, fmt.Errorf("%q is neither a verb nor a status from 200 to 599", word)
	}
	return n, nil
}

func number(word string) (int, error) {
	n, err := strconv.Atoi(word)
	if err != nil || n < 0 || n > 1_000_000 {
		return 0, fmt.Errorf("%q is no number from 0 to 1000000", word)
	}
	return n, nil
}

// listens reports whether it ever serves.
func (b behaviour) listens() bool {
	switch b.verb {
	case "serve", "hang":
		return true
	case "exit", "oom", "crash":
		return b.after > 0
	}
	return false
}

// end is the exit report of a verb that ends; nil for the others and for
// crash, which reports nothing.
func (b behaviour) end() *guest.Exit {
	switch b.verb {
	case "exit":
		return &guest.Exit{Code: b.code}
	case "oom":
		return &guest.Exit{Code: -1, Signal: "SIGKILL", OOM: true}
	case "missing":
		return &guest.Exit{Code: 127, Reason: guest.ExitNotFound, Message: "sim: command not found"}
	}
	return nil
}
