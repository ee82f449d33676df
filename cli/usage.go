package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

// usageGroups are what --by takes, with the heading of its column.
var usageGroups = []struct{ by, heading string }{
	{"deployment", "DEPLOYMENT"}, {"service", "SERVICE"}, {"workspace", "WORKSPACE"}, {"user", "USER"}, {"project", "PROJECT"},
	{"hour", "HOUR"}, {"day", "DAY"}, {"month", "MONTH"},
}

func (a *app) usageCommand() *cobra.Command {
	month, since, until, by, table := "", "", "", "deployment", false
	var names []string
	for _, g := range usageGroups {
		names = append(names, g.by)
	}
	cmd := &cobra.Command{
		Use: "usage", Short: "Show what was used",
		Long: `Show what was used in the present month, or in another period: compute, memory,
traffic, logs and storage. Everything is in UTC; a period is made of whole hours.
With --csv: a table for a spreadsheet, with all there is to tell apart unless --by
is given.`,
		Example: "  miosa usage\n  miosa usage --month 2026-11 --by workspace\n  miosa usage --month 2026-11 --csv > november.csv\n  miosa usage --since 24h --by hour",
	}
	cmd.Flags().StringVar(&month, "month", "", "that `MONTH`, like 2026-11")
	cmd.Flags().StringVar(&since, "since", "", "from `TIME` on: "+resource.MomentForms)
	cmd.Flags().StringVar(&until, "until", "", "before that `TIME`, in the same forms")
	cmd.Flags().StringVar(&by, "by", by, strings.Join(names, ", "))
	cmd.Flags().BoolVar(&table, "csv", false, "print CSV")
	cmd.RunE = a.run(0, 0, func(ctx context.Context, c *client.Client, _ []string) error {
		at := slices.Index(names, by)
		if at < 0 {
			return usagef("--by knows %s, not %q", strings.Join(names, ", "), by)
		}
		if table && a.json {
			return usagef("--csv and --json do not go together")
		}
		if err := a.moments(since, until); err != nil {
			return err
		}
		period := []client.Option{client.Query("month", month), client.Query("since", since), client.Query("until", until)}
		if table {
			if cmd.Flags().Changed("by") {
				period = append(period, client.Query("group_by", by))
			}
			return c.UsageTable(ctx, a.cfg.Stdout, period...)
		}
		sum, err := c.UsageSummary(ctx, period...)
		if err != nil {
			return err
		}
		groups, err := client.Collect(c.Usage(ctx, append(period, client.Query("group_by", by))...))
		if err != nil {
			return err
		}
		return a.show(struct {
			Summary resource.UsageSummary `json:"summary"`
			Groups  []resource.UsageGroup `json:"groups"`
		}{sum, groups}, func() { a.usage(sum, groups, by, usageGroups[at].heading) })
	})
	return cmd
}

// usage prints a line for each group, and one for all.
func (a *app) usage(sum resource.UsageSummary, groups []resource.UsageGroup, by, heading string) {
	const minute = "2006-01-02 15:04"
	a.printf("%s to %s UTC\n", sum.PeriodStart.UTC().Format(minute), sum.PeriodEnd.UTC().Format(minute))
	rows := [][]string{}
	for _, g := range groups {
		rows = append(rows, append([]string{usageGroup(g, by)}, usageCells(g.UsageAmount)...))
	}
	rows = append(rows, append([]string{"total"}, usageCells(sum.UsageAmount)...))
	a.table([]string{heading, "VCPU-HOURS", "MEMORY GB-HOURS", "SENT", "RECEIVED", "LOGS", "STORAGE GB-HOURS"}, rows)
	switch kept := sum.LogsKept; {
	case kept == nil:
	case kept.MaxBytes == nil:
		a.printf("Logs kept: %s\n", decimalSize(kept.Bytes))
	default:
		a.printf("Logs kept: %s of the plan's %s\n", decimalSize(kept.Bytes), decimalSize(*kept.MaxBytes))
	}
}

// usageGroup is a group's name.
func usageGroup(g resource.UsageGroup, by string) string {
	switch by {
	case "service":
		if g.ServiceID == nil {
			return text(g.DeploymentName)
		}
		return text(g.DeploymentName) + " " + short(*g.ServiceID)
	case "workspace":
		return text(g.ExternalWorkspaceID)
	case "user":
		return text(g.ExternalUserID)
	case "project":
		return text(g.ExternalProjectID)
	case "hour":
		return g.PeriodStart.UTC().Format("2006-01-02 15:04")
	case "day":
		return g.PeriodStart.UTC().Format("2006-01-02")
	case "month":
		return g.PeriodStart.UTC().Format("2006-01")
	}
	return text(g.DeploymentName)
}

func usageCells(u resource.UsageAmount) []string {
	return []string{
		quantity(u.ComputeHours), quantity(u.MemoryGBHours), decimalSize(u.EgressBytes), decimalSize(u.IngressBytes), decimalSize(u.LogBytes), quantity(u.StorageGBHours),
	}
}

// quantity has as many digits as one wants to see.
func quantity(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v < 0.0001:
		return "<0.0001"
	case v < 1:
		return strconv.FormatFloat(v, 'f', 4, 64)
	case v < 1000:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

// decimalSize is in units of 1000, which is how bandwidth is sold.
func decimalSize(n int64) string {
	v, units := float64(n), []string{"B", "kB", "MB", "GB", "TB", "PB"}
	for v >= 1000 && len(units) > 1 {
		v, units = v/1000, units[1:]
	}
	if units[0] == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.2f %s", v, units[0])
}
