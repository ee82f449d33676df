// Command tail measures how soon a line that an app writes is with who follows
// its log: from the request that makes it write to the event at the client.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/miosa/miosa/bench/rig"
)

const limit = 250 * time.Millisecond

func main() {
	lines := flag.Int("lines", 300, "lines to wait for, one after the other")
	flag.Parse()
	if err := rig.Isolate(); err != nil {
		fail(err)
	}
	if err := run(*lines); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "tail:", err)
	os.Exit(1)
}

func run(lines int) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	r, err := rig.Start(ctx, rig.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	p, err := r.Hello(ctx, "tail", nil)
	if err != nil {
		return err
	}
	list, err := r.AwaitHealthy(ctx, p.Deployment.ID, 1)
	if err != nil {
		return err
	}
	events, err := follow(ctx, r, p.Deployment.ID)
	if err != nil {
		return err
	}
	var took []time.Duration
	for n := range lines {
		word := fmt.Sprintf("/?line=%d", n)
		began := time.Now()
		if err := ask(ctx, "http://"+list[0].IP+":8080"+word); err != nil {
			return err
		}
		for {
			line, ok := <-events
			if !ok {
				return errors.New("the stream ended")
			}
			if strings.Contains(line, word+" ") {
				break
			}
		}
		took = append(took, time.Since(began))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(20+n%80) * time.Millisecond): // in step with nothing
		}
	}
	slices.Sort(took)
	p99 := took[len(took)*99/100]
	fmt.Printf("from the app's request to the line at the client: %d lines, p50 %.1f ms, p99 %.1f ms, most %.1f ms, limit for p99 %d ms\n",
		len(took), ms(took[len(took)/2]), ms(p99), ms(took[len(took)-1]), limit.Milliseconds())
	if p99 >= limit {
		return errors.New("over the limit")
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func ask(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// follow gives the data of each event of a deployment's log.
func follow(ctx context.Context, r *rig.Rig, deployment string) (<-chan string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.Context.APIURL+"/api/v1/deployments/"+deployment+"/logs?follow=true&limit=1", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+r.Context.APIKey)
	resp, err := (&http.Client{}).Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("follow the log: %s", resp.Status)
	}
	out := make(chan string, 16)
	go func() {
		defer close(out)
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				out <- data
			}
		}
	}()
	return out, nil
}
