// Command cell measures the mind of a cell: fleets of 1,000, 10,000 and 100,000
// instances in memory, every record as control would have it, and what the
// machine takes for all of it, for one event, for a large service and for the
// loss of hosts. With -before it builds the repository as it was at a commit,
// runs the same scenario there by turns, and prints both.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/miosa/miosa/bench/rig"
)

var (
	samples  = flag.Int("samples", 1000, "events of a kind")
	few      = flag.Bool("few", false, "only 20 events of a kind at 100,000 instances and more")
	patience = flag.Duration("patience", 2*time.Minute, "what takes the machine longer is given up")
	asChild  = flag.Bool("child", false, "print one fleet's figures as JSON")
	before   = flag.String("before", "", "`COMMIT` whose machine runs beside this one")
	cpu      = flag.Bool("cpu", false, "figures in processor time, for a busy machine")
	profile  = flag.String("cpuprofile", "", "`FILE` for a profile of -child")
	fleets   = flag.String("instances", "1000,10000,100000", "`SIZES` of the fleets, by commas")
)

func main() {
	flag.Parse()
	if err := measureAll(); err != nil {
		fmt.Fprintln(os.Stderr, "cell:", err)
		os.Exit(1)
	}
}

func measureAll() error {
	var counts []int
	for word := range strings.SplitSeq(*fleets, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 {
			return fmt.Errorf("-instances %q: numbers, by commas", *fleets)
		}
		counts = append(counts, n)
	}
	sizes := sizesOf(counts)
	if *asChild {
		if *profile != "" {
			f, err := os.Create(*profile)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := pprof.StartCPUProfile(f); err != nil {
				return err
			}
			defer pprof.StopCPUProfile()
		}
		child(sizes)
		return nil
	}
	ctx := context.Background()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	builds := []string{self}
	if *before != "" {
		dir, err := os.MkdirTemp("", "miosa-bench-cell-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		old, err := buildBefore(ctx, *before, dir)
		if err != nil {
			return fmt.Errorf("build %s: %w", *before, err)
		}
		builds = append(builds, old)
	}
	for _, s := range sizes {
		fmt.Printf("%d hosts, %d environments, %d instances\n", s.Hosts, s.Environments, s.Instances)
		var all [][]figure
		for _, b := range builds {
			got, err := measure(ctx, b, s)
			if err != nil {
				return err
			}
			all = append(all, got)
		}
		printAll(all)
	}
	return nil
}

func measure(ctx context.Context, binary string, s size) (out []figure, err error) {
	cmd := exec.CommandContext(ctx, binary, "-child", "-instances", strconv.Itoa(s.Instances), "-samples", strconv.Itoa(*samples),
		"-patience", patience.String(), fmt.Sprintf("-few=%t", *few), fmt.Sprintf("-cpu=%t", *cpu))
	cmd.Stderr = os.Stderr
	b, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", binary, err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		var g figure
		if err := json.Unmarshal(lines.Bytes(), &g); err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, nil
}

// printAll shows the figures of one fleet, those of before beside ours.
func printAll(all [][]figure) {
	for _, g := range all[0] {
		var line strings.Builder
		fmt.Fprintf(&line, "  %-46s %s", g.Name, show(g))
		for _, others := range all[1:] {
			for _, o := range others {
				if strings.TrimSuffix(o.Name, " (given up)") == strings.TrimSuffix(g.Name, " (given up)") {
					fmt.Fprintf(&line, "   before: %s", show(o))
					if strings.HasSuffix(o.Name, "(given up)") {
						line.WriteString(" (given up)")
					}
					fmt.Fprintf(&line, ", %.0f times as long", float64(o.Median)/float64(max(1, g.Median)))
				}
			}
		}
		fmt.Println(line.String())
	}
}

func show(g figure) string {
	line := fmt.Sprintf("%9s", round(g.Median))
	switch {
	case g.P99 > 0:
		line += fmt.Sprintf("  p99 %9s", round(g.P99))
	case g.Bytes > 0:
		line += fmt.Sprintf("  heap %d MB", g.Bytes>>20)
	case g.Count > 0:
		line += fmt.Sprintf("  %d placed, %.0f/s", g.Count, float64(g.Count)/g.Median.Seconds())
	}
	return line
}

func round(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(100 * time.Nanosecond)
}

// buildBefore builds this scenario with the machine of a commit, which lay in
// control/ then.
func buildBefore(ctx context.Context, commit, dir string) (string, error) {
	root, err := rig.Root()
	if err != nil {
		return "", err
	}
	tree := filepath.Join(dir, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "bench", "cell"), 0o700); err != nil {
		return "", err
	}
	sh := exec.CommandContext(ctx, "sh", "-c", `git -C "$0" archive "$1" | tar -x -C "$2"`, root, commit, tree)
	if out, err := sh.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	for name, from := range map[string]string{"main.go": "main.go", "scenario.go": "scenario.go", "mind.go": "testdata/mind_before.go"} {
		b, err := os.ReadFile(filepath.Join(root, "bench", "cell", from))
		if err != nil {
			return "", err
		}
		b = bytes.ReplaceAll(b, []byte(`mind "github.com/miosa/miosa/cell"`), []byte(`mind "github.com/miosa/miosa/control"`))
		if err := os.WriteFile(filepath.Join(tree, "bench", "cell", name), b, 0o600); err != nil {
			return "", err
		}
	}
	binary := filepath.Join(dir, "before")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "./bench/cell")
	cmd.Dir = tree
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return binary, nil
}
