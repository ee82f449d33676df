// Command app is what the tests run inside a real VM: its first argument says
// how it behaves.
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	mode := "serve"
	if len(os.Args) > 1 {
		mode = os.Args[1]
	}
	switch mode {
	case "serve":
		serve(os.Args[2])
	case "lines":
		n, _ := strconv.Atoi(os.Args[2])
		for i := range n {
			fmt.Printf("line %d\n", i+1)
		}
	case "ticks":
		for i := 1; ; i++ {
			fmt.Printf("line %d\n", i)
			time.Sleep(time.Millisecond)
		}
	case "wrong":
		// Its machine's clock, to be so far ahead, for two lines. The machine is
		// one of these tests', or it is left alone.
		if b, _ := os.ReadFile("/proc/cmdline"); !strings.Contains(string(b), "tsc_early_khz=") {
			os.Exit(1)
		}
		off, _ := time.ParseDuration(os.Args[2])
		set := func(off time.Duration) {
			tv := syscall.NsecToTimeval(time.Now().Add(off).UnixNano())
			if err := syscall.Settimeofday(&tv); err != nil {
				fmt.Println(err)
			}
		}
		set(off)
		fmt.Println("wrong")
		fmt.Println("still wrong")
		time.Sleep(time.Hour)
	case "exit":
		code, _ := strconv.Atoi(os.Args[2])
		fmt.Fprintln(os.Stderr, "going")
		os.Exit(code)
	case "env":
		wd, _ := os.Getwd()
		host, _ := os.Hostname()
		fmt.Printf("uid=%d gid=%d wd=%s host=%s path=%s home=%s secret=%s year=%d\n", os.Getuid(), os.Getgid(), wd, host,
			os.Getenv("PATH"), os.Getenv("HOME"), os.Getenv("SECRET"), time.Now().UTC().Year())
		var limit syscall.Rlimit
		_ = syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
		fmt.Printf("pid=%d files=%d\n", os.Getpid(), limit.Max)
		for _, path := range []string{"/etc/hosts", "/etc/resolv.conf", "/etc/hostname", "/proc/cmdline"} {
			b, err := os.ReadFile(path)
			fmt.Printf("%s: %q %v\n", path, b, err)
		}
		fmt.Println("write:", os.WriteFile("/tmp/x", []byte("x"), 0o644))
		f, err := os.OpenFile("/dev/stdout", os.O_WRONLY, 0)
		fmt.Println("stdout:", err)
		if err == nil {
			fmt.Fprintln(f, "again")
		}
	case "oom":
		var keep [][]byte
		for {
			b := make([]byte, 8<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			keep = append(keep, b)
			_ = keep
		}
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("deaf")
		for {
			time.Sleep(time.Hour)
		}
	}
}

// serve answers every connection with one line, and stops on SIGTERM.
func serve(addr string) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	terms := make(chan os.Signal, 1)
	signal.Notify(terms, syscall.SIGTERM)
	go func() {
		<-terms
		fmt.Println("terminated")
		os.Exit(0)
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		fmt.Fprintln(c, "hello")
		_ = c.Close()
	}
}
