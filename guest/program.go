package guest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	wire "github.com/miosa/miosa/wire/guest"
)

// startError says in a customer's words why the command can't run; reason is
// one of the wire.Exit constants.
type startError struct {
	reason  string
	message string
}

func (e *startError) Error() string { return e.message }

func cannotStart(reason, format string, args ...any) error {
	return &startError{reason: reason, message: fmt.Sprintf(format, args...)}
}

const shellPath = "/bin/sh"

// resolveCommand turns the boot's command into the argv to run and whether a
// shell runs it.
func resolveCommand(root string, b wire.Boot) (argv []string, shell bool, err error) {
	if len(b.Argv) > 0 {
		return b.Argv, false, nil
	}
	argv, shell, err = splitCommand(b.Command)
	if err != nil {
		return nil, false, cannotStart(wire.ExitNotFound, "The run command cannot be read: %v.", err)
	}
	if !shell {
		return argv, false, nil
	}
	if _, err := os.Stat(filepath.Join(root, shellPath)); err != nil {
		if argv != nil { // only patterns: they stand for themselves
			return argv, false, nil
		}
		return nil, false, cannotStart(wire.ExitNotFound,
			"The run command uses shell syntax, but the image has no /bin/sh. Give a plain command, or add a shell to the image.")
	}
	return []string{shellPath, "-c", b.Command}, true, nil
}

// findProgram finds argv[0] as the kernel and the account would: by its path,
// relative to dir, or on the PATH. root is prepended to every path.
func findProgram(root, dir, path, name string, a account) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, checkProgram(root, name, a, 0)
	}
	if name == "" {
		return "", cannotStart(wire.ExitNotFound, "The run command is empty.")
	}
	var refused error
	for entry := range strings.SplitSeq(path, ":") {
		if entry == "" {
			entry = dir
		}
		if !filepath.IsAbs(entry) {
			entry = filepath.Join(dir, entry)
		}
		candidate := filepath.Join(entry, name)
		if _, err := os.Stat(filepath.Join(root, candidate)); err != nil {
			continue
		}
		err := checkProgram(root, candidate, a, 0)
		if err == nil {
			return candidate, nil
		}
		if refused == nil {
			refused = err
		}
	}
	if refused != nil {
		return "", refused
	}
	return "", cannotStart(wire.ExitNotFound, "The command %q was not found in the image (PATH is %s).", name, path)
}

// maxInterpreters is how deep scripts may name scripts as interpreters: the
// kernel's own limit is 5.
const maxInterpreters = 5

// checkProgram tells beforehand, and precisely, what execve would only
// answer with ENOENT, EACCES or ENOEXEC.
func checkProgram(root, name string, a account, depth int) error {
	path := filepath.Join(root, name)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return cannotStart(wire.ExitNotFound, "The command %s was not found in the image.", name)
	case err != nil:
		return cannotStart(wire.ExitNotFound, "The command %s cannot be read: %v.", name, errors.Unwrap(err))
	case info.IsDir():
		return cannotStart(wire.ExitNotExecutable, "The command %s is a directory.", name)
	case !info.Mode().IsRegular():
		return cannotStart(wire.ExitNotExecutable, "The command %s is not a regular file.", name)
	case !mayExecute(info, a):
		return cannotStart(wire.ExitNotExecutable, "The command %s is not executable (its mode is %04o): set its x permission.", name, info.Mode().Perm())
	}
	f, err := os.Open(path)
	if err != nil {
		return cannotStart(wire.ExitNotExecutable, "The command %s cannot be read: %v.", name, errors.Unwrap(err))
	}
	defer f.Close()
	head := make([]byte, 256)
	n, _ := io.ReadFull(f, head)
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("#!")):
		return checkScript(root, name, head, a, depth)
	case bytes.HasPrefix(head, []byte(elfMagic)):
		return checkELF(root, name, f)
	}
	return cannotStart(wire.ExitNotExecutable, "The command %s is neither a Linux program nor a script that begins with #!.", name)
}

func checkScript(root, name string, head []byte, a account, depth int) error {
	line, _, _ := bytes.Cut(head[2:], []byte("\n"))
	crlf := bytes.HasSuffix(line, []byte("\r"))
	fields := strings.Fields(string(line))
	if len(fields) == 0 || depth == maxInterpreters {
		return cannotStart(wire.ExitNotExecutable, "The script %s names no usable interpreter in its first line.", name)
	}
	interpreter := fields[0]
	if _, err := os.Stat(filepath.Join(root, interpreter)); err != nil {
		hint := ""
		if crlf {
			hint = " (the line ends in CR LF, as on Windows)"
		}
		return cannotStart(wire.ExitNotFound, "The script %s needs the interpreter %s, which is not in the image%s.", name, interpreter, hint)
	}
	if crlf {
		return cannotStart(wire.ExitNotFound, "The first line of the script %s ends in CR LF, as on Windows: save it with Unix line ends.", name)
	}
	return checkProgram(root, interpreter, a, depth+1)
}

// machines are the ELF machines that the guest's kernel runs.
var machines = map[string][]uint16{
	"amd64": {elfX86_64, elf386},
	"arm64": {elfAArch64},
}

func checkELF(root, name string, r io.ReaderAt) error {
	h, err := readELF(r)
	if err != nil {
		return cannotStart(wire.ExitNotExecutable, "The command %s is a damaged ELF program.", name)
	}
	if !slices.Contains(machines[runtime.GOARCH], h.machine) {
		return cannotStart(wire.ExitWrongArch, "The command %s is built for %s, this platform runs %s.",
			name, archName(h.machine), runtime.GOARCH)
	}
	if h.kind != elfExec && h.kind != elfDyn {
		return cannotStart(wire.ExitNotExecutable, "The command %s is an ELF file, but no program.", name)
	}
	if h.loader == "" {
		return nil
	}
	if _, err := os.Stat(filepath.Join(root, h.loader)); err != nil {
		return cannotStart(wire.ExitNotFound,
			"The command %s is dynamically linked and needs %s, which is not in the image: link it statically, or add its C library.", name, h.loader)
	}
	return nil
}

// mayExecute judges the permission bits as the kernel does; root needs any of
// them.
func mayExecute(info fs.FileInfo, a account) bool {
	mode := info.Mode().Perm()
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case a.uid == 0 || !ok:
		return mode&0o111 != 0
	case st.Uid == a.uid:
		return mode&0o100 != 0
	case st.Gid == a.gid || slices.Contains(a.groups, st.Gid):
		return mode&0o010 != 0
	}
	return mode&0o001 != 0
}
