package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	wire "github.com/miosa/miosa/wire/guest"
)

// command is what to run, with nothing left to find out.
type command struct {
	path    string
	argv    []string
	env     []string
	dir     string
	account account
	shell   bool // argv is a shell's, running the customer's line
	warning string
}

// newCommand finds out what the boot asks for in the image at root.
func newCommand(root string, b wire.Boot) (command, error) {
	a, err := lookupAccount(root, b.User)
	if err != nil {
		return command{}, cannotStart(wire.ExitImage, "The command's %v.", err)
	}
	c := command{account: a}
	if c.env, err = commandEnv(b, a); err != nil {
		return command{}, err
	}
	if c.dir, err = workDir(root, b); err != nil {
		return command{}, err
	}
	if c.argv, c.shell, err = resolveCommand(root, b); err != nil {
		return command{}, err
	}
	var program string
	program, c.warning = c.shellFor(root)
	c.path, err = findProgram(root, c.dir, lookupEnv(c.env, "PATH"), program, a)
	return c, err
}

const bashPath = "/bin/bash"

// shellFor is the program to run as argv[0]. Most shells do not hand on what they
// cannot name: of variables with dots and dashes in their names the command
// would see nothing. Bash hands them on, also when it is run as sh.
func (c command) shellFor(root string) (program, warning string) {
	program = c.argv[0]
	if !c.shell {
		return program, ""
	}
	var names []string
	for _, entry := range c.env {
		if name, _, _ := strings.Cut(entry, "="); strings.ContainsFunc(name, notInShell) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return program, ""
	}
	if _, err := os.Stat(filepath.Join(root, bashPath)); err == nil {
		return bashPath, ""
	}
	return program, fmt.Sprintf("The run command is one for a shell, and /bin/sh may not hand on what it cannot name, such as %s: "+
		"give a command without shell syntax, or add bash to the image.", names[0])
}

func notInShell(r rune) bool {
	return r != '_' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9')
}

// process is the running command.
type process struct {
	pid     int
	outputs sync.WaitGroup // the forwarders of stdout and stderr
	readers []*os.File
}

// start runs the command in a session and process group of its own, its
// output going to out.
func (c command) start(out *outbox) (_ *process, err error) {
	p := &process{}
	var child []*os.File
	defer func() {
		for _, f := range child {
			_ = f.Close()
		}
		if err != nil {
			for _, f := range p.readers {
				_ = f.Close()
			}
		}
	}()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	child = append(child, null)
	for range 2 {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.readers, child = append(p.readers, r), append(child, w)
		// So that the command may open its own /dev/stdout again.
		if err := w.Chown(int(c.account.uid), int(c.account.gid)); err != nil {
			return nil, err
		}
	}
	attr := c.attributes([]uintptr{child[0].Fd(), child[1].Fd(), child[2].Fd()})
	if p.pid, err = syscall.ForkExec(c.path, c.argv, attr); err != nil {
		return nil, execError(c, err)
	}
	for i, stream := range []wire.Stream{wire.Stdout, wire.Stderr} {
		p.outputs.Go(func() { forward(p.readers[i], stream, out) })
	}
	return p, nil
}

// attributes are of a process in a session and group of its own, as the
// command's user.
func (c command) attributes(files []uintptr) *syscall.ProcAttr {
	attr := &syscall.ProcAttr{Dir: c.dir, Env: c.env, Files: files, Sys: &syscall.SysProcAttr{Setsid: true}}
	if os.Getuid() == 0 {
		attr.Sys.Credential = &syscall.Credential{Uid: c.account.uid, Gid: c.account.gid, Groups: c.account.groups}
	}
	return attr
}

// beside is another command for the same place, user and environment.
func (c command) beside(line string) (_ command, err error) {
	if c.argv, c.shell, err = resolveCommand("/", wire.Boot{Command: line}); err != nil {
		return command{}, err
	}
	program, _ := c.shellFor("/")
	c.path, err = findProgram("/", c.dir, lookupEnv(c.env, "PATH"), program, c.account)
	return c, err
}

// execError puts what execve said into words; findProgram has caught most of
// it beforehand.
func execError(c command, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return cannotStart(wire.ExitNotFound, "The command %s, or the interpreter it needs, was not found in the image.", c.path)
	case errors.Is(err, unix.ENOEXEC):
		return cannotStart(wire.ExitNotExecutable, "The kernel cannot execute the command %s.", c.path)
	case errors.Is(err, fs.ErrPermission):
		return cannotStart(wire.ExitNotExecutable,
			"The user that runs the command (uid %d) may not execute %s or enter %s.", c.account.uid, c.path, c.dir)
	case errors.Is(err, unix.E2BIG):
		return cannotStart(wire.ExitSetup, "The command's arguments and environment are larger than the kernel allows.")
	}
	return fmt.Errorf("start %s: %w", c.path, err)
}
