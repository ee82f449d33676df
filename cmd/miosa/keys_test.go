package main

import (
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/miosa/miosa/bench/rig"
)

// A platform starts with the keys that its records need, or says which one it
// lacks and how to put it back; what lies there is left as it is.
func TestStartsWithItsOwnKeysOnly(t *testing.T) {
	r, _ := start(t, rig.Options{Driver: "sim"})
	ctx := r.ctx
	id, err := r.Create(ctx, "app")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Call(ctx, http.MethodPost, "/deployments/"+id+"/env", map[string]any{"env": map[string]string{"TOKEN": "x"}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(r.Dir, "keys")
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails
	write := func(b []byte, mode os.FileMode) func(string) error {
		return func(path string) error {
			if err := os.WriteFile(path, b, mode); err != nil {
				return err
			}
			return os.Chmod(path, mode)
		}
	}
	for _, name := range []string{"master.key", "host.key"} {
		path := filepath.Join(keys, name)
		own, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			name   string
			damage func(path string) error
			says   string
		}{
			{"missing", os.Remove, "is missing"},
			{"another's", write(random, 0o600), "is another platform's"},
			{"for all to read", write(own, 0o644), "chmod 600"},
			{"truncated", write(own[:31], 0o600), "31 bytes"},
			{"empty", write(nil, 0o600), "0 bytes"},
			{"a directory", func(path string) error { return os.Mkdir(path, 0o700) }, "not a regular file"},
		} {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if c.name == "missing" { // so that there is something to remove
				if err := write(own, 0o600)(path); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.damage(path); err != nil {
				t.Fatal(err)
			}
			before, beforeErr := os.ReadFile(path)
			if err := os.Truncate(r.Log, 0); err != nil {
				t.Fatal(err)
			}
			err = r.Up(ctx)
			if err == nil {
				t.Fatalf("%s %s: it started", name, c.name)
			}
			for _, word := range []string{"miosa: not started: the key " + path, c.says, "install -m 600 BACKUP " + path} {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("%s %s: does not say %q: %v", name, c.name, word, err)
				}
			}
			if after, afterErr := os.ReadFile(path); string(after) != string(before) || (afterErr == nil) != (beforeErr == nil) {
				t.Errorf("%s %s: it changed what was there", name, c.name)
			}
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := write(own, 0o600)(path); err != nil {
				t.Fatal(err)
			}
		}
	}
	// All keys at once, as when only the records were restored.
	if err := os.Rename(keys, keys+".backup"); err != nil {
		t.Fatal(err)
	}
	if err := r.Up(ctx); err == nil || !strings.Contains(err.Error(), "master.key is missing") {
		t.Errorf("without any key: %v", err)
	}
	if _, err := os.Stat(keys); !os.IsNotExist(err) {
		t.Errorf("it made keys: %v", err)
	}
	if err := os.Rename(keys+".backup", keys); err != nil {
		t.Fatal(err)
	}
	if err := r.Up(ctx); err != nil {
		t.Errorf("with its own keys again: %v", err)
	}
}
