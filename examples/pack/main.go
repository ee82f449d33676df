// Command pack writes a directory as a rootfs release: a zstd-compressed tar
// that is the same, byte for byte, whenever the tree is the same. Entries are
// sorted, times are the epoch, owner and group are root whoever packs.
//
//	go run ./examples/pack DIR OUT.tar.zst
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: pack DIR OUT.tar.zst")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	sum, err := packFile(ctx, os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintf(os.Stderr, "pack: %v\n", err)
		stop()
		os.Exit(1)
	}
	fmt.Printf("%s: %d entries, %.1f MB unpacked, %.1f MB packed, sha256 %s\n",
		os.Args[2], sum.Entries, megabytes(sum.Unpacked), megabytes(sum.Packed), sum.SHA256)
}

func megabytes(n int64) float64 { return float64(n) / 1e6 }
