package drain

import (
	"errors"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otel "go.opentelemetry.io/proto/otlp/logs/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"github.com/miosa/miosa/logs"
)

// scopeName says who made the records.
const scopeName = "github.com/miosa/miosa/logs/drain"

// otlp is the lines as an OTLP export request in protobuf: a resource for each
// run of lines of one instance and version. now is when they were seen.
func otlp(lines []Line, now time.Time) ([]byte, error) {
	request := &collector.ExportLogsServiceRequest{}
	var records *otel.ScopeLogs
	var last logs.Origin
	for i := range lines {
		l := &lines[i]
		if records == nil || l.Origin != last {
			last = l.Origin
			records = &otel.ScopeLogs{Scope: &common.InstrumentationScope{Name: scopeName}}
			request.ResourceLogs = append(request.ResourceLogs, &otel.ResourceLogs{Resource: resourceOf(l), ScopeLogs: []*otel.ScopeLogs{records}})
		}
		records.LogRecords = append(records.LogRecords, recordOf(l, now))
	}
	return proto.Marshal(request)
}

// resourceOf names an instance by the semantic conventions where they have a
// word. Many receivers tell services apart by service.name alone, so that the
// deployment is part of it; it is all of it where there is no service, as for a task.
func resourceOf(l *Line) *resource.Resource {
	name := l.Deployment
	if l.Service != "" {
		name += "-" + l.Service
	}
	return &resource.Resource{Attributes: attributes([][2]string{
		{"service.name", name}, {"service.namespace", l.Deployment}, {"service.instance.id", l.Origin.InstanceID},
		{"service.version", l.Origin.VersionID}, {"host.id", l.Origin.HostID},
		{"miosa.deployment.id", l.Origin.DeploymentID}, {"miosa.service.id", l.Origin.ServiceID}, {"miosa.task.id", l.Origin.TaskID},
		{"miosa.external_workspace_id", l.Origin.WorkspaceID},
	})}
}

func recordOf(l *Line, now time.Time) *otel.LogRecord {
	r := &otel.LogRecord{
		TimeUnixNano: uint64(l.Time.UnixNano()), ObservedTimeUnixNano: uint64(now.UnixNano()), //nolint:gosec // after 1970
		SeverityNumber: otel.SeverityNumber_SEVERITY_NUMBER_INFO, SeverityText: "INFO", Body: text(l.text()),
		Attributes: attributes([][2]string{{"log.record.uid", l.name()}, {"log.iostream", string(l.Stream)}}),
	}
	switch {
	case l.Lost > 0:
		r.SeverityNumber, r.SeverityText = otel.SeverityNumber_SEVERITY_NUMBER_WARN, "WARN"
		r.Attributes = append(r.Attributes, &common.KeyValue{
			Key: "miosa.lost", Value: &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: int64(min(l.Lost, 1<<62))}}, //nolint:gosec // bounded
		})
	case l.Stream == logs.Stderr:
		r.SeverityNumber, r.SeverityText = otel.SeverityNumber_SEVERITY_NUMBER_ERROR, "ERROR"
	}
	if l.Partial {
		r.Attributes = append(r.Attributes, &common.KeyValue{
			Key: "miosa.partial", Value: &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: true}},
		})
	}
	return r
}

// attributes are pairs of name and text; empty ones are left out.
func attributes(pairs [][2]string) []*common.KeyValue {
	var out []*common.KeyValue
	for _, p := range pairs {
		if p[1] != "" {
			out = append(out, &common.KeyValue{Key: p[0], Value: text(p[1])})
		}
	}
	return out
}

func text(v string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: v}}
}

// partial reads what a receiver that took a request did not take of it.
func partial(body []byte) (rejected uint64, err error) {
	var r collector.ExportLogsServiceResponse
	if err := proto.Unmarshal(body, &r); err != nil {
		return 0, errors.New("the answer is no OTLP response")
	}
	n := r.GetPartialSuccess().GetRejectedLogRecords()
	return uint64(max(n, 0)), nil //nolint:gosec // not negative
}
