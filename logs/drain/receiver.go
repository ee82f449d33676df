package drain

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/outbound"
)

const (
	// sendTime bounds one sending, from the connection to the end of the answer.
	sendTime = time.Minute
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 64 << 10
	userAgent = "miosa-log-drain/1"
)

// receiver is the other end of a drain.
type receiver interface {
	// send gives it a batch, and says what came of it.
	send(ctx context.Context, lines []Line) answer
	// close lets go of connections.
	close()
}

// opened is a drain with its secrets in clear. It lives in memory alone.
type opened struct {
	url     *url.URL
	headers map[string]string
	token   string
}

// open brings the secrets of a drain's record to light.
func open(ctx context.Context, secrets Opener, d miosa.LogDrain) (opened, error) {
	reveal := func(part string, sealed []byte) (string, error) {
		raw, err := secrets.Open(ctx, d.TenantID, miosa.DrainAAD(d.ID, part), sealed)
		if err != nil {
			return "", fmt.Errorf("open %s of log drain %s: %w", part, d.ID, err)
		}
		return string(raw), nil
	}
	o := opened{headers: map[string]string{}}
	raw, err := reveal("url", d.URL)
	if err != nil {
		return o, err
	}
	if o.url, err = url.Parse(raw); err != nil {
		return o, fmt.Errorf("the URL of log drain %s is none", d.ID) // the cause would quote it
	}
	for _, h := range d.Headers {
		if o.headers[h.Name], err = reveal("header/"+h.Name, h.Sealed); err != nil {
			return o, err
		}
	}
	if len(d.Token) > 0 {
		o.token, err = reveal("token", d.Token)
	}
	return o, err
}

// newReceiver makes the other end; nothing is connected yet.
func newReceiver(guard outbound.Guard, d miosa.LogDrain, o opened) (receiver, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if d.CA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(d.CA)) {
			return nil, fmt.Errorf("log drain %s: its CA certificate is none", d.ID)
		}
	}
	if o.url.Scheme != "https" && o.url.Scheme != "syslog+tls" {
		guard.Only = true // without TLS
	}
	switch d.Type {
	case miosa.DrainSyslog:
		return &syslogReceiver{dialer: guard.Dialer(), config: config, addr: o.url.Host, token: o.token}, nil
	case miosa.DrainHTTPS, miosa.DrainOTLP:
		return &httpReceiver{client: guard.ClientTLS(config), drain: d, opened: o}, nil
	}
	return nil, fmt.Errorf("log drain %s is of the unknown type %q", d.ID, d.Type)
}

// httpReceiver takes NDJSON or OTLP.
type httpReceiver struct {
	client *http.Client
	drain  miosa.LogDrain
	opened opened
}

func (r *httpReceiver) close() { r.client.CloseIdleConnections() }

func (r *httpReceiver) send(ctx context.Context, lines []Line) answer {
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	req, err := r.request(ctx, lines)
	if err != nil {
		return answer{verdict: again, words: "the lines could not be written"}
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return failed(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	a := answer{verdict: judgeStatus(resp.StatusCode), status: resp.StatusCode, after: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	if a.verdict == taken && r.drain.Type == miosa.DrainOTLP && err == nil && len(body) > 0 {
		// A receiver that took the lines and answers something else took them.
		if rejected, err := partial(body); err == nil && rejected > 0 {
			a.rejected, a.words = rejected, fmt.Sprintf("the receiver rejected %d lines", rejected)
		}
		return a
	}
	a.words = said(resp.StatusCode)
	if to := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && to != "" {
		a.words = fmt.Sprintf("the receiver redirects to another place (%d); redirects are not followed: set the URL to where it leads", resp.StatusCode)
	}
	return a
}

func (r *httpReceiver) request(ctx context.Context, lines []Line) (*http.Request, error) {
	var raw []byte
	var err error
	media := "application/x-ndjson"
	if r.drain.Type == miosa.DrainOTLP {
		media = "application/x-protobuf"
		raw, err = otlp(lines, time.Now())
	} else {
		raw, err = ndjson(lines)
	}
	if err != nil {
		return nil, err
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(raw); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.opened.url.String(), bytes.NewReader(packed.Bytes()))
	if err != nil {
		return nil, err
	}
	h := req.Header
	if r.opened.token != "" {
		h.Set("Authorization", "Bearer "+r.opened.token)
	}
	for name, value := range r.opened.headers {
		h.Set(name, value)
	}
	h.Set("Content-Type", media)
	h.Set("Content-Encoding", "gzip")
	h.Set("User-Agent", userAgent)
	h.Set("Idempotency-Key", batchKey(r.drain.ID, lines))
	h.Set("Miosa-Log-Drain", r.drain.ID)
	h.Set("Miosa-Lines", fmt.Sprint(len(lines)))
	return req, nil
}

// failed is the answer when there was none.
func failed(ctx context.Context, err error) answer {
	a := answer{verdict: again, words: outbound.Why(err)}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		a.verdict = mend
	} else if _, ok := errors.AsType[*net.DNSError](err); !ok && ctx.Err() != nil {
		a.words = outbound.Why(ctx.Err())
	}
	return a
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
