// Command crasher is an app that never comes up: it says why on stderr and
// exits with code 3. A publish of it must fail at once with these words, and
// must not touch the version that serves.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Println("crasher: starting")
	fmt.Fprintln(os.Stderr, "crasher: DATABASE_PASSWORD is not set: cannot start without it")
	os.Exit(3)
}
