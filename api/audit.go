package api

import (
	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
)

// audit leaves an event of what the caller asked for, in the transaction that does it.
func (c *call) audit(tx *store.Tx, e miosa.Event) error {
	if e.ID == "" {
		id, err := c.s.newID(miosa.PrefixEvent)
		if err != nil {
			return err
		}
		e.ID = id
	}
	e.At, e.Actor, e.RequestID = c.s.now().UTC(), c.key.ID, c.id
	if e.TenantID == "" {
		e.TenantID = c.tenant.ID
	}
	if e.DeploymentID != "" && e.WorkspaceID == "" {
		// Whoever it belongs to now: it may move to another workspace later.
		dep, err := store.Load(tx, store.Deployments, store.DeploymentKey(e.TenantID, e.DeploymentID))
		if err != nil {
			return err
		}
		e.WorkspaceID = dep.WorkspaceID
	}
	return store.Save(tx, store.Events, e)
}
