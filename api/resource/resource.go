// Package resource holds the public API's shapes: what requests and responses
// look like on the wire, and nothing else. The server fills them from the
// domain's nouns, the Go client reads them, and the OpenAPI document is made
// from them, so that the three can't drift apart.
//
// Tags beyond json: doc is the field's description in the OpenAPI document,
// enum its allowed values, required marks a field a request must have.
package resource

import (
	"bytes"
	"encoding/json"
)

// Object is the envelope of one resource.
type Object[T any] struct {
	Data T `json:"data"`
}

// Listing is the envelope of a list.
type Listing[T any] struct {
	Data []T  `json:"data"`
	Page Page `json:"page"`
}

// Page says which part of a list an answer holds.
type Page struct {
	Page       int     `json:"page" doc:"Number of this page, from 1."`
	PageSize   int     `json:"page_size" doc:"Most items a page holds."`
	Total      int     `json:"total" doc:"Items on all pages together."`
	NextCursor *string `json:"next_cursor" doc:"Give it as cursor to go on behind the last item; null at the end."`
}

// Problem is the body of every error.
type Problem struct {
	Error   ProblemError `json:"error"`
	Message string       `json:"message" doc:"The same words as error.message."`
	// RetryAfter is there with 429 and 503 only.
	RetryAfter int `json:"retry_after,omitempty" doc:"Seconds to wait before trying again."`
}

// ProblemError says what went wrong.
type ProblemError struct {
	Code      string         `json:"code" doc:"Stable, for programs: deployment_not_found, name_taken …"`
	Message   string         `json:"message" doc:"For people: what happened and what to do."`
	RequestID string         `json:"request_id"`
	Details   ProblemDetails `json:"details"`
}

// ProblemDetails names the wrong fields of a request.
type ProblemDetails struct {
	Fields []ProblemField `json:"fields,omitempty"`
}

// ProblemField is one wrong field.
type ProblemField struct {
	Field   string `json:"field" doc:"Dotted path, as in the request body."`
	Message string `json:"message"`
}

// Attribution is how a white-label customer names its own customers; it is
// stored, returned, and filters every list.
type Attribution struct {
	ExternalWorkspaceID string `json:"external_workspace_id,omitempty"`
	ExternalUserID      string `json:"external_user_id,omitempty"`
	ExternalProjectID   string `json:"external_project_id,omitempty"`
}

// Attributed is Attribution in an answer, where an absent one is null.
type Attributed struct {
	ExternalWorkspaceID *string `json:"external_workspace_id"`
	ExternalUserID      *string `json:"external_user_id"`
	ExternalProjectID   *string `json:"external_project_id"`
}

// Nullable is a field of a PATCH that tells absent, null and a value apart.
type Nullable[T any] struct {
	Set   bool // the field is there
	Null  bool // it is null
	Value T
}

// NullableElem marks Nullable for the OpenAPI document and the body checker.
func (n Nullable[T]) NullableElem() any { return n.Value }

// IsZero leaves an absent field out under omitzero.
func (n Nullable[T]) IsZero() bool { return !n.Set }

// MarshalJSON writes null or the value.
func (n Nullable[T]) MarshalJSON() ([]byte, error) {
	if !n.Set || n.Null {
		return []byte("null"), nil
	}
	return json.Marshal(n.Value)
}

// UnmarshalJSON is called only for a field that is there.
func (n *Nullable[T]) UnmarshalJSON(raw []byte) error {
	n.Set = true
	if bytes.Equal(raw, []byte("null")) {
		n.Null = true
		return nil
	}
	return json.Unmarshal(raw, &n.Value)
}

// Deleted answers a DELETE.
type Deleted struct {
	ID      string `json:"id"`
	Deleted bool   `json:"deleted"`
}
