package api

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/store"
	"github.com/miosa/miosa/wire/guest"
)

// Execs runs commands in instances, beside their apps.
type Execs interface {
	// OpenExec begins a session on a host, and returns once the guest has answered.
	OpenExec(ctx context.Context, hostID, instanceID string, o guest.ExecOpen) (ExecSession, error)
}

// ExecSession is one of them: see guest.ExecSession.
type ExecSession interface {
	Receive() (guest.Message, error)
	Room() int
	Input(data []byte, eof bool) error
	Resize(rows, cols int) error
	Signal(number int) error
	Close() error
}

const (
	// execOpenWithin is how long a client may take to say what is to be run.
	execOpenWithin = 10 * time.Second
	// execShown is how much of a command stands in the event that tells of it.
	execShown = 1000
	maxArgs   = 1 << 10
)

// execSessions counts the sessions of each instance that go through this process.
type execSessions struct {
	mu sync.Mutex
	of map[string]int // guarded by mu
	// all are waited for before the process ends.
	all sync.WaitGroup
}

// enter takes one of so many places in an instance; negative: any number.
func (s *execSessions) enter(instance string, most int) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if most >= 0 && s.of[instance] >= most {
		return nil, false
	}
	if s.of == nil {
		s.of = map[string]int{}
	}
	s.of[instance]++
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.of[instance]--; s.of[instance] == 0 {
			delete(s.of, instance)
		}
	}), true
}

// Wait waits for the exec sessions to end, which they do with the context that
// their requests came with.
func (s *Server) Wait(ctx context.Context) {
	ended := make(chan struct{})
	go func() {
		s.execs.all.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
	}
}

// instanceToExec finds what the path names: of the caller's tenant, or anybody's for
// the operator, whose tenant is that one from then on.
func (c *call) instanceToExec() (at store.Location, err error) {
	if c.key.Role != miosa.RoleAdmin {
		at, _, err = c.locate("ri_id", miosa.PrefixInstance, "runtime instance")
		return at, err
	}
	id, err := c.pathID("ri_id", miosa.PrefixInstance, "runtime instance")
	if err != nil {
		return at, err
	}
	if at, err = store.Locate(c.r.Context(), c.s.store, id); miosa.CodeOf(err) == miosa.NotFound {
		err = absent("runtime instance", id)
	}
	if err == nil {
		c.tenant, err = store.Get(c.r.Context(), c.s.store, store.Tenants, store.TenantKey(at.TenantID))
	}
	return at, err
}

// needsWebSocket answers who asks for a session as for anything else.
func (s *Server) needsWebSocket(c *call, _ none) (none, error) {
	if _, err := c.instanceToExec(); err != nil {
		return none{}, err
	}
	return none{}, &miosa.Error{Code: errUpgrade, Message: "an exec session is a WebSocket: connect with Upgrade: websocket and the subprotocol " + resource.ExecProtocol}
}

// wantsWebSocket reports whether a request asks for a session as it must.
func wantsWebSocket(r *http.Request) bool {
	has := func(header, token string) bool {
		for list := range slices.Values(r.Header.Values(header)) {
			for word := range strings.SplitSeq(list, ",") {
				if strings.EqualFold(strings.TrimSpace(word), token) {
					return true
				}
			}
		}
		return false
	}
	return r.Method == http.MethodGet && has("Connection", "upgrade") && has("Upgrade", "websocket") &&
		has("Sec-WebSocket-Version", "13") && r.Header.Get("Sec-WebSocket-Key") != "" && has("Sec-WebSocket-Protocol", resource.ExecProtocol)
}

// execInstance serves a session. What is wrong before anything is said comes as an
// answer of HTTP's, later as a message.
func (s *Server) execInstance(c *call, w http.ResponseWriter) error {
	at, err := c.instanceToExec()
	if err != nil {
		return err
	}
	in, err := c.instance(at, c.r.PathValue("ri_id"))
	if err != nil {
		return err
	}
	if s.runner == nil {
		return &miosa.Error{Code: miosa.Unsupported, Public: "exec_unsupported", Message: "commands cannot be run in instances here"}
	}
	switch in.State() {
	case miosa.Starting, miosa.Healthy, miosa.Unhealthy, miosa.Stopping:
	default:
		return conflict("instance_not_running", fmt.Sprintf("the instance is %s: a command can be run in one that runs", in.State()))
	}
	plan, err := c.plan()
	if err != nil {
		return err
	}
	most := planLimit(plan, func(p miosa.Plan) int { return p.MaxExecSessions })
	dep, err := store.Get(c.r.Context(), s.store, store.Deployments, store.DeploymentKey(at.TenantID, at.DeploymentID))
	if err != nil {
		return err
	}
	leave, ok := s.execs.enter(in.ID, most)
	if !ok {
		return conflict("exec_sessions_busy", fmt.Sprintf("plan %s allows %d exec sessions in an instance at once, and there are as many: end one of them", plan.Name, most))
	}
	defer leave()
	s.execs.all.Add(1)
	defer s.execs.all.Done()
	conn, err := websocket.Accept(w, c.r, &websocket.AcceptOptions{Subprotocols: []string{resource.ExecProtocol}})
	if err != nil {
		return nil // it has answered
	}
	defer conn.CloseNow() //nolint:errcheck // it is the end, however it came
	conn.SetReadLimit(resource.MaxExecMessage)
	e := &execution{c: c, conn: conn, instance: in, workspace: dep.WorkspaceID, leave: leave, wake: make(chan struct{}, 1)}
	for _, l := range []struct {
		into    *time.Duration
		minutes func(miosa.Plan) int
	}{
		{&e.longest, func(p miosa.Plan) int { return p.MaxExecMinutes }},
		{&e.idle, func(p miosa.Plan) int { return p.MaxExecIdleMinutes }},
	} {
		*l.into = time.Duration(planLimit(plan, l.minutes)) * time.Minute
	}
	e.serve(c.r.Context())
	return nil
}

// execRequest reads what is to be run.
func execRequest(ctx context.Context, conn *websocket.Conn) (o guest.ExecOpen, err error) {
	ctx, cancel := context.WithTimeout(ctx, execOpenWithin)
	defer cancel()
	kind, raw, err := conn.Read(ctx)
	if err != nil {
		return o, readError(err)
	}
	var in resource.ExecCommand
	if kind != websocket.MessageText || json.Unmarshal(raw, &in) != nil || in.Type != "open" {
		return o, invalidField("type", `the first message must be a text message of type "open"`)
	}
	var f faults
	f.check(len(in.Command) <= maxArgs, "command", fmt.Sprintf("at most %d arguments are possible", maxArgs))
	f.check(len(in.Command) == 0 || in.Command[0] != "", "command", "the program must not be empty")
	for name, text := range inOrder(map[string]string{"command": strings.Join(in.Command, ""), "user": in.User, "dir": in.Dir, "env": strings.Join(in.Env, "")}) {
		f.check(!strings.ContainsRune(text, 0), name, "must not hold a byte 0")
	}
	f.check(len(in.User) <= 256, "user", "at most 256 bytes are possible")
	f.check(len(in.Dir) <= 4096, "dir", "at most 4096 bytes are possible")
	f.check(len(in.Env) <= maxArgs, "env", fmt.Sprintf("at most %d entries are possible", maxArgs))
	for _, entry := range in.Env {
		name, _, ok := strings.Cut(entry, "=")
		f.check(ok && name != "", "env", "each entry must be of the form NAME=value")
	}
	o = guest.ExecOpen{Argv: in.Command, User: in.User, Dir: in.Dir, Env: in.Env, TTY: in.TTY, Rows: in.Rows, Cols: in.Cols}
	if in.Copy != nil {
		f.check(len(in.Command) == 0 && !in.TTY, "copy", "a copy has no command and no terminal")
		f.check(in.Copy.Path != "" && len(in.Copy.Path) <= 4096 && !strings.ContainsRune(in.Copy.Path, 0), "copy.path", "must have 1 to 4096 bytes, none of them 0")
		o.Copy = &guest.ExecCopy{Path: in.Copy.Path, Send: in.Copy.From}
	}
	f.check(in.Rows >= 0 && in.Rows <= 4096, "rows", "must be 0 to 4096")
	f.check(in.Cols >= 0 && in.Cols <= 4096, "cols", "must be 0 to 4096")
	return o, f.err()
}

// readError is why nothing more can be read, if it is for the client to know.
func readError(err error) error {
	if errors.Is(err, websocket.ErrMessageTooBig) {
		return &miosa.Error{Code: miosa.TooLarge, Public: "exec_message_too_large", Message: fmt.Sprintf("a message may have at most %d bytes", resource.MaxExecMessage)}
	}
	return err
}

// check notes a fault of a field unless it is right.
func (f *faults) check(right bool, field, message string) {
	if !right {
		f.add(field, "%s", message)
	}
}

// execDetails are who did what from where, without what was typed.
func (c *call) execDetails(session string, o guest.ExecOpen) map[string]string {
	from, _, err := net.SplitHostPort(c.r.RemoteAddr)
	if err != nil {
		from = c.r.RemoteAddr
	}
	d := map[string]string{"session_id": session, "command": shownCommand(o), "from": from, "tty": strconv.FormatBool(o.TTY)}
	var names []string // the values may be secret
	for _, entry := range o.Env {
		name, _, _ := strings.Cut(entry, "=")
		names = append(names, name)
	}
	for name, value := range map[string]string{"user": o.User, "dir": o.Dir, "env": strings.Join(names, " ")} {
		if value != "" {
			d[name] = shownText(value)
		}
	}
	if o.Copy != nil {
		d["copy"] = "to"
		if o.Copy.Send {
			d["copy"] = "from"
		}
		d["path"] = strings.ToValidUTF8(path.Clean(o.Copy.Path), "\uFFFD")
	}
	if c.key.Role == miosa.RoleAdmin {
		d["operator"] = "true"
	}
	return d
}

// shownCommand is a command as one would type it, shortened.
func shownCommand(o guest.ExecOpen) string {
	argv := o.Argv
	switch {
	case o.Copy != nil && o.Copy.Send:
		return "a copy from " + shownText(path.Clean(o.Copy.Path))
	case o.Copy != nil:
		return "a copy to " + shownText(path.Clean(o.Copy.Path))
	case len(argv) == 0:
		return "the image's shell"
	}
	return shownText(commandLine(argv))
}

// shownText is a text for an event: what is too long for one is shown by its
// beginning, its end and its digest.
func shownText(text string) string {
	if len(text) > execShown {
		text = fmt.Sprintf("%s … %s (%d bytes, SHA-256 %x)", text[:execShown/2], text[len(text)-execShown/2:], len(text), sha256.Sum256([]byte(text)))
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// commandLine is a command as one would type it: what is split into these words again.
func commandLine(argv []string) string {
	plain := func(r rune) bool { return alphanumeric(r) || strings.ContainsRune("_-./:=@%+,", r) }
	words := make([]string, len(argv))
	for i, word := range argv {
		// The first one with an equals sign would be a variable of a shell's.
		if word == "" || strings.ContainsFunc(word, func(r rune) bool { return !plain(r) }) || i == 0 && strings.Contains(word, "=") {
			word = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
		words[i] = word
	}
	return strings.Join(words, " ")
}

// who is an actor in words.
func (c *call) who() string {
	if c.key.Role == miosa.RoleAdmin {
		return "the operator"
	}
	if c.key.Name == "" {
		return c.key.ID
	}
	return strconv.Quote(c.key.Name)
}
