package trace

import (
	"context"
	"net/url"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"

	"github.com/miosa/miosa"
)

const (
	tracesPath = "/v1/traces" // of an endpoint without a path
	tryTimeout = 10 * time.Second
)

// OTLP sends spans to an OTLP/HTTP endpoint (protobuf, gzip). It connects with
// the first ones. Headers, with their secrets, come from the environment
// variable OTEL_EXPORTER_OTLP_HEADERS, a private CA from
// OTEL_EXPORTER_OTLP_CERTIFICATE.
func OTLP(ctx context.Context, endpoint string) (Exporter, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, miosa.Errorf(miosa.Invalid, "%q is no address of an OTLP/HTTP endpoint: write http(s)://HOST:PORT[/PATH]; credentials go into OTEL_EXPORTER_OTLP_HEADERS", redacted(u))
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = tracesPath
	}
	return otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(u.String()), otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
		otlptracehttp.WithTimeout(tryTimeout), otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
			Enabled: true, InitialInterval: time.Second, MaxInterval: 5 * time.Second, MaxElapsedTime: sendTimeout,
		}))
}

func redacted(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.Redacted()
}
