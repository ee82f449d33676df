package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/secret"
	"github.com/miosa/miosa/store"
)

// authenticate finds the key of a request, and returns it as it came too. Every reason for a refusal gives
// the same answer, but for a header that isn't there at all.
func (s *Server) authenticate(ctx context.Context, r *http.Request) (found miosa.APIKey, credential string, err error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		return miosa.APIKey{}, "", &miosa.Error{
			Code:    miosa.Unauthenticated,
			Message: "an API key is needed: send Authorization: Bearer msk_…",
		}
	}
	refused := &miosa.Error{
		Code: miosa.Unauthenticated, Public: "invalid_api_key",
		Message: "the API key is malformed, unknown or revoked",
	}
	// One space or more (RFC 9110, 11.6.2).
	words := strings.Fields(header)
	if len(words) != 2 || !strings.EqualFold(words[0], "Bearer") {
		return miosa.APIKey{}, "", refused
	}
	key := words[1]
	// What can't be a key is not worth asking the store.
	if _, ok := secret.APIKeyRole(key); !ok {
		return miosa.APIKey{}, "", refused
	}
	found, err = store.Get(ctx, s.store, store.APIKeys, store.APIKeyKey(secret.HashAPIKey(key)))
	switch {
	case miosa.CodeOf(err) == miosa.NotFound:
		return miosa.APIKey{}, "", refused
	case err != nil:
		return miosa.APIKey{}, "", err
	case !found.RevokedAt.IsZero():
		return miosa.APIKey{}, "", refused
	}
	return found, key, nil
}

// admit checks that the key has the right to use the route, and loads its tenant.
func (s *Server) admit(ctx context.Context, route *route, key miosa.APIKey) (miosa.Tenant, error) {
	operator := key.Role == miosa.RoleAdmin
	switch {
	case route.Access == accessAdmin && !operator:
		return miosa.Tenant{}, &miosa.Error{Code: miosa.Forbidden, Message: "this is the operator's: an admin key (msk_a_…) is needed"}
	case route.Access == accessTenant && operator:
		return miosa.Tenant{}, &miosa.Error{
			Code:    miosa.Forbidden,
			Message: "an admin key belongs to no tenant: use a user or platform key (msk_u_…, msk_p_…) of the tenant",
		}
	case operator:
		return miosa.Tenant{}, nil
	}
	tenant, err := store.Get(ctx, s.store, store.Tenants, store.TenantKey(key.TenantID))
	if miosa.CodeOf(err) == miosa.NotFound {
		// A key outlived its tenant.
		return miosa.Tenant{}, &miosa.Error{
			Code: miosa.Unauthenticated, Public: "invalid_api_key",
			Message: "the API key is malformed, unknown or revoked", Err: err,
		}
	}
	return tenant, err
}

// sees reports whether the call's key reaches what carries that workspace.
func (c *call) sees(a miosa.Attribution) bool {
	return c.key.WorkspaceID == "" || c.key.WorkspaceID == a.WorkspaceID
}
