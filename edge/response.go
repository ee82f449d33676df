package edge

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"os"
	"strconv"
	"strings"
	"time"
)

// response is the head of an app's answer, but for the fields, which are in
// the http.Header they were parsed into.
type response struct {
	status    int
	length    int64 // of the body; -1: chunked, or until the connection closes
	chunked   bool
	closing   bool          // the connection serves no other request
	keepAlive time.Duration // how long the app keeps the connection; 0: not said
	upgrade   string
	announced bool // trailers were
	events    bool // a stream of server-sent events
}

// maxHead is the longest head that an app may answer with.
const maxHead = 256 << 10

// maxInformational is how many 1xx answers may come before the final one.
const maxInformational = 16

var errBadHead = errors.New("malformed answer")

// tokenTable is tokenChar by index: names are checked on every answer.
var tokenTable = func() (t [256]bool) {
	for c := range t {
		t[c] = tokenChar(byte(c))
	}
	return t
}()

// readLines reads up to and including the next empty line.
func readLines(br *bufio.Reader) (string, error) {
	// As a rule all of it came in one packet.
	buffered, _ := br.Peek(br.Buffered())
	for at := 0; ; {
		i := bytes.IndexByte(buffered[at:], '\n')
		if i < 0 {
			break
		}
		empty := i == 0 || i == 1 && buffered[at] == '\r'
		at += i + 1
		if empty {
			s := string(buffered[:at])
			_, _ = br.Discard(at)
			return s, nil
		}
	}
	var all []byte
	for start := 0; ; {
		part, err := br.ReadSlice('\n')
		all = append(all, part...)
		if len(all) > maxHead {
			return "", errBadHead
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return "", err
		}
		if line := all[start:]; len(line) == 1 || len(line) == 2 && line[0] == '\r' {
			return string(all), nil
		}
		start = len(all)
	}
}

// cutLine takes the first line of s, without its end.
func cutLine(s string) (line, rest string) {
	i := strings.IndexByte(s, '\n')
	line, rest = s[:i], s[i+1:]
	return strings.TrimSuffix(line, "\r"), rest
}

// cutField reads one field line strictly: no folding, no space before the
// colon, no control characters.
func cutField(line string) (name, value string, ok bool) {
	i := strings.IndexByte(line, ':')
	if i <= 0 {
		return "", "", false
	}
	name = line[:i]
	for j := range len(name) {
		if !tokenTable[name[j]] {
			return "", "", false
		}
	}
	value = strings.Trim(line[i+1:], " \t")
	if !validValue(value) {
		return "", "", false
	}
	return textproto.CanonicalMIMEHeaderKey(name), value, true
}

// parseHead reads the head of an answer to a request of the method. Fields
// for the client go into dst; those that concern the connection and the
// framing do not.
func parseHead(s, method string, dst http.Header) (response, error) {
	line, rest := cutLine(s)
	res := response{length: -1}
	// HTTP/1.x SP status [SP reason]
	if len(line) < 12 || line[:7] != "HTTP/1." || line[7] != '0' && line[7] != '1' || line[8] != ' ' || len(line) > 12 && line[12] != ' ' {
		return res, errBadHead
	}
	for _, c := range []byte(line[9:12]) {
		if c < '0' || c > '9' {
			return res, errBadHead
		}
		res.status = res.status*10 + int(c-'0')
	}
	if res.status < 100 {
		return res, errBadHead
	}
	old := line[7] == '0'
	res.closing = old

	values := make([]string, 0, strings.Count(rest, "\n"))
	var connection []string
	length := int64(-1)
	codings := 0
	for {
		if line, rest = cutLine(rest); line == "" {
			break
		}
		name, value, ok := cutField(line)
		if !ok {
			return res, errBadHead
		}
		switch name {
		case "Content-Length":
			n, err := strconv.ParseUint(value, 10, 62)
			if err != nil || value[0] == '+' || length >= 0 && length != int64(n) {
				return res, errBadHead
			}
			length = int64(n)
			continue
		case "Transfer-Encoding":
			// Some frameworks say "chunked" once themselves and once by what
			// they call, and mean one.
			for coding := range strings.SplitSeq(value, ",") {
				if !strings.EqualFold(strings.Trim(coding, " \t"), "chunked") || old {
					return res, errBadHead
				}
				codings++
			}
			res.chunked = true
			continue
		case "Connection":
			connection = append(connection, value)
			continue
		case "Keep-Alive":
			res.keepAlive = keepAliveOf(value)
			continue
		case "Upgrade":
			res.upgrade = value
			continue
		case "Trailer":
			res.announced = true
			for part := range strings.SplitSeq(value, ",") {
				if part = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(part)); trailerAllowed(part) {
					dst.Add("Trailer", part)
				}
			}
			continue
		case "Content-Type":
			res.events = strings.HasPrefix(strings.ToLower(value), "text/event-stream")
		default:
			if hopByHop(name) {
				continue
			}
		}
		if before := dst[name]; before != nil {
			dst[name] = append(before, value)
		} else {
			values = append(values, value)
			dst[name] = values[len(values)-1 : len(values) : len(values)]
		}
	}
	if len(connection) > 0 {
		res.closing = hasToken(connection, "close") || old && !hasToken(connection, "keep-alive")
		for _, v := range connection {
			for name := range strings.SplitSeq(v, ",") {
				// An app that lists such a field would have it dropped by every proxy.
				if name = textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)); name != "" && name != "Close" {
					delete(dst, name)
				}
			}
		}
	}
	if codings > 1 {
		res.closing = true // were it chunked twice after all, the rest is in no other answer
	}
	res.frame(method, length, dst)
	return res, nil
}

// frame settles where the body ends (RFC 9112, 6.3).
func (res *response) frame(method string, length int64, dst http.Header) {
	bodyless := method == http.MethodHead || res.status < 200 || res.status == http.StatusNoContent || res.status == http.StatusNotModified
	if res.chunked && length >= 0 {
		// One of the two is a lie. Chunked wins, and the connection is not
		// trusted with another request.
		length, res.closing = -1, true
	}
	if length >= 0 && res.status >= 200 && res.status != http.StatusNoContent {
		dst["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
	switch {
	case bodyless:
		res.length, res.chunked = 0, false
	case res.chunked:
	case length >= 0:
		res.length = length
	default:
		res.closing = true
	}
}

// keepAliveOf reads "timeout=5, max=100": a second less than the app says, so
// that it does not hang up as the next request goes out.
func keepAliveOf(value string) time.Duration {
	for part := range strings.SplitSeq(value, ",") {
		if v, ok := strings.CutPrefix(strings.TrimSpace(part), "timeout="); ok {
			if n, err := strconv.Atoi(v); err == nil && n >= 0 && n < 1<<20 {
				return max(time.Millisecond, time.Duration(n-1)*time.Second)
			}
		}
	}
	return 0
}

// receive brings the answer to the client.
func (x *exchange) receive(c *upstream) (how outcome, keep bool) {
	h := x.w.Header()
	for informational := 0; ; informational++ {
		if _, err := c.br.Peek(1); err != nil {
			if x.up != nil && c.ended.Load() == 0 && errors.Is(err, os.ErrDeadlineExceeded) && x.up.extend(c) {
				continue
			}
			if informational > 0 { // it has begun to answer
				return x.brokeOff(c, err), false
			}
			return x.lostOn(c, err), false
		}
		if informational == 0 && speaksFrames(c.br) {
			c.backend.sayOnce(speaksH2C)
			return x.brokeOff(c, errBadHead), false
		}
		if informational == 0 && c.served > 0 && !beginsAnswer(c.br) {
			// What was left over from the answer before came late: there is
			// none to this request yet.
			c.backend.distrust(sentTooMuch)
			return lostUnanswered, false
		}
		s, err := readLines(c.br)
		if err != nil {
			return x.brokeOff(c, err), false
		}
		res, err := parseHead(s, x.r.Method, h)
		switch {
		case err != nil || informational >= maxInformational:
			return x.brokeOff(c, errBadHead), false
		case res.status == http.StatusSwitchingProtocols:
			if x.upgrade == "" || !strings.EqualFold(res.upgrade, x.upgrade) {
				return x.brokeOff(c, errBadHead), false
			}
			x.tunnel(c, res)
			return answered, false
		case res.status < 200:
			// 100 is net/http's to send: when the body is first read.
			if res.status != http.StatusContinue && x.r.ProtoAtLeast(1, 1) {
				x.w.WriteHeader(res.status)
			}
			clear(h)
			continue
		}
		return x.answer(c, res)
	}
}

// beginsAnswer reports whether what has come so far may be an answer's begin.
func beginsAnswer(br *bufio.Reader) bool {
	const begin = "HTTP/1."
	b, _ := br.Peek(min(br.Buffered(), len(begin)))
	return strings.HasPrefix(begin, string(b))
}

// speaksFrames reports whether what has come is HTTP/2.
func speaksFrames(br *bufio.Reader) bool {
	b, _ := br.Peek(min(br.Buffered(), frameHead))
	return len(b) == frameHead && isSettings(b)
}

// brokeOff answers for an app whose answer began and made no sense, or did
// not come to the end of its head.
func (x *exchange) brokeOff(c *upstream, err error) outcome {
	clear(x.w.Header())
	if c.ended.Load() != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		return x.lostOn(c, err)
	}
	x.giveUp(badResponse)
	return gaveUp
}

// answer sends the head and the body to the client.
func (x *exchange) answer(c *upstream, res response) (how outcome, keep bool) {
	h := x.w.Header()
	x.firstByte = time.Since(x.started)
	c.backend.answered(c, x.firstByte-x.now.Sub(x.started))
	if h["Content-Type"] == nil {
		h["Content-Type"] = nil // else net/http guesses one
	}
	h["X-Request-Id"] = []string{x.id}
	x.stick(h, x.pool, c.backend)
	x.begin(res.status)

	if res.events {
		c.events.Store(true)
		defer c.events.Store(false)
	}
	whole, err := x.copyBody(c, res)
	if err != nil { // the client's side
		x.failed = "client_gone"
		return answered, false
	}
	if !whole {
		// A stream of events may end anywhere, and says so by its own means.
		// Anything else must not look complete.
		ended := c.ended.Load()
		if !res.events || res.length >= 0 || ended != endedByDrain && ended != endedByStop {
			x.aborted = true
		}
		if x.failed = "cut_off"; ended == endedByDrain {
			x.failed = "drained"
		} else if ended == endedByClient {
			x.failed = "client_gone"
		}
		return answered, false
	}
	if res.keepAlive > 0 {
		c.expires = time.Now().Add(res.keepAlive)
	}
	return answered, !res.closing && !x.once
}

// stalls bounds how long the client may take nothing of what is sent next. In
// HTTP/1.1 its connection does that (see stallConn); in HTTP/2 it can hold up
// one stream alone. With sending false the app has the word, for as long as it
// likes.
func (x *exchange) stalls(sending bool) {
	if x.r.ProtoMajor < 2 || !sending && !x.stalling {
		return
	}
	until := time.Time{}
	if x.stalling = sending; sending {
		until = time.Now().Add(x.rt.cfg.StallTimeout)
	}
	_ = http.NewResponseController(x.w).SetWriteDeadline(until)
}

// copyBody copies the body as it comes. It reports whether all of it did, and
// an error if the client takes no more.
func (x *exchange) copyBody(c *upstream, res response) (whole bool, err error) {
	left := res.length
	switch {
	case left == 0:
		return true, nil
	case left > 0 && int64(c.br.Buffered()) >= left:
		// A small answer is already there.
		p, _ := c.br.Peek(int(left))
		x.stalls(true)
		n, err := x.w.Write(p)
		x.bytesOut += int64(n)
		_, _ = c.br.Discard(n)
		return err == nil, err
	}
	var src io.Reader = c.br
	if res.chunked {
		src = httputil.NewChunkedReader(c.br)
	}
	flusher, _ := x.w.(http.Flusher)
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	// What the app sent so far is not held back for what may follow; only the
	// head of a small answer waits for the body that is right behind it.
	held := left < 0 || left > 4<<10
	for {
		if left == 0 {
			return true, nil
		}
		p := *buffer
		if left > 0 {
			p = p[:min(int64(len(p)), left)]
		}
		if c.br.Buffered() == 0 {
			if held && flusher != nil {
				x.stalls(true)
				flusher.Flush()
				held = false
			}
			c.readWithin(time.Now(), x.rt.cfg.IdleTimeout)
		}
		x.stalls(false)
		n, rerr := src.Read(p)
		if n > 0 {
			if left > 0 {
				left -= int64(n)
			}
			x.stalls(true)
			m, werr := x.w.Write(p[:n])
			x.bytesOut += int64(m)
			if werr != nil {
				return false, werr
			}
			held = true
		}
		if rerr == nil {
			continue
		}
		switch {
		case left == 0:
			return true, nil
		case rerr != io.EOF || left > 0:
			return false, nil
		case res.chunked:
			return x.trailers(c, res, flusher) == nil, nil
		}
		return c.ended.Load() == 0, nil // until the connection closed
	}
}

// trailers reads what follows the last chunk and passes it on.
func (x *exchange) trailers(c *upstream, res response, flusher http.Flusher) error {
	s, err := readLines(c.br)
	if err != nil {
		return err
	}
	if s != "\r\n" && !strings.HasSuffix(s, "\r\n\r\n") {
		x.once = true // who is strict reads no end there: this was the connection's last answer
	}
	h := x.w.Header()
	for first := true; ; first = false {
		var line string
		if line, s = cutLine(s); line == "" {
			return nil
		}
		name, value, ok := cutField(line)
		if !ok {
			return errBadHead
		}
		if !trailerAllowed(name) {
			continue
		}
		// A trailer that was not announced needs an answer that is chunked
		// already.
		if first && !res.announced && flusher != nil {
			flusher.Flush()
		}
		h.Add(http.TrailerPrefix+name, value)
	}
}

// converseExpecting sends the head of a request whose client waits for 100
// (Continue), and the body once the app wants it, or has said nothing for a
// second.
func (x *exchange) converseExpecting(c *upstream) (how outcome, keep bool) {
	if how, ok := x.send(c); !ok {
		return how, false
	}
	c.readUntil = time.Time{}
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	c.stayInterrupted()
	_, err := c.br.Peek(1)
	c.readWithin(time.Now(), x.responseTimeout())
	if err != nil && (!errors.Is(err, os.ErrDeadlineExceeded) || c.ended.Load() != 0) {
		return x.lostOn(c, err), false
	}
	if err == nil {
		// A final answer now means that the body is not wanted. What it says
		// is passed on, and neither connection is used again: the app may
		// still wait for the body.
		head, _ := c.br.Peek(min(c.br.Buffered(), 12))
		if len(head) < 12 || !bytes.Equal(head[9:12], []byte("100")) {
			how, _ = x.receive(c)
			return how, false
		}
	}
	return x.converseStreaming(c)
}
