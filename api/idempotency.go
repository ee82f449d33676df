package api

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
)

const (
	// idempotencyTTL is how long a first response is repeated.
	idempotencyTTL = 24 * time.Hour
	// maxIdempotencyKey is the longest key, in bytes.
	maxIdempotencyKey = 255
)

// attempt is what is kept under an idempotency key. It is written in the
// transaction that does what was asked, so that it is there exactly when that
// was done, and once more with the answer, before that leaves.
type attempt struct {
	Request string `json:"request"`          // hash of path and body
	Made    []byte `json:"made,omitempty"`   // what was made, as JSON; encrypted where the answer holds a credential
	Done    bool   `json:"done"`             // there is an answer
	Sealed  bool   `json:"sealed,omitempty"` // Answer.Body is encrypted
	Answer  reply  `json:"answer,omitzero"`

	revision int64 // of the record
}

// held reports whether something was done or answered. Older binaries left
// claims of requests that had only begun: they say nothing.
func (a attempt) held() bool { return a.Done || len(a.Made) > 0 }

// made is what a mutation's one transaction has made or touched: enough to
// answer, or to go on waiting, also for a retry in another process. A handler
// answers from it alone.
type made struct {
	Tenant      string `json:"tenant,omitempty"`
	Plan        string `json:"plan,omitempty"` // its name
	Key         string `json:"key,omitempty"`
	Deployment  string `json:"deployment,omitempty"`
	Environment string `json:"environment,omitempty"`
	Version     string `json:"version,omitempty"`
	Release     string `json:"release,omitempty"`
	Rollout     string `json:"rollout,omitempty"`
	Webhook     string `json:"webhook,omitempty"`
	Drain       string `json:"drain,omitempty"`
	Registry    string `json:"registry,omitempty"`
	Event       string `json:"event,omitempty"`
	Task        string `json:"task,omitempty"`
	Secret      string `json:"secret,omitempty"` // shown once
	Known       bool   `json:"known,omitempty"`  // it was there before
}

// retry is a request with an idempotency key.
type retry struct {
	key   string
	place string
	mine  attempt
	// first is what an earlier request with the key has done; nothing: this is
	// the first.
	first attempt
}

// errTwin: another request with the same key was faster.
var errTwin = errors.New("another request with this idempotency key has done it")

// once runs the request unless one with its idempotency key ran before: then
// that one's answer is given again or, if there is none yet, found out from
// what that one has made.
func (c *call) once(key string, body []byte) (reply, error) {
	if len(key) > maxIdempotencyKey {
		return reply{}, invalidField("Idempotency-Key", fmt.Sprintf("may have at most %d characters", maxIdempotencyKey))
	}
	place := store.IdempotencyKey(c.tenant.ID, c.scope(key))
	for {
		first, err := c.attempted(place)
		switch {
		case err != nil:
			return reply{}, err
		case first.held() && first.Request != c.fingerprint(body):
			return reply{}, &miosa.Error{
				Code: miosa.Invalid, Public: "idempotency_key_reused",
				Message: "this Idempotency-Key was used within 24 hours for another request: use a new key",
			}
		case first.Done:
			return c.repeat(first, key)
		}
		c.status, c.etag, c.made = c.route.status(), 0, made{}
		c.retry = &retry{key: key, place: place, mine: attempt{Request: c.fingerprint(body)}, first: first}
		answer, err := c.run(body)
		if err == nil {
			return c.settle(answer)
		}
		if !errors.Is(err, errTwin) {
			err = c.refuse(err)
		}
		if !errors.Is(err, errTwin) {
			return reply{}, err
		}
	}
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
		fmt.Fprintf(h, "%s\n%s\n%d", strings.Join(c.r.Header.Values("Content-Digest"), ","), strings.Join(c.r.Header.Values("Digest"), ","), c.r.ContentLength)
	}
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil))
}

// attempted is what is kept at a place; the zero attempt: nothing.
func (c *call) attempted(place string) (attempt, error) {
	e, err := c.s.store.Get(c.r.Context(), place)
	if err != nil || e.Revision == 0 {
		return attempt{}, err
	}
	a := attempt{revision: e.Revision}
	return a, json.Unmarshal(e.Value, &a)
}

// txAttempted is attempted inside a transaction, which rests on it.
func txAttempted(tx *store.Tx, place string) (attempt, error) {
	value, err := tx.Index(place)
	if err != nil || value == "" {
		return attempt{}, err
	}
	var a attempt
	return a, json.Unmarshal([]byte(value), &a)
}

func setAttempt(tx *store.Tx, place string, a attempt) error {
	raw, err := json.Marshal(a)
	if err != nil {
		return err
	}
	tx.SetIndex(place, string(raw), idempotencyTTL)
	return nil
}

// update runs a mutation's one transaction and remembers its revision as the
// ETag. fn sets c.made, from which alone the handler goes on: a retry of a
// request that was cut off after its transaction comes here too, and has
// c.made without fn being run.
func (c *call) update(fn func(tx *store.Tx) error) error {
	r := c.retry
	if r != nil && r.first.held() {
		c.w.Header().Set("Idempotency-Replayed", "true")
		c.etag = r.first.revision
		return c.readMade(r.first.Made)
	}
	revision, err := store.Update(c.r.Context(), c.s.store, func(tx *store.Tx) error {
		c.made = made{}
		if r == nil {
			return fn(tx)
		}
		// First, so that nothing which the other has done is taken for a
		// reason to refuse.
		twin, err := txAttempted(tx, r.place)
		if err != nil {
			return err
		}
		if twin.held() {
			return errTwin
		}
		if err := fn(tx); err != nil {
			return err
		}
		begun := r.mine
		if begun.Made, err = c.writeMade(); err != nil {
			return err
		}
		return setAttempt(tx, r.place, begun)
	})
	if err == nil {
		c.etag = revision
	}
	return err
}

func (c *call) writeMade() ([]byte, error) {
	raw, err := json.Marshal(c.made) //nolint:gosec // a secret among it is sealed below
	if err == nil && c.route.SecretReply {
		raw, err = c.seal(c.retry.key, raw)
	}
	return raw, err
}

func (c *call) readMade(raw []byte) error {
	if c.route.SecretReply {
		var err error
		if raw, err = c.unseal(c.retry.key, raw); err != nil {
			return err
		}
	}
	return json.Unmarshal(raw, &c.made)
}

// settle keeps the answer and returns what is kept: what another request with
// the key answered a moment ago is this one's answer too. It is done even if
// the client left meanwhile: its retry is what this is for.
func (c *call) settle(answer reply) (reply, error) {
	kept := answer
	if c.route.SecretReply {
		var err error
		if kept.Body, err = c.seal(c.retry.key, answer.Body); err != nil {
			return reply{}, err
		}
	}
	first, err := c.keep(kept, c.route.SecretReply)
	switch {
	case err != nil:
		// What was made is known all the same.
		c.s.log.Warn("keep answer for idempotency key", "request", c.id, "err", err)
	case first.Done:
		return c.repeat(first, c.retry.key)
	}
	return answer, nil
}

// refuse keeps a refusal, unless it passes: then a retry is to do better. What
// was refused because another request with the key has done it meanwhile is
// errTwin.
func (c *call) refuse(refusal error) error {
	var first attempt
	var err error
	if passes(refusal) {
		first, err = c.attempted(c.retry.place)
	} else {
		status, problem := problem(refusal, c.id)
		var raw []byte
		if raw, err = json.Marshal(problem); err != nil {
			return err
		}
		first, err = c.keep(reply{Status: status, Body: raw}, false)
	}
	switch {
	case err != nil && !isContext(err):
		c.s.log.Warn("keep refusal for idempotency key", "request", c.id, "err", err)
	case err == nil && first.held() && !c.retry.first.held():
		return errTwin
	}
	return refusal
}

// keep writes an answer where the request's attempt is, or where there is
// none. If there is another answer, or another attempt, it returns that.
func (c *call) keep(answer reply, sealed bool) (first attempt, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.r.Context()), 5*time.Second)
	defer cancel()
	_, err = store.Update(ctx, c.s.store, func(tx *store.Tx) error {
		if first, err = txAttempted(tx, c.retry.place); err != nil {
			return err
		}
		if first.Done || first.held() && answer.Status >= http.StatusBadRequest && !c.retry.first.held() {
			return nil
		}
		first = attempt{}
		done := c.retry.mine
		done.Done, done.Sealed, done.Answer = true, sealed, answer
		return setAttempt(tx, c.retry.place, done)
	})
	return first, err
}

// passes reports whether a refusal may pass without the request being another
// one: that is never repeated from memory.
func passes(err error) bool {
	if e, ok := errors.AsType[*miosa.Error](err); ok && e.Passing || errors.Is(err, store.ErrConflict) || isContext(err) {
		return true
	}
	switch miosa.CodeOf(err) {
	case miosa.Internal, miosa.Unavailable, miosa.NoSpace, miosa.Limited, // ours, or of this moment
		miosa.PaymentRequired,                  // until the plan or what is used changes
		miosa.Malformed, miosa.Unauthenticated: // was never a request
		return true
	}
	return false
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
	sum := sha256.Sum256(fmt.Appendf(nil, "miosa idempotent reply\n%s\n%s", "Bearer "+c.credential, key))
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
