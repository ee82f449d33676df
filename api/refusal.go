package api

import (
	"io"
	"net/http"
	"time"
)

// A request may be answered before all of its body came: it is refused by its
// headers, or by the body's beginning. Many clients send everything before they
// look for an answer, and a connection that is closed meanwhile takes the answer
// with it: they see a broken pipe. So the answer is sent first, then what still
// comes is read and dropped, within these bounds.
const (
	drainTime  = 15 * time.Second
	drainBytes = 512 << 20
)

// exchange is one request, as its answer is about to be written.
type exchange struct {
	http.ResponseWriter
	body  *watchedBody
	early bool // answered before the body's end
}

// begin watches a request's body. The caller serves what it returns, then ends
// the exchange.
func begin(w http.ResponseWriter, r *http.Request) (*exchange, *http.Request) {
	x := &exchange{ResponseWriter: w, body: &watchedBody{ReadCloser: r.Body, ended: r.Body == http.NoBody}}
	if !x.body.ended {
		r.Body = x.body
	}
	return x, r
}

// Unwrap is for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

func (x *exchange) WriteHeader(status int) {
	if !x.early && status >= 200 && !x.body.ended {
		x.early = true
		// Else net/http would read on before it answers. What has no such thing
		// (HTTP/2, a test's recorder) does not do that.
		_ = http.NewResponseController(x.ResponseWriter).EnableFullDuplex()
		x.Header().Set("Connection", "close")
	}
	x.ResponseWriter.WriteHeader(status)
}

func (x *exchange) Write(p []byte) (int, error) {
	if !x.early && !x.body.ended {
		x.WriteHeader(http.StatusOK)
	}
	return x.ResponseWriter.Write(p)
}

// end sees the body out.
func (x *exchange) end(r *http.Request) {
	if !x.early || r.ProtoMajor != 1 {
		return
	}
	control := http.NewResponseController(x.ResponseWriter)
	if control.Flush() != nil {
		return // the client left
	}
	if r.Header.Get("Expect") == "" || x.body.begun { // who waits for 100 (Continue) sends nothing
		_ = control.SetReadDeadline(time.Now().Add(drainTime))
		_, _ = io.CopyN(io.Discard, x.body, drainBytes)
	}
	if !x.body.ended {
		// net/http would read on for what it takes for little.
		_ = control.SetReadDeadline(time.Unix(1, 0))
	}
}

// watchedBody knows whether all of it was read.
type watchedBody struct {
	io.ReadCloser
	begun, ended bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	b.begun = true
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.ended = true
	}
	return n, err
}
