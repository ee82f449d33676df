package edge

import (
	"net/http"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/balance"
	"github.com/miosa/miosa/routing"
)

// stickyCookie is the cookie's name where the service gives none.
const stickyCookie = "route"

// pick has a backend chosen for the request; nil: there is none left.
func (p *pool) pick(x *exchange) *backend {
	tie := x.tieTo(p)
	var turn uint64
	if !tie.Tied {
		turn = p.next.Add(1)
	}
	i, returned := balance.Pick(p.Backends, tie, turn, func(i int) balance.Standing {
		b := p.backends[i]
		switch {
		case x.hasTried(b):
			return balance.Tried
		case b.sidelined(x.now):
			return balance.Sidelined
		}
		return balance.Usable
	})
	if returned {
		for _, b := range p.backends {
			if !x.hasTried(b) {
				b.sideline.Store(0)
			}
		}
	}
	if i < 0 {
		return nil
	}
	return p.backends[i]
}

// tieTo is what ties this client to a backend of the pool, if anything.
func (x *exchange) tieTo(p *pool) balance.Tie {
	tie := balance.Tie{At: -1}
	switch p.Sticky.Mode {
	case miosa.StickyCookie:
		if x.cookie == "" {
			if c, err := x.r.Cookie(cookieName(p)); err == nil {
				x.cookie = c.Value
			}
		}
		// The cookie of a backend that left still draws the client to one
		// and the same other on every router, until it has its new cookie.
		tie.Key, tie.Tied, tie.At = routing.KeyOf(x.cookie), x.cookie != "", p.named(x.cookie)
	case miosa.StickyClientIP:
		tie.Key, tie.Tied = routing.KeyOf(x.client.String()), true
	case miosa.StickyHeader:
		value := x.r.Header.Get(p.Sticky.Name)
		tie.Key, tie.Tied = routing.KeyOf(value), value != ""
	}
	return tie
}

// named is the index of the backend that a cookie stands for, -1 for none.
func (p *pool) named(cookie string) int {
	for i, b := range p.backends {
		if cookie == b.token {
			return i
		}
	}
	return -1
}

// stick gives the client its cookie, where it has not the right one. A
// backend that is only passed over for a moment keeps its clients.
func (x *exchange) stick(h http.Header, p *pool, b *backend) {
	if p.Sticky.Mode != miosa.StickyCookie || x.cookie == b.token || p.named(x.cookie) >= 0 {
		return
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
