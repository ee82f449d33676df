package edge

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// targetOf is the request target to send to the app, and whether the client's
// was valid: origin form, absolute form (its host has become the request's),
// or "*" for OPTIONS. HTTP/2 lets spaces through that would end the target
// early in HTTP/1.1.
func targetOf(r *http.Request) (string, bool) {
	target := r.RequestURI
	switch {
	case target == "*":
		return target, r.Method == http.MethodOptions
	case strings.HasPrefix(target, "/"):
	case r.URL.Scheme == "http" || r.URL.Scheme == "https":
		target = r.URL.RequestURI()
		if r.Method == http.MethodOptions && r.URL.Path == "" && r.URL.RawQuery == "" {
			target = "*"
		}
	default:
		return "", false
	}
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c == 0x7f {
			return "", false
		}
	}
	return target, true
}

// upgradeOf is the protocol the client asks to upgrade to, "" for none. A body
// may come before the other protocol if it is read whole: where it streams
// there is no telling which of the two a byte belongs to, and the request is
// passed on as one without an upgrade, as servers may treat it (RFC 9110, 7.8).
// Upgrading to h2c is not passed on: what travels in it would escape all that
// the router does to a request.
func upgradeOf(r *http.Request) string {
	if len(r.Header["Upgrade"]) != 1 || r.ProtoMajor != 1 || r.ProtoMinor < 1 || bodyStreams(r) || !hasToken(r.Header["Connection"], "upgrade") {
		return ""
	}
	protocol := r.Header["Upgrade"][0]
	if !isToken(strings.ReplaceAll(protocol, "/", "")) || strings.EqualFold(protocol, "h2c") {
		return ""
	}
	return protocol
}

// ours reports whether the header is one that the router sets by itself and
// takes from no client.
func ours(name string) bool {
	switch name {
	case "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "X-Request-Id":
		return true
	}
	return false
}

// claimed reports whether the header says something about the client's origin
// that only a trusted proxy may say.
func claimed(name string) bool {
	switch name {
	case "X-Forwarded-Port", "X-Forwarded-Server", "X-Forwarded-Prefix", "X-Forwarded-Ssl", "X-Forwarded-Scheme",
		"X-Real-Ip", "X-Client-Ip", "X-Original-Url", "X-Rewrite-Url":
		return true
	}
	return false
}

// hopByHop reports whether the header concerns one connection only (RFC 9110,
// 7.6.1), or the framing, which is written anew.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Proxy-Authenticate", "Proxy-Authorization", "Proxy-Authentication-Info", "Content-Length", "Http2-Settings":
		return true
	}
	return false
}

// appendHead appends the request line and the header as the app is to see
// them. net/http has checked all names and values.
func (x *exchange) appendHead(b []byte) []byte {
	r := x.r
	b = append(b, r.Method...)
	b = append(b, ' ')
	b = append(b, x.target...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, r.Host...)
	b = append(b, "\r\n"...)

	x.eachField(func(name, value string) { b = appendField(b, name, value) })
	switch {
	case x.upgrade != "":
		b = append(b, "Connection: Upgrade\r\n"...)
		b = appendField(b, "Upgrade", x.upgrade)
	case x.once:
		b = append(b, "Connection: close\r\n"...)
	}
	switch {
	case x.body.streamed && r.ContentLength < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		if len(r.Trailer) > 0 {
			b = append(b, "Trailer: "...)
			for i, name := range sortedNames(r.Trailer) {
				if i > 0 {
					b = append(b, ", "...)
				}
				b = append(b, name...)
			}
			b = append(b, "\r\n"...)
		}
	case r.ContentLength > 0 || r.ContentLength == 0 && expectsLength(r):
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, r.ContentLength, 10)
		b = append(b, "\r\n"...)
	}
	if x.body.expects {
		b = append(b, "Expect: 100-continue\r\n"...)
	}
	return append(b, "\r\n"...)
}

// eachField yields the fields of the header as the app is to see them, but for
// those that concern one connection or the framing.
func (x *exchange) eachField(yield func(name, value string)) {
	r := x.r
	connection := r.Header["Connection"]
	listed := len(connection) > 0 && !(len(connection) == 1 && (connection[0] == "keep-alive" || connection[0] == "close"))
	for name, values := range r.Header {
		if hopByHop(name) || ours(name) || name == "Expect" {
			continue
		}
		if !x.peer.trusted && claimed(name) {
			continue
		}
		if strings.IndexByte(name, '_') >= 0 {
			// Many apps can't tell X_Forwarded_For from X-Forwarded-For.
			alias := http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
			if ours(alias) || hopByHop(alias) || claimed(alias) || alias == "Host" {
				continue
			}
		}
		if listed && hasToken(connection, name) {
			continue
		}
		for _, v := range values {
			yield(name, v)
		}
	}

	o := x.origin()
	yield("X-Forwarded-For", o.forwardedFor)
	yield("X-Forwarded-Proto", o.proto)
	yield("X-Forwarded-Host", o.host)
	yield("Forwarded", o.forwarded)
	yield("X-Request-Id", x.id)
	if hasToken(r.Header["Te"], "trailers") {
		yield("Te", "trailers")
	}
}

// expectsLength reports whether "no body" is to be said aloud (RFC 9110, 8.6):
// where the method means one, or the client said so.
func expectsLength(r *http.Request) bool {
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		return true
	}
	return r.Header["Content-Length"] != nil
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

func sortedNames(h http.Header) []string {
	names := make([]string, 0, len(h))
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// hasToken reports whether the comma-separated values hold the token, in any
// case.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for len(v) >= len(token) {
			var part string
			part, v, _ = strings.Cut(v, ",")
			if strings.EqualFold(strings.Trim(part, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// isToken reports whether s is a token of RFC 9110, 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		if !tokenChar(s[i]) {
			return false
		}
	}
	return s != ""
}

func tokenChar(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// idempotent reports whether doing it twice is doing it once (RFC 9110, 9.2.2).
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}
