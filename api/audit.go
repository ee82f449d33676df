package api

import (
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/store"
)

// eventTTL is how long events are kept.
const eventTTL = 30 * 24 * time.Hour

// audit leaves an event of what the caller asked for, in the transaction that does it.
func (c *call) audit(tx *store.Tx, e miosa.Event) error {
	id, err := c.s.newID(miosa.PrefixEvent)
	if err != nil {
		return err
	}
	e.ID, e.At, e.Actor, e.RequestID = id, c.s.now().UTC(), c.key.ID, c.id
	if e.TenantID == "" {
		e.TenantID = c.tenant.ID
	}
	return store.SaveFor(tx, store.Events, e, eventTTL)
}
