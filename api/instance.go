package api

import (
	"fmt"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/store"
)

// listing reads which instances are asked for: without state= or all=true
// those that ended are left out, and attempts at tasks without task_id= or tasks=true.
func (c *call) listing() func(i miosa.Instance, dep miosa.Deployment) bool {
	f, q := c.filter(), c.r.URL.Query()
	all, host, service, version := isTrue(q.Get("all")), q.Get("host_id"), q.Get("service_id"), q.Get("version_id")
	return func(i miosa.Instance, dep miosa.Deployment) bool {
		state := i.State()
		a := i.Attribution
		if a == (miosa.Attribution{}) {
			a = dep.Attribution
		}
		wanted := !i.Once() || isTrue(q.Get("tasks"))
		if task := q.Get("task_id"); task != "" {
			wanted = i.TaskID == task
		}
		return wanted && (f.state != "" || all || !state.Terminal()) && f.passes(string(state), dep.ProjectID, a) &&
			(host == "" || i.HostID == host) && (service == "" || i.ServiceID == service) && (version == "" || i.VersionID == version)
	}
}

func (c *call) instanceRows(deployment string, keep func(miosa.Instance) bool) (rows[resource.Instance], error) {
	found, err := c.instances(deployment, keep)
	return newest(found, func(i miosa.Instance) string { return i.ID }, func(i miosa.Instance) (resource.Instance, error) {
		return instanceResource(i), nil
	}), err
}

func (s *Server) listDeploymentInstances(c *call) (rows[resource.Instance], error) {
	dep, err := c.deployment()
	if err != nil {
		return rows[resource.Instance]{}, err
	}
	wanted := c.listing()
	return c.instanceRows(dep.ID, func(i miosa.Instance) bool { return wanted(i, dep) })
}

func (s *Server) listServiceInstances(c *call) (rows[resource.Instance], error) {
	at, dep, err := c.locate("id", miosa.PrefixService, "service")
	if err != nil {
		return rows[resource.Instance]{}, err
	}
	wanted, id := c.listing(), c.r.PathValue("id")
	return c.instanceRows(at.DeploymentID, func(i miosa.Instance) bool { return i.ServiceID == id && wanted(i, dep) })
}

func (s *Server) listInstances(c *call) (rows[resource.Instance], error) {
	deps, err := c.deployments()
	if err != nil {
		return rows[resource.Instance]{}, err
	}
	wanted := c.listing()
	return c.instanceRows("", func(i miosa.Instance) bool {
		dep, ok := deps[i.DeploymentID]
		return ok && wanted(i, dep)
	})
}

func (s *Server) getInstance(c *call, _ none) (resource.Instance, error) {
	at, _, err := c.locate("ri_id", miosa.PrefixInstance, "runtime instance")
	if err != nil {
		return resource.Instance{}, err
	}
	return c.showInstance(at)
}

func (s *Server) getDeploymentInstance(c *call, _ none) (resource.Instance, error) {
	dep, err := c.deployment()
	if err != nil {
		return resource.Instance{}, err
	}
	at, _, err := c.locate("ri_id", miosa.PrefixInstance, "runtime instance")
	if err == nil && at.DeploymentID != dep.ID {
		err = absent("runtime instance", c.r.PathValue("ri_id"))
	}
	if err != nil {
		return resource.Instance{}, err
	}
	return c.showInstance(at)
}

func (c *call) showInstance(at store.Location) (resource.Instance, error) {
	i, err := c.instance(at, c.r.PathValue("ri_id"))
	c.etag = max(i.Revision, i.Observed.Revision)
	return instanceResource(i), err
}

// restartInstance asks control for a replacement, make before break.
func (s *Server) restartInstance(c *call, _ none) (resource.Instance, error) {
	return c.changeInstance("instance.restart_requested", "a restart of the instance was asked for", func(i *miosa.Instance, _ time.Time) error {
		if i.Goal != miosa.GoalRun || i.State().Terminal() {
			return conflict("instance_ended", fmt.Sprintf("the instance is %s: there is nothing to restart", i.State()))
		}
		i.ReplaceAsked = true
		return nil
	})
}

// stopInstance ends one instance gracefully; its service gets another one, if
// it is to have that many.
func (s *Server) stopInstance(c *call, _ none) (resource.Instance, error) {
	return c.changeInstance("instance.stop_requested", "a stop of the instance was asked for", func(i *miosa.Instance, now time.Time) error {
		if i.Goal != miosa.GoalRun || i.State().Terminal() {
			return nil
		}
		i.Goal, i.GoalReason, i.GoalSince = miosa.GoalDrain, "stopped by request", now
		i.Generation++
		return nil
	})
}

func (c *call) changeInstance(event, message string, change func(i *miosa.Instance, now time.Time) error) (resource.Instance, error) {
	at, _, err := c.locate("ri_id", miosa.PrefixInstance, "runtime instance")
	if err != nil {
		return resource.Instance{}, err
	}
	err = c.update(func(tx *store.Tx) error {
		i, err := store.Load(tx, store.Instances, at.Key)
		if err != nil {
			return err
		}
		// Not a condition: an agent may report at any moment.
		o, err := store.Get(c.r.Context(), c.s.store, store.Observations, store.ObservationKey(at.TenantID, at.DeploymentID, i.ID))
		if err != nil && miosa.CodeOf(err) != miosa.NotFound {
			return err
		}
		if err := c.match(max(i.Revision, o.Revision)); err != nil {
			return err
		}
		if i.Once() {
			return conflict("instance_of_task", fmt.Sprintf("the instance is an attempt at %s: stop that", i.TaskID))
		}
		was := i
		i.Observed = o
		now := c.s.now().UTC()
		if err := change(&i, now); err != nil {
			return err
		}
		if i.ReplaceAsked == was.ReplaceAsked && i.Goal == was.Goal {
			return nil
		}
		i.UpdatedAt = now
		if err := store.Save(tx, store.Instances, i); err != nil {
			return err
		}
		return c.audit(tx, miosa.Event{
			DeploymentID: i.DeploymentID, ServiceID: i.ServiceID, InstanceID: i.ID, VersionID: i.VersionID, Type: event, Message: message,
		})
	})
	if err != nil {
		return resource.Instance{}, err
	}
	return c.showInstance(at)
}
