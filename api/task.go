package api

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/store"
)

func (s *Server) listTasks(c *call) (rows[resource.Task], error) {
	dep, err := c.deployment()
	if err != nil {
		return rows[resource.Task]{}, err
	}
	q, f := c.r.URL.Query(), c.filter()
	environment := ""
	if name := q.Get("environment"); name != "" {
		env, err := c.environment(dep, name)
		if err != nil {
			return rows[resource.Task]{}, err
		}
		environment = env.ID
	}
	found, err := collect(c, store.Tasks, store.TasksOf(dep.TenantID, dep.ID), func(t miosa.Task) bool {
		return f.passes(string(t.State), dep.ProjectID, t.Attribution) && (environment == "" || t.EnvironmentID == environment) &&
			(q.Get("version_id") == "" || t.VersionID == q.Get("version_id"))
	})
	if err != nil {
		return rows[resource.Task]{}, err
	}
	versions := map[string]miosa.Version{}
	return newest(found, func(t miosa.Task) string { return t.ID }, func(t miosa.Task) (resource.Task, error) {
		v, ok := versions[t.VersionID]
		if !ok {
			var err error
			if v, err = c.version(dep, t.VersionID); err != nil && miosa.CodeOf(err) != miosa.NotFound {
				return resource.Task{}, err
			}
			versions[t.VersionID] = v
		}
		return taskResource(t, v), nil
	}), nil
}

func (s *Server) getTask(c *call, _ none) (resource.Task, error) {
	key, dep, wait, err := c.taskWanted()
	if err != nil {
		return resource.Task{}, err
	}
	return c.showTask(dep, key, wait)
}

// taskWanted is the task that the path names, and how long its end is waited for.
func (c *call) taskWanted() (key string, dep miosa.Deployment, wait time.Duration, err error) {
	at, dep, err := c.locate("task_id", miosa.PrefixTask, "task")
	if err == nil {
		wait, err = c.patience(false)
	}
	return at.Key, dep, wait, err
}

// showTask shows a task, once it has ended if that comes in time.
func (c *call) showTask(dep miosa.Deployment, key string, wait time.Duration) (resource.Task, error) {
	ctx := c.r.Context()
	t, err := store.Get(ctx, c.s.store, store.Tasks, key)
	if err == nil && wait > 0 && !t.State.Terminal() {
		t, err = c.s.awaitTask(ctx, key, wait)
	}
	if miosa.CodeOf(err) == miosa.NotFound {
		return resource.Task{}, absent("task", c.r.PathValue("task_id"))
	}
	if err != nil {
		return resource.Task{}, err
	}
	v, err := c.version(dep, t.VersionID)
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return resource.Task{}, err
	}
	c.etag = t.Revision
	return taskResource(t, v), nil
}

// awaitTask waits until a task has ended, or the time is over.
func (s *Server) awaitTask(ctx context.Context, key string, limit time.Duration) (t miosa.Task, err error) {
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		revision, err := s.store.Revision(ctx)
		if err != nil {
			return t, err
		}
		if t, err = store.Get(ctx, s.store, store.Tasks, key); err != nil || t.State.Terminal() || wait.Err() != nil {
			return t, err
		}
		for batch, err := range s.store.Watch(wait, key, revision) {
			if err != nil || len(batch.Changes) > 0 {
				break // it is read anew
			}
		}
		if err := ctx.Err(); err != nil {
			return t, err
		}
	}
}

// createTask writes down what is to be run; control begins it.
func (s *Server) createTask(c *call, in resource.TaskCreate) (resource.Task, error) {
	wait, err := c.patience(false)
	if err != nil {
		return resource.Task{}, err
	}
	t, err := c.checkTask(in)
	if err != nil {
		return resource.Task{}, err
	}
	var dep miosa.Deployment
	err = c.updateRoom(func(tx *store.Tx) error {
		c.made = made{Task: t.ID}
		if dep, err = c.txDeployment(tx, c.r.PathValue("id")); err != nil {
			return err
		}
		t := t // as it was asked for, however often this runs
		t.TenantID, t.DeploymentID = dep.TenantID, dep.ID
		t.Attribution = inherited(t.Attribution, dep.Attribution)
		if err := c.txTask(tx, dep, &t, in); err != nil {
			return err
		}
		if err := c.roomForTask(tx); err != nil {
			return err
		}
		if err := store.Save(tx, store.Tasks, t); err != nil {
			return err
		}
		tx.SetIndex(store.LiveTaskKey(t.TenantID, t.ID), t.DeploymentID, 0)
		return c.audit(tx, miosa.Event{
			DeploymentID: t.DeploymentID, VersionID: t.VersionID, TaskID: t.ID, Type: "task.created", Message: fmt.Sprintf("a run of %q was asked for", shortened(t.Command)),
		})
	})
	if err != nil {
		return resource.Task{}, err
	}
	if dep.ID == "" { // an earlier request has made it
		if dep, err = c.deployment(); err != nil {
			return resource.Task{}, err
		}
	}
	out, err := c.showTask(dep, store.TaskKey(dep.TenantID, dep.ID, c.made.Task), wait)
	if err == nil && out.FinishedAt != nil {
		c.status = 200
	}
	return out, err
}

// checkTask is what is wrong with a request by itself.
func (c *call) checkTask(in resource.TaskCreate) (t miosa.Task, err error) {
	var f faults
	t = miosa.Task{
		Command: in.Command, State: miosa.TaskPending, Reason: "it was asked for", Metadata: in.Metadata, CreatedBy: c.key.ID,
		Limit: miosa.DefaultTaskLimit, CreatedAt: c.s.now().UTC(),
	}
	t.UpdatedAt = t.CreatedAt
	switch {
	case in.Command != "" && len(in.Argv) > 0:
		f.add("argv", "stands in place of command: give one of them")
	case len(in.Argv) > 0:
		if in.Argv[0] == "" {
			f.add("argv", "must begin with a program")
		}
		t.Command = commandLine(in.Argv)
	}
	if strings.TrimSpace(t.Command) == "" {
		f.add("command", "is needed: what is to be run")
	}
	f.command("command", t.Command)
	f.metadata("metadata", in.Metadata)
	f.between("time_limit_seconds", in.TimeLimit, 1, int(miosa.MaxTaskLimit/time.Second))
	f.between("retries", in.Retries, 0, miosa.MaxTaskRetries)
	if in.TimeLimit != nil {
		t.Limit = time.Duration(*in.TimeLimit) * time.Second
	}
	if in.Retries != nil {
		t.Retries = *in.Retries
	}
	if t.Attribution, err = c.attribution(&f, in.Attribution); err != nil {
		return t, err
	}
	if err := f.err(); err != nil {
		return t, err
	}
	t.ID, err = c.s.newID(miosa.PrefixTask)
	return t, err
}

// inherited is an attribution with the deployment's where it has none of its own.
func inherited(own, of miosa.Attribution) miosa.Attribution {
	return miosa.Attribution{
		WorkspaceID: cmp.Or(own.WorkspaceID, of.WorkspaceID), UserID: cmp.Or(own.UserID, of.UserID), ProjectID: cmp.Or(own.ProjectID, of.ProjectID),
	}
}

// txTask finds what a task runs in: a version that has been healthy, and a service of
// it.
func (c *call) txTask(tx *store.Tx, dep miosa.Deployment, t *miosa.Task, in resource.TaskCreate) error {
	env, err := c.txEnvironment(tx, dep, cmp.Or(in.Environment, miosa.Production))
	if err != nil {
		return err
	}
	t.EnvironmentID, t.VersionID = env.ID, cmp.Or(in.VersionID, env.ActiveVersionID)
	if t.VersionID == "" {
		return conflict("nothing_published", "nothing is live in "+env.Name+": publish first, or name a version_id")
	}
	v, err := store.Load(tx, store.Versions, store.VersionKey(dep.TenantID, dep.ID, t.VersionID))
	if miosa.CodeOf(err) == miosa.NotFound {
		return absent("version", t.VersionID)
	}
	if err != nil {
		return err
	}
	if v.EnvironmentID != env.ID {
		return invalidField("version_id", fmt.Sprintf("version %d is another environment's than %s: name that one", v.Number, env.Name))
	}
	if err := bootable(v); err != nil {
		return err
	}
	if in.Service != "" {
		for _, spec := range v.Services {
			if spec.Name == in.Service || spec.ServiceID == in.Service {
				t.ServiceID = spec.ServiceID
			}
		}
		if t.ServiceID == "" {
			return absent("service", in.Service)
		}
	}
	spec, ok := t.Spec(v)
	if !ok || v.Kind == miosa.KindStatic {
		return conflict("nothing_to_run", fmt.Sprintf("version %d has no virtual machines: nothing can be run in it", v.Number))
	}
	if t.Resources, err = c.taskResources(spec.Resources, in); err != nil {
		return err
	}
	plan, err := c.plan()
	if err != nil {
		return err
	}
	if t.Resources == spec.Resources {
		t.Resources = miosa.Resources{} // its service's
		return nil
	}
	return fits(plan, spec.Name, t.Resources)
}

// taskResources is the size that a task is to have.
func (c *call) taskResources(of miosa.Resources, in resource.TaskCreate) (miosa.Resources, error) {
	var f faults
	r := of
	if in.Size != "" {
		var slugs []string
		found := false
		for _, size := range miosa.Sizes() {
			if slugs = append(slugs, size.Slug); size.Slug == in.Size {
				r.VCPUs, r.MemoryMB, r.DiskMB, found = size.Resources.VCPUs, size.Resources.MemoryMB, size.Resources.DiskMB, true
			}
		}
		if !found {
			f.add("size", "must be one of %s", strings.Join(slugs, ", "))
		}
	}
	r = f.resources("resources", r, in.Resources)
	return r, f.err()
}

// stopTask asks for the end of a task; control brings it about.
func (s *Server) stopTask(c *call, _ none) (resource.Task, error) {
	key, dep, wait, err := c.taskWanted()
	if err != nil {
		return resource.Task{}, err
	}
	err = c.update(func(tx *store.Tx) error {
		t, err := store.Load(tx, store.Tasks, key)
		if err != nil {
			return err
		}
		if err := c.match(t.Revision); err != nil {
			return err
		}
		if t.State.Terminal() || !t.StopAskedAt.IsZero() {
			return nil
		}
		t.StopAskedAt, t.StopAskedBy = s.now().UTC(), c.key.ID
		t.UpdatedAt = t.StopAskedAt
		if err := store.Save(tx, store.Tasks, t); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{
			DeploymentID: t.DeploymentID, VersionID: t.VersionID, TaskID: t.ID, InstanceID: t.InstanceID, Type: "task.stop_requested", Message: "a stop of the task was asked for",
		})
	})
	if err != nil {
		return resource.Task{}, err
	}
	out, err := c.showTask(dep, key, wait)
	if err == nil && out.FinishedAt != nil {
		c.status = 200
	}
	return out, err
}

// roomForTask has one more counted.
func (c *call) roomForTask(tx *store.Tx) error {
	return c.txFits(tx, limited{
		c.tenant, func(p miosa.Plan) int { return p.MaxTasks }, store.LiveTasksOf(c.tenant.ID), "tasks at once", "wait until one ends, or stop one",
	})
}

// shortened is a command for an event.
func shortened(command string) string {
	const most = 200
	if len(command) <= most {
		return command
	}
	return strings.ToValidUTF8(command[:most], "") + "…"
}

func taskResource(t miosa.Task, v miosa.Version) resource.Task {
	spec, _ := t.Spec(v)
	var code *int
	if t.Exited {
		code = &t.ExitCode
	}
	return resource.Task{
		ID: t.ID, TenantID: t.TenantID, DeploymentID: t.DeploymentID, EnvironmentID: t.EnvironmentID, VersionID: t.VersionID, ServiceID: str(t.ServiceID),
		Command: t.Command, State: string(t.State), Reason: t.Reason, ExitCode: code, Signal: str(t.Signal), LastLogLines: lines(t.LastLines),
		Attempt: t.Attempt, Retries: t.Retries, TimeLimit: int(t.Limit / time.Second), Resources: resourcesResource(spec.Resources),
		RuntimeInstanceID: str(t.InstanceID), HostID: str(t.HostID), Region: str(t.Region), RequestedBy: t.CreatedBy,
		StopRequestedAt: at(t.StopAskedAt), NextAttemptAt: at(t.NextAt), Metadata: metadata(t.Metadata), Attributed: attributed(t.Attribution),
		CreatedAt: t.CreatedAt.UTC(), StartedAt: at(t.StartedAt), FinishedAt: at(t.FinishedAt), UpdatedAt: t.UpdatedAt.UTC(),
	}
}
