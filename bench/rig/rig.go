// Package rig runs a whole platform, from its binary, for benchmarks and
// journeys: in a network namespace of its own where that is possible, on a
// data directory of its own, and leaves nothing behind.
package rig

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// namespaced marks a process that already runs in a namespace of its own.
const namespaced = "MIOSA_RIG_NAMESPACE"

// Isolate runs this very program again inside a new network namespace with
// nothing but a loopback, so that nothing of it touches the machine's own
// network, and exits with its code. It returns only in that inner process, or
// where there is no root to make namespaces with: then it says so.
func Isolate() error {
	if os.Getenv(namespaced) != "" {
		return nil
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "rig: not root: running on the machine's own loopback, with user networking")
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	args := append([]string{"--net", "--", "sh", "-c", `ip link set lo up && exec "$0" "$@"`, self}, os.Args[1:]...)
	path, err := exec.LookPath("unshare")
	if err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	return syscall.Exec(path, append([]string{"unshare"}, args...), append(os.Environ(), namespaced+"=1"))
}

// Options say what platform to run.
type Options struct {
	Binary string   // path of miosa; "": bin/miosa of the repository
	Driver string   // "": auto
	Dir    string   // data directory; "": a new temporary one, removed at the end
	Flags  []string // more for `miosa up`
	Log    string   // file for the platform's log; "": in the data directory
}

// Rig is one platform.
type Rig struct {
	Dir     string
	Log     string
	Context Context
	opts    Options
	own     bool
	cmd     *exec.Cmd
	exited  chan error
	log     *os.File
	HTTP    *http.Client // to the API
	Ready   time.Duration
}

// Context is context.json.
type Context struct {
	APIURL   string `json:"api_url"`
	APIKey   string `json:"api_key"`
	AdminKey string `json:"admin_key"`
	HTTPURL  string `json:"http_url"`
}

// Root is the repository: the directory of go.mod above the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("not inside the repository")
		}
		dir = up
	}
}

// Start runs a platform and waits until it answers.
func Start(ctx context.Context, opts Options) (*Rig, error) {
	r := &Rig{opts: opts, Dir: opts.Dir, HTTP: &http.Client{Timeout: 15 * time.Minute}}
	if r.opts.Binary == "" {
		root, err := Root()
		if err != nil {
			return nil, err
		}
		r.opts.Binary = filepath.Join(root, "bin", "miosa")
	}
	if _, err := os.Stat(r.opts.Binary); err != nil {
		return nil, fmt.Errorf("%w: run `make build` first", err)
	}
	if r.Dir == "" {
		dir, err := os.MkdirTemp("", "miosa-rig-*")
		if err != nil {
			return nil, err
		}
		r.Dir, r.own = dir, true
	}
	r.Log = opts.Log
	if r.Log == "" {
		r.Log = filepath.Join(r.Dir, "miosa.log")
	}
	if err := r.Up(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// Up starts the process; also again after Kill or Signal.
func (r *Rig) Up(ctx context.Context) error {
	api, err := freePort()
	if err != nil {
		return err
	}
	web, err := freePort()
	if err != nil {
		return err
	}
	if r.Context.APIURL != "" { // the same addresses as before
		api, web = portOf(r.Context.APIURL), portOf(r.Context.HTTPURL)
	}
	if err := os.Remove(filepath.Join(r.Dir, "context.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if r.log, err = os.OpenFile(r.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	args := []string{"up", "--data", r.Dir, "--api", "127.0.0.1:" + api, "--http", "127.0.0.1:" + web}
	if r.opts.Driver != "" {
		args = append(args, "--driver", r.opts.Driver)
	}
	r.cmd = exec.Command(r.opts.Binary, append(args, r.opts.Flags...)...)
	r.cmd.Stdout, r.cmd.Stderr = r.log, r.log
	// The platform must not touch the caller's own context pointer.
	r.cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(r.Dir, "state"))
	began := time.Now()
	if err := r.cmd.Start(); err != nil {
		return err
	}
	r.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan error) { exited <- cmd.Wait() }(r.cmd, r.exited)
	if err := r.await(ctx); err != nil {
		return err
	}
	r.Ready = time.Since(began)
	return nil
}

// await polls for the context file, which is written when all answers.
func (r *Rig) await(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(2 * time.Minute)
	defer deadline.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-r.exited:
			r.exited <- err
			return fmt.Errorf("miosa up ended: %w\n%s", err, r.Tail())
		case <-deadline.C:
			return fmt.Errorf("miosa up is not ready after 2 minutes\n%s", r.Tail())
		case <-tick.C:
			b, err := os.ReadFile(filepath.Join(r.Dir, "context.json"))
			if err != nil {
				continue
			}
			return json.Unmarshal(b, &r.Context)
		}
	}
}

// Tail is the end of the platform's log.
func (r *Rig) Tail() string {
	b, err := os.ReadFile(r.Log)
	if err != nil {
		return err.Error()
	}
	if len(b) > 8<<10 {
		b = b[len(b)-8<<10:]
	}
	return string(b)
}

// PID is the platform's process.
func (r *Rig) PID() int { return r.cmd.Process.Pid }

// ResidentMB is the memory that the platform's process has, in MB.
func (r *Rig) ResidentMB() (float64, error) { return r.statusMB("VmRSS") }

// PeakMB is the most memory that it had since ForgetPeak, or its start, in MB.
func (r *Rig) PeakMB() (float64, error) { return r.statusMB("VmHWM") }

// ForgetPeak begins PeakMB anew.
func (r *Rig) ForgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", r.PID()), []byte("5"), 0)
}

func (r *Rig) statusMB(field string) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.PID()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kb float64
		if _, err := fmt.Sscanf(line, field+": %f kB", &kb); err == nil {
			return kb / 1024, nil
		}
	}
	return 0, fmt.Errorf("no %s of process %d", field, r.PID())
}

// Signal sends the platform a signal and waits for its end.
func (r *Rig) Signal(sig os.Signal) error {
	if r.cmd == nil || r.cmd.Process == nil {
		return nil
	}
	if err := r.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-r.exited:
		r.exited <- err
		return r.log.Close()
	case <-time.After(90 * time.Second):
		return errors.New("miosa up did not end within 90 s of " + sig.String())
	}
}

// Kill is a SIGKILL: the VMs live on.
func (r *Rig) Kill() error { return r.Signal(syscall.SIGKILL) }

// Close stops everything and removes what the rig made.
func (r *Rig) Close() error {
	var errs []error
	if r.cmd != nil && r.cmd.Process != nil {
		select {
		case err := <-r.exited:
			r.exited <- err
		default:
			errs = append(errs, r.Signal(os.Interrupt))
		}
	}
	if _, err := os.Stat(filepath.Join(r.Dir, "lock")); err == nil {
		out, err := exec.Command(r.opts.Binary, "down", "--data", r.Dir).CombinedOutput()
		if err != nil {
			errs = append(errs, fmt.Errorf("miosa down: %w: %s", err, out))
		}
	}
	for _, pid := range r.VMs() {
		errs = append(errs, fmt.Errorf("virtual machine process %d was left behind", pid), syscall.Kill(pid, syscall.SIGKILL))
	}
	if r.own {
		errs = append(errs, os.RemoveAll(r.Dir))
	}
	return errors.Join(errs...)
}

// VMs are the process IDs of this platform's virtual machines: those whose
// arguments carry its data directory.
func (r *Rig) VMs() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		argv, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && bytes.Contains(argv, []byte("guest="+r.Dir+"/vm/")) {
			out = append(out, pid)
		}
	}
	return out
}

// VM finds the process of one boot of an instance (vm_id "<instance>-<boot>").
func (r *Rig) VM(vmID string) (int, bool) {
	for _, pid := range r.VMs() {
		argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && strings.Contains(string(argv), "/vm/"+vmID+"\x00") || strings.Contains(string(argv), "/vm/"+vmID+",") {
			return pid, true
		}
	}
	return 0, false
}

// Response is an API answer.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Data reads the envelope's data into v.
func (r Response) Data(v any) error {
	var env struct {
		Data json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(r.Body, &env); err != nil {
		return fmt.Errorf("answer %d: %s", r.Status, r.Body)
	}
	return json.Unmarshal(env.Data, v)
}

// Do calls the API with the platform key. body: nil, an io.Reader as it is,
// or anything else as JSON.
func (r *Rig) Do(ctx context.Context, method, path string, body any, header ...string) (Response, error) {
	var reader io.Reader
	kind := ""
	switch b := body.(type) {
	case nil:
	case io.Reader:
		reader = b
	default:
		raw, err := json.Marshal(b)
		if err != nil {
			return Response{}, err
		}
		reader, kind = bytes.NewReader(raw), "application/json"
	}
	req, err := http.NewRequestWithContext(ctx, method, r.Context.APIURL+"/api/v1"+path, reader)
	if err != nil {
		return Response{}, err
	}
	req.Header.Set("Authorization", "Bearer "+r.Context.APIKey)
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := r.HTTP.Do(req)
	if err != nil {
		return Response{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return Response{Status: resp.StatusCode, Header: resp.Header, Body: b}, err
}

// Get reads a whole answer, envelope and all, into out.
func (r *Rig) Get(ctx context.Context, path string, out any) error {
	resp, err := r.Do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if resp.Status >= 300 {
		return fmt.Errorf("GET %s: %d %s", path, resp.Status, resp.Body)
	}
	return json.Unmarshal(resp.Body, out)
}

// Call is Do for a call that must succeed, its data read into out (if any).
func (r *Rig) Call(ctx context.Context, method, path string, body, out any) error {
	resp, err := r.Do(ctx, method, path, body)
	if err != nil {
		return err
	}
	if resp.Status >= 300 {
		return fmt.Errorf("%s %s: %d %s", method, path, resp.Status, resp.Body)
	}
	if out == nil {
		return nil
	}
	return resp.Data(out)
}

// Instance is what the rig reads of a runtime instance.
type Instance struct {
	ID           string    `json:"id"`
	State        string    `json:"state"`
	VMID         string    `json:"vm_id"`
	VersionID    string    `json:"version_id"`
	ServiceID    string    `json:"service_id"`
	RestartCount int       `json:"restart_count"`
	ErrorMessage string    `json:"error_message"`
	CreatedAt    time.Time `json:"created_at"`
	Scheduled    time.Time `json:"scheduled_at"`
	IP           string    `json:"ip_address"`
	Reasons      []string  `json:"reasons"`
	Phases       []Phase   `json:"boot_phases"`
}

// Reached is when the present boot came to a phase; the zero time if it did not.
func (i Instance) Reached(phase string) time.Time {
	for _, p := range i.Phases {
		if p.Name == phase {
			return p.At
		}
	}
	return time.Time{}
}

// Phase is a named moment of a boot.
type Phase struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// Published is what a publish answers.
type Published struct {
	Deployment struct {
		ID              string `json:"id"`
		ActiveVersionID string `json:"active_version_id"`
		PublicURL       string `json:"public_url"`
	} `json:"deployment"`
	Version struct {
		ID           string   `json:"id"`
		Number       int      `json:"version_number"`
		State        string   `json:"state"`
		ErrorMessage string   `json:"error_message"`
		LastLines    []string `json:"last_log_lines"`
	} `json:"version"`
	Services []struct {
		ID string `json:"id"`
	} `json:"services"`
	Promoted bool `json:"promoted"`
}

// Create makes a deployment and returns its ID.
func (r *Rig) Create(ctx context.Context, name string) (string, error) {
	var dep struct {
		ID string `json:"id"`
	}
	err := r.Call(ctx, http.MethodPost, "/deployments", map[string]any{"name": name, "source_type": "upload"}, &dep)
	return dep.ID, err
}

// Upload sends a packed root file system and returns the release's ID.
func (r *Rig) Upload(ctx context.Context, deployment, file string) (string, error) {
	return r.upload(ctx, deployment, "rootfs", "application/zstd", file)
}

// UploadImage does the same for an image as `docker save` writes it.
func (r *Rig) UploadImage(ctx context.Context, deployment, file string) (string, error) {
	return r.upload(ctx, deployment, "oci", "application/x-tar", file)
}

func (r *Rig) upload(ctx context.Context, deployment, kind, mediaType, file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	resp, err := r.Do(ctx, http.MethodPost, "/deployments/"+deployment+"/releases?kind="+kind, f, "Content-Type", mediaType)
	if err != nil {
		return "", err
	}
	if resp.Status >= 300 {
		return "", fmt.Errorf("upload: %d %s", resp.Status, resp.Body)
	}
	var rel struct {
		ID string `json:"id"`
	}
	return rel.ID, resp.Data(&rel)
}

// Publish publishes and waits for the end, good or bad.
func (r *Rig) Publish(ctx context.Context, deployment string, body map[string]any) (Published, error) {
	var p Published
	err := r.Call(ctx, http.MethodPost, "/deployments/"+deployment+"/publish?wait=true", body, &p)
	return p, err
}

// Instances lists a deployment's, ended ones too if all.
func (r *Rig) Instances(ctx context.Context, deployment string, all bool) ([]Instance, error) {
	var out []Instance
	err := r.Call(ctx, http.MethodGet, fmt.Sprintf("/deployments/%s/runtime-instances?page_size=100&all=%t", deployment, all), nil, &out)
	return out, err
}

// AwaitHealthy waits until exactly n instances are listed and all are healthy.
func (r *Rig) AwaitHealthy(ctx context.Context, deployment string, n int) ([]Instance, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		list, err := r.Instances(ctx, deployment, false)
		if err != nil {
			return nil, err
		}
		healthy := 0
		for _, i := range list {
			if i.State == "healthy" {
				healthy++
			}
		}
		if healthy == n && len(list) == n {
			return list, nil
		}
		select {
		case <-ctx.Done():
			return list, fmt.Errorf("%d of %d instances healthy: %w", healthy, n, ctx.Err())
		case <-tick.C:
		}
	}
}

// Example is the path of a packed example, made by `make build`.
func Example(name string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "bin", "examples", name+".tar.zst")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: run `make build` first", err)
	}
	return path, nil
}

// Hello publishes the hello example as a new deployment and waits until it
// serves. extra goes into the publish's body.
func (r *Rig) Hello(ctx context.Context, name string, extra map[string]any) (Published, error) {
	file, err := Example("hello")
	if err != nil {
		return Published{}, err
	}
	dep, err := r.Create(ctx, name)
	if err != nil {
		return Published{}, err
	}
	rel, err := r.Upload(ctx, dep, file)
	if err != nil {
		return Published{}, err
	}
	p, err := r.Publish(ctx, dep, HelloBody(rel, extra))
	if err == nil && !p.Promoted {
		err = fmt.Errorf("publish of %s: version %s: %s", name, p.Version.State, p.Version.ErrorMessage)
	}
	return p, err
}

// HelloBody is the publish body of the hello example.
func HelloBody(release string, extra map[string]any) map[string]any {
	body := map[string]any{"release_id": release, "run_command": "/app/server", "port": 8080, "health_check_path": "/healthz"}
	maps.Copy(body, extra)
	return body
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}

func portOf(url string) string { return url[strings.LastIndexByte(url, ':')+1:] }
