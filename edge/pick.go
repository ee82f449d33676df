package edge

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/http"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/routing"
)

// stickyCookie is the cookie's name where the service gives none.
const stickyCookie = "route"

// pick chooses among the backends that this request has not tried: by what
// the client sticks to, else in turn. A backend whose dial failed a moment ago
// is passed over, unless all are: then all come back.
func (p *pool) pick(x *exchange) *backend {
	if b := p.pickUsable(x); b != nil {
		return b
	}
	sidelined := false
	for _, b := range p.backends {
		if b.sideline.Load() != 0 && !x.hasTried(b) {
			b.sideline.Store(0)
			sidelined = true
		}
	}
	if !sidelined {
		return nil
	}
	return p.pickUsable(x)
}

func (p *pool) pickUsable(x *exchange) *backend {
	usable := func(i int) bool {
		return !p.backends[i].sidelined(x.now) && !x.hasTried(p.backends[i])
	}
	if key, ok := x.stickTo(p); ok {
		for i, b := range p.backends {
			if x.cookie == b.token && usable(i) {
				return b
			}
		}
		if i := routing.Sticky(key, p.Backends, usable); i >= 0 {
			return p.backends[i]
		}
		return nil
	}
	n := uint64(len(p.backends))
	if n == 0 {
		return nil
	}
	turn := p.next.Add(1)
	if i := int(turn % n); usable(i) {
		return p.backends[i]
	}
	// The turn of one that is passed over goes to all the others, not to its
	// neighbour.
	var left uint64
	for i := range p.backends {
		if usable(i) {
			left++
		}
	}
	if left == 0 {
		return nil
	}
	turn = turn / n % left
	for i := range p.backends {
		if usable(i) {
			if turn == 0 {
				return p.backends[i]
			}
			turn--
		}
	}
	return nil
}

// stickTo is what ties this client to a backend of the pool, if anything.
func (x *exchange) stickTo(p *pool) (routing.Key, bool) {
	switch p.Sticky.Mode {
	case miosa.StickyCookie:
		if x.cookie == "" {
			if c, err := x.r.Cookie(cookieName(p)); err == nil {
				x.cookie = c.Value
			}
		}
		// The cookie of a backend that left still draws the client to one
		// and the same other on every router, until it has its new cookie.
		return routing.KeyOf(x.cookie), x.cookie != ""
	case miosa.StickyClientIP:
		return routing.KeyOf(x.client.String()), true
	case miosa.StickyHeader:
		value := x.r.Header.Get(p.Sticky.Name)
		return routing.KeyOf(value), value != ""
	}
	return 0, false
}

// stick gives the client its cookie, where it has not the right one. A
// backend that is only passed over for a moment keeps its clients.
func (x *exchange) stick(h http.Header, p *pool, b *backend) {
	if p.Sticky.Mode != miosa.StickyCookie || x.cookie == b.token {
		return
	}
	for _, other := range p.backends {
		if x.cookie == other.token {
			return
		}
	}
	//nolint:gosec // Secure exactly where the client came over TLS: plain HTTP would drop the cookie
	h.Add("Set-Cookie", (&http.Cookie{
		Name:     cookieName(p),
		Value:    b.token,
		Path:     "/",
		HttpOnly: true,
		Secure:   x.secure(),
		SameSite: http.SameSiteLaxMode,
	}).String())
}

func cookieName(p *pool) string {
	if p.Sticky.Name == "" {
		return stickyCookie
	}
	return p.Sticky.Name
}

// cookieToken stands for an instance in a cookie. It tells nothing about it,
// and can't be made up without the key; routers with the same key agree.
func cookieToken(key []byte, instanceID string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(instanceID))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}
