// The program that the conformance suite runs in VMs. It understands the part
// of the simulated driver's words that the suite uses:
//
//	serve [log=N]     answer every request on $PORT with "ok"
//	exit N            end with code N
//	log N             write the lines "line 1" to "line N" and wait
//	crash             take the kernel down
//	keep TEXT         say what /kept/text holds, keep TEXT and a hundred files there, end
//	fill N            write to N MB of memory, then "filled", and wait
//	clocksource       write what the kernel tells the time by, and wait
//	random            write random numbers, from Go's and the kernel's sources
//	echo TEXT         write TEXT
//	cat               write what standard input brings
//	size              write the terminal's rows and columns, and again whenever they change
//	flood             write for ever
//	ps                write the command line of each process
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(64)
	}
	argument := func() int {
		n, err := strconv.Atoi(os.Args[2])
		if err != nil {
			os.Exit(64)
		}
		return n
	}
	switch os.Args[1] {
	case "serve":
		for _, word := range os.Args[2:] {
			if n, ok := strings.CutPrefix(word, "log="); ok {
				count, _ := strconv.Atoi(n)
				lines(count)
			}
		}
		mux := http.NewServeMux()
		mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
		fmt.Fprintln(os.Stderr, http.ListenAndServe(":"+os.Getenv("PORT"), mux))
		os.Exit(1)
	case "exit":
		os.Exit(argument())
	case "log":
		lines(argument())
		wait()
	case "keep":
		keep(os.Args[2])
	case "fill":
		memory := make([]byte, argument()<<20)
		for i := 0; i < len(memory); i += os.Getpagesize() {
			memory[i] = 1
		}
		fmt.Println("filled")
		wait()
		runtime.KeepAlive(memory)
	case "clocksource":
		b, err := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
		if err != nil {
			fmt.Println(err)
		}
		fmt.Print(string(b))
		wait()
	case "random":
		id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
		fmt.Printf("text %s\nboot %s", rand.Text(), id)
		wait()
	case "echo":
		fmt.Println(strings.Join(os.Args[2:], " "))
	case "cat":
		_, _ = io.Copy(os.Stdout, os.Stdin)
	case "size":
		size()
	case "ps":
		lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, path := range lines {
			if text, err := os.ReadFile(path); err == nil {
				fmt.Println(strings.ReplaceAll(string(text), "\x00", " "))
			}
		}
	case "flood":
		for text := bytes.Repeat([]byte("y\n"), 2048); ; {
			if _, err := os.Stdout.Write(text); err != nil {
				os.Exit(1)
			}
		}
	case "crash":
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		wait()
	}
}

func keep(text string) {
	before, _ := os.ReadFile("/kept/text")
	fmt.Printf("found %q\n", before)
	err := os.MkdirAll("/kept", 0o755)
	for i := range 100 {
		err = errors.Join(err, os.WriteFile(fmt.Sprintf("/kept/%d", i), bytes.Repeat([]byte(text), 1000), 0o644))
	}
	if err = errors.Join(err, os.WriteFile("/kept/text", []byte(text), 0o644)); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func size() {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	for {
		var rows [4]uint16 // and columns
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&rows))); errno != 0 {
			fmt.Println(errno)
			os.Exit(1)
		}
		fmt.Printf("%dx%d\n", rows[0], rows[1])
		<-changed
	}
}

// wait ends by a signal's default action only.
func wait() {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	<-hup
}

func lines(count int) {
	out := bufio.NewWriter(os.Stdout)
	for i := range count {
		fmt.Fprintf(out, "line %d\n", i+1)
	}
	out.Flush()
}
