package guest

// An exec session is a command that somebody has run in an instance beside its app,
// with a terminal or without. It has a port of its own, ExecPorts of them in a
// machine, and nothing else is on that port: a session whose client does not read,
// or whose command floods it, waits by itself. The frames are those of the control
// channel.
//
// The host begins with ExecOpen and a Nonce of its own choosing, which all that
// follows bears, both ways: what bears another is of an earlier session on the
// port, and is passed over. The guest answers with ExecOpened once the command
// runs, or with ExecEnded at once; ExecOutput follows as it comes, and ExecEnded
// last. An ExecOpen ends whatever session the port had.
//
// Output is held back by the port itself: a command that writes more than the host
// takes waits. Of input at most ExecWindow bytes are on their way that ExecTaken
// has not told of, so that resizes and signals come past a command that reads
// nothing. A host that says nothing for ExecSilence has gone, and its session ends:
// on virtio-serial nothing else may tell. Ping and Pong are for that.

import "time"

const (
	// ExecPorts is how many sessions a machine can have at once.
	ExecPorts = 4
	// ExecPortName, with a number from 0 behind it, names a port for them on
	// virtio-serial.
	ExecPortName = "exec"
	// ExecWindow bounds the input on its way, in bytes, ExecChunk the data of one
	// message.
	ExecWindow = 64 << 10
	ExecChunk  = 32 << 10
	// ExecSilence ends a session without a word of its host; one that says
	// something every ExecPing is safe.
	ExecSilence = 30 * time.Second
	ExecPing    = 8 * time.Second
)

// ExecOpen begins a session.
type ExecOpen struct {
	Nonce uint64   `json:"nonce"`
	Argv  []string `json:"argv,omitempty"` // none: the shell that the image has
	User  string   `json:"user,omitempty"` // name or uid[:gid]; "": the app's
	Dir   string   `json:"dir,omitempty"`  // "": the app's; else relative to it
	Env   []string `json:"env,omitempty"`  // KEY=value beside the app's, or in place of it
	// TTY has it run on a terminal of Rows by Cols characters.
	TTY  bool `json:"tty,omitempty"`
	Rows int  `json:"rows,omitempty"`
	Cols int  `json:"cols,omitempty"`
	// Copy has files copied in place of a command: standard input and output are
	// package transfer's then.
	Copy *ExecCopy `json:"copy,omitempty"`
}

// ExecCopy says what may be copied which way.
type ExecCopy struct {
	Path string `json:"path"` // in the app's root, or relative to Dir
	Send bool   `json:"send"` // from the machine; else to it
}

// How PID 1's program is run to copy files: as CopyProgram, with CopySend or
// CopyReceive and the path.
const (
	CopyProgram = "miosa-copy"
	CopySend    = "send"
	CopyReceive = "receive"
)

// ExecOpened: the command runs.
type ExecOpened struct {
	Nonce uint64 `json:"nonce"`
}

// ExecInput is for the command's standard input, in order. EOF is its end: on a
// terminal, the character that ends a line of input there.
type ExecInput struct {
	Nonce uint64 `json:"nonce"`
	Data  []byte `json:"data,omitempty"` // at most ExecChunk
	EOF   bool   `json:"eof,omitempty"`
}

// ExecTaken: the command has so many more bytes of input, or will never have them.
type ExecTaken struct {
	Nonce uint64 `json:"nonce"`
	Bytes int    `json:"bytes"`
}

// ExecOutput is what the command wrote; on a terminal all of it is Stdout.
type ExecOutput struct {
	Nonce  uint64 `json:"nonce"`
	Stream Stream `json:"stream"`
	Data   []byte `json:"data"` // at most ExecChunk
}

// ExecResize: the terminal has another size.
type ExecResize struct {
	Nonce uint64 `json:"nonce"`
	Rows  int    `json:"rows"`
	Cols  int    `json:"cols"`
}

// ExecSignal is for the command's process group, on a terminal for the one in the
// foreground.
type ExecSignal struct {
	Nonce  uint64 `json:"nonce"`
	Signal int    `json:"signal"` // Linux's number
}

// ExecEnded: the command has ended, and all that it wrote has been sent.
type ExecEnded struct {
	Nonce uint64 `json:"nonce"`
	// Code is the exit code; 128 + the signal that ended it; 126 and 127 as shells
	// have them where it could not be run, with a Message.
	Code    int    `json:"code"`
	Message string `json:"message,omitempty"`
}
