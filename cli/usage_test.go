package cli_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/metering"
	"github.com/miosa/miosa/usage"
)

func TestUsage(t *testing.T) {
	s := newShell(t)
	for n, name := range []string{"shop", "blog"} {
		s.p.Usage.Add(usage.Row{
			Hour: metering.HourOf(time.Date(2026, 3, 1+n, 7, 0, 0, 0, time.UTC)), Name: name,
			Subject: usage.Subject{
				TenantID: s.p.Tenant.ID, DeploymentID: "dep_0000000000000000000000000" + name[:1], ServiceID: "svc_0000000000000000000000000" + name[:1],
				Attribution: miosa.Attribution{WorkspaceID: "=space\x1b " + name},
			},
			Amount: metering.Amount{
				RunMS: 3_600_000, VCPUMS: 3_600_000 * uint64(1+n), MemoryMBMS: 256 * 3_600_000, SentBytes: 12_345_678_900, ReceivedBytes: 999, LogBytes: 1_500, StorageByteHours: 5_000,
			},
		})
	}
	const head = "VCPU-HOURS  MEMORY GB-HOURS  SENT      RECEIVED  LOGS     STORAGE GB-HOURS\n"
	for args, want := range map[string]string{
		"--month 2026-03": `2026-03-01 00:00 to 2026-04-01 00:00 UTC
DEPLOYMENT  ` + head + `blog        2.00        0.2500           12.35 GB  999 B     1.50 kB  <0.0001
shop        1.00        0.2500           12.35 GB  999 B     1.50 kB  <0.0001
total       3.00        0.5000           24.69 GB  2.00 kB   3.00 kB  <0.0001
Logs kept: 0 B of the plan's 50.00 GB
`,
		"--month 2026-03 --by day": `2026-03-01 00:00 to 2026-04-01 00:00 UTC
DAY         ` + head + `2026-03-01  1.00        0.2500           12.35 GB  999 B     1.50 kB  <0.0001
2026-03-02  2.00        0.2500           12.35 GB  999 B     1.50 kB  <0.0001
total       3.00        0.5000           24.69 GB  2.00 kB   3.00 kB  <0.0001
Logs kept: 0 B of the plan's 50.00 GB
`,
		"--since 2026-03-02T07:00:00Z --until 2026-03-02T08:00:00Z --by workspace": `2026-03-02 07:00 to 2026-03-02 08:00 UTC
WORKSPACE     ` + head + `=space` + "\ufffd" + ` blog  2.00        0.2500           12.35 GB  999 B     1.50 kB  <0.0001
total         2.00        0.2500           12.35 GB  999 B     1.50 kB  <0.0001
Logs kept: 0 B of the plan's 50.00 GB
`,
	} {
		if got := s.prints(append([]string{"usage"}, strings.Fields(args)...)...); got != want {
			t.Errorf("%s:\n%s\nwant\n%s", args, got, want)
		}
	}
	var out struct {
		Summary struct {
			EgressBytes int64 `json:"egress_bytes"`
		} `json:"summary"`
		Groups []map[string]any `json:"groups"`
	}
	if err := json.Unmarshal([]byte(s.prints("usage", "--month", "2026-03", "--json")), &out); err != nil || out.Summary.EgressBytes != 24_691_357_800 || len(out.Groups) != 2 {
		t.Errorf("%+v, %v", out, err)
	}
	if got := s.prints("usage", "--month", "2026-03", "--csv"); strings.Count(got, "\r\n") != 3 || !strings.Contains(got, ",'=space\x1b shop,") {
		t.Errorf("csv: %q", got)
	}
	if got := s.prints("usage", "--month", "2026-03", "--csv", "--by", "month"); strings.Count(got, "\r\n") != 2 {
		t.Errorf("csv by month: %q", got)
	}
	for _, args := range []string{"--by tenant", "--csv --json", "extra"} {
		var b strings.Builder
		if code := s.run(t.Context(), &b, append([]string{"usage"}, strings.Fields(args)...)...); code != 2 {
			t.Errorf("%s: exit code %d: %s", args, code, b.String())
		}
	}
}
