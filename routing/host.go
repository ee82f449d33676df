package routing

import (
	"net/netip"
	"strings"
)

// HostName is the key of the route table for what a client put into Host or
// :authority: lower case, without port and trailing dot; an IPv6 literal
// loses its brackets and takes its canonical form. It reports false for what
// is no host name at all: empty, longer than 253 bytes, an empty label, bytes
// other than letters, digits, '-', '_' and '.', a port that is not a number.
// A name already in its final form is returned as it is, without allocating.
func HostName(host string) (string, bool) {
	if strings.HasPrefix(host, "[") {
		return ipv6Name(host)
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		if !validPort(host[i+1:]) {
			return "", false
		}
		host = host[:i]
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" || len(host) > 253 {
		return "", false
	}
	upper, label := false, 0
	for i := range len(host) {
		switch c := host[i]; {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_':
			label++
		case 'A' <= c && c <= 'Z':
			upper = true
			label++
		case c == '.' && label > 0:
			label = 0
		default:
			return "", false
		}
		if label > 63 {
			return "", false
		}
	}
	if label == 0 { // a second trailing dot
		return "", false
	}
	if upper {
		host = strings.ToLower(host)
	}
	return host, true
}

func ipv6Name(host string) (string, bool) {
	literal, port, ok := strings.Cut(host[1:], "]")
	if !ok || port != "" && (port[0] != ':' || !validPort(port[1:])) {
		return "", false
	}
	addr, err := netip.ParseAddr(literal)
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", false
	}
	return addr.String(), true
}

// validPort accepts the empty port too: "host:" is legal (RFC 3986, 3.2.3).
func validPort(port string) bool {
	if len(port) > 5 {
		return false
	}
	n := 0
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return false
		}
		n = n*10 + int(port[i]-'0')
	}
	return n <= 65535
}
