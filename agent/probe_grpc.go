package agent

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/miosa/miosa"
)

// errDialledOnce ends a check whose one connection took no call.
var errDialledOnce = errors.New("the check has had its connection")

// askGRPC asks the standard health service of a gRPC server.
func (p prober) askGRPC(ctx context.Context, check miosa.HealthCheck, s subject) (detail string, err error) {
	authority := s.addr
	switch {
	case check.Host != "":
		authority = check.Host
	case s.public.Host != "":
		authority = s.public.Host
	}
	var dialled atomic.Bool
	conn, err := grpc.NewClient("passthrough:///"+s.addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority(authority), grpc.WithUserAgent("miosa-health/1"), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(probeBody)),
		// It would dial again where the app takes connections and no calls.
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			if dialled.Swap(true) {
				return nil, errDialledOnce
			}
			return p.dial(ctx, "tcp", addr)
		}))
	if err != nil {
		return "", probeFailure("the health check's host is no valid name")
	}
	defer conn.Close()
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: strings.TrimPrefix(check.Path, "/")})
	switch status.Code(err) {
	case codes.OK:
		if answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			return "", probeFailure("answered " + answer.GetStatus().String())
		}
		return "answered SERVING", nil
	case codes.Unimplemented:
		return "", probeFailure("the server has no grpc.health.v1.Health service")
	case codes.NotFound:
		return "", probeFailure("the server's health service knows no service " + strings.TrimPrefix(check.Path, "/"))
	case codes.DeadlineExceeded:
		return "", context.DeadlineExceeded
	case codes.Canceled:
		return "", context.Canceled
	case codes.Unavailable:
		return "", probeFailure("no gRPC connection")
	}
	return "", probeFailure("answered " + status.Code(err).String())
}
