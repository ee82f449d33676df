package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/miosa/miosa/disk"
)

// Context is how to reach a platform: what `miosa up` writes when it answers.
type Context struct {
	APIURL   string `json:"api_url"`
	APIKey   string `json:"api_key"`   // platform key of the default tenant
	AdminKey string `json:"admin_key"` // the operator's
	HTTPURL  string `json:"http_url"`  // of the router
}

// ErrNoPlatform says that no context is known.
var ErrNoPlatform = errors.New("no platform is running: start one with \"miosa up\", or name one with --context FILE or MIOSA_CONTEXT")

// ReadContext reads a context file.
func ReadContext(path string) (Context, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Context{}, fmt.Errorf("read context: %w", err)
	}
	var c Context
	if err := json.Unmarshal(raw, &c); err != nil {
		return Context{}, fmt.Errorf("context %s is not valid JSON: %w", path, err)
	}
	if c.APIURL == "" || c.APIKey == "" && c.AdminKey == "" {
		return Context{}, fmt.Errorf("context %s names no api_url or no key", path)
	}
	return c, nil
}

// pointerFile holds the path of the context of this user's last platform:
// $XDG_STATE_HOME/miosa/context, by default below ~/.local/state.
func pointerFile() (string, error) {
	state := os.Getenv("XDG_STATE_HOME")
	if state == "" || !filepath.IsAbs(state) {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		state = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(state, "miosa", "context"), nil
}

// RememberContext makes a context file this user's default.
func RememberContext(path string) error {
	full, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	pointer, err := pointerFile()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(pointer), 0o700); err != nil {
		return err
	}
	return disk.Replace(pointer, []byte(full+"\n"), 0o600)
}

// RememberedContext is the path of this user's default context file;
// ErrNoPlatform when there is none.
func RememberedContext() (string, error) {
	pointer, err := pointerFile()
	if err != nil {
		return "", err
	}
	raw, err := os.ReadFile(pointer)
	path := strings.TrimSpace(string(raw))
	if errors.Is(err, os.ErrNotExist) || err == nil && path == "" {
		return "", ErrNoPlatform
	}
	return path, err
}
