package liveness

import (
	"fmt"
	"time"
)

// long says how long, as people do.
func long(d time.Duration) string {
	d = d.Round(time.Second)
	h, m, s := int(d/time.Hour), int(d/time.Minute)%60, int(d/time.Second)%60
	switch {
	case h > 0 && m > 0:
		return fmt.Sprintf("%d h %d min", h, m)
	case h > 0:
		return fmt.Sprintf("%d h", h)
	case m > 0 && s > 0:
		return fmt.Sprintf("%d min %d s", m, s)
	case m > 0:
		return fmt.Sprintf("%d min", m)
	}
	return fmt.Sprintf("%d s", s)
}

func unheard(d time.Duration) string { return "it has not been heard of for " + long(d) }

func comesAndGoes() string {
	return fmt.Sprintf("it comes and goes: it was silent %d times within %s, and is alive again once it has answered for %s without a pause", Flaps, long(FlapWindow), long(Steady))
}

func areHosts(n int) string {
	if n == 1 {
		return "1 host is"
	}
	return fmt.Sprintf("%d hosts are", n)
}
