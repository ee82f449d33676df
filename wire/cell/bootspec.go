// Package cell is what control, agents and routers tell each other.
package cell

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// BootSpec is what an instance's PID 1 needs that may hold secrets. Control
// makes it, seals it to the one host that boots the instance, and the agent
// opens it in memory only, boot by boot.
type BootSpec struct {
	Command string   `json:"command,omitempty"`
	Argv    []string `json:"argv,omitempty"` // an image's entry point, when there is no command
	Env     []string `json:"env"`            // KEY=value
	User    string   `json:"user,omitempty"`
	WorkDir string   `json:"work_dir,omitempty"`
	// StopSignal asks the command to end: Linux's number; 0: SIGTERM.
	StopSignal int `json:"stop_signal,omitempty"`
	// PublicURL is where users reach the environment: health checks come as
	// their requests do. In Env it may be the customer's to override.
	PublicURL string `json:"public_url,omitempty"`
}

// Encode is the plaintext to seal.
func (s BootSpec) Encode() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // it is for no browser, and would swell sixfold
	if err := enc.Encode(s); err != nil {
		return nil, fmt.Errorf("encode boot spec: %w", err)
	}
	return b.Bytes(), nil
}

// DecodeBootSpec reads what Encode made.
func DecodeBootSpec(b []byte) (BootSpec, error) {
	var s BootSpec
	if err := json.Unmarshal(b, &s); err != nil {
		return BootSpec{}, fmt.Errorf("decode boot spec: %w", err)
	}
	return s, nil
}
