// Command uploads measures what memory uploads cost the platform's process:
// several at once, of few bytes each, that are as greedy as is known. For every
// kind it prints how they were answered, the most memory that the process had
// meanwhile, and what it has a while later.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miosa/miosa/artifact/artifacttest"
	"github.com/miosa/miosa/bench/rig"
)

func main() {
	at := flag.Int("at-once", 8, "uploads at once")
	megabytes := flag.Int("mb", 7, "MB that each has")
	only := flag.String("only", "", "the one kind to try; empty: all")
	binary := flag.String("binary", "", "the miosa to measure; empty: bin/miosa")
	rest := flag.Duration("rest", 15*time.Second, "how long after the last answer memory is looked at again")
	flag.Parse()
	if err := rig.Isolate(); err != nil {
		fail(err)
	}
	if err := run(*binary, *at, *megabytes<<20, *only, *rest); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "uploads:", err)
	os.Exit(1)
}

func run(binary string, at, size int, only string, rest time.Duration) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	r, err := rig.Start(ctx, rig.Options{Binary: binary, Driver: "sim"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var deployment struct {
		ID string `json:"id"`
	}
	if err := r.Call(ctx, http.MethodPost, "/deployments", map[string]any{"name": "greedy", "source_type": "upload"}, &deployment); err != nil {
		return err
	}
	path := "/deployments/" + deployment.ID + "/releases?kind="
	idle, err := r.ResidentMB()
	if err != nil {
		return err
	}
	fmt.Printf("idle: %.0f MB; %d uploads of %d MB at once\n%-20s %9s %9s %9s  %s\n", idle, at, size>>20, "", "peak", "later", "took", "answers")
	for _, g := range artifacttest.GreedyArchives() {
		if only != "" && g.Name != only {
			continue
		}
		peak, took, answers, err := send(ctx, r, path+string(g.Kind), at, g.Bytes(size, 4))
		if err != nil {
			return err
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
			return ctx.Err()
		}
		later, err := r.ResidentMB()
		if err != nil {
			return err
		}
		fmt.Printf("%-20s %6.0f MB %6.0f MB %8.1fs  %s\n", g.Name, peak, later, took.Seconds(), answers)
	}
	return nil
}

// send uploads the same bytes so many times at once.
func send(ctx context.Context, r *rig.Rig, path string, at int, body []byte) (peak float64, took time.Duration, answers string, err error) {
	if err := r.ForgetPeak(); err != nil {
		return 0, 0, "", err
	}
	var mu sync.Mutex // guards counts and err
	counts := map[string]int{}
	var all sync.WaitGroup
	began := time.Now()
	for range at {
		all.Go(func() {
			resp, sendErr := r.Do(ctx, http.MethodPost, path, bytes.NewReader(body))
			mu.Lock()
			defer mu.Unlock()
			if sendErr != nil {
				counts["no answer: "+sendErr.Error()]++
				return
			}
			var p struct {
				Error struct {
					Code string `json:"code"`
				} `json:"error"`
			}
			_ = json.Unmarshal(resp.Body, &p) // a success has no code
			counts[strings.TrimSpace(fmt.Sprintf("%d %s", resp.Status, p.Error.Code))]++
		})
	}
	all.Wait()
	took = time.Since(began)
	if peak, err = r.PeakMB(); err != nil {
		return 0, 0, "", err
	}
	var words []string
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		words = append(words, fmt.Sprintf("%d × %s", counts[what], what))
	}
	return peak, took, strings.Join(words, ", "), nil
}
