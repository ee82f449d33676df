package qemu

import (
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// aside runs f on a thread that nothing else runs on, before or after: what f
// makes of its thread (namespaces, user, cgroup) is inherited by the processes
// that f starts and ends with it.
func aside(f func() error) error {
	done := make(chan error, 1)
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			done <- f()
			return // still locked: the thread ends here
		}
		// The first thread never ends, and is what others see of us: while we hold
		// it, another one must be taken.
		again := make(chan struct{})
		go func() {
			defer close(again)
			run()
		}()
		<-again
		runtime.UnlockOSThread()
	}
	go run()
	return <-done
}
