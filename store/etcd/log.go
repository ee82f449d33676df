package etcd

import (
	"context"
	"log/slog"
	"runtime"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logCore passes the engine's warnings and errors on to slog.
type logCore struct {
	log    *slog.Logger
	fields []zapcore.Field
}

// noise are warnings about what we chose, and about a first start.
var noise = [...]string{
	"simple token is not cryptographically signed",
	"Running http and grpc server on single port. This is not recommended for production.",
	"Failed to detect schema version",
	"failed to update storage version",
}

func engineLogger(log *slog.Logger, fatal func(message string, fields map[string]any)) *zap.Logger {
	return zap.New(&logCore{log: log}, zap.WithFatalHook(fatalHook{fatal}), zap.WithPanicHook(fatalHook{fatal}))
}

func (c *logCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (c *logCore) With(fields []zapcore.Field) zapcore.Core {
	return &logCore{log: c.log, fields: slices.Concat(c.fields, fields)}
}

func (c *logCore) Check(e zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) && !slices.Contains(noise[:], e.Message) {
		return checked.AddCore(e, c)
	}
	return checked
}

func (c *logCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if e.Level > zapcore.WarnLevel {
		level = slog.LevelError
	}
	attrs := []slog.Attr{slog.String("event", e.Message)}
	values := fieldValues(slices.Concat(c.fields, fields))
	for _, f := range slices.Concat(c.fields, fields) {
		if v, ok := values[f.Key]; ok {
			attrs = append(attrs, slog.Any(f.Key, v))
		}
	}
	c.log.LogAttrs(context.Background(), level, "etcd reports", attrs...)
	return nil
}

func (c *logCore) Sync() error { return nil }

func fieldValues(fields []zapcore.Field) map[string]any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	return enc.Fields
}

// fatalHook takes the engine's panics, which would come in its own goroutines,
// and keeps it from ending the process: that is for the
// process's own main to do, in order.
type fatalHook struct {
	fatal func(message string, fields map[string]any)
}

func (h fatalHook) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	h.fatal(e.Message, fieldValues(fields))
	runtime.Goexit() // the engine counts on not going on
}
