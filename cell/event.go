package cell

import (
	"fmt"
	"io"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/routing"
	"github.com/miosa/miosa/schedule"
)

// Event is what the machine is fed with.
type Event interface{ event() }

type (
	// Loaded: Nouns are all records as of Revision. The first event, and again
	// after a watch that could not be resumed.
	Loaded struct {
		Revision int64
		Nouns    []any
	}
	// Changed: one commit's changes.
	Changed struct {
		Revision int64
		Put      []any
		Gone     []Gone
	}
	// Committed answers a Commit. On a conflict nothing was written, and the
	// changes that caused it are on their way as Changed.
	Committed struct {
		Environment string
		Revision    int64
		Conflict    bool
		Err         error
		Doubt       bool // with Err: it may have been carried out all the same
	}
	// Purged answers a Purge.
	Purged struct {
		Deployment string
		Err        error
	}
	// HostSaved answers a SaveHost, with its events where they were not written.
	HostSaved struct {
		Host     string
		Conflict bool
		Err      error
		Events   []miosa.Event
	}
	// Beat: a host's agent was heard. See liveness.Beat.
	Beat struct {
		Host         string
		Session, Seq int64
	}
	// Reported: a router told which routes it has applied.
	Reported struct{ routing.Report }
	// Tick: nothing but time has passed.
	Tick struct{}
	// Together are events, in order, that are taken in before anything is decided.
	Together []Event
)

// Gone names a record that was deleted.
type Gone struct{ Kind, ID string }

func (Loaded) event()    {}
func (Changed) event()   {}
func (Committed) event() {}
func (Purged) event()    {}
func (HostSaved) event() {}
func (Beat) event()      {}
func (Reported) event()  {}
func (Tick) event()      {}
func (Together) event()  {}

// Effect is what the machine asks for.
type Effect interface{ effect() }

type (
	// Commit writes the changes in one transaction, or none of them. Every
	// noun with a Revision must still have it, and no commit to the environment
	// may have been carried out that the machine had not Seen when it decided:
	// new instances conflict with nothing else. They have no ID: the executor
	// mints one, and seals the boot spec of those that have a host. One without
	// changes asks what became of an earlier one: see commitUnderWay.
	Commit struct {
		Tenant      string
		Environment string
		Seen        int64 // revision of the picture that was decided on
		Put         []any // Deployment, Environment, Version, Rollout, Instance, Observation, Task
		Create      []miosa.Instance
		Heirs       []miosa.Instance // that serve in place of what leaves: as they were, or it is a conflict
		Release     []Live           // index entries of rollouts that are live no more
		Events      []miosa.Event    // without ID
		Placed      []Placement
		Facts       Facts // of what Bootable returns
	}
	// Publish gives an update of the routes to every router. The first one is whole.
	Publish struct{ Update routing.Update }
	// Assign tells hosts about changed assignments. Anew: about all of them, of
	// every host that is connected (see Machine.Assigned): what changed is not known.
	Assign struct {
		Instances []miosa.Instance
		Anew      bool
	}
	// Purge deletes every record of a deployment, and with Logs its log lines.
	Purge struct {
		Tenant, Deployment string
		Logs               bool
	}
	// SaveHost writes what a host was judged, as long as its record is as it was
	// then, and events. Without a host (ID ""): events alone.
	SaveHost struct {
		Host   miosa.Host
		Events []miosa.Event // without ID
	}
	// Halt: the machine was given what it has no place for, and cannot go on: the
	// loop must end with the reason.
	Halt struct{ Err error }
)

// Placement is how an instance of a Commit came to its host.
type Placement struct {
	ID     string // of the instance in Put; "": it is in Create
	Create int    // its place there
	Waited []string
	Answer schedule.Answer
}

// Live names the index entry that makes a rollout the one live one.
type Live struct{ Tenant, Environment, Rollout string }

func (Commit) effect()   {}
func (Publish) effect()  {}
func (Assign) effect()   {}
func (Purge) effect()    {}
func (Halt) effect()     {}
func (SaveHost) effect() {}

// Mint gives the new instances their IDs; random is read for them.
func (e *Commit) Mint(now time.Time, random io.Reader) error {
	for n := range e.Create {
		id, err := miosa.NewID(miosa.PrefixInstance, now, random)
		if err != nil {
			return err
		}
		e.Create[n].ID = id
	}
	return nil
}

// Bootable are the instances that this commit gives a host and that need
// their boot spec sealed to it.
func (e *Commit) Bootable() []miosa.Instance {
	var out []miosa.Instance
	need := func(i miosa.Instance) {
		if i.HostID != "" && len(i.BootSpec) == 0 && i.Goal == miosa.GoalRun && !i.State().Terminal() {
			out = append(out, i)
		}
	}
	for _, i := range e.Create {
		need(i)
	}
	for _, put := range e.Put {
		if i, ok := put.(miosa.Instance); ok {
			need(i)
		}
	}
	return out
}

// Done answers a commit that was carried out, at a revision of the store.
func (e *Commit) Done(revision int64) Committed {
	return Committed{Environment: e.Environment, Revision: revision}
}

// Conflicted answers one that was not, since what it rests on has changed.
func (e *Commit) Conflicted() Committed { return Committed{Environment: e.Environment, Conflict: true} }

// Unanswered answers one of which nobody knows whether it was carried out.
func (e *Commit) Unanswered(err error) Committed {
	return Committed{Environment: e.Environment, Err: fmt.Errorf("commit to %s: %w", e.Environment, err), Doubt: true}
}

// router is what is known of one router.
type router struct {
	generation int64
	inFlight   map[string]int
	faults     map[string]string
	heard      time.Time
}
