package webhook

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/outbound"
	"github.com/miosa/miosa/secret"
)

const (
	// attemptTime bounds one attempt, the answer's body included.
	attemptTime = 15 * time.Second
	// maxAnswer is how much of an answer is read, so that its connection can
	// be used again.
	maxAnswer = 64 << 10
)

// signature is the value of webhook-signature for one secret:
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
func signature(signing, id string, at time.Time, body []byte) (string, error) {
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(signing, secret.WebhookPrefix))
	if err != nil {
		return "", errors.New("the webhook's secret is damaged")
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)), nil
}

// message is the body.
type message struct {
	Type      string          `json:"type"`
	Timestamp time.Time       `json:"timestamp"`
	Data      json.RawMessage `json:"data"`
}

// request makes one that is signed by every secret that is valid now.
func (w *Webhooks) request(ctx context.Context, hook *miosa.Webhook, e *miosa.Event, now time.Time) (*http.Request, error) {
	data, err := w.cfg.Render(*e)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(message{e.Type, e.At.UTC(), data})
	if err != nil {
		return nil, err
	}
	var signatures []string
	for _, s := range hook.Secrets(now) {
		signing, err := w.secrets.Open(ctx, hook.TenantID, miosa.WebhookAAD(hook.ID), s)
		if err != nil {
			return nil, fmt.Errorf("open the webhook's secret: %w", err)
		}
		signed, err := signature(string(signing), e.ID, now, body)
		if err != nil {
			return nil, err
		}
		signatures = append(signatures, signed)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, strings.NewReader(string(body)))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "miosa-webhooks/1")
	r.Header.Set("Webhook-Id", e.ID)
	r.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	r.Header.Set("Webhook-Signature", strings.Join(signatures, " "))
	return r, nil
}

// send makes one attempt.
func (w *Webhooks) send(ctx context.Context, hook *miosa.Webhook, e *miosa.Event) Outcome {
	ctx, cancel := context.WithTimeout(ctx, attemptTime)
	defer cancel()
	began := w.cfg.Now()
	out := Outcome{Type: e.Type}
	r, err := w.request(ctx, hook, e, began)
	if err != nil {
		out.Error, out.Ours = "the request could not be made", true
		w.log.Error("make a webhook request", "webhook", hook.ID, "err", err)
		return out
	}
	resp, err := w.client.Do(r)
	if err == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer))
		if cerr := resp.Body.Close(); err == nil {
			err = cerr
		}
		out.Status = resp.StatusCode
	}
	out.Latency = w.cfg.Now().Sub(began)
	switch {
	case out.Status >= 200 && out.Status < 300:
		// What the answer says besides does not matter, nor if it broke off.
	case out.Status != 0:
		out.Error = "the receiver answered " + strings.TrimSpace(strconv.Itoa(out.Status)+" "+http.StatusText(out.Status))
		if out.Status >= 300 && out.Status < 400 {
			out.Error += ": redirects are not followed"
		}
		out.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), w.cfg.Now())
	case errors.Is(err, context.DeadlineExceeded):
		out.Error = fmt.Sprintf("no answer within %s", attemptTime)
	default:
		out.Error = outbound.Why(err)
	}
	return out
}

// retryAfter reads seconds or a date; 0 for anything else.
func retryAfter(v string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(v); err == nil && n > 0 {
		return time.Duration(min(n, int(longestHold/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// chance is in [0, 1).
func chance() float64 {
	var b [1]byte
	_, _ = rand.Read(b[:]) // it never fails
	return float64(b[0]) / 256
}
