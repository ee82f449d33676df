package resource

import "time"

// ExecProtocol is the subprotocol of an exec session's WebSocket.
const ExecProtocol = "miosa.exec.v1"

// The first byte of a binary message from the platform says what the rest of it is.
const (
	ExecStdout = 1
	ExecStderr = 2
)

// ExecWindow is how much input, in bytes, a client should have on its way that
// "taken" has not told of: more is kept, up to ExecBacklog, beyond which the
// session ends.
const (
	ExecWindow  = 64 << 10
	ExecBacklog = 1 << 20
)

// MaxExecMessage bounds a client's message, in bytes.
const MaxExecMessage = 128 << 10

// ExecAlive is how often either side says that it is there. A client need not; one
// that did, and then says nothing for a minute, has gone.
const ExecAlive = 15 * time.Second

// ExecCommand is a text message from a client. "open" is the first.
type ExecCommand struct {
	Type string `json:"type" enum:"open,resize,signal,eof,alive"`

	// Of open.
	Command []string  `json:"command,omitempty" doc:"The program and its arguments; none: the image's shell."`
	User    string    `json:"user,omitempty" doc:"Of the image, by name, uid or uid:gid; none: the app's."`
	Dir     string    `json:"dir,omitempty" doc:"None: the app's; else relative to it."`
	Env     []string  `json:"env,omitempty" doc:"NAME=value, beside the app's or in place of them."`
	TTY     bool      `json:"tty,omitempty" doc:"Run it on a terminal."`
	Copy    *ExecCopy `json:"copy,omitempty" doc:"Copy files in place of running a command."`

	// Of open and resize.
	Rows int `json:"rows,omitempty"`
	Cols int `json:"cols,omitempty"`

	// Of signal.
	Signal string `json:"signal,omitempty" doc:"INT, TERM, HUP …: for the process group, on a terminal the one in its foreground."`
}

// ExecCopy has files copied: input and output are those of the protocol that miosa cp
// speaks.
type ExecCopy struct {
	Path string `json:"path" doc:"In the app's file system, or relative to dir."`
	From bool   `json:"from,omitempty" doc:"From the instance; else to it."`
}

// ExecEvent is a text message from the platform. "ended" or "error" is the last.
type ExecEvent struct {
	Type      string `json:"type" enum:"started,taken,alive,ended,error"`
	SessionID string `json:"session_id,omitempty" doc:"Of started."`
	Bytes     int    `json:"bytes,omitempty" doc:"Of taken: of input, that the command has now."`
	// ExitCode is there with ended.
	ExitCode *int          `json:"exit_code,omitempty" doc:"Of ended: 0 to 255; 128 + a signal's number; 126 and 127 for what cannot be run."`
	Message  string        `json:"message,omitempty" doc:"Of ended: why it could not be run."`
	Error    *ProblemError `json:"error,omitempty" doc:"Of error."`
}
