package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/miosa/miosa"
)

// unreached is said of an address that may not be called and of one at which
// nothing listens alike: who named it learns nothing of a network that is not
// theirs.
const unreached = "nothing answers at the receiver's address, or it may not be called from here: only public addresses may (without TLS none), and what the operator allows with --allow-target"

// Why says why a call through a Guard had no answer, in words for who named the
// address: without addresses, without anything of the URL, and without a byte
// of what the other end sent.
func Why(err error) string {
	if dns, ok := errors.AsType[*net.DNSError](err); ok {
		return "the receiver's name cannot be resolved: " + Unresolved(dns)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "the receiver does not answer in time"
	}
	op, isOp := errors.AsType[*net.OpError](err)
	if miosa.CodeOf(err) == miosa.Forbidden || isOp && op.Op == "dial" {
		return unreached
	}
	if cert, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "the receiver's certificate is not trusted: " + untrusted(cert.Err)
	}
	if alert, ok := errors.AsType[tls.AlertError](err); ok {
		return "the receiver broke the TLS handshake off: " + alert.Error()
	}
	var record tls.RecordHeaderError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &record):
		return "what answers at the receiver's address speaks no TLS"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "the receiver does not answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "the receiver cut the connection"
	case strings.Contains(err.Error(), "headers exceeded"):
		return "the headers of the receiver's answer are too long"
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok && isOp {
		return "the connection to the receiver fails (" + op.Op + "): " + errno.Error()
	}
	return "the receiver's answer cannot be read as one of its protocol"
}

// untrusted says what is wrong with a certificate without quoting it.
func untrusted(err error) string {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "it is signed by an unknown authority"
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "it is for another name"
	}
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return "it has expired, or is not valid yet"
	}
	return "it is not valid"
}
