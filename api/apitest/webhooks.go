package apitest

import (
	"sync"

	"github.com/miosa/miosa"
)

// Webhooks notes what is to be sent, and sends nothing.
type Webhooks struct {
	mu     sync.Mutex // guards all below
	sent   []string
	status map[string]miosa.WebhookStatus
}

// Status is what Set said.
func (w *Webhooks) Status(id string) miosa.WebhookStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status[id]
}

// Set says how a webhook does.
func (w *Webhooks) Set(id string, s miosa.WebhookStatus) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == nil {
		w.status = map[string]miosa.WebhookStatus{}
	}
	w.status[id] = s
}

// Send notes it.
func (w *Webhooks) Send(id, event string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sent = append(w.sent, id+" "+event)
	return nil
}

// Sent is all that was to be sent: webhook and event.
func (w *Webhooks) Sent() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string{}, w.sent...)
}
