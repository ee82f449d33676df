package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/registry"
	"github.com/miosa/miosa/store"
)

// What a login may be at most, in bytes: tokens of cloud registries have several
// thousand.
const (
	maxRegistryUser   = 255
	maxRegistrySecret = 16 << 10
)

func registryRoutes() []*route {
	return []*route{
		{Method: get, Pattern: "/registries", Access: accessTenant, Operation: "listRegistries", Summary: "List the registries that images are pulled from with a login",
			Notes: "Hosts and users, never secrets.", Handle: many((*Server).listRegistries)},
		{Method: post, Pattern: "/registries", Access: accessTenant, Operation: "setRegistry", Summary: "Log in to a registry", Status: 201, Also: []int{200},
			Notes: "Publishes of an image from that host pull it as this user. A host that has a login gets another one: 200. Nothing is tried here: the first pull says whether the registry takes it. " +
				"Keys of one external_workspace_id have logins of their own, and use no others.",
			Handle: one((*Server).setRegistry)},
		{Method: del, Pattern: "/registries/{host}", Access: accessTenant, Operation: "deleteRegistry", Summary: "Forget a login",
			Notes: "By its host, or its id.", Handle: one((*Server).deleteRegistry)},
	}
}

func registryResource(l miosa.RegistryLogin) resource.Registry {
	return resource.Registry{
		ID: l.ID, Host: l.Host, Username: str(l.User), HasCACertificate: l.CA != "", ExternalWorkspaceID: str(l.WorkspaceID),
		CreatedAt: l.CreatedAt.UTC(), UpdatedAt: l.UpdatedAt.UTC(),
	}
}

func (s *Server) listRegistries(c *call) (rows[resource.Registry], error) {
	found, err := collect(c, store.RegistryLogins, store.RegistryLoginsOf(c.tenant.ID), func(l miosa.RegistryLogin) bool {
		return c.sees(miosa.Attribution{WorkspaceID: l.WorkspaceID})
	})
	return newest(found, func(l miosa.RegistryLogin) string { return l.ID }, func(l miosa.RegistryLogin) (resource.Registry, error) {
		return registryResource(l), nil
	}), err
}

// txRegistry is the key's own login to a host, or with that ID; the zero one if
// there is none.
func (c *call) txRegistry(tx *store.Tx, host string) (miosa.RegistryLogin, error) {
	all, err := collect(c, store.RegistryLogins, store.RegistryLoginsOf(c.tenant.ID), func(l miosa.RegistryLogin) bool {
		return l.WorkspaceID == c.key.WorkspaceID && (l.Host == host || l.ID == host) || c.key.WorkspaceID == "" && l.ID == host
	})
	if err != nil || len(all) == 0 {
		return miosa.RegistryLogin{}, err
	}
	return store.Load(tx, store.RegistryLogins, store.RegistryLoginKey(all[0].TenantID, all[0].ID))
}

func (s *Server) setRegistry(c *call, in resource.RegistrySet) (resource.Registry, error) {
	var f faults
	host, err := registry.ParseHost(in.Host)
	if e, ok := errors.AsType[*miosa.Error](err); ok {
		f.add("host", "%s", e.Message)
	}
	text := func(v string) bool {
		return strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f })
	}
	switch {
	case in.Username == "" && in.CACertificate == "":
		f.add("username", "is needed (or a ca_certificate alone)")
	case len(in.Username) > maxRegistryUser || text(in.Username) || strings.Contains(in.Username, ":"):
		f.add("username", "may have at most %d bytes, no colon and no control characters", maxRegistryUser)
	}
	switch {
	case in.Username != "" && in.Password == "":
		f.add("password", "is needed: the user's password, or a token")
	case in.Username == "" && in.Password != "":
		f.add("password", "is nobody's without a username")
	case len(in.Password) > maxRegistrySecret || text(in.Password):
		f.add("password", "may have at most %d bytes, and no control characters", maxRegistrySecret)
	}
	if in.CACertificate != "" {
		f.certificates("ca_certificate", in.CACertificate)
	}
	if err := f.err(); err != nil {
		return resource.Registry{}, err
	}
	id, err := s.newID(miosa.PrefixRegistry)
	if err != nil {
		return resource.Registry{}, err
	}
	var login miosa.RegistryLogin
	err = c.updateRoom(func(tx *store.Tx) error {
		now := s.now().UTC()
		// One host, one login: nobody else sets any meanwhile.
		if err := c.txCount(tx, c.tenant.ID); err != nil {
			return err
		}
		var err error
		if login, err = c.txRegistry(tx, host); err != nil {
			return err
		}
		known := login.ID != ""
		if !known {
			if err := c.roomForRegistry(tx); err != nil {
				return err
			}
			login = miosa.RegistryLogin{ID: id, TenantID: c.tenant.ID, WorkspaceID: c.key.WorkspaceID, Host: host, CreatedAt: now}
		}
		c.made = made{Registry: login.ID, Known: known}
		login.User, login.Secret, login.CA, login.OwnerID, login.UpdatedAt = in.Username, nil, in.CACertificate, c.key.ID, now
		if in.Password != "" {
			if login.Secret, err = s.secrets.Seal(c.r.Context(), login.TenantID, miosa.RegistryAAD(login.ID), []byte(in.Password)); err != nil {
				return err
			}
		}
		if err := store.Save(tx, store.RegistryLogins, login); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{
			WorkspaceID: login.WorkspaceID, Type: "registry.login_set", Message: fmt.Sprintf("a login to %s was set", host), Details: map[string]string{"host": host},
		})
	})
	if err != nil {
		return resource.Registry{}, err
	}
	if c.made.Known {
		c.status = http.StatusOK
	}
	if login, err = store.Get(c.r.Context(), s.store, store.RegistryLogins, store.RegistryLoginKey(c.tenant.ID, c.made.Registry)); err != nil {
		return resource.Registry{}, err
	}
	c.etag = login.Revision
	return registryResource(login), nil
}

func (c *call) roomForRegistry(tx *store.Tx) error {
	return c.txFits(tx, limited{
		c.tenant, func(p miosa.Plan) int { return p.MaxRegistries }, store.RegistryLoginsOf(c.tenant.ID), "logins to registries", "delete one",
	})
}

func (s *Server) deleteRegistry(c *call, _ none) (resource.Deleted, error) {
	host := c.r.PathValue("host")
	if parsed, err := registry.ParseHost(host); err == nil && miosa.IDPrefix(host) != miosa.PrefixRegistry {
		host = parsed
	}
	err := c.update(func(tx *store.Tx) error {
		login, err := c.txRegistry(tx, host)
		if err != nil {
			return err
		}
		if login.ID == "" {
			return absent("registry", host)
		}
		if err := c.match(login.Revision); err != nil {
			return err
		}
		c.made.Registry = login.ID
		if err := store.Remove(tx, store.RegistryLogins, login); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{
			WorkspaceID: login.WorkspaceID, Type: "registry.login_deleted", Message: fmt.Sprintf("the login to %s was deleted", login.Host), Details: map[string]string{"host": login.Host},
		})
	})
	c.etag = 0
	return resource.Deleted{ID: c.made.Registry, Deleted: true}, err
}
