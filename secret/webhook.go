package secret

import (
	"encoding/base64"
	"fmt"
	"io"
)

// WebhookPrefix begins a webhook's secret, as the Standard Webhooks convention
// has it.
const WebhookPrefix = "whsec_"

// NewWebhookSecret makes one, of 32 bytes, as its owner gets to see it once.
func NewWebhookSecret(random io.Reader) (string, error) {
	var raw [32]byte
	if _, err := io.ReadFull(random, raw[:]); err != nil {
		return "", fmt.Errorf("make a webhook secret: %w", err)
	}
	return WebhookPrefix + base64.StdEncoding.EncodeToString(raw[:]), nil
}
