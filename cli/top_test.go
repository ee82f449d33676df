package cli_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/metrics"
)

// measured is a shell whose instance uses a quarter of a processor and 48 MB.
func measured(t *testing.T) (*shell, logs.Origin) {
	t.Helper()
	s, of := logged(t, 0)
	owner := metrics.Owner{TenantID: of.TenantID, DeploymentID: of.DeploymentID, ServiceID: of.ServiceID, SourceID: of.InstanceID}
	router := owner
	router.SourceID = "router-1"
	begin := time.Now().Add(-5 * time.Minute)
	for n := range int64(21) {
		at := begin.Add(time.Duration(n) * metrics.Interval)
		s.p.Figures.Add(owner, at, int64(metrics.CPU), n*3750, int64(metrics.MemoryUsed), 48<<10, int64(metrics.NetworkSent), n*15*2048,
			int64(metrics.NetworkReceived), n*15, int64(metrics.Probe), 4200)
		s.p.Figures.Add(router, at, int64(metrics.Requests), n*300, int64(metrics.Errors), n*3, int64(metrics.LatencyMedian), 25_000, int64(metrics.LatencyP99), 1_500_000)
	}
	return s, of
}

func TestTop(t *testing.T) {
	s, of := measured(t)
	for _, subject := range []string{"hello", of.DeploymentID, of.ServiceID} {
		text := s.prints("top", subject)
		for _, want := range []string{
			"1 healthy", "20 requests/s", "1.0 % errors", "latency 25 ms, p99 1.5 s", "0.25 cores", "48.0 MB memory", "out 2.0 KB/s",
			of.InstanceID, "25 %", "48.0 MB/512 MB", "1 B/s", "2.0 KB/s", "4.2 ms",
		} {
			if !strings.Contains(text, want) {
				t.Errorf("top %s lacks %q:\n%s", subject, want, text)
			}
		}
		if strings.Contains(text, "\x1b") {
			t.Errorf("a pipe gets control characters: %q", text)
		}
	}
	if text := s.prints("top", of.InstanceID); !strings.Contains(text, "25 %") || strings.Contains(text, "requests/s") {
		t.Errorf("of an instance:\n%s", text)
	}
	var m resource.Metrics
	if err := json.Unmarshal([]byte(s.prints("top", "hello", "--json")), &m); err != nil || len(m.Instances) != 1 || m.StepSeconds != 30 {
		t.Errorf("%+v, %v", m, err)
	}
	var out strings.Builder
	if code := s.run(t.Context(), &out, "top", "nowhere"); code != 3 {
		t.Errorf("of nothing: exit %d, %s", code, out.String())
	}
	if code := s.run(t.Context(), &out, "top"); code != 2 {
		t.Errorf("without a subject: exit %d", code)
	}
	s.terminal = true
	if text := s.prints("top", "hello", "--once"); strings.Contains(text, "\x1b") {
		t.Errorf("once on a terminal: %q", text)
	}
}

// screen ends the command once the table is there.
type screen struct {
	strings.Builder
	seen context.CancelFunc
}

func (s *screen) Write(b []byte) (int, error) {
	n, err := s.Builder.Write(b)
	if strings.Contains(s.String(), "INSTANCE") && strings.HasSuffix(s.String(), "\x1b[J") {
		s.seen()
	}
	return n, err
}

// On a terminal the table has a screen of its own, and gives it back.
func TestTopOnATerminal(t *testing.T) {
	s, of := measured(t)
	s.terminal = true
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out := &screen{seen: cancel}
	if code := s.run(ctx, out, "top", "hello"); code != 0 {
		t.Errorf("exit %d", code)
	}
	text := out.String()
	if !strings.HasPrefix(text, "\x1b[?1049h\x1b[?25l") || !strings.HasSuffix(text, "\x1b[?25h\x1b[?1049l") {
		t.Errorf("%q", text)
	}
	if !strings.Contains(text, of.InstanceID) || !strings.Contains(text, "▃") || !strings.Contains(text, "\x1b[K\r\n") {
		t.Errorf("%q", text)
	}
}
