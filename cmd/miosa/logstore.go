package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/logs/pebble"
	"github.com/miosa/miosa/logs/victorialogs"
	"github.com/miosa/miosa/store"
)

// logStore is where logs are kept.
type logStore interface {
	logs.Store
	Close() error
}

// parseVictoriaLogs reads --victorialogs: DAYS=URL, one for each retention.
func parseVictoriaLogs(words []string) (map[int]string, error) {
	if len(words) == 0 {
		return nil, nil
	}
	all := map[int]string{}
	for _, word := range words {
		days, url, ok := strings.Cut(word, "=")
		n, err := strconv.Atoi(days)
		if !ok || err != nil || n < 1 || n > logs.MaxDays || url == "" {
			return nil, miosa.Errorf(miosa.Invalid, "--victorialogs %q: want DAYS=URL, with the days that the VictoriaLogs there keeps lines for, e.g. 30=http://127.0.0.1:9428", word)
		}
		if all[n] != "" {
			return nil, miosa.Errorf(miosa.Invalid, "--victorialogs: there are two for %d days", n)
		}
		all[n] = url
	}
	return all, nil
}

// longestDays is for how long at most lines can be kept.
func (c *platformConfig) longestDays() int {
	if len(c.victoriaLogs) == 0 {
		return logs.MaxDays
	}
	return slices.Max(slices.Collect(maps.Keys(c.victoriaLogs)))
}

// openLogs opens the store that is built in, or the one that runs elsewhere.
func (p *platform) openLogs(ctx context.Context) (logStore, error) {
	if len(p.cfg.victoriaLogs) == 0 {
		return pebble.Open(pebble.Config{Dir: p.data.path("logs"), Log: p.log})
	}
	longest := p.cfg.longestDays()
	plans := []miosa.Plan{miosa.DefaultPlan()}
	for plan, err := range store.List(ctx, p.store, store.Plans, store.PlansPrefix(), store.ScanOptions{}) {
		if err != nil {
			return nil, fmt.Errorf("read the plans: %w", err)
		}
		if plan.Name == plans[0].Name {
			plans = plans[1:]
		}
		plans = append(plans, plan)
	}
	for _, plan := range plans {
		if plan.LogDays > longest {
			return nil, miosa.Errorf(miosa.Invalid, "plan %s keeps logs for %d days and no VictoriaLogs does: start with --victorialogs %d=URL too", plan.Name, plan.LogDays, plan.LogDays)
		}
	}
	return victorialogs.Open(victorialogs.Config{Endpoints: p.cfg.victoriaLogs, State: p.data.path("victorialogs")})
}
