package edge

import (
	"net/http"
	"strconv"
	"strings"
)

// A gRPC client reads how a call ended from the fields grpc-status and
// grpc-message. What the router says by itself has the codes that clients make
// of the HTTP statuses that others get (grpc/doc/http-grpc-status-mapping.md).
const (
	grpcCancelled         = 1
	grpcUnknown           = 2
	grpcResourceExhausted = 8
	grpcUnimplemented     = 12
	grpcInternal          = 13
	grpcUnavailable       = 14
)

// isGRPC reports whether a request or an answer is one of gRPC's. gRPC-Web has
// its own way to end.
func isGRPC(h http.Header) bool {
	v := h["Content-Type"]
	if len(v) != 1 {
		return false
	}
	rest, ok := strings.CutPrefix(strings.ToLower(v[0]), "application/grpc")
	return ok && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// grpc is the failure's code.
func (f failure) grpc() int {
	switch f.status {
	case http.StatusBadRequest:
		return grpcInternal
	case http.StatusNotFound:
		return grpcUnimplemented
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return grpcUnavailable
	}
	return grpcUnknown
}

// endGRPC says how the call ended: as the answer's header, where none was sent
// yet, else behind it.
func (x *exchange) endGRPC(code int, message string) {
	h, prefix := x.w.Header(), ""
	if x.begun {
		prefix = http.TrailerPrefix
	} else {
		h["Content-Type"] = []string{"application/grpc"}
	}
	h[prefix+"Grpc-Status"] = []string{strconv.Itoa(code)}
	h[prefix+"Grpc-Message"] = []string{message}
}
