package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miosa/miosa/bench/rig"
)

// tool publishes an app that is nothing but the program of vmmtest.
func (j *journey) tool(root string) (deployment string) {
	j.t.Helper()
	tree, out := filepath.Join(j.t.TempDir(), "root"), filepath.Join(j.t.TempDir(), "tool.tar.zst")
	run := func(name string, args ...string) {
		cmd := exec.CommandContext(j.t.Context(), name, args...)
		cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			j.t.Fatalf("%s: %v\n%s", name, err, text)
		}
	}
	run("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(tree, "bin", "tool"), "./vmm/vmmtest/testdata/app")
	for _, dir := range []string{"etc", "tmp", "work"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			j.t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "etc", "passwd"), []byte("root:x:0:0:root:/:/bin/sh\napp:x:1000:1000::/work:/bin/sh\n"), 0o644); err != nil {
		j.t.Fatal(err)
	}
	run("go", "run", "./examples/pack", tree, out)
	dep, err := j.Create(j.ctx, "tool")
	if err != nil {
		j.t.Fatal(err)
	}
	rel, err := j.Upload(j.ctx, dep, out)
	if err != nil {
		j.t.Fatal(err)
	}
	p, err := j.Publish(j.ctx, dep, map[string]any{"release_id": rel, "services": []map[string]any{{
		"name": "web", "type": "web", "run_command": "/bin/tool serve", "port": 8080,
		"resources": map[string]any{"memory_mb": 128, "disk_mb": 256},
	}}})
	if err != nil || !p.Promoted {
		j.t.Fatalf("publish: %+v, %v", p, err)
	}
	return dep
}

// command is the CLI, with what it is given on standard input.
func (j *journey) command(stdin []byte, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(j.ctx, j.binary(), args...)
	cmd.Env = append(os.Environ(), "MIOSA_CONTEXT="+filepath.Join(j.Dir, "context.json"))
	cmd.Stdin = bytes.NewReader(stdin)
	return cmd
}

// says runs the CLI to its end.
func (j *journey) says(stdin []byte, args ...string) (code int, stdout, stderr string) {
	j.t.Helper()
	var out, errs bytes.Buffer
	cmd := j.command(stdin, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, ended := errors.AsType[*exec.ExitError](err); err != nil && !ended {
		j.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// words collects what a command writes, and tells of it.
type words struct {
	text  chan string
	whole bytes.Buffer
}

func (w *words) Write(b []byte) (int, error) {
	w.whole.Write(b)
	w.text <- string(b)
	return len(b), nil
}

func TestExecInRealMachines(t *testing.T) {
	if testing.Short() {
		t.Skip("boots real virtual machines: not with -short")
	}
	j, root := start(t, rig.Options{})
	dep := j.tool(root)

	for _, c := range []struct {
		args   string
		code   int
		stdout string
		stderr string // part of it
	}{
		{"exec tool -- tool echo some words", 0, "some words\n", ""},
		{"exec tool -- tool exit 3", 3, "", ""},
		{"exec tool -u app -w /work -e A=1 -- tool echo x", 0, "x\n", ""},
		{"exec tool -- no-such", 127, "", "was not found"},
		{"exec tool -u nobody-knows -- tool echo x", 126, "", "nobody-knows"},
		{"shell tool", 127, "", "no shell. Run a program that it has: /bin/tool."},
	} {
		if code, out, said := j.says(nil, strings.Fields(c.args)...); code != c.code || out != c.stdout || !strings.Contains(said, c.stderr) {
			t.Errorf("%s: %d, %q, %q", c.args, code, out, said)
		}
	}
	data := noise(1 << 20)
	if code, out, said := j.says(data, "exec", "tool", "--", "tool", "cat"); code != 0 || out != string(data) {
		t.Errorf("cat gave %d of %d bytes, %d, %s", len(out), len(data), code, said)
	}

	// What a client that dies has started ends.
	dying := j.command(nil, "exec", "tool", "-n", "--", "tool", "log", "4711")
	seen := &words{text: make(chan string, 1000)}
	dying.Stdout = seen
	if err := dying.Start(); err != nil {
		t.Fatal(err)
	}
	<-seen.text
	runs := func() bool {
		_, out, _ := j.says(nil, "exec", "tool", "--", "tool", "ps")
		return strings.Contains(out, "log 4711")
	}
	if !runs() {
		t.Error("it does not run")
	}
	if err := dying.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = dying.Wait()
	j.until("the process of a client that died ends", func() bool { return !runs() })

	// The instance's end is the session's.
	lasting := j.command(nil, "exec", j.one(dep).ID, "-n", "--", "tool", "log", "1")
	seen, said := &words{text: make(chan string, 1000)}, &bytes.Buffer{}
	lasting.Stdout, lasting.Stderr = seen, said
	if err := lasting.Start(); err != nil {
		t.Fatal(err)
	}
	<-seen.text
	vms := j.VMs()
	if len(vms) != 1 {
		t.Fatalf("VMs %v", vms)
	}
	if err := j.Call(j.ctx, "POST", "/runtime-instances/"+j.one(dep).ID+"/stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	err := lasting.Wait()
	if code := lasting.ProcessState.ExitCode(); code != 255 || !strings.Contains(said.String(), "the instance has ended") {
		t.Errorf("an instance that ended: %v, %s", err, said)
	}
	events := []struct {
		Type    string            `json:"type"`
		Details map[string]string `json:"details"`
	}{}
	if err := j.Call(j.ctx, "GET", "/deployments/"+dep+"/events?type=exec.ended&page_size=100", nil, &events); err != nil {
		t.Fatal(err)
	}
	for _, reason := range []string{"client_gone", "instance_ended"} {
		if n := slices.IndexFunc(events, func(e struct {
			Type    string            `json:"type"`
			Details map[string]string `json:"details"`
		}) bool {
			return e.Details["reason"] == reason
		}); n < 0 {
			t.Errorf("no exec.ended with the reason %s: %+v", reason, events)
		}
	}
}

// noise is bytes that no one has written before.
func noise(n int) []byte {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	return data
}

// tree describes all that lies in a directory.
func tree(t *testing.T, dir string) (all []string) {
	t.Helper()
	inodes := map[string][]os.FileInfo{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		var line strings.Builder
		line.WriteString(name + " " + info.Mode().String())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line.WriteString(" -> " + to)
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(content)
			line.WriteString(" " + string(sum[:]) + info.ModTime().String())
			for first, same := range inodes {
				if os.SameFile(same[0], info) {
					line.WriteString(" is " + first)
				}
			}
			inodes[name] = append(inodes[name], info)
		}
		all = append(all, line.String())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestCopiesWithRealMachines(t *testing.T) {
	if testing.Short() {
		t.Skip("boots real virtual machines: not with -short")
	}
	j, root := start(t, rig.Options{})
	j.tool(root)
	dir := t.TempDir()
	source, back := filepath.Join(dir, "source"), filepath.Join(dir, "back")
	if err := os.MkdirAll(filepath.Join(source, "deep", "er"), 0o750); err != nil {
		t.Fatal(err)
	}
	big := noise(12 << 20)
	for name, content := range map[string][]byte{"big": big, "deep/er/small": []byte("x"), "empty": nil} {
		if err := os.WriteFile(filepath.Join(source, name), content, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		os.Symlink("../big", filepath.Join(source, "deep", "link")), os.Symlink("/etc/passwd", filepath.Join(source, "out")),
		os.Link(filepath.Join(source, "big"), filepath.Join(source, "hard")), os.Chmod(filepath.Join(source, "empty"), 0o4755),
		os.Chtimes(filepath.Join(source, "big"), time.Time{}, time.Date(2001, 2, 3, 4, 5, 6, 7, time.UTC)),
	); err != nil {
		t.Fatal(err)
	}
	// There, with the platform killed in its middle; and back, the same.
	for _, args := range [][]string{{source, "tool:/tmp/there"}, {"tool:/tmp/there", back}} {
		cp := j.command(nil, "cp", args[0], args[1])
		said := &words{text: make(chan string, 1000)}
		cp.Stderr = said
		if err := cp.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cp.Wait() }()
		j.until("something is copied", func() bool {
			_, out, _ := j.says(nil, "exec", "tool", "--", "tool", "ps")
			return strings.Contains(out, "miosa-copy")
		})
		if err := j.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := j.Up(j.ctx); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err != nil {
			t.Fatalf("cp %v: %v\n%s", args, err, &said.whole)
		}
	}
	if err := os.Chmod(filepath.Join(source, "empty"), 0o755); err != nil { // setuid is not taken from a guest
		t.Fatal(err)
	}
	if want, got := tree(t, source), tree(t, back); !slices.Equal(want, got) {
		t.Errorf("back came\n%q, want\n%q", got, want)
	}
	// Nothing half done lies about, there or here.
	if found, err := filepath.Glob(filepath.Join(dir, ".miosa-*")); err != nil || len(found) > 0 {
		t.Errorf("left here: %v, %v", found, err)
	}
	if code, _, said := j.says(nil, "cp", "tool:/tmp/.", filepath.Join(dir, "all")); code != 0 {
		t.Fatal(said)
	}
	if found, err := os.ReadDir(filepath.Join(dir, "all")); err != nil || len(found) != 1 || found[0].Name() != "there" {
		t.Errorf("left there: %v, %v", found, err)
	}
	for _, c := range []struct{ from, to, want string }{
		{"tool:/no/such", dir, "no such file"}, {source + "/big", "tool:/no/such/dir", "no directory"}, {source, "tool:/bin/tool", "no directory"},
	} {
		if code, _, said := j.says(nil, "cp", c.from, c.to); code != 1 || !strings.Contains(said, c.want) {
			t.Errorf("cp %s %s: %d, %s", c.from, c.to, code, said)
		}
	}
	ctx, cancel := context.WithCancel(j.ctx)
	defer cancel()
	interrupted := exec.CommandContext(ctx, j.binary(), "cp", "tool:/tmp/there", filepath.Join(dir, "half"))
	interrupted.Env = j.command(nil).Env
	interrupted.Cancel = func() error { return interrupted.Process.Signal(os.Interrupt) }
	if err := interrupted.Start(); err != nil {
		t.Fatal(err)
	}
	j.until("something is here", func() bool {
		found, _ := filepath.Glob(filepath.Join(dir, ".miosa-*"))
		return len(found) > 0
	})
	cancel()
	_ = interrupted.Wait()
	if code := interrupted.ProcessState.ExitCode(); code != 130 {
		t.Errorf("Ctrl-C: exit code %d", code)
	}
	if found, err := filepath.Glob(filepath.Join(dir, ".miosa-*")); err != nil || len(found) > 0 {
		t.Errorf("left here by Ctrl-C: %v, %v", found, err)
	}
}
