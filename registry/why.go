package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/outbound"
)

// failure is why a request had no good answer, and whether the same may have one later.
type failure struct {
	*refusal
	again bool
	after time.Duration // before which it is of no use; 0: not said
	// quiet: how often it was tried is not told. It would tell what is not called from
	// what does not answer.
	quiet bool
}

// refusal is what its words are in: embedded by this name, its Error is a method.
type refusal = miosa.Error

func (f *failure) Unwrap() error { return f.refusal }

// Ended is what a request came to, without a byte that somebody sent: for the
// operator's log. URLs may be signed, and registries may say what they were sent.
type Ended struct {
	Status int    // of the answer; 0: none that is one
	Why    string // in words of ours; "": its error code says it
}

func (e *Ended) Error() string {
	switch {
	case e.Status != 0:
		return fmt.Sprintf("status %d", e.Status)
	case e.Why != "":
		return e.Why
	}
	return "no answer that can be read"
}

// ended sums an error up.
func ended(err error) *Ended {
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var timeout interface{ Timeout() bool }
	var errno syscall.Errno
	switch {
	case errors.As(err, &dns):
		return &Ended{Why: outbound.Unresolved(dns)}
	case errors.As(err, &cert):
		return &Ended{Why: "the certificate is not trusted: " + untrusted(cert.Err, "")}
	case miosa.CodeOf(err) == miosa.Forbidden:
		return &Ended{Why: "not called"}
	case errors.As(err, &errno):
		return &Ended{Why: errno.Error()}
	case errors.As(err, &timeout) && timeout.Timeout():
		return &Ended{Why: "timeout"}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &Ended{Why: "cut"}
	}
	for _, own := range []error{errSilent, errSlow, errTrickle, errRedirects, errPlain} {
		if errors.Is(err, own) {
			return &Ended{Why: own.Error()}
		}
	}
	return &Ended{}
}

// longestAfter bounds what a registry may have us wait for, once.
const longestAfter = 2 * time.Minute

var errPlain = errors.New("a request without TLS that the reference does not ask for")

// explain words what a request ended in, for who named the image, and keeps
// nothing else of it. what is what was asked for.
func (s *Source) explain(err error, what string) error {
	if _, ok := errors.AsType[*failure](err); ok {
		return err
	}
	refusal, refused := errors.AsType[*miosa.Error](err)
	if refused && refusal.Code != miosa.Forbidden {
		return refusal // it has its words
	}
	if disk, ok := errors.AsType[*diskError](err); ok {
		return disk
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		return s.answered(answer, what)
	}
	f := &failure{refusal: &miosa.Error{Code: miosa.Unavailable, Public: CodeUnreached, Err: ended(err)}}
	host, place := s.ref.Host, s.ref.Host
	// Behind a redirect it is another's fault. Its name is nothing that the user
	// wrote: it is not repeated.
	if asked, ok := errors.AsType[*url.Error](err); ok {
		if u, perr := url.Parse(asked.URL); perr == nil && u.Host != "" && !s.same(u.Host) {
			host, place = "", "the server that "+s.ref.Host+" sends on to"
		}
	}
	var dns *net.DNSError
	var cert *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var timeout interface{ Timeout() bool }
	var op *net.OpError
	switch {
	case errors.As(err, &dns):
		f.Message, f.again = fmt.Sprintf("the name of %s cannot be resolved: %s", place, outbound.Unresolved(dns)), !dns.IsNotFound
	case errors.As(err, &cert):
		f.Public, f.Message = CodeTrust, fmt.Sprintf("the certificate of %s is not trusted: %s", place, untrusted(cert.Err, host))
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		f.Message = fmt.Sprintf("what answers at %s speaks no TLS; a registry without it is named http://%s/…, and its address has to be allowed by the operator with --allow-target", place, s.ref.Host)
	case refused, errors.As(err, &op) && op.Op == "dial":
		// Who does not answer for a moment, as when it is restarted, does later.
		f.again, f.quiet = !refused || refusal.Passing, true
		f.Message = fmt.Sprintf("nothing answers at %s, or it may not be called from here: only public addresses may (without TLS none), and what the operator allows with --allow-target", place)
	case realmRefused(err):
		f.Public, f.Message = CodeFailing, s.ref.Host+" sends to a token server by a private address, or without TLS: its operator has to name the token server by a host name, https://…"
	case errors.Is(err, errTrickle):
		f.Message = fmt.Sprintf("%s sends layers more slowly than %d KB a second, which is the least", place, s.cfg.LeastRate/1000)
	case errors.Is(err, errSlow):
		f.Message = fmt.Sprintf("%s takes more than %s to send %s, which is the limit", place, s.cfg.Document, what)
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded), errors.Is(err, errSilent):
		f.Message, f.again = place+" does not answer in time", true
	case errors.Is(err, errRedirects):
		f.Public, f.Message = CodeFailing, s.ref.Host+" redirects in circles"
	case errors.Is(err, errPlain):
		f.Message = fmt.Sprintf("%s answers without TLS, or sends on to where there is none: only http://%s/… asks for that, and only of addresses that the operator allows with --allow-target", s.ref.Host, s.ref.Host)
	case op != nil, errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		f.Message, f.again = place+" cut the connection", true
	default:
		// Among others: an answer that is not HTTP, a stream that was reset.
		f.Public, f.Message, f.again = CodeFailing, fmt.Sprintf("%s does not answer as a registry does", place), true
	}
	return f
}

// realmRefused reports whether go-containerregistry did not go to a token server: it
// has no type for that.
func realmRefused(err error) bool {
	text := err.Error()
	return strings.Contains(text, "invalid realm in www-authenticate: ") || strings.Contains(text, "refusing token-server redirect to ")
}

// same reports whether a host of a request is the registry's own.
func (s *Source) same(host string) bool {
	host = strings.ToLower(host)
	return host == s.ref.Host || host == s.ref.repository.RegistryStr()
}

// answered words an answer that is no success.
func (s *Source) answered(e *transport.Error, what string) error {
	f := &failure{refusal: &miosa.Error{Err: &Ended{Status: e.StatusCode}}}
	has := func(code transport.ErrorCode) bool {
		return slices.ContainsFunc(e.Errors, func(d transport.Diagnostic) bool { return d.Code == code })
	}
	login := "miosa registry login " + s.ref.Host
	switch {
	case e.StatusCode == http.StatusTooManyRequests, has(transport.TooManyRequestsErrorCode):
		f.Code, f.Public, f.again, f.after = miosa.Limited, CodeLimited, true, s.retryAfter(e)
		f.Message = s.ref.Host + " limits how often images are pulled"
		if f.after > 0 {
			f.Message += fmt.Sprintf(", and says to come back in %s", f.after.Round(time.Second))
		}
		if s.login.User == "" {
			f.Message += fmt.Sprintf("; with a login there may be more: %s", login)
		}
	case e.StatusCode == http.StatusUnauthorized && s.login.User != "":
		f.Code, f.Public = miosa.Invalid, CodeLogin
		f.Message = fmt.Sprintf("%s refuses the login of %s for %s: log in again with: %s", s.ref.Host, shown(s.login.User), s.ref.Repository, login)
	case e.StatusCode == http.StatusUnauthorized:
		f.Code, f.Public = miosa.Invalid, CodeLogin
		f.Message = fmt.Sprintf("%s wants a login for %s, or has no such repository; log in with: %s", s.ref.Host, s.ref.Repository, login)
	case (e.StatusCode == http.StatusForbidden || has(transport.DeniedErrorCode)) && s.login.User != "":
		f.Code, f.Public = miosa.Invalid, CodeLogin
		f.Message = fmt.Sprintf("%s does not let %s pull %s: give it the right there, or log in as somebody else with: %s", s.ref.Host, shown(s.login.User), s.ref.Repository, login)
	case e.StatusCode == http.StatusForbidden, has(transport.DeniedErrorCode):
		f.Code, f.Public = miosa.Invalid, CodeLogin
		f.Message = fmt.Sprintf("%s lets nobody pull %s without a login; log in with: %s", s.ref.Host, s.ref.Repository, login)
	case has(transport.NameUnknownErrorCode):
		f.Code, f.Public = miosa.NotFound, CodeAbsent
		f.Message = fmt.Sprintf("%s has no repository %s", s.ref.Host, s.ref.Repository)
	case e.StatusCode == http.StatusNotFound:
		f.Code, f.Public = miosa.NotFound, CodeAbsent
		f.Message = fmt.Sprintf("%s has no %s", s.ref.Host, what)
	case e.StatusCode >= 500, e.StatusCode == http.StatusRequestTimeout, has(transport.UnavailableErrorCode):
		f.Code, f.Public, f.again, f.after = miosa.Unavailable, CodeFailing, true, s.retryAfter(e)
		f.Message = fmt.Sprintf("%s fails (status %d); try again later", s.ref.Host, e.StatusCode)
	default:
		f.Code, f.Public = miosa.Unavailable, CodeFailing
		f.Message = fmt.Sprintf("%s answers with status %d, which is nothing that a registry says here", s.ref.Host, e.StatusCode)
	}
	return f
}

// retryAfter is how long the answer asks to wait, 0 where it does not say.
func (s *Source) retryAfter(e *transport.Error) time.Duration {
	if e.Request == nil {
		return 0
	}
	said, _ := s.after.LoadAndDelete(e.Request.URL.Host)
	d, _ := said.(time.Duration)
	return d
}

// parseAfter reads Retry-After: seconds, or a time.
func parseAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(v); err == nil && n > 0 && n < 1<<31 {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil && t.After(now) {
		return t.Sub(now)
	}
	return 0
}

// untrusted says what is wrong with a certificate. host is who it should be of;
// "": somebody that the user did not name.
func untrusted(err error, host string) string {
	var name x509.HostnameError
	var bad x509.CertificateInvalidError
	switch {
	case errors.As(err, &name) && host != "":
		var names []string
		for _, n := range name.Certificate.DNSNames {
			if len(names) < 3 && len(n) <= 100 && !strings.ContainsFunc(n, func(r rune) bool { return r <= ' ' || r > '~' }) {
				names = append(names, n)
			}
		}
		for _, ip := range name.Certificate.IPAddresses {
			if len(names) < 3 {
				names = append(names, ip.String())
			}
		}
		if len(names) == 0 {
			return "it is for no name at all"
		}
		return fmt.Sprintf("it is for %s, not for %s", strings.Join(names, ", "), host)
	case errors.As(err, &name):
		return "it is for another name"
	case errors.As(err, &bad) && bad.Reason == x509.Expired:
		return "it has expired, or is not valid yet"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		if host == "" {
			return "it is signed by an unknown authority"
		}
		return fmt.Sprintf("it is signed by an unknown authority; give that one's certificate with: miosa registry login %s --ca FILE", host)
	}
	return "it is not valid"
}
