package drain

import (
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// verdict is what a receiver's answer means for the lines that it was sent.
type verdict int

const (
	taken    verdict = iota // delivered, less what it says it rejected
	again                   // in passing: the same lines again, later
	mend                    // nothing is wrong with the lines: somebody has to mend the drain or its receiver
	tooLarge                // fewer at once, please
	refused                 // these lines will never be taken
)

// answer is what came of one sending.
type answer struct {
	verdict  verdict
	status   int    // of HTTP; 0: none
	words    string // what came of it, for the drain's owner
	after    time.Duration
	rejected uint64 // of those taken
}

// longestAfter bounds the Retry-After that is honoured.
const longestAfter = 10 * time.Minute

// judgeStatus says what an HTTP status means. What a person can mend by
// changing the drain or the receiver loses nothing; only what is said of the
// lines themselves does.
func judgeStatus(status int) verdict {
	switch {
	case status >= 200 && status < 300:
		return taken
	case status == http.StatusRequestEntityTooLarge:
		return tooLarge
	case status >= 300 && status < 400:
		return mend // a redirect is not followed: the URL has to be set anew
	case status == http.StatusNotImplemented, status == http.StatusHTTPVersionNotSupported:
		return mend
	case status >= 500, status == http.StatusRequestTimeout, status == http.StatusConflict, status == http.StatusLocked,
		status == http.StatusTooEarly, status == http.StatusTooManyRequests:
		return again
	case status == http.StatusUnauthorized, status == http.StatusPaymentRequired, status == http.StatusForbidden, status == http.StatusNotFound,
		status == http.StatusMethodNotAllowed, status == http.StatusProxyAuthRequired, status == http.StatusGone:
		return mend
	}
	return refused
}

// retryAfter reads the header: seconds or a time. 0 when there is none.
func retryAfter(v string, now time.Time) time.Duration {
	if v == "" {
		return 0
	}
	var d time.Duration
	if n, err := strconv.Atoi(v); err == nil {
		d = time.Duration(min(max(n, 0), 86400)) * time.Second
	} else if t, err := http.ParseTime(v); err == nil {
		d = t.Sub(now)
	}
	return min(max(d, 0), longestAfter)
}

const (
	firstBackoff = time.Second
	lastBackoff  = 5 * time.Minute
)

// backoff is the pause after so many failures in a row (from 1): 1 s, doubled
// each time up to 5 min, more or less by a quarter. chance is in [0, 1).
func backoff(failures int, chance float64) time.Duration {
	d := lastBackoff
	if failures < 10 {
		d = min(firstBackoff<<max(failures-1, 0), lastBackoff)
	}
	return time.Duration((0.75 + chance/2) * float64(d))
}

// said puts a receiver's status into words. What it wrote besides is not
// repeated: whoever named the address would read there what answers at it.
func said(status int) string {
	words := fmt.Sprintf("the receiver answers %d", status)
	if name := http.StatusText(status); name != "" {
		words += " " + name
	}
	return words
}
