package drain

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/miosa/miosa/logs"
)

const (
	// facility is "user-level messages".
	facility = 1
	// sdID is the name of our structured data. 32473 is the number that
	// RFC 5612 sets aside for who has none registered.
	sdID = "miosa@32473"
	// bom says that a message is UTF-8 (RFC 5424, 6.4).
	bom = "\xef\xbb\xbf"
	// rfc3339Micro is the finest time that RFC 5424 allows.
	rfc3339Micro = "2006-01-02T15:04:05.000000Z"
)

// severities of RFC 5424: error, warning, notice, informational.
func severity(l *Line) int {
	switch {
	case l.Lost > 0:
		return 4
	case l.Stream == logs.Stderr:
		return 3
	case l.Stream == logs.System:
		return 5
	}
	return 6
}

// syslog is the lines as RFC 5424 has them, each behind its length (RFC 5425,
// 4.3). token, if there is one, is the name of a structured data element that
// hosted receivers know their customers by.
func syslog(lines []Line, token string) []byte {
	var b, frame []byte
	for i := range lines {
		frame = appendSyslog(frame[:0], &lines[i], token)
		b = strconv.AppendInt(b, int64(len(frame)), 10)
		b = append(b, ' ')
		b = append(b, frame...)
	}
	return b
}

func appendSyslog(b []byte, l *Line, token string) []byte {
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(facility*8+severity(l)), 10)
	b = append(b, ">1 "...)
	b = l.Time.UTC().AppendFormat(b, rfc3339Micro)
	for _, field := range []struct {
		value   string
		longest int
	}{{l.Deployment, 255}, {l.Service, 48}, {l.Origin.InstanceID, 128}, {string(l.Stream), 32}} {
		b = append(b, ' ')
		b = append(b, header(field.value, field.longest)...)
	}
	b = append(b, ' ')
	if token != "" {
		b = append(b, '[')
		b = append(b, token...)
		b = append(b, ']')
	}
	b = append(b, '[')
	b = append(b, sdID...)
	for _, p := range []struct{ name, value string }{
		{"id", l.name()}, {"deployment_id", l.Origin.DeploymentID}, {"service_id", l.Origin.ServiceID}, {"task_id", l.Origin.TaskID},
		{"version_id", l.Origin.VersionID}, {"host_id", l.Origin.HostID}, {"external_workspace_id", l.Origin.WorkspaceID}, {"partial", yes(l.Partial)}, {"lost", count(l.Lost)},
	} {
		if p.value == "" {
			continue
		}
		b = append(b, ' ')
		b = append(b, p.name...)
		b = append(b, `="`...)
		b = appendParam(b, p.value)
		b = append(b, '"')
	}
	b = append(b, "] "...)
	return appendMessage(b, l.Text)
}

func yes(v bool) string {
	if v {
		return "true"
	}
	return ""
}

func count(n uint64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatUint(n, 10)
}

// header is a field of the header: printable ASCII without spaces, "-" for
// nothing.
func header(v string, longest int) string {
	v = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, v)
	if v == "" {
		return "-"
	}
	return v[:min(len(v), longest)]
}

// appendParam appends a value of structured data: ", \ and ] escaped, the rest
// UTF-8 without control characters.
func appendParam(b []byte, v string) []byte {
	for _, r := range v {
		switch {
		case r == '"' || r == '\\' || r == ']':
			b = append(b, '\\', byte(r))
		case unicode.IsControl(r):
			b = append(b, '_')
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return b
}

// appendMessage appends a line's text: a byte order mark first if it is more
// than ASCII, control characters other than tabs as \x1b, and what is no UTF-8
// as U+FFFD, so that no receiver takes one line for two or loses its place.
func appendMessage(b, text []byte) []byte {
	const digits = "0123456789abcdef"
	for i := range text {
		if text[i] >= utf8.RuneSelf {
			b = append(b, bom...)
			break
		}
	}
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r != '\t' && unicode.IsControl(r): // below U+0100 all
			b = append(b, '\\', 'x', digits[r>>4&15], digits[r&15])
		case r == '\ufeff':
			// A second mark would be text that is not seen.
		default:
			b = utf8.AppendRune(b, r)
		}
		text = text[n:]
	}
	return b
}
