package miosa

import (
	"errors"
	"fmt"
)

// Code says what kind of error it is; the API maps each to an HTTP status in
// one place (api/errors.go).
type Code string

// The codes that more than one package needs. A more specific public code
// ("deployment_not_found") is carried in Error.Public.
const (
	Invalid         Code = "invalid"         // the request is wrong: 422
	Malformed       Code = "malformed"       // it cannot even be read: 400
	Unauthenticated Code = "unauthenticated" // 401
	PaymentRequired Code = "payment_required"
	Forbidden       Code = "forbidden"
	NotFound        Code = "not_found"
	Conflict        Code = "conflict"     // 409
	Precondition    Code = "precondition" // stale If-Match: 412
	Gone            Code = "gone"         // 410
	TooLarge        Code = "too_large"    // 413
	Unsupported     Code = "unsupported"  // 415
	Limited         Code = "limited"      // 429
	Unavailable     Code = "unavailable"  // passing: try again, 503
	NoSpace         Code = "no_space"     // the platform's disk is full: 507
	Internal        Code = "internal"
)

// Field names one wrong field of a request.
type Field struct {
	Name    string // dotted path, as in the request body
	Message string // what is wrong and what would be right
}

// Error is the one error type that crosses package borders with a meaning.
type Error struct {
	Code    Code
	Public  string // the API's error code, e.g. "name_taken"; Code when empty
	Message string // for the person who asked: what happened and what to do
	Fields  []Field
	Passing bool  // a refusal that passes by itself: the same request may succeed later
	Err     error // the cause; for the log, never shown to a customer
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Message + ": " + e.Err.Error()
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error of the code. A cause is none of its arguments: it would
// be shown to customers (see Wrap).
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Wrap makes an Error of the code with a cause, which the log has and customers
// have not.
func Wrap(cause error, code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Err: cause}
}

// CodeOf is the code of the first Error in err's chain, Internal when there
// is none and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}

// Retryable reports whether the same call may succeed if simply repeated.
func Retryable(err error) bool {
	code := CodeOf(err)
	return code == Unavailable || code == Limited
}
