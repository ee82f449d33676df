package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/store"
)

// statusOf is the one mapping from the domain's codes to HTTP.
var statusOf = map[miosa.Code]int{
	miosa.Malformed:       http.StatusBadRequest,
	miosa.Unauthenticated: http.StatusUnauthorized,
	miosa.PaymentRequired: http.StatusPaymentRequired,
	miosa.Forbidden:       http.StatusForbidden,
	miosa.NotFound:        http.StatusNotFound,
	miosa.Conflict:        http.StatusConflict,
	miosa.Gone:            http.StatusGone,
	miosa.Precondition:    http.StatusPreconditionFailed,
	miosa.TooLarge:        http.StatusRequestEntityTooLarge,
	miosa.Unsupported:     http.StatusUnsupportedMediaType,
	miosa.Invalid:         http.StatusUnprocessableEntity,
	miosa.Limited:         http.StatusTooManyRequests,
	miosa.Unavailable:     http.StatusServiceUnavailable,
	miosa.NoSpace:         http.StatusInsufficientStorage,
	miosa.Internal:        http.StatusInternalServerError,
}

// The answers that the domain has no code for.
const (
	errMethod  miosa.Code = "method_not_allowed"
	errUpgrade miosa.Code = "upgrade_required"
)

// problem is the status and body for an error. Nothing of a cause is shown:
// only the words that were written for the person who asked.
func problem(err error, requestID string) (int, resource.Problem) {
	e := public(err)
	status, ok := statusOf[e.Code]
	if !ok {
		status = http.StatusInternalServerError
	}
	switch e.Code {
	case errMethod:
		status = http.StatusMethodNotAllowed
	case errUpgrade:
		status = http.StatusUpgradeRequired
	}
	code := e.Public
	if code == "" {
		code = string(e.Code)
	}
	body := resource.Problem{
		Error:   resource.ProblemError{Code: code, Message: e.Message, RequestID: requestID},
		Message: e.Message,
	}
	for _, f := range e.Fields {
		body.Error.Details.Fields = append(body.Error.Details.Fields, resource.ProblemField{Field: f.Name, Message: f.Message})
	}
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		body.RetryAfter = 1
	}
	return status, body
}

// problemOf is the body of our own failure.
func problemOf(err error, requestID string) resource.Problem {
	_, body := problem(err, requestID)
	return body
}

// public is the error as it may be shown.
func public(err error) *miosa.Error {
	e, ok := errors.AsType[*miosa.Error](err)
	switch {
	case ok && e.Code == miosa.Internal, !ok && !errors.Is(err, store.ErrConflict) && !isContext(err):
		return &miosa.Error{
			Code:    miosa.Internal,
			Message: "something went wrong on our side; give the request ID to the operator if it lasts",
		}
	case ok:
		return e
	case isContext(err):
		return &miosa.Error{Code: miosa.Unavailable, Message: "the request ended before it was done; try again"}
	}
	return &miosa.Error{Code: miosa.Conflict, Message: "it was changed by somebody else; read it again and repeat"}
}

func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// invalid is a validation error over the given fields, nil when there are none.
func invalid(fields []miosa.Field) error {
	if len(fields) == 0 {
		return nil
	}
	words := make([]string, 0, len(fields))
	for _, f := range fields {
		words = append(words, f.Name+" "+f.Message)
	}
	return &miosa.Error{
		Code: miosa.Invalid, Public: "validation_failed",
		Message: strings.Join(words, "; "), Fields: fields,
	}
}

func invalidField(name, message string) error {
	return invalid([]miosa.Field{{Name: name, Message: message}})
}

func notFound(public, message string) error {
	return &miosa.Error{Code: miosa.NotFound, Public: public, Message: message}
}

func conflict(public, message string) error {
	return &miosa.Error{Code: miosa.Conflict, Public: public, Message: message}
}

func quota(message string) error {
	return &miosa.Error{Code: miosa.PaymentRequired, Public: "quota_exceeded", Message: message}
}

// writeProblem answers with an error.
func writeProblem(w http.ResponseWriter, status int, body resource.Problem) {
	if status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="miosa"`)
	}
	if body.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(body.RetryAfter))
	}
	raw, err := json.Marshal(body)
	if err != nil { // strings only: cannot be
		raw = []byte(`{}`)
	}
	writeJSON(w, status, raw)
}

func writeJSON(w http.ResponseWriter, status int, raw []byte) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)+1))
	w.WriteHeader(status)
	// A client that left is no error of ours.
	_, _ = w.Write(append(raw, '\n'))
}
