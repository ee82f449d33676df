package registrytest

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// TokenServer gives out tokens for a registry, as docker's own has one beside it.
type TokenServer struct {
	URL         string
	Given       atomic.Int64 // tokens, so far
	certificate []byte
	ca          *CA
}

// NewTokenServer serves until the test ends. Its name is "localhost": registries
// are on a machine of their own.
func NewTokenServer(t *testing.T, ca *CA, user, password string) *TokenServer {
	t.Helper()
	cert, rawKey := ca.Certificate(t, "token.test")
	block, _ := pem.Decode(rawKey)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("a key of type %T", parsed)
	}
	leaf, _ := pem.Decode(cert)
	s := &TokenServer{certificate: ca.PEM, ca: ca}
	host := Serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, _ := r.BasicAuth()
		if u != user || p != password {
			http.Error(w, "{}", http.StatusUnauthorized)
			return
		}
		type access struct {
			Type    string   `json:"type"`
			Name    string   `json:"name"`
			Actions []string `json:"actions"`
		}
		var granted []access
		for _, scope := range r.URL.Query()["scope"] {
			if part := strings.Split(scope, ":"); len(part) == 3 {
				granted = append(granted, access{part[0], part[1], strings.Split(part[2], ",")})
			}
		}
		now := time.Now()
		token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
			"iss": "test", "sub": u, "aud": "test", "exp": now.Add(5 * time.Minute).Unix(), "nbf": now.Add(-time.Minute).Unix(), "iat": now.Unix(),
			"jti": "1", "access": granted,
		})
		token.Header["x5c"] = []string{base64.StdEncoding.EncodeToString(leaf.Bytes)}
		signed, err := token.SignedString(key)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		s.Given.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"token": signed, "expires_in": 300})
	}), "127.0.0.1", "localhost")
	_, port, _ := strings.Cut(host, ":")
	s.URL = "https://localhost:" + port + "/token"
	return s
}
