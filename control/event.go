package control

import (
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
	// Reported: a router told which routes it has applied.
	Reported struct{ routing.Report }
	// Tick: nothing but time has passed.
	Tick struct{}
)

// Gone names a record that was deleted.
type Gone struct{ Kind, ID string }

func (Loaded) event()    {}
func (Changed) event()   {}
func (Committed) event() {}
func (Purged) event()    {}
func (Reported) event()  {}
func (Tick) event()      {}

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
		Put         []any // Deployment, Environment, Version, Rollout, Instance, Observation
		Create      []miosa.Instance
		Release     []Live        // index entries of rollouts that are live no more
		Events      []miosa.Event // without ID
		Placed      []Placement
	}
	// Publish gives a table to every router.
	Publish struct{ Table routing.Table }
	// Assign tells hosts about changed assignments.
	Assign struct{ Instances []miosa.Instance }
	// Purge deletes every record of a deployment, and with Logs its log lines.
	Purge struct {
		Tenant, Deployment string
		Logs               bool
	}
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

func (Commit) effect()  {}
func (Publish) effect() {}
func (Assign) effect()  {}
func (Purge) effect()   {}

// router is what is known of one router.
type router struct {
	generation int64
	inFlight   map[string]int
	faults     map[string]string
	heard      time.Time
}
