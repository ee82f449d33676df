// The program that the conformance suite runs in VMs. It understands the part
// of the simulated driver's words that the suite uses:
//
//	serve [log=N]     answer every request on $PORT with "ok"
//	exit N            end with code N
//	log N             write the lines "line 1" to "line N" and wait
//	crash             take the kernel down
//	random            write random numbers, from Go's and the kernel's sources
package main

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
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
	case "random":
		id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
		fmt.Printf("text %s\nboot %s", rand.Text(), id)
		wait()
	case "crash":
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		wait()
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
