package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/miosa/miosa/cli"
)

// runs executes the real command tree where no platform is.
func runs(t *testing.T, out *os.File, args ...string) (code int, said string) {
	t.Helper()
	var stderr strings.Builder
	root := rootCommand(cli.Config{
		Stdin: strings.NewReader(""), Stdout: out, Stderr: &stderr, Version: "test",
		Getenv: func(name string) string {
			return map[string]string{"MIOSA_CONTEXT": filepath.Join(t.TempDir(), "context.json")}[name]
		},
	})
	root.SetArgs(args)
	code = cli.Run(t.Context(), root)
	return code, stderr.String()
}

func devNull(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// everyCommand calls fn with the path of each, the root's is empty.
func everyCommand(fn func(path []string, cmd *cobra.Command)) {
	root := rootCommand(cli.Config{})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	var walk func(path []string, cmd *cobra.Command)
	walk = func(path []string, cmd *cobra.Command) {
		fn(path, cmd)
		for _, sub := range cmd.Commands() {
			walk(append(path[:len(path):len(path)], sub.Name()), sub)
		}
	}
	walk(nil, root)
}

var optional = regexp.MustCompile(`\[[^\]]*\]|--\S+ \S+`)

// Whatever is wrong with a command line, the code is 2, whether a platform runs
// or not: here none does.
func TestWrongUsage(t *testing.T) {
	null := devNull(t, os.DevNull)
	tried := 0
	wrong := func(path []string, args ...string) {
		t.Helper()
		tried++
		line := append(path[:len(path):len(path)], args...)
		if code, said := runs(t, null, line...); code != 2 || !strings.HasPrefix(said, "miosa: ") {
			t.Errorf("miosa %s: exit %d, not 2: %s", strings.Join(line, " "), code, said)
		}
	}
	everyCommand(func(path []string, cmd *cobra.Command) {
		wrong(path, "--no-such-flag")
		wrong(path, "-?")
		if cmd.HasSubCommands() {
			wrong(path, "no-such-command")
		}
		words := strings.Fields(optional.ReplaceAllString(cmd.Use, ""))[1:]
		given := []string{}
		for range words {
			given = append(given, "1")
		}
		if path != nil && path[0] == "help" {
			wrong(path, "no-such-command")
			wrong(path, "env", "no-such-command")
			return
		}
		if path != nil && path[0] == "publish" {
			wrong(path, "x.tar")
			given = append(given, "--name", "x")
		}
		if len(words) > 0 {
			wrong(path, append(given[:len(words)-1:len(words)-1], given[len(words):]...)...)
		}
		if path != nil && !strings.HasSuffix(cmd.Use, "…") {
			wrong(path, append(given[:len(given):len(given)], "2", "3", "4")...)
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			switch f.Value.Type() {
			case "int", "bool", "duration", "float64", "uint":
				wrong(path, append(given[:len(given):len(given)], "--"+f.Name+"=x")...)
			default:
				wrong(path, append(given[:len(given):len(given)], "--"+f.Name)...)
			}
		})
	})
	for _, line := range []string{
		"logs x --since yesterday", "logs x --until 5", "logs x -n 0", "logs x --stream all", "usage --since x", "usage --until x", "usage --by moon",
		"scale x many", "scale x -- -1", "log-limit x many", "log-limit x 0", "events -n 0", "versions x -n 0", "events --host x", "publish x.tar --name x --port 70000",
		"up --driver none", "up --cpu-overcommit 0", "up --trusted-proxy x", "up --allow-target x", "up --bind x", "up --victorialogs x", "up --proxy-protocol", "up --log-spool-mb -1",
		"up --api nowhere", "up --http nowhere", "up --metrics nowhere", "up --otlp-traces nowhere", "up --accel none",
	} {
		wrong(nil, append(strings.Fields(line), strings.Fields(map[bool]string{true: "--data " + t.TempDir()}[strings.HasPrefix(line, "up ")])...)...)
	}
	if tried < 200 {
		t.Errorf("only %d command lines were tried", tried)
	}
}

// What cannot be written is not a success, nor is it silent.
func TestOutputThatCannotBeWritten(t *testing.T) {
	full := devNull(t, "/dev/full")
	lines := [][]string{{"--version"}, {"help"}, {"help", "logs"}, {"completion", "bash"}, {"completion", "zsh"}, {"down", "--data", t.TempDir()}}
	everyCommand(func(path []string, _ *cobra.Command) {
		lines = append(lines, append(path[:len(path):len(path)], "--help"))
	})
	for _, line := range lines {
		if code, said := runs(t, full, line...); code != 1 || !strings.Contains(said, "the output could not be written: write /dev/full: no space left on device\n") {
			t.Errorf("miosa %s > /dev/full: exit %d: %s", strings.Join(line, " "), code, said)
		}
	}
}
