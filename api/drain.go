package api

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/store"
)

// Drains forwards log lines.
type Drains interface {
	// Status is how a drain's delivery goes.
	Status(d miosa.LogDrain) miosa.DrainStatus
	// Test sends one line that says it is a test, and returns what the receiver
	// said. miosa.Limited when another is under way.
	Test(ctx context.Context, d miosa.LogDrain) (miosa.DrainAnswer, error)
}

const (
	// maxDrains bounds the drains of one workspace, and of those of none
	// together; the plan those of a tenant.
	maxDrains = 10
)

const drainNotes = "Lines go out as they come, at least once, each instance's in their order: as NDJSON over HTTPS (gzip), syslog (RFC 5424 over TLS) or OTLP/HTTP logs. " +
	"While the receiver is away or refuses the drain's credentials they are kept, and tried again with growing pauses."

func drainRoutes() []*route {
	return []*route{
		{Method: get, Pattern: "/log-drains", Access: accessTenant, Operation: "listLogDrains", Summary: "List log drains", Handle: many((*Server).listDrains)},
		{Method: post, Pattern: "/log-drains", Access: accessTenant, Operation: "createLogDrain", Summary: "Create a log drain", Status: 201,
			Notes: drainNotes + " A drain with an external_workspace_id forwards that workspace's lines only.", Handle: one((*Server).createDrain)},
		{Method: get, Pattern: "/log-drains/{id}", Access: accessTenant, Operation: "getLogDrain", Summary: "Get a log drain, and how its delivery goes",
			Handle: one((*Server).getDrain)},
		{Method: patch, Pattern: "/log-drains/{id}", Access: accessTenant, Operation: "updateLogDrain", Summary: "Change, pause or resume a log drain",
			Notes: "It goes on where it was, and is tried at once.", Handle: one((*Server).patchDrain)},
		{Method: del, Pattern: "/log-drains/{id}", Access: accessTenant, Operation: "deleteLogDrain", Summary: "Delete a log drain", Handle: one((*Server).deleteDrain)},
		{Method: post, Pattern: "/log-drains/{id}/test", Access: accessTenant, Operation: "testLogDrain", Summary: "Send one marked test line",
			Notes: "Answers with what the receiver said, good or bad; also while the drain is paused.", Handle: one((*Server).testDrain)},
	}
}

// drain is the one that the path names.
func (c *call) drain() (miosa.LogDrain, error) {
	id, err := c.drainID()
	if err != nil {
		return miosa.LogDrain{}, err
	}
	d, err := store.Get(c.r.Context(), c.s.store, store.LogDrains, store.LogDrainKey(c.tenant.ID, id))
	return c.reachDrain(d, id, err)
}

func (c *call) txDrain(tx *store.Tx) (miosa.LogDrain, error) {
	id, err := c.drainID()
	if err != nil {
		return miosa.LogDrain{}, err
	}
	d, err := store.Load(tx, store.LogDrains, store.LogDrainKey(c.tenant.ID, id))
	if d, err = c.reachDrain(d, id, err); err != nil {
		return d, err
	}
	return d, c.match(d.Revision)
}

func (c *call) drainID() (string, error) {
	if c.s.drains == nil {
		return "", &miosa.Error{Code: miosa.Unavailable, Public: "log_drains_not_served", Message: "logs are not forwarded here"}
	}
	return c.pathID("id", miosa.PrefixLogDrain, "log drain")
}

func (c *call) reachDrain(d miosa.LogDrain, id string, err error) (miosa.LogDrain, error) {
	if miosa.CodeOf(err) == miosa.NotFound || err == nil && !c.sees(d.Attribution) {
		return miosa.LogDrain{}, absent("log drain", id)
	}
	return d, err
}

// drains are the tenant's that the key sees, newest first.
func (c *call) drains(keep func(miosa.LogDrain) bool) ([]miosa.LogDrain, error) {
	return collect(c, store.LogDrains, store.LogDrainsOf(c.tenant.ID), func(d miosa.LogDrain) bool {
		return c.sees(d.Attribution) && keep(d)
	})
}

func (s *Server) listDrains(c *call) (rows[resource.LogDrain], error) {
	f := c.filter()
	found, err := c.drains(func(d miosa.LogDrain) bool {
		f := f
		if s.drains == nil {
			f.state = ""
		}
		return f.passes(string(c.drainStatus(d).State), "", d.Attribution)
	})
	return newest(found, func(d miosa.LogDrain) string { return d.ID }, func(d miosa.LogDrain) (resource.LogDrain, error) {
		return c.drainResource(d), nil
	}), err
}

func (s *Server) getDrain(c *call, _ none) (resource.LogDrain, error) {
	d, err := c.drain()
	if err != nil {
		return resource.LogDrain{}, err
	}
	c.etag = d.Revision
	return c.drainResource(d), nil
}

func (s *Server) createDrain(c *call, in resource.LogDrainCreate) (resource.LogDrain, error) {
	if s.drains == nil {
		_, err := c.drainID()
		return resource.LogDrain{}, err
	}
	d, secrets, err := c.newDrain(in)
	if err != nil {
		return resource.LogDrain{}, err
	}
	if err := c.sealDrain(&d, secrets); err != nil {
		return resource.LogDrain{}, err
	}
	err = c.updateRoom(func(tx *store.Tx) error {
		c.made.Drain = d.ID
		if err := c.roomForDrain(tx, d); err != nil {
			return err
		}
		if err := store.Save(tx, store.LogDrains, d); err != nil {
			return err
		}
		return c.auditDrain(tx, "created", d, "was made: it leads to "+d.Target)
	})
	if err != nil {
		return resource.LogDrain{}, err
	}
	return c.showDrain()
}

// showDrain answers with the drain that was made or changed.
func (c *call) showDrain() (resource.LogDrain, error) {
	d, err := store.Get(c.r.Context(), c.s.store, store.LogDrains, store.LogDrainKey(c.tenant.ID, c.made.Drain))
	c.etag = d.Revision
	if err != nil {
		return resource.LogDrain{}, err
	}
	return c.drainResource(d), nil
}

// drainSecrets are what is sealed: nil leaves a part as it is.
type drainSecrets struct {
	url, token *string
	headers    map[string]*string // nil deletes
}

// newDrain checks the request and makes the noun.
func (c *call) newDrain(in resource.LogDrainCreate) (miosa.LogDrain, drainSecrets, error) {
	var f faults
	secrets := drainSecrets{headers: map[string]*string{}}
	if in.Type != "" {
		f.oneOf("type", in.Type, string(miosa.DrainHTTPS), string(miosa.DrainSyslog), string(miosa.DrainOTLP))
		if err := f.err(); err != nil {
			return miosa.LogDrain{}, secrets, err
		}
	}
	attribution, err := c.attribution(&f, in.Attribution)
	if err != nil {
		return miosa.LogDrain{}, secrets, err
	}
	now := c.s.now().UTC()
	d := miosa.LogDrain{
		TenantID: c.tenant.ID, Name: in.Name, CA: in.CACertificate, Stream: in.Stream, Search: in.Q, Paused: in.Paused, OwnerID: c.key.ID,
		Attribution: attribution, CreatedAt: now, UpdatedAt: now,
	}
	var whole string
	d.Type, whole, d.Target = f.target("url", in.URL, miosa.DrainType(in.Type), c.s.cfg.Targets)
	secrets.url = &whole
	if in.Token != "" {
		secrets.token = &in.Token
	}
	for name, value := range inOrder(in.Headers) {
		secrets.headers[name] = &value
	}
	if d.Name == "" && d.Target != "" {
		if u, err := url.Parse(d.Target); err == nil {
			d.Name = u.Hostname()[:min(len(u.Hostname()), maxName)]
		}
	}
	if err := c.checkDrain(&f, &d, secrets, in.DeploymentID, in.ServiceID); err != nil {
		return miosa.LogDrain{}, secrets, err
	}
	if d.ID, err = c.s.newID(miosa.PrefixLogDrain); err != nil {
		return miosa.LogDrain{}, secrets, err
	}
	return d, secrets, nil
}

// checkDrain checks what creating and changing have in common, and finds the
// deployment and service that are named.
func (c *call) checkDrain(f *faults, d *miosa.LogDrain, secrets drainSecrets, deployment, service string) error {
	if d.Name != "" || d.Target != "" {
		d.Name = f.name("name", d.Name)
	}
	if d.Stream != "" {
		f.oneOf("stream", d.Stream, string(logs.Stdout), string(logs.Stderr), string(logs.System))
	}
	if _, err := logs.ParseSearch(d.Search); err != nil || len(d.Search) > maxSearch {
		f.add("q", "is no search: words, \"quoted phrases\", -not, key:value, of at most %d characters", maxSearch)
	}
	if d.CA != "" {
		f.certificates("ca_certificate", d.CA)
	}
	c.checkDrainSecrets(f, d, secrets)
	d.DeploymentID, d.ServiceID = "", ""
	if deployment != "" {
		dep, err := c.deploymentBy(deployment)
		if err != nil && miosa.CodeOf(err) != miosa.NotFound {
			return err
		}
		switch {
		case err != nil:
			f.add("deployment_id", "there is no such deployment")
		case d.WorkspaceID != "" && dep.WorkspaceID != d.WorkspaceID:
			f.add("deployment_id", "is of another external_workspace_id than the drain: nothing would be forwarded")
		}
		d.DeploymentID = dep.ID
	}
	if service != "" {
		at, _, err := c.locateID(service, "service")
		if err != nil && miosa.CodeOf(err) != miosa.NotFound {
			return err
		}
		switch {
		case err != nil || miosa.IDPrefix(service) != miosa.PrefixService:
			f.add("service_id", "there is no such service")
		case d.DeploymentID != "" && at.DeploymentID != d.DeploymentID:
			f.add("service_id", "is of another deployment than deployment_id")
		}
		d.ServiceID = service
	}
	return f.err()
}

func (c *call) checkDrainSecrets(f *faults, d *miosa.LogDrain, secrets drainSecrets) {
	names := map[string]bool{}
	for _, h := range d.Headers {
		names[h.Name] = true
	}
	given := map[string]bool{}
	for name, value := range inOrder(secrets.headers) {
		canonical := f.header("headers", name, value)
		if given[canonical] {
			f.add("headers."+name, "is there twice: upper and lower case are the same")
		}
		given[canonical], names[canonical] = true, value != nil
	}
	slices.SortFunc(*f, func(a, b miosa.Field) int { return strings.Compare(a.Name, b.Name) })
	n := 0
	for _, set := range names {
		if set {
			n++
		}
	}
	token := len(d.Token) > 0
	if secrets.token != nil {
		token = *secrets.token != ""
		f.drainToken(d.Type, *secrets.token)
	}
	switch {
	case n > maxHeaders:
		f.add("headers", "may be at most %d", maxHeaders)
	case n > 0 && d.Type == miosa.DrainSyslog:
		f.add("headers", "are for https and otlp; syslog has none")
	case token && names["Authorization"]:
		f.add("token", "is sent as Authorization, which headers set too: choose one")
	}
}

// sealDrain puts the secrets into the noun.
func (c *call) sealDrain(d *miosa.LogDrain, secrets drainSecrets) error {
	seal := func(part, plain string) ([]byte, error) {
		sealed, err := c.s.secrets.Seal(c.r.Context(), d.TenantID, miosa.DrainAAD(d.ID, part), []byte(plain))
		if err != nil {
			return nil, fmt.Errorf("seal %s of log drain %s: %w", part, d.ID, err)
		}
		return sealed, nil
	}
	var err error
	if secrets.url != nil {
		if d.URL, err = seal("url", *secrets.url); err != nil {
			return err
		}
	}
	if secrets.token != nil {
		if d.Token = nil; *secrets.token != "" {
			if d.Token, err = seal("token", *secrets.token); err != nil {
				return err
			}
		}
	}
	d.Headers = slices.Clone(d.Headers)
	for name, value := range inOrder(secrets.headers) {
		var f faults
		name = f.header("headers", name, nil)
		d.Headers = slices.DeleteFunc(d.Headers, func(h miosa.DrainHeader) bool { return h.Name == name })
		if value == nil {
			continue
		}
		sealed, err := seal("header/"+name, *value)
		if err != nil {
			return err
		}
		d.Headers = append(d.Headers, miosa.DrainHeader{Name: name, Sealed: sealed})
	}
	slices.SortFunc(d.Headers, func(a, b miosa.DrainHeader) int { return cmp.Compare(a.Name, b.Name) })
	return nil
}

func (s *Server) patchDrain(c *call, in resource.LogDrainPatch) (resource.LogDrain, error) {
	err := c.update(func(tx *store.Tx) error {
		d, err := c.txDrain(tx)
		if err != nil {
			return err
		}
		c.made.Drain = d.ID
		before := d
		secrets, err := c.changeDrain(&d, in)
		if err != nil {
			return err
		}
		if err := c.sealDrain(&d, secrets); err != nil {
			return err
		}
		d.UpdatedAt = s.now().UTC()
		if err := store.Save(tx, store.LogDrains, d); err != nil {
			return err
		}
		what := "was changed"
		switch {
		case d.Paused && !before.Paused:
			what = "was paused"
		case !d.Paused && before.Paused:
			what = "was resumed"
		}
		return c.auditDrain(tx, "changed", d, what)
	})
	if err != nil {
		return resource.LogDrain{}, err
	}
	return c.showDrain()
}

// changeDrain checks the request and changes the noun, but for its secrets.
func (c *call) changeDrain(d *miosa.LogDrain, in resource.LogDrainPatch) (drainSecrets, error) {
	var f faults
	secrets := drainSecrets{headers: in.Headers}
	if in.URL != nil {
		var whole string
		before := d.Target
		_, whole, d.Target = f.target("url", *in.URL, d.Type, c.s.cfg.Targets)
		secrets.url = &whole
		if whole != "" && elsewhere(before, d.Target) && withheld(*d, in) {
			f.add("url", "leads to another host: send token and headers anew with it, or null to drop them; they go to nobody that they were not given for")
		}
	}
	if in.Name != nil {
		d.Name = *in.Name
	}
	for name, v := range inOrder(map[string]*string{"external_workspace_id": in.ExternalWorkspaceID, "external_user_id": in.ExternalUserID, "external_project_id": in.ExternalProjectID}) {
		if v != nil {
			f.external(name, *v)
		}
	}
	if w := in.ExternalWorkspaceID; w != nil && c.key.WorkspaceID != "" && *w != c.key.WorkspaceID {
		return secrets, otherWorkspace()
	}
	set := func(to *string, v *string) {
		if v != nil {
			*to = *v
		}
	}
	set(&d.WorkspaceID, in.ExternalWorkspaceID)
	set(&d.UserID, in.ExternalUserID)
	set(&d.ProjectID, in.ExternalProjectID)
	if in.Paused != nil {
		d.Paused = *in.Paused
	}
	clearOr := func(to *string, v resource.Nullable[string]) {
		if v.Set {
			*to = v.Value // "" for null
		}
	}
	clearOr(&d.CA, in.CACertificate)
	clearOr(&d.Stream, in.Stream)
	clearOr(&d.Search, in.Q)
	if in.Token.Set {
		secrets.token = &in.Token.Value
	}
	if !in.DeploymentID.Set && !in.ServiceID.Set && in.ExternalWorkspaceID == nil {
		// What it is narrowed to may be gone by now: that keeps nobody from
		// pausing it.
		deployment, service := d.DeploymentID, d.ServiceID
		err := c.checkDrain(&f, d, secrets, "", "")
		d.DeploymentID, d.ServiceID = deployment, service
		return secrets, err
	}
	deployment, service := d.DeploymentID, d.ServiceID
	clearOr(&deployment, in.DeploymentID)
	clearOr(&service, in.ServiceID)
	return secrets, c.checkDrain(&f, d, secrets, deployment, service)
}

// elsewhere reports whether two URLs lead to different hosts, or only one of
// them by TLS.
func elsewhere(a, b string) bool {
	u, err := url.Parse(a)
	v, verr := url.Parse(b)
	return err != nil || verr != nil || u.Scheme != v.Scheme || !strings.EqualFold(u.Host, v.Host)
}

// withheld reports whether the drain has a secret that the request does not
// give anew.
func withheld(d miosa.LogDrain, in resource.LogDrainPatch) bool {
	return len(d.Token) > 0 && !in.Token.Set || slices.ContainsFunc(d.Headers, func(h miosa.DrainHeader) bool {
		for name := range inOrder(in.Headers) {
			if strings.EqualFold(name, h.Name) {
				return false
			}
		}
		return true
	})
}

func (s *Server) deleteDrain(c *call, _ none) (resource.Deleted, error) {
	err := c.update(func(tx *store.Tx) error {
		d, err := c.txDrain(tx)
		if err != nil {
			return err
		}
		c.made.Drain = d.ID
		if err := store.Remove(tx, store.LogDrains, d); err != nil {
			return err
		}
		return c.auditDrain(tx, "deleted", d, "was deleted")
	})
	c.etag = 0
	return resource.Deleted{ID: c.made.Drain, Deleted: true}, err
}

func (s *Server) testDrain(c *call, _ none) (resource.LogDrainTest, error) {
	d, err := c.drain()
	if err != nil {
		return resource.LogDrainTest{}, err
	}
	a, err := s.drains.Test(c.r.Context(), d)
	return resource.LogDrainTest{Delivered: a.Delivered, StatusCode: num(a.Status), Message: a.Message, DurationMS: a.Took.Milliseconds()}, err
}

func (c *call) auditDrain(tx *store.Tx, verb string, d miosa.LogDrain, words string) error {
	return c.audit(tx, miosa.Event{
		WorkspaceID: d.WorkspaceID, Type: "log_drain." + verb,
		Message: fmt.Sprintf("log drain %s %s", d.Name, words), Details: map[string]string{"log_drain_id": d.ID},
	})
}

func (c *call) drainStatus(d miosa.LogDrain) miosa.DrainStatus {
	if c.s.drains == nil {
		return miosa.DrainStatus{State: miosa.DrainPaused}
	}
	return c.s.drains.Status(d)
}

func (c *call) drainResource(d miosa.LogDrain) resource.LogDrain {
	s := c.drainStatus(d)
	lines := func(n uint64) int64 { return int64(min(n, 1<<62)) } //nolint:gosec // bounded
	out := resource.LogDrain{
		ID: d.ID, TenantID: d.TenantID, OwnerID: d.OwnerID, Name: d.Name, Type: string(d.Type), URL: d.Target, Headers: map[string]string{},
		CACertificate: str(d.CA), DeploymentID: str(d.DeploymentID), ServiceID: str(d.ServiceID), Stream: str(d.Stream), Q: str(d.Search), Paused: d.Paused,
		State: string(s.State), LastError: str(s.Error), LastErrorAt: at(s.ErrorAt), NextAttemptAt: at(s.NextAttempt), LastDeliveredAt: at(s.DeliveredAt),
		DeliveredLines: lines(s.Delivered), DroppedLines: lines(s.Dropped), LagSeconds: int64(s.Lag.Seconds()), GapSince: at(s.GapFrom), GapUntil: at(s.GapUntil),
		Attributed: resource.Attributed{
			ExternalWorkspaceID: str(d.WorkspaceID), ExternalUserID: str(d.UserID), ExternalProjectID: str(d.ProjectID),
		},
		CreatedAt: d.CreatedAt.UTC(), UpdatedAt: d.UpdatedAt.UTC(),
	}
	for _, h := range d.Headers {
		out.Headers[h.Name] = dots
	}
	if len(d.Token) > 0 {
		out.Token = new(dots)
	}
	return out
}
