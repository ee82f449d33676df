package guest

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	wire "github.com/miosa/miosa/wire/guest"
)

// write makes a file of an image under test.
func write(t *testing.T, root, path, content string, mode os.FileMode) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// program is a small ELF file for the machine, with a loader if not "".
func program(machine uint16, loader string) string {
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[16:], elfExec)
	le.PutUint16(b[18:], machine)
	le.PutUint64(b[32:], 64) // program headers
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 1)
	if loader != "" {
		le.PutUint32(b[64:], elfInterp)
		le.PutUint64(b[64+8:], uint64(len(b)))
		le.PutUint64(b[64+32:], uint64(len(loader)+1))
		b = append(append(b, loader...), 0)
	}
	return string(b)
}

func TestLookupAccount(t *testing.T) {
	root := t.TempDir()
	write(t, root, "etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1001::/srv/web:/bin/sh\n# broken\nbad:x:x:y::/:\nempty:x:7:7:::\n", 0o644)
	write(t, root, "etc/group", "root:x:0:\nweb:x:1001:\nlogs:x:50:web,other\nkeys:x:51:other, web\n", 0o644)
	for _, c := range []struct {
		spec  string
		want  account
		wrong string
	}{
		{spec: "", want: account{name: "root", home: "/root"}},
		{spec: "web", want: account{name: "web", uid: 1000, gid: 1001, groups: []uint32{50}, home: "/srv/web"}},
		{spec: "1000", want: account{name: "web", uid: 1000, gid: 1001, groups: []uint32{50}, home: "/srv/web"}},
		{spec: "web:logs", want: account{name: "web", uid: 1000, gid: 50, home: "/srv/web"}},
		{spec: "web:77", want: account{name: "web", uid: 1000, gid: 77, home: "/srv/web"}},
		{spec: "4242", want: account{uid: 4242, home: "/"}},
		{spec: "4242:4343", want: account{uid: 4242, gid: 4343, home: "/"}},
		{spec: "empty", want: account{name: "empty", uid: 7, gid: 7, home: "/"}},
		{spec: "nobody", wrong: `user "nobody"`},
		{spec: "web:nothing", wrong: `group "nothing"`},
		{spec: "bad", wrong: `user "bad"`},
		{spec: "4294967295", wrong: "user"},
	} {
		got, err := lookupAccount(root, c.spec)
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%q: %+v, %v; want an error about %s", c.spec, got, err, c.wrong)
			}
			continue
		}
		if err != nil || got.name != c.want.name || got.uid != c.want.uid || got.gid != c.want.gid || got.home != c.want.home || !slices.Equal(got.groups, c.want.groups) {
			t.Errorf("%q: %+v, %v; want %+v", c.spec, got, err, c.want)
		}
	}
	if a, err := lookupAccount(t.TempDir(), ""); err != nil || a.uid != 0 || a.home != "/root" {
		t.Errorf("an image without /etc/passwd: %+v, %v", a, err)
	}
}

func TestFindProgram(t *testing.T) {
	root := t.TempDir()
	write(t, root, "app/server", program(elfX86_64, ""), 0o755)
	write(t, root, "app/dynamic", program(elfX86_64, "/lib64/ld-linux-x86-64.so.2"), 0o755)
	write(t, root, "app/arm", program(elfAArch64, ""), 0o755)
	write(t, root, "app/object", strings.Replace(program(elfX86_64, ""), "\x02\x00\x3e", "\x01\x00\x3e", 1), 0o755)
	write(t, root, "app/short", "\x7fELF", 0o755)
	write(t, root, "app/plain", "hello", 0o755)
	write(t, root, "app/empty", "", 0o755)
	write(t, root, "app/noexec", program(elfX86_64, ""), 0o644)
	write(t, root, "app/private", program(elfX86_64, ""), 0o700)
	write(t, root, "app/script", "#! /bin/interp -x\n", 0o755)
	write(t, root, "app/orphan", "#!/usr/bin/python3\n", 0o755)
	write(t, root, "app/dos", "#!/bin/interp\r\n", 0o755)
	write(t, root, "app/armscript", "#!/app/arm\n", 0o755)
	write(t, root, "app/loop", "#!/app/loop\n", 0o755)
	write(t, root, "app/nameless", "#!\n", 0o755)
	write(t, root, "bin/interp", program(elfX86_64, ""), 0o755)
	write(t, root, "bin/node", "", 0o644)
	write(t, root, "usr/bin/node", program(elfX86_64, ""), 0o755)
	for _, c := range []struct {
		name   string
		uid    uint32
		want   string
		reason string
		words  string
	}{
		{name: "/app/server", want: "/app/server"},
		{name: "./server", want: "/app/server"},
		{name: "interp", want: "/bin/interp"},
		{name: "node", want: "/usr/bin/node"},
		{name: "/app/script", want: "/app/script"},
		{name: "/app/private", want: "/app/private"},
		{name: "/app/private", uid: 4242, reason: wire.ExitNotExecutable, words: "0700"},
		{name: "/app/absent", reason: wire.ExitNotFound, words: "/app/absent"},
		{name: "absent", reason: wire.ExitNotFound, words: `"absent"`},
		{name: "", reason: wire.ExitNotFound, words: "empty"},
		{name: "/app", reason: wire.ExitNotExecutable, words: "directory"},
		{name: "/app/noexec", reason: wire.ExitNotExecutable, words: "x permission"},
		{name: "/app/plain", reason: wire.ExitNotExecutable, words: "neither"},
		{name: "/app/empty", reason: wire.ExitNotExecutable, words: "neither"},
		{name: "/app/short", reason: wire.ExitNotExecutable, words: "damaged"},
		{name: "/app/object", reason: wire.ExitNotExecutable, words: "no program"},
		{name: "/app/arm", reason: wire.ExitWrongArch, words: "arm64"},
		{name: "/app/dynamic", reason: wire.ExitNotFound, words: "/lib64/ld-linux-x86-64.so.2"},
		{name: "/app/orphan", reason: wire.ExitNotFound, words: "/usr/bin/python3"},
		{name: "/app/dos", reason: wire.ExitNotFound, words: "CR LF"},
		{name: "/app/armscript", reason: wire.ExitWrongArch, words: "arm64"},
		{name: "/app/loop", reason: wire.ExitNotExecutable, words: "interpreter"},
		{name: "/app/nameless", reason: wire.ExitNotExecutable, words: "interpreter"},
	} {
		got, err := findProgram(root, "/app", "/bin:/usr/bin", c.name, account{uid: c.uid, gid: c.uid})
		if c.reason == "" {
			if err != nil || got != c.want {
				t.Errorf("%s: %s, %v; want %s", c.name, got, err, c.want)
			}
			continue
		}
		exit := setupExit(err)
		if exit.Reason != c.reason || !strings.Contains(exit.Message, c.words) {
			t.Errorf("%s: reason %q, %q; want %q and words about %s", c.name, exit.Reason, exit.Message, c.reason, c.words)
		}
	}
}

func FuzzReadELF(f *testing.F) {
	f.Add([]byte(program(elfX86_64, "/lib/ld.so")))
	f.Add([]byte("\x7fELF\x01\x02"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := readELF(strings.NewReader(string(data)))
		if err == nil && len(h.loader) > 4096 {
			t.Errorf("a loader of %d bytes", len(h.loader))
		}
	})
}

func TestReadELFOfThisProgram(t *testing.T) {
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := checkProgram("/", path, account{}, 0); err != nil {
		t.Error(err)
	}
}

func TestResolveCommand(t *testing.T) {
	root := t.TempDir()
	if _, _, err := resolveCommand(root, wire.Boot{Command: "a | b"}); setupExit(err).Reason != wire.ExitNotFound {
		t.Errorf("shell syntax without a shell: %v", err)
	}
	if argv, shell, err := resolveCommand(root, wire.Boot{Command: "serve [::]:80"}); err != nil || shell || len(argv) != 2 {
		t.Errorf("a pattern without a shell: %q, %v, %v", argv, shell, err)
	}
	write(t, root, "bin/sh", program(elfX86_64, ""), 0o755)
	for _, c := range []struct {
		boot wire.Boot
		want []string
	}{
		{wire.Boot{Command: "a | b"}, []string{"/bin/sh", "-c", "a | b"}},
		{wire.Boot{Command: "a b"}, []string{"a", "b"}},
		{wire.Boot{Argv: []string{"x y"}, Command: "a b"}, []string{"x y"}},
	} {
		if got, _, err := resolveCommand(root, c.boot); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%+v: %q, %v", c.boot, got, err)
		}
	}
	if _, _, err := resolveCommand(root, wire.Boot{}); setupExit(err).Reason != wire.ExitNotFound {
		t.Errorf("no command: %v", err)
	}
}

func TestCommandEnv(t *testing.T) {
	env, err := commandEnv(wire.Boot{Hostname: "box", Env: []string{"A=1", "HOME=/x", "A=2", "EMPTY="}}, account{name: "web", home: "/srv"})
	want := []string{"A=2", "HOME=/x", "EMPTY=", "PATH=" + defaultPath, "HOSTNAME=box", "USER=web"}
	if err != nil || !slices.Equal(env, want) {
		t.Errorf("env = %q, %v; want %q", env, err, want)
	}
	for _, bad := range []string{"xyzzy", "=xyzzy", "A=xyzzy\x00B"} {
		_, err := commandEnv(wire.Boot{Env: []string{bad}}, account{})
		if err == nil || strings.Contains(err.Error(), "xyzzy") {
			t.Errorf("%q: error %v; want one that does not repeat the entry", bad, err)
		}
	}
}

func TestOwnFiles(t *testing.T) {
	b := wire.Boot{Hostname: "box", Network: &wire.Network{Address: "10.1.2.3/30"}, Nameservers: []string{"10.0.0.1", "fd00::1"}}
	files, err := ownFiles(b)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"hostname":    "box\n",
		"hosts":       "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.1.2.3\tbox\n",
		"resolv.conf": "nameserver 10.0.0.1\nnameserver fd00::1\n",
	}
	for _, f := range files {
		if f.content != want[f.name] {
			t.Errorf("%s = %q, want %q", f.name, f.content, want[f.name])
		}
		delete(want, f.name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %q", want)
	}
	if files, err := ownFiles(wire.Boot{}); err != nil || len(files) > 0 {
		t.Errorf("without a name or a name server: %v, %v", files, err)
	}
	if _, err := ownFiles(wire.Boot{Nameservers: []string{"x\nsearch evil"}}); err == nil {
		t.Error("a name server that is no address was accepted")
	}
}

func TestPlace(t *testing.T) {
	files := []ownFile{{"hosts", "own"}}
	outside := filepath.Join(t.TempDir(), "outside")
	for _, c := range []struct {
		name    string
		base    func(etc string) error // what the image has
		mode    os.FileMode            // of the directory placed; 0: none is
		leftAll bool
	}{
		{"no etc", func(string) error { return nil }, 0o755, false},
		{"a directory", func(etc string) error { return os.Mkdir(etc, 0o755) }, 0o755, false},
		{"one that is closed", func(etc string) error { return os.Mkdir(etc, 0o700) }, 0o700, false},
		{"a link in it", func(etc string) error {
			return errors.Join(os.Mkdir(etc, 0o755), os.Symlink(outside, filepath.Join(etc, "hosts")))
		}, 0o755, false},
		{"a link", func(etc string) error { return os.Symlink("usr/etc", etc) }, 0, true},
		{"a file", func(etc string) error { return os.WriteFile(etc, nil, 0o644) }, 0, true},
	} {
		test := func(t *testing.T, made bool) {
			base, upper := t.TempDir(), t.TempDir()
			if made {
				if err := os.Mkdir(filepath.Join(upper, "etc"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.base(filepath.Join(base, "etc")); err != nil {
				t.Fatal(err)
			}
			left, err := place(base, upper, files)
			if err != nil || (len(left) == len(files)) != c.leftAll {
				t.Fatalf("place left %v, %v", left, err)
			}
			info, err := os.Lstat(filepath.Join(upper, "etc"))
			if c.mode == 0 {
				if err == nil {
					t.Error("the image's own was hidden")
				}
				return
			}
			if err != nil || info.Mode() != os.ModeDir|c.mode {
				t.Errorf("etc is %v, %v; want %v", info.Mode(), err, c.mode)
			}
			if b, err := os.ReadFile(filepath.Join(upper, "etc/hosts")); string(b) != "own" {
				t.Errorf("hosts = %q, %v", b, err)
			}
			if _, err := os.Lstat(outside); err == nil {
				t.Error("the link was followed")
			}
		}
		t.Run(c.name, func(t *testing.T) { test(t, false) })
		t.Run(c.name+", on a template's disk", func(t *testing.T) { test(t, true) })
	}
}

func TestReplaceFile(t *testing.T) {
	root, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	write(t, root, "usr/etc/hosts", "image's", 0o600)
	for _, link := range [][2]string{{"usr/etc", "etc"}, {outside, "etc/resolv.conf"}} {
		if err := os.Symlink(link[0], filepath.Join(root, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"hosts", "resolv.conf"} {
		if err := replaceFile(root, ownFile{name, "own"}); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(root, "usr/etc", name)
		if b, err := os.ReadFile(path); string(b) != "own" {
			t.Errorf("%s = %q, %v", name, b, err)
		}
		if info, err := os.Lstat(path); err != nil || info.Mode() != 0o644 {
			t.Errorf("%s is %v, %v", name, info.Mode(), err)
		}
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Error("the link was followed")
	}
}

func TestWorkDir(t *testing.T) {
	root := t.TempDir()
	write(t, root, "etc/hosts", "", 0o644)
	if dir, err := workDir(root, wire.Boot{WorkDir: "etc"}); err != nil || dir != "/etc" {
		t.Errorf("work dir = %s, %v", dir, err)
	}
	if dir, err := workDir(root, wire.Boot{WorkDir: "/srv/app"}); err != nil || dir != "/srv/app" {
		t.Errorf("work dir = %s, %v", dir, err)
	}
	if info, err := os.Stat(filepath.Join(root, "srv/app")); err != nil || !info.IsDir() {
		t.Errorf("what the image lacks is not made: %v", err)
	}
	for _, bad := range []string{"/etc/hosts", "/etc/hosts/below"} {
		if _, err := workDir(root, wire.Boot{WorkDir: bad}); setupExit(err).Reason != wire.ExitImage {
			t.Errorf("work dir %s: %v", bad, err)
		}
	}
}

// A shell that cannot name a variable may not hand it on to what it runs: with
// real shells, for that is what it is about.
func TestVariablesThatAShellCannotName(t *testing.T) {
	env := []string{"PATH=/usr/bin:/bin", "A=1", "spring.datasource.url=x"}
	root := t.TempDir()
	write(t, root, "bin/sh", program(elfX86_64, ""), 0o755)
	write(t, root, "bin/serve", program(elfX86_64, ""), 0o755)
	for _, c := range []struct {
		line    string
		env     []string
		bash    bool
		path    string
		warning string
	}{
		{"serve | cat", env, false, "/bin/sh", "spring.datasource.url"},
		{"serve | cat", env[:2], false, "/bin/sh", ""},
		{"serve", env, false, "/bin/serve", ""},
		{"serve | cat", env, true, "/bin/bash", ""},
		{"serve | cat", env[:2], true, "/bin/sh", ""},
	} {
		if c.bash {
			write(t, root, "bin/bash", program(elfX86_64, ""), 0o755)
		}
		got, err := newCommand(root, wire.Boot{Command: c.line, Env: c.env})
		if err != nil || got.path != c.path || (got.warning != "") != (c.warning != "") || !strings.Contains(got.warning, c.warning) {
			t.Errorf("%+v: %s, %q, %v", c, got.path, got.warning, err)
		}
	}
	if _, err := os.Stat(bashPath); err != nil {
		t.Skip("bash is not installed")
	}
	c, err := newCommand("/", wire.Boot{Command: "cd / && env", Env: env})
	if err != nil {
		t.Fatal(err)
	}
	out, err := (&exec.Cmd{Path: c.path, Args: c.argv, Env: c.env, Dir: "/"}).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "spring.datasource.url=x\n") {
		t.Errorf("the command sees %s: %v", out, err)
	}
}
