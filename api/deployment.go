package api

import (
	"cmp"
	"fmt"
	"strings"

	"golang.org/x/text/unicode/norm"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/logs"
	"github.com/miosa/miosa/store"
)

func (s *Server) listDeployments(c *call) (rows[resource.Deployment], error) {
	f := c.filter()
	if project := c.r.PathValue("project_id"); project != "" {
		f.project = project
	}
	name := norm.NFC.String(strings.TrimSpace(c.r.URL.Query().Get("name")))
	deps, err := collect(c, store.Deployments, store.DeploymentsOf(c.tenant.ID), func(d miosa.Deployment) bool {
		return (name == "" || name == d.Slug || name == norm.NFC.String(d.Name)) && d.DeletedAt.IsZero() && c.sees(d.Attribution) && f.passes(string(d.State), d.ProjectID, d.Attribution)
	})
	return newest(deps, func(d miosa.Deployment) string { return d.ID }, func(d miosa.Deployment) (resource.Deployment, error) {
		v, _, err := c.deploymentView(d)
		return v, err
	}), err
}

func (s *Server) getDeployment(c *call, _ none) (resource.Deployment, error) {
	dep, err := c.deployment()
	if err != nil {
		return resource.Deployment{}, err
	}
	return c.showDeployment(dep)
}

// showDeployment answers with a deployment and its ETag.
func (c *call) showDeployment(dep miosa.Deployment) (resource.Deployment, error) {
	v, revision, err := c.deploymentView(dep)
	c.etag = revision
	return v, err
}

func (s *Server) createDeployment(c *call, in resource.DeploymentCreate) (resource.Deployment, error) {
	dep, err := c.newDeployment(in)
	if err != nil {
		return resource.Deployment{}, err
	}
	err = c.updateRoom(func(tx *store.Tx) error {
		c.made.Deployment = dep.ID
		if err := c.roomForDeployment(tx); err != nil {
			return err
		}
		holder, ok, err := tx.Claim(store.SlugKey(dep.TenantID, dep.Slug), dep.ID)
		if err != nil {
			return err
		}
		if !ok {
			return c.nameTaken(holder, dep.Slug)
		}
		if err := store.Save(tx, store.Deployments, dep); err != nil {
			return err
		}
		for _, name := range []string{miosa.Production, miosa.Staging} {
			if _, err := c.addEnvironment(tx, dep, name); err != nil {
				return err
			}
		}
		return c.audit(tx, miosa.Event{DeploymentID: dep.ID, Type: "deployment.created", Message: fmt.Sprintf("deployment %s was made", dep.Name)})
	})
	if err != nil {
		return resource.Deployment{}, err
	}
	return c.showMade()
}

// showMade answers with the deployment that was made or changed.
func (c *call) showMade() (resource.Deployment, error) {
	dep, err := c.deploymentBy(c.made.Deployment)
	if err != nil {
		return resource.Deployment{}, err
	}
	return c.showDeployment(dep)
}

// newDeployment checks the request and makes the noun.
func (c *call) newDeployment(in resource.DeploymentCreate) (miosa.Deployment, error) {
	var f faults
	name := f.name("name", in.Name)
	f.command("run_command", in.RunCommand)
	f.metadata("metadata", in.Metadata)
	f.external("project_id", in.ProjectID)
	switch in.SourceType {
	case "", "upload":
	case "repo", "sandbox":
		return miosa.Deployment{}, &miosa.Error{
			Code: miosa.Invalid, Public: "source_not_supported",
			Message: fmt.Sprintf("source_type %q is not served here: use upload", in.SourceType),
			Fields:  []miosa.Field{{Name: "source_type", Message: "must be upload"}},
		}
	default:
		f.oneOf("source_type", in.SourceType, "upload")
	}
	if in.Database != nil && in.Database != false {
		f.add("database", "this platform offers no databases: leave it out and set DATABASE_URL among the variables")
	}
	attribution, err := c.attribution(&f, in.Attribution)
	if err != nil {
		return miosa.Deployment{}, err
	}
	if err := f.err(); err != nil {
		return miosa.Deployment{}, err
	}
	project := in.ProjectID
	if p := c.r.PathValue("project_id"); p != "" {
		if f.external("project_id", p); f.err() != nil {
			return miosa.Deployment{}, f.err()
		}
		project = p
	}
	id, err := c.s.newID(miosa.PrefixDeployment)
	if err != nil {
		return miosa.Deployment{}, err
	}
	now := c.s.now().UTC()
	return miosa.Deployment{
		ID: id, TenantID: c.tenant.ID, Name: name, Slug: slugOf(name), SourceType: "upload", ProjectID: project,
		RunCommand: in.RunCommand, OwnerID: c.key.ID, Attribution: attribution, Metadata: in.Metadata,
		State: miosa.DeploymentPending, CreatedAt: now, UpdatedAt: now,
	}, nil
}

// nameTaken: who does not see the holder of a slug learns no more than that the
// name cannot be had, which the public URL would tell as well.
func (c *call) nameTaken(holder, slug string) error {
	_, err := c.deploymentBy(holder)
	switch {
	case miosa.CodeOf(err) == miosa.NotFound:
		return conflict("name_taken", "this name cannot be had: choose another")
	case err != nil:
		return err
	}
	return conflict("name_taken", fmt.Sprintf("there is a deployment with the slug %q already: choose another name", slug))
}

// addEnvironment makes an environment; its name must be free.
func (c *call) addEnvironment(tx *store.Tx, dep miosa.Deployment, name string) (miosa.Environment, error) {
	id, err := c.s.newID(miosa.PrefixEnvironment)
	if err != nil {
		return miosa.Environment{}, err
	}
	now := c.s.now().UTC()
	env := miosa.Environment{ID: id, TenantID: dep.TenantID, DeploymentID: dep.ID, Name: name, CreatedAt: now, UpdatedAt: now}
	_, ok, err := tx.Claim(store.EnvironmentNameKey(dep.TenantID, dep.ID, name), id)
	if err != nil {
		return miosa.Environment{}, err
	}
	if !ok {
		return miosa.Environment{}, conflict("name_taken", fmt.Sprintf("there is an environment %q already", name))
	}
	return env, store.Save(tx, store.Environments, env)
}

// txMatchDeployment checks If-Match against a deployment as it is shown.
func (c *call) txMatchDeployment(tx *store.Tx, dep miosa.Deployment) error {
	if _, given := c.ifMatch(); !given {
		return nil
	}
	env, err := c.txEnvironment(tx, dep, miosa.Production)
	if err != nil {
		return err
	}
	return c.match(max(dep.Revision, env.Revision))
}

func (s *Server) patchDeployment(c *call, in resource.DeploymentPatch) (resource.Deployment, error) {
	var f faults
	if in.Name != nil {
		*in.Name = f.name("name", *in.Name)
	}
	if in.RunCommand != nil {
		f.command("run_command", *in.RunCommand)
	}
	f.metadata("metadata", in.Metadata)
	for field, v := range inOrder(map[string]*string{
		"project_id": in.ProjectID, "external_workspace_id": in.ExternalWorkspaceID,
		"external_user_id": in.ExternalUserID, "external_project_id": in.ExternalProjectID,
	}) {
		if v != nil {
			f.external(field, *v)
		}
	}
	if err := f.err(); err != nil {
		return resource.Deployment{}, err
	}
	if w := in.ExternalWorkspaceID; w != nil && c.key.WorkspaceID != "" && *w != c.key.WorkspaceID {
		return resource.Deployment{}, otherWorkspace()
	}
	err := c.update(func(tx *store.Tx) error {
		dep, err := c.txDeployment(tx, c.r.PathValue("id"))
		if err != nil {
			return err
		}
		c.made.Deployment = dep.ID
		if err := c.txMatchDeployment(tx, dep); err != nil {
			return err
		}
		set := func(to *string, v *string) {
			if v != nil {
				*to = *v
			}
		}
		set(&dep.Name, in.Name)
		set(&dep.RunCommand, in.RunCommand)
		set(&dep.ProjectID, in.ProjectID)
		set(&dep.WorkspaceID, in.ExternalWorkspaceID)
		set(&dep.UserID, in.ExternalUserID)
		set(&dep.Attribution.ProjectID, in.ExternalProjectID)
		if in.Metadata != nil {
			dep.Metadata = in.Metadata
		}
		dep.UpdatedAt = s.now().UTC()
		if err := store.Save(tx, store.Deployments, dep); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{DeploymentID: dep.ID, Type: "deployment.changed", Message: "the deployment's settings were changed"})
	})
	if err != nil {
		return resource.Deployment{}, err
	}
	return c.showMade()
}

// deleteDeployment marks the deployment: from then on it is not there for
// the API, its name is free, and control takes down what runs. With purge_logs
// it may be asked for again, for the log lines that were left.
func (s *Server) deleteDeployment(c *call, _ none) (resource.Deleted, error) {
	purge, err := isPurge(c.r.URL.Query().Get("purge_logs"))
	if err != nil {
		return resource.Deleted{}, err
	}
	err = c.update(func(tx *store.Tx) error {
		dep, err := c.txDeployment(tx, c.r.PathValue("id"))
		if err != nil {
			return err
		}
		c.made.Deployment = dep.ID
		if err := c.txMatchDeployment(tx, dep); err != nil {
			return err
		}
		dep.DeletedAt = s.now().UTC()
		dep.UpdatedAt = dep.DeletedAt
		dep.PurgeLogs = purge
		if err := store.Save(tx, store.Deployments, dep); err != nil {
			return err
		}
		slug := store.SlugKey(dep.TenantID, dep.Slug)
		holder, err := tx.Index(slug)
		if err != nil {
			return err
		}
		if holder == dep.ID {
			tx.DropIndex(slug)
		}
		message := fmt.Sprintf("deployment %s was deleted", dep.Name)
		if purge {
			message += ", with its logs"
		}
		return c.audit(tx, miosa.Event{DeploymentID: dep.ID, Type: "deployment.deleted", Message: message})
	})
	if purge && miosa.CodeOf(err) == miosa.NotFound {
		c.made.Deployment, err = c.purgeLeft(err)
	}
	c.etag = 0
	return resource.Deleted{ID: c.made.Deployment, Deleted: true}, err
}

func isPurge(v string) (bool, error) {
	switch v {
	case "", "false", "0":
		return false, nil
	case "true", "1":
		return true, nil
	}
	return false, invalidField("purge_logs", "must be true or false")
}

// purgeLeft drops the lines that a deployment deleted earlier left; absent is
// the answer when there is nothing.
func (c *call) purgeLeft(absent error) (string, error) {
	id := c.r.PathValue("id")
	if miosa.IDPrefix(id) != miosa.PrefixDeployment || c.s.logs == nil {
		return id, absent
	}
	marked := false
	err := c.update(func(tx *store.Tx) error {
		c.made.Deployment = id
		dep, err := store.Load(tx, store.Deployments, store.DeploymentKey(c.tenant.ID, id))
		if err != nil {
			return err
		}
		if dep.DeletedAt.IsZero() || !c.sees(dep.Attribution) {
			return absent
		}
		// Control does it once its instances are gone.
		dep.PurgeLogs, marked = true, true
		if err := store.Save(tx, store.Deployments, dep); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{DeploymentID: id, Type: "deployment.logs_purged", Message: fmt.Sprintf("the logs of deployment %s are purged", dep.Name)})
	})
	if marked || miosa.CodeOf(err) != miosa.NotFound {
		return id, err
	}
	// Its record is gone: nothing of it can come any more. A workspace's key
	// may not take what another workspace logged.
	if c.key.WorkspaceID != "" {
		return id, absent
	}
	if left, err := c.logsLeft(logs.Scope{DeploymentID: id}); err != nil || left == "" {
		return id, cmp.Or(err, absent)
	}
	return id, c.s.logs.Purge(c.r.Context(), c.tenant.ID, id)
}

func (s *Server) listBuilds(c *call) (rows[resource.Build], error) {
	_, err := c.deployment()
	return rows[resource.Build]{}, err
}
