package api

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
)

const (
	// idempotencyTTL is how long a first response is repeated.
	idempotencyTTL = 24 * time.Hour
	// claimTTL is how long a running request's claim lasts unless renewed:
	// what a crash in the middle leaves behind goes away by itself.
	claimTTL = time.Minute
	// maxIdempotencyKey is the longest key, in bytes.
	maxIdempotencyKey = 255
)

// attempt is what is kept under an idempotency key.
type attempt struct {
	Request string `json:"request"` // hash of path and body
	Owner   string `json:"owner"`   // request ID of the first
	Done    bool   `json:"done"`
	Sealed  bool   `json:"sealed,omitempty"` // Answer.Body is encrypted
	Answer  reply  `json:"answer,omitzero"`
}

// once runs the request unless one with its idempotency key ran before: then
// that one's answer is given again. Answers of our own failures (5xx) are not
// kept, so that a retry can do better.
func (c *call) once(key string, body []byte) (reply, error) {
	if len(key) > maxIdempotencyKey {
		return reply{}, invalidField("Idempotency-Key", fmt.Sprintf("may have at most %d characters", maxIdempotencyKey))
	}
	ctx := c.r.Context()
	place := store.IdempotencyKey(c.tenant.ID, c.scope(key))
	mine := attempt{Request: c.fingerprint(body), Owner: c.id + "/" + rand32(c.s.random)}
	first, err := c.claim(ctx, place, mine)
	if err != nil {
		return reply{}, err
	}
	if first.Done {
		return c.repeat(first, key)
	}
	defer c.keep(place, mine)()
	answer, err := c.run(body)
	if err != nil {
		status, problem := problem(err, c.id)
		if status >= 500 || status == http.StatusBadRequest {
			// Our failure, or what could not be read as a request: the claim
			// goes, so that a retry runs.
			c.release(place, mine, nil)
			return reply{}, err
		}
		raw, merr := json.Marshal(problem)
		if merr != nil {
			return reply{}, merr
		}
		answer = reply{Status: status, Body: raw}
		c.release(place, mine, &answer)
		return reply{}, err
	}
	kept := answer
	if c.route.SecretReply {
		if kept.Body, err = c.seal(key, answer.Body); err != nil {
			return reply{}, err
		}
	}
	c.release(place, mine, &kept)
	return answer, nil
}

// scope is where the key holds: tenant (by the store's key), workspace and
// route. An answer with a credential in it is for nobody but the very API
// key that asked.
func (c *call) scope(key string) string {
	h := sha256.New()
	who := c.key.WorkspaceID
	if c.route.SecretReply {
		who = c.key.ID
	}
	for _, part := range []string{who, c.route.Method, c.route.Pattern, key} {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// fingerprint tells whether two requests ask the same. An upload's body is
// not read twice: its promised digest and length stand for it.
func (c *call) fingerprint(body []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s?%s\n", c.r.URL.Path, c.r.URL.RawQuery)
	if c.route.Upload {
		fmt.Fprintf(h, "%s\n%s\n%d", c.r.Header.Get("Content-Digest"), c.r.Header.Get("Digest"), c.r.ContentLength)
	}
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

// claim takes the key for this request, or returns the finished first one,
// for which it waits a while.
func (c *call) claim(ctx context.Context, place string, mine attempt) (attempt, error) {
	wait, cancel := context.WithTimeout(ctx, c.s.cfg.DuplicateWait)
	defer cancel()
	for {
		var held attempt
		revision, err := store.Update(ctx, c.s.store, func(tx *store.Tx) error {
			held = attempt{}
			value, err := tx.Index(place)
			if err != nil {
				return err
			}
			if value != "" {
				return json.Unmarshal([]byte(value), &held)
			}
			return setAttempt(tx, place, mine, claimTTL)
		})
		switch {
		case err != nil:
			return attempt{}, err
		case held.Owner == "":
			return attempt{}, nil // ours
		case held.Request != mine.Request:
			return attempt{}, &miosa.Error{
				Code: miosa.Invalid, Public: "idempotency_key_reused",
				Message: "this Idempotency-Key was used within 24 hours for another request: use a new key",
			}
		case held.Done:
			return held, nil
		}
		if !changes(wait, c.s.store, place, revision) {
			return attempt{}, conflict("idempotency_in_progress", "the first request with this Idempotency-Key is still running")
		}
	}
}

// changes waits for a change of the key past a revision; false when the
// context ended first.
func changes(ctx context.Context, s store.Store, key string, after int64) bool {
	for _, err := range s.Watch(ctx, key, after) {
		return err == nil || errors.Is(err, store.ErrCompacted)
	}
	return false
}

func setAttempt(tx *store.Tx, place string, a attempt, ttl time.Duration) error {
	raw, err := json.Marshal(a)
	if err != nil {
		return err
	}
	tx.SetIndex(place, string(raw), ttl)
	return nil
}

// keep renews the claim while the request runs; the function it returns ends that.
func (c *call) keep(place string, mine attempt) (stop func()) {
	ctx, cancel := context.WithCancel(c.r.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(claimTTL / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := c.ifMine(ctx, place, mine, func(tx *store.Tx) error {
				return setAttempt(tx, place, mine, claimTTL)
			}); err != nil && ctx.Err() == nil {
				c.s.log.Warn("renew idempotency claim", "request", c.id, "err", err)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// release puts the answer in place of the claim, or drops the claim. It is
// done even if the client left meanwhile: its retry is what this is for.
func (c *call) release(place string, mine attempt, answer *reply) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.r.Context()), 5*time.Second)
	defer cancel()
	err := c.ifMine(ctx, place, mine, func(tx *store.Tx) error {
		if answer == nil {
			tx.DropIndex(place)
			return nil
		}
		done := mine
		done.Done, done.Answer, done.Sealed = true, *answer, c.route.SecretReply && answer.Status < 300
		return setAttempt(tx, place, done, idempotencyTTL)
	})
	if err != nil {
		c.s.log.Warn("keep answer for idempotency key", "request", c.id, "err", err)
	}
}

// ifMine changes the record as long as it is this request's claim.
func (c *call) ifMine(ctx context.Context, place string, mine attempt, fn func(tx *store.Tx) error) error {
	_, err := store.Update(ctx, c.s.store, func(tx *store.Tx) error {
		value, err := tx.Index(place)
		if err != nil {
			return err
		}
		var held attempt
		if value != "" {
			if err := json.Unmarshal([]byte(value), &held); err != nil {
				return err
			}
		}
		if held.Owner != mine.Owner || held.Done {
			return nil
		}
		return fn(tx)
	})
	return err
}

// repeat is the first answer once more.
func (c *call) repeat(first attempt, key string) (reply, error) {
	answer := first.Answer
	c.w.Header().Set("Idempotency-Replayed", "true")
	if !first.Sealed {
		return answer, nil
	}
	body, err := c.unseal(key, answer.Body)
	if err != nil {
		return reply{}, err
	}
	answer.Body = body
	return answer, nil
}

// replyCipher encrypts answers that hold a credential. Its key is made of the
// caller's own API key and idempotency key, neither of which is stored.
func (c *call) replyCipher(key string) (cipher.AEAD, error) {
	sum := sha256.Sum256(fmt.Appendf(nil, "miosa idempotent reply\n%s\n%s", c.r.Header.Get("Authorization"), key))
	block, err := aes.NewCipher(sum[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

func (c *call) seal(key string, body []byte) ([]byte, error) {
	aead, err := c.replyCipher(key)
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, body, nil), nil //nolint:gosec // this AEAD draws its nonces itself
}

func (c *call) unseal(key string, sealed []byte) ([]byte, error) {
	aead, err := c.replyCipher(key)
	if err != nil {
		return nil, err
	}
	return aead.Open(nil, nil, sealed, nil)
}

// rand32 tells two requests apart that came with the same X-Request-ID.
func rand32(random io.Reader) string {
	var b bytes.Buffer
	if _, err := io.CopyN(&b, random, 8); err != nil {
		return ""
	}
	return hex.EncodeToString(b.Bytes())
}
