package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/routing"
)

// h2cApp serves a handler over HTTP/2 without TLS, and nothing else.
func h2cApp(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = &protocols
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func h2cPool(backends ...routing.Backend) routing.Pool {
	p := poolOf(backends...)
	p.Protocol = miosa.ProtocolH2C
	return p
}

// oneH2C serves the handler as the only app of "app.test", over HTTP/2.
func oneH2C(t testing.TB, cfg Config, h http.HandlerFunc) *rig {
	t.Helper()
	g, _ := newRig(t, cfg)
	g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_a", h2cApp(t, h)))})
	return g
}

func TestBodiesOfAllSizesOverHTTP2(t *testing.T) {
	g := oneH2C(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Length", strconv.FormatInt(r.ContentLength, 10))
		w.Header().Set("X-Said", r.Proto+" "+r.Host+" "+r.RequestURI+" "+r.Header.Get("X-Forwarded-For")+r.Header.Get("Upgrade")+r.Header.Get("X-Mine"))
		b, _ := io.ReadAll(r.Body)
		_, _ = w.Write(b)
	})
	for _, size := range []int{0, 1, wholeBody - 1, wholeBody, wholeBody + 1, 1 << 20, 20 << 20} {
		body := strings.Repeat("0123456789abcdef", size/16+1)[:size]
		for _, chunked := range []bool{false, true} {
			for _, client := range []*http.Client{g.http, g.http2Client()} {
				var r io.Reader = strings.NewReader(body)
				if chunked {
					r = io.MultiReader(r)
				}
				req, _ := http.NewRequest("POST", "http://app.test//a%2Fb?c", r)
				if client == g.http {
					req.Header.Set("Connection", "upgrade, x-mine")
					req.Header.Set("Upgrade", "websocket")
					req.Header.Set("X-Mine", "1")
				}
				res, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 || string(b) != body {
					t.Errorf("%d bytes, chunked %v: status %d, %d bytes back, %v", size, chunked, res.StatusCode, len(b), err)
				}
				if got := res.Header.Get("X-Said"); got != "HTTP/2.0 app.test //a%2Fb?c 127.0.0.1" {
					t.Errorf("the app was told %q", got)
				}
				if want := strconv.Itoa(size); !chunked && res.Header.Get("X-Length") != want {
					t.Errorf("%d bytes: the app was told %s", size, res.Header.Get("X-Length"))
				}
			}
		}
	}
}

// A client of HTTP/1.1 that sends its body before it reads finds the answer,
// and its connection goes on where all of it was read.
func TestAnswerBeforeTheBodyIsSentOverHTTP2(t *testing.T) {
	g := oneH2C(t, Config{}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestEntityTooLarge) })
	c := g.dial()
	fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: %d\r\n\r\n", 4<<20)
	if _, err := c.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Fatalf("%v %v", res, err)
	}
}

// An app that does not speak what its service says is told of in its log.
func TestAnAppThatSpeaksSomethingElse(t *testing.T) {
	requests := rawApp(t, func(c net.Conn, br *bufio.Reader) {
		_, _ = readHead(br)
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
	})
	mute := rawApp(t, func(net.Conn, *bufio.Reader) {})
	plain := app(t, func(http.ResponseWriter, *http.Request) {})
	frames := h2cApp(t, func(http.ResponseWriter, *http.Request) {})
	server := grpc.NewServer()
	for name, test := range map[string]struct {
		addr string
		pool func(...routing.Backend) routing.Pool
		code string
		says string
	}{
		"HTTP/1.1":         {plain, h2cPool, "not_h2c", speaksNoH2C},
		"HTTP/1.1 by hand": {requests, h2cPool, "not_h2c", speaksNoH2C},
		"nothing":          {mute, h2cPool, "not_h2c", speaksNoH2C},
		"HTTP/2":           {frames, poolOf, "no_response", ""},
		"gRPC":             {serveGRPC(t, server), poolOf, "bad_response", speaksH2C},
	} {
		t.Run(name, func(t *testing.T) {
			g, _ := newRig(t, Config{BackendWait: time.Millisecond})
			g.route(map[string]routing.Pool{"app.test": test.pool(at("ri_a", test.addr))})
			var got answerTo
			for range muteMost { // some say nothing, and are asked again
				got = g.get("http://app.test/")
			}
			if got.StatusCode != 502 || !strings.Contains(got.body, test.code) {
				t.Errorf("%d %s", got.StatusCode, got.body)
			}
			if test.says == "" {
				return
			}
			if err := g.feed.await(t.Context(), func(r routing.Report) bool { return r.Faults["ri_a"] == test.says }); err != nil {
				t.Error(err)
			}
		})
	}
}

// A backend that takes no connection is passed over, also by a call whose body
// streams.
func TestRetriesOverHTTP2(t *testing.T) {
	g, _ := newRig(t, Config{})
	echo := h2cApp(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_a", closedPort(t)), at("ri_b", echo))})
	for range 4 {
		if got := g.do("POST", "http://app.test/", io.MultiReader(strings.NewReader("streamed"))); got.StatusCode != 200 || got.body != "streamed" {
			t.Errorf("%d %s", got.StatusCode, got.body)
		}
	}
}

func TestEventsAndHintsOverHTTP2(t *testing.T) {
	next := make(chan string)
	g := oneH2C(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Content-Type", "text/event-stream")
		for {
			w.(http.Flusher).Flush()
			select {
			case s := <-next:
				_, _ = io.WriteString(w, s)
			case <-r.Context().Done():
				next <- "gone"
				return
			}
		}
	})
	c := g.dial()
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
	br := bufio.NewReader(c)
	hint, _ := readHead(br)
	if !strings.HasPrefix(hint, "HTTP/1.1 103") || !strings.Contains(hint, "Link: </style.css>") {
		t.Fatalf("%q", hint)
	}
	if head, _ := readHead(br); !strings.HasPrefix(head, "HTTP/1.1 200") {
		t.Fatalf("%q", head)
	}
	for _, want := range []string{"data: 1\n", "data: 2\n"} {
		next <- want
		var got string
		for !strings.HasPrefix(got, "data") {
			var err error
			if got, err = br.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		if got != want {
			t.Errorf("%q", got)
		}
	}
	c.Close()
	if got := <-next; got != "gone" {
		t.Error(got)
	}
}

// service is a gRPC service as a test wants it.
type service struct {
	pb.UnimplementedTestServiceServer
	name  string
	unary func(context.Context, *pb.SimpleRequest) (*pb.SimpleResponse, error)
	both  func(pb.TestService_FullDuplexCallServer) error
}

// UnaryCall gives the payload back, and what it was called with.
func (s *service) UnaryCall(ctx context.Context, in *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if s.unary != nil {
		return s.unary(ctx, in)
	}
	if md, _ := metadata.FromIncomingContext(ctx); len(md["x-begin"]) > 0 {
		_ = grpc.SetHeader(ctx, metadata.MD{"x-begin": md["x-begin"]})
		_ = grpc.SetTrailer(ctx, metadata.MD{"x-end-bin": md["x-end-bin"]})
	}
	if st := in.GetResponseStatus(); st.GetCode() != 0 {
		return nil, status.Error(codes.Code(uint32(st.GetCode())), st.GetMessage()) //nolint:gosec // the test's own
	}
	return &pb.SimpleResponse{Payload: in.GetPayload(), ServerId: s.name}, nil
}

// StreamingInputCall counts the bytes.
func (s *service) StreamingInputCall(stream pb.TestService_StreamingInputCallServer) error {
	sum := 0
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: int32(sum)}) //nolint:gosec // small
		}
		if err != nil {
			return err
		}
		sum += len(in.GetPayload().GetBody())
	}
}

// StreamingOutputCall sends what it is asked for, and ends with an error where
// that is asked for as well.
func (s *service) StreamingOutputCall(in *pb.StreamingOutputCallRequest, stream pb.TestService_StreamingOutputCallServer) error {
	for _, p := range in.GetResponseParameters() {
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: &pb.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
			return err
		}
	}
	if st := in.GetResponseStatus(); st.GetCode() != 0 {
		return status.Error(codes.Code(uint32(st.GetCode())), st.GetMessage()) //nolint:gosec // the test's own
	}
	return nil
}

// FullDuplexCall answers each message.
func (s *service) FullDuplexCall(stream pb.TestService_FullDuplexCallServer) error {
	if s.both != nil {
		return s.both(stream)
	}
	for {
		in, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(&pb.StreamingOutputCallResponse{Payload: in.GetPayload()}); err != nil {
			return err
		}
	}
}

// serveGRPC serves on loopback until the test ends.
func serveGRPC(t testing.TB, server *grpc.Server) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		server.Stop()
		served.Wait()
	})
	return l.Addr().String()
}

func grpcApp(t testing.TB, s *service, options ...grpc.ServerOption) (addr string, server *grpc.Server) {
	t.Helper()
	server = grpc.NewServer(append([]grpc.ServerOption{grpc.MaxRecvMsgSize(64 << 20), grpc.MaxSendMsgSize(64 << 20)}, options...)...)
	pb.RegisterTestServiceServer(server, s)
	return serveGRPC(t, server), server
}

// grpc is a client of an app through the router.
func (g *rig) grpc(host string) pb.TestServiceClient {
	g.t.Helper()
	creds := insecure.NewCredentials()
	if g.rt.cfg.TLS != nil {
		creds = credentials.NewTLS(&tls.Config{InsecureSkipVerify: true}) //nolint:gosec // the test's own certificate
	}
	conn, err := grpc.NewClient("passthrough:///"+g.addr, grpc.WithTransportCredentials(creds), grpc.WithAuthority(host),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	return pb.NewTestServiceClient(conn)
}

// All kinds of calls, as a real client and a real server make them, with TLS at
// the router and without.
func TestGRPC(t *testing.T) {
	certificate := httptest.NewTLSServer(nil)
	defer certificate.Close()
	for name, cfg := range map[string]Config{"plain": {}, "TLS": {TLS: &tls.Config{Certificates: certificate.TLS.Certificates}}} { //nolint:gosec // as the router has it
		t.Run(name, func(t *testing.T) {
			g, _ := newRig(t, cfg)
			addr, _ := grpcApp(t, &service{name: "a"})
			g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_a", addr))})
			checkGRPC(t, g.grpc("app.test"))
		})
	}
}

func checkGRPC(t *testing.T, client pb.TestServiceClient) {
	t.Run("unary", func(t *testing.T) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-begin", "1", "x-end-bin", "\x00\xff")
		var header, trailer metadata.MD
		out, err := client.UnaryCall(ctx, &pb.SimpleRequest{Payload: &pb.Payload{Body: []byte("ping")}}, grpc.Header(&header), grpc.Trailer(&trailer))
		if err != nil || string(out.GetPayload().GetBody()) != "ping" || !slices.Equal(header["x-begin"], []string{"1"}) || !slices.Equal(trailer["x-end-bin"], []string{"\x00\xff"}) {
			t.Errorf("%v %v, header %v, trailer %v", out, err, header, trailer)
		}
	})
	t.Run("large", func(t *testing.T) {
		body := []byte(strings.Repeat("0123456789abcdef", 20<<16))
		out, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{Payload: &pb.Payload{Body: body}})
		if err != nil || !slices.Equal(out.GetPayload().GetBody(), body) {
			t.Errorf("%d bytes, %v", len(out.GetPayload().GetBody()), err)
		}
	})
	t.Run("errors", func(t *testing.T) {
		const message = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
		_, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{ResponseStatus: &pb.EchoStatus{Code: 2, Message: message}})
		if status.Code(err) != codes.Unknown || status.Convert(err).Message() != message {
			t.Error(err)
		}
		if _, err := client.EmptyCall(t.Context(), &pb.Empty{}); status.Code(err) != codes.Unimplemented {
			t.Error(err)
		}
	})
	t.Run("server streams", func(t *testing.T) {
		for _, n := range []int{0, 1, 7} {
			in := &pb.StreamingOutputCallRequest{ResponseStatus: &pb.EchoStatus{Code: int32(n), Message: "over"}} //nolint:gosec // small
			for range n {
				in.ResponseParameters = append(in.ResponseParameters, &pb.ResponseParameters{Size: 100_000})
			}
			stream, err := client.StreamingOutputCall(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			for range n {
				if out, err := stream.Recv(); err != nil || len(out.GetPayload().GetBody()) != 100_000 {
					t.Fatal(err)
				}
			}
			_, err = stream.Recv()
			if n == 0 && !errors.Is(err, io.EOF) || n > 0 && (status.Code(err) != codes.Code(n) || status.Convert(err).Message() != "over") { //nolint:gosec // small
				t.Errorf("after %d: %v", n, err)
			}
		}
	})
	t.Run("client streams", func(t *testing.T) {
		stream, err := client.StreamingInputCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			if err := stream.Send(&pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: make([]byte, 10_000)}}); err != nil {
				t.Fatal(err)
			}
		}
		if out, err := stream.CloseAndRecv(); err != nil || out.GetAggregatedPayloadSize() != 500_000 {
			t.Error(out, err)
		}
	})
	t.Run("both stream", func(t *testing.T) {
		stream, err := client.FullDuplexCall(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for n := range 50 { // each waits for the answer to the one before
			if err := stream.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: make([]byte, n)}}); err != nil {
				t.Fatal(err)
			}
			if out, err := stream.Recv(); err != nil || len(out.GetPayload().GetBody()) != n {
				t.Fatal(out, err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Error(err)
		}
	})
}

// A client that leaves, or whose time is over, ends the call at the app, and an
// app that resets a call ends it at the client.
func TestGRPCCallsAreCancelled(t *testing.T) {
	ended := make(chan error, 1)
	g, _ := newRig(t, Config{})
	addr, server := grpcApp(t, &service{
		unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
			if _, ok := ctx.Deadline(); !ok {
				ended <- errors.New("the app was told of no deadline")
			}
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		},
		both: func(stream pb.TestService_FullDuplexCallServer) error {
			_ = stream.SendHeader(nil)
			<-stream.Context().Done()
			ended <- stream.Context().Err()
			return stream.Context().Err()
		},
	})
	g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_a", addr))})
	client := g.grpc("app.test")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client.UnaryCall(ctx, &pb.SimpleRequest{}); status.Code(err) != codes.DeadlineExceeded {
		t.Error(err)
	}
	if err := <-ended; err == nil || strings.Contains(err.Error(), "told") {
		t.Error(err)
	}
	begin := func(ctx context.Context) pb.TestService_FullDuplexCallClient {
		stream, err := client.FullDuplexCall(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Header(); err != nil {
			t.Fatal(err)
		}
		return stream
	}
	ctx, cancel = context.WithCancel(t.Context())
	stream := begin(ctx)
	cancel()
	if _, err := stream.Recv(); status.Code(err) != codes.Canceled {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	stream = begin(t.Context())
	go server.Stop() // which waits for its handlers
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	<-ended
}

// What the router says by itself is said as gRPC says it.
func TestGRPCClientsAreToldInTheirWay(t *testing.T) {
	g, _ := newRig(t, Config{BackendWait: time.Millisecond})
	addr, _ := grpcApp(t, &service{unary: func(ctx context.Context, _ *pb.SimpleRequest) (*pb.SimpleResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	slow := h2cPool(at("ri_a", addr))
	slow.ResponseTimeout = 10 * time.Millisecond
	g.route(map[string]routing.Pool{
		"empty.test": h2cPool(), "closed.test": h2cPool(at("ri_b", closedPort(t))), "slow.test": slow,
		"plain.test": h2cPool(at("ri_c", app(t, func(http.ResponseWriter, *http.Request) {}))),
	})
	for host, want := range map[string]struct {
		code codes.Code
		says failure
	}{
		"nobody.test": {codes.Unimplemented, unknownHost}, "empty.test": {codes.Unavailable, noBackend}, "closed.test": {codes.Unavailable, unreachable},
		"slow.test": {codes.Unavailable, tooSlow}, "plain.test": {codes.Unavailable, notH2C},
	} {
		_, err := g.grpc(host).UnaryCall(t.Context(), &pb.SimpleRequest{})
		if got := status.Convert(err); got.Code() != want.code || got.Message() != want.says.message {
			t.Errorf("%s: %v", host, err)
		}
	}
}

// Servers that close their connections all the time, as those of gRPC do at a
// certain age, and versions that come and go, lose no call.
func TestNoCallIsLostToGoingAway(t *testing.T) {
	g, _ := newRig(t, Config{})
	old := grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 5 * time.Millisecond, MaxConnectionAgeGrace: time.Minute})
	const versions, callers = 6, 8
	stop := make(chan struct{})
	var calling sync.WaitGroup
	seen := make([]map[string]int, callers)
	first, firstServer := grpcApp(t, &service{name: "0"}, old)
	g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_0", first))})
	for n := range callers {
		seen[n] = map[string]int{}
		calling.Go(func() {
			client := g.grpc("app.test")
			for {
				select {
				case <-stop:
					return
				default:
				}
				// Never safe to make twice, and with a body that is not whole
				// when the call begins.
				out, err := client.UnaryCall(t.Context(), &pb.SimpleRequest{Payload: &pb.Payload{Body: make([]byte, 2000)}})
				if err != nil {
					t.Error(err)
					return
				}
				seen[n][out.GetServerId()]++
			}
		})
	}
	server, id := firstServer, "ri_0"
	for n := 1; n < versions; n++ {
		name := strconv.Itoa(n)
		addr, next := grpcApp(t, &service{name: name}, old)
		g.route(map[string]routing.Pool{"app.test": h2cPool(at("ri_"+name, addr))})
		if err := g.feed.await(t.Context(), func(r routing.Report) bool { return r.InFlight[id] == 0 }); err != nil {
			t.Fatal(err)
		}
		server.Stop() // at once: nobody is there any more
		server, id = next, "ri_"+name
		// The new one is called before it goes in its turn.
		if _, err := g.grpc("app.test").UnaryCall(t.Context(), &pb.SimpleRequest{}); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	calling.Wait()
	sum := 0
	for _, s := range seen {
		for _, n := range s {
			sum += n
		}
	}
	if sum < versions {
		t.Errorf("%d calls", sum)
	}
}

// A stream that outlives the drain of its backend is told so, and may come
// again.
func TestADrainEndsStreams(t *testing.T) {
	g, _ := newRig(t, Config{})
	open := func(stream pb.TestService_FullDuplexCallServer) error {
		_ = stream.SendHeader(nil)
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	before, _ := grpcApp(t, &service{both: open})
	after, _ := grpcApp(t, &service{})
	pool := h2cPool(at("ri_a", before))
	pool.Drain = 100 * time.Millisecond
	g.route(map[string]routing.Pool{"app.test": pool})
	stream, err := g.grpc("app.test").FullDuplexCall(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Header(); err != nil {
		t.Fatal(err)
	}
	pool.Backends = []routing.Backend{at("ri_b", after)}
	g.route(map[string]routing.Pool{"app.test": pool})
	if _, err = stream.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "replaced") {
		t.Error(err)
	}
	if err := g.feed.await(t.Context(), func(r routing.Report) bool { return r.InFlight["ri_a"] == 0 }); err != nil {
		t.Error(err)
	}
}
