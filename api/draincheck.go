package api

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/outbound"
)

const (
	maxTargetURL   = 2048
	maxHeaders     = 20
	maxHeaderName  = 100
	maxHeaderValue = 4 << 10
	maxSyslogToken = 128
	maxCA          = 64 << 10
	maxSearch      = 1000
	syslogPort     = "6514" // RFC 5425
	dots           = "••••"
)

// ourHeaders are the drains' own, or the connection's.
var ourHeaders = []string{
	"Host", "Content-Type", "Content-Encoding", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "Te", "Trailer", "Upgrade",
	"Idempotency-Key", "User-Agent", "Expect",
}

const noPort = "has a port that is none: 1–65535"

// badPort reports whether a URL names a port that nothing can listen on, or
// has a colon and none behind it. Without a port it is its scheme's.
func badPort(u *url.URL) bool {
	port := u.Port()
	if port == "" {
		return strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return err != nil || n == 0
}

// target checks a receiver's URL, and returns it whole and as it may be shown.
// kind "" is settled by the URL.
func (f *faults) target(field, raw string, kind miosa.DrainType, guard outbound.Guard) (k miosa.DrainType, whole, shown string) {
	const forms = "must be https://HOST/PATH (type https, or otlp), or syslog+tls://HOST:6514 (type syslog)"
	wrong := func(format string, args ...any) (miosa.DrainType, string, string) {
		f.add(field, format, args...)
		return kind, "", ""
	}
	if raw == "" {
		return wrong("is needed: https://HOST/PATH, https://HOST/v1/logs (OTLP) or syslog+tls://HOST:6514")
	}
	if len(raw) > maxTargetURL || strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return wrong("may have at most %d characters, without spaces", maxTargetURL)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.Opaque != "" {
		return wrong(forms)
	}
	switch {
	case u.User != nil:
		return wrong("is shown, so it may hold no user and password: send them as headers or token")
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return wrong("may hold no #")
	}
	if badPort(u) {
		return wrong(noPort)
	}
	switch u.Scheme {
	case "syslog+tls":
		if kind == "" {
			kind = miosa.DrainSyslog
		}
		if kind != miosa.DrainSyslog {
			return wrong("of type %s must begin with https://", kind)
		}
		if u.Path != "" && u.Path != "/" || u.RawQuery != "" {
			return wrong("of type syslog is syslog+tls://HOST:PORT and nothing behind it")
		}
		u.Path = ""
		if u.Port() == "" {
			u.Host += ":" + syslogPort
		}
	case "https", "http":
		if kind == "" {
			if kind = miosa.DrainHTTPS; strings.HasSuffix(u.Path, "/v1/logs") {
				kind = miosa.DrainOTLP
			}
		}
		if kind == miosa.DrainSyslog {
			return wrong("of type syslog must be syslog+tls://HOST:6514")
		}
		if kind == miosa.DrainOTLP && (u.Path == "" || u.Path == "/") {
			u.Path = "/v1/logs"
		}
		if u.Scheme == "http" {
			if len(guard.Allow) == 0 {
				return wrong("must begin with https://: without TLS, only what the operator allows with --allow-target can be reached")
			}
			guard.Only = true
		}
	default:
		return wrong(forms)
	}
	if a, err := netip.ParseAddr(strings.Trim(u.Hostname(), "[]")); err == nil && !guard.Permits(a) {
		return wrong("leads to %s, which may not be reached from here: the operator may allow it with --allow-target", a)
	}
	return kind, u.String(), shownURL(*u)
}

// shownURL is the URL with the values of its query hidden.
func shownURL(u url.URL) string {
	if u.RawQuery == "" {
		return u.String()
	}
	var parts []string
	for part := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, ok := strings.Cut(part, "=")
		if !ok {
			name = ""
		}
		parts = append(parts, strings.TrimPrefix(name+"="+dots, "="))
	}
	u.RawQuery = ""
	return u.String() + "?" + strings.Join(parts, "&")
}

// header checks one of a drain's headers, and returns its name as HTTP spells it.
func (f *faults) header(field, name string, value *string) string {
	field += "." + name
	token := name != "" && len(name) <= maxHeaderName && !strings.ContainsFunc(name, func(r rune) bool {
		return !alphanumeric(r) && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
	canonical := http.CanonicalHeaderKey(name)
	switch {
	case !token:
		f.add(field, "is no name for a header")
	case slices.Contains(ourHeaders, canonical), strings.HasPrefix(canonical, "Miosa-"), strings.HasPrefix(canonical, "Proxy-"):
		f.add(field, "is set by the drain itself")
	case value != nil && (len(*value) > maxHeaderValue || strings.ContainsFunc(*value, func(r rune) bool { return r != '\t' && r < ' ' || r == 0x7f })):
		f.add(field, "may have at most %d characters, and no line breaks", maxHeaderValue)
	}
	return canonical
}

func (f *faults) drainToken(kind miosa.DrainType, v string) {
	if kind == miosa.DrainSyslog {
		if len(v) > maxSyslogToken || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`="]`, r) }) {
			f.add("token", "of syslog is the name of a structured data element, as in 0123abcd@41058: at most %d characters, without spaces, =, \" and ]", maxSyslogToken)
		}
		return
	}
	if len(v) > maxHeaderValue || strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r > '~' }) {
		f.add("token", "may have at most %d visible characters: it is sent as Authorization: Bearer", maxHeaderValue)
	}
}

// certificates checks a CA certificate.
func (f *faults) certificates(field, v string) {
	if len(v) > maxCA {
		f.add(field, "may have at most %d KB", maxCA>>10)
		return
	}
	n := 0
	for rest := []byte(v); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			f.add(field, "holds a %s: send certificates only, and no key", strings.ToLower(block.Type))
			return
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			f.add(field, "holds a certificate that cannot be read")
			return
		}
		n++
	}
	if n == 0 {
		f.add(field, "must be PEM: -----BEGIN CERTIFICATE----- …")
	}
}
