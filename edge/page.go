package edge

import (
	"html"
	"net/http"
	"strconv"
	"strings"
)

// failure is an answer that the router gives by itself.
type failure struct {
	status     int
	code       string // in the JSON form, and in the access log
	title      string
	message    string
	retryAfter int // seconds; 0: not said
}

var (
	badHost        = failure{400, "bad_host", "Bad request", "The request names no valid host.", 0}
	badTarget      = failure{400, "bad_target", "Bad request", "The request's target is not valid.", 0}
	badBody        = failure{400, "bad_body", "Bad request", "The request's body could not be read.", 0}
	unknownHost    = failure{404, "unknown_host", "Not found", "There is nothing at this address.", 0}
	noHTTP         = failure{404, "no_http", "Not found", "The application that is live here serves no HTTP: it has workers, or services on ports of their own.", 0}
	noTunnels      = failure{405, "method_not_allowed", "Method not allowed", "This method is not served here.", 0}
	slowBody       = failure{408, "body_timeout", "Request timeout", "The request's body did not arrive in time.", 0}
	badResponse    = failure{502, "bad_response", "Bad gateway", "The application gave an answer that could not be understood.", 0}
	lost           = failure{502, "no_response", "Bad gateway", "The application closed the connection without an answer.", 0}
	notH2C         = failure{502, "not_h2c", "Bad gateway", "The application does not speak HTTP/2 without TLS (h2c), though its service says so.", 0}
	unreachable    = failure{502, "unreachable", "Bad gateway", "The application could not be reached. Try again in a moment.", 1}
	turnedAway     = failure{503, "refused", "Service unavailable", "The application takes no more requests at the moment. Try again in a moment.", 1}
	noBackend      = failure{503, "unavailable", "Service unavailable", "The application is not ready. Try again in a moment.", 1}
	notReady       = failure{503, "starting", "Service unavailable", "The service is starting. Try again in a moment.", 1}
	overloaded     = failure{503, "overloaded", "Service unavailable", "The service is busy. Try again in a moment.", 1}
	stoppingSoon   = failure{503, "stopping", "Service unavailable", "The service is restarting. Try again in a moment.", 1}
	tooSlow        = failure{504, "timeout", "Gateway timeout", "The application did not answer in time.", 0}
	drainedTooSoon = failure{504, "drained", "Gateway timeout", "The application was replaced before it answered.", 1}
)

// page answers with the failure, in JSON where the client asks for that and
// in HTML where it asks for a page; everyone else gets JSON too, being a
// program.
func (x *exchange) page(f failure) {
	x.failed = f.code
	h := x.w.Header()
	clear(h)
	h.Set("X-Request-Id", x.id)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if f.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(f.retryAfter))
	}
	if x.r.ProtoMajor == 2 && isGRPC(x.r.Header) {
		x.endGRPC(f.grpc(), f.message)
		x.begin(http.StatusOK)
		x.status = f.status // counted and logged as what it is
		return
	}
	var body []byte
	if wantsHTML(x.r.Header.Values("Accept")) {
		h.Set("Content-Type", "text/html; charset=utf-8")
		body = htmlPage(f, x.id)
	} else {
		h.Set("Content-Type", "application/json")
		body = jsonPage(f, x.id)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	x.begin(f.status)
	if x.r.Method != http.MethodHead {
		x.stalls(true)
		n, _ := x.w.Write(body)
		x.bytesOut += int64(n)
	}
}

// wantsHTML reports whether the client would rather see HTML than JSON: the
// one with the greater weight wins, the one named first if they are equal.
func wantsHTML(accept []string) bool {
	bestHTML, bestJSON, html1st := -1.0, -1.0, false
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		media, params, _ := strings.Cut(part, ";")
		q := 1.0
		for param := range strings.SplitSeq(params, ";") {
			if v, ok := strings.CutPrefix(strings.TrimSpace(param), "q="); ok {
				if f, err := strconv.ParseFloat(v, 64); err == nil {
					q = f
				}
			}
		}
		switch media = strings.ToLower(strings.TrimSpace(media)); {
		case media == "text/html" || media == "application/xhtml+xml":
			html1st = html1st || bestJSON < 0
			bestHTML = max(bestHTML, q)
		case media == "application/json" || strings.HasSuffix(media, "+json"):
			bestJSON = max(bestJSON, q)
		}
	}
	return bestHTML > 0 && (bestHTML > bestJSON || bestHTML == bestJSON && html1st)
}

func jsonPage(f failure, id string) []byte {
	b := []byte(`{"error":{"code":`)
	b = appendJSONString(b, f.code, len(f.code))
	b = append(b, `,"message":`...)
	b = appendJSONString(b, f.message, len(f.message))
	b = append(b, `,"request_id":`...)
	b = appendJSONString(b, id, len(id))
	b = append(b, `},"message":`...)
	b = appendJSONString(b, f.message, len(f.message))
	return append(b, "}\n"...)
}

func htmlPage(f failure, id string) []byte {
	return []byte(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="robots" content="noindex">
<title>` + strconv.Itoa(f.status) + " " + html.EscapeString(f.title) + `</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 18vh auto 0; padding: 0 1.5rem; color: #222; background: #fff }
h1 { font-size: 1.5rem; margin: 0 0 .5rem }
small { color: #767676 }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #161616 } small { color: #8c8c8c } }
</style>
<h1>` + strconv.Itoa(f.status) + " · " + html.EscapeString(f.title) + `</h1>
<p>` + html.EscapeString(f.message) + `</p>
<p><small>Request ` + html.EscapeString(id) + `</small></p>
</html>
`)
}
