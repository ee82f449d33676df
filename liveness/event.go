package liveness

import "github.com/miosa/miosa"

// Event is something that whoever decides has heard. Every event costs the same
// whatever the number of hosts.
type Event interface{ event() }

type (
	// Known: there is such a host, as its record has it. Said again it changes
	// the name only.
	Known struct {
		Host, Name string
		Liveness   miosa.Liveness // "": alive
		Failing    bool
	}
	// Gone: the host's record is deleted.
	Gone struct{ Host string }
	// Counted: how many instances the host has that have not ended, and how many
	// of them need no successor: a healthy one holds their slot, or they are not
	// wanted to run any more. Due after each change.
	Counted struct {
		Host                string
		Instances, Replaced int
	}
	// Beat: the host's agent was heard. Session numbers the agents' connections,
	// upwards over all of them, by whoever accepts them; Seq numbers the beats of
	// one connection. One that is not after the last one heard changes nothing.
	Beat struct {
		Host         string
		Session, Seq int64
	}
	// Writable: whether who decides can write to the store. It can at first.
	Writable struct{ OK bool }
	// Proceed: an operator says that the silence is real. It ends a Hold.
	Proceed struct{}
	// Declared: an operator says that a host which is suspect is lost.
	Declared struct{ Host string }
	// Forgive: an operator says that the host is well: it is no longer failing,
	// and if it answers it is alive, however often it was silent before.
	Forgive struct{ Host string }
	// StartFailed: the host could not start an instance of the app, for reasons
	// of its own (miosa.FailureHost and miosa.FailureBoot, never what an app does
	// once its command runs). App names the app in words that an operator knows.
	StartFailed struct{ Host, App string }
	// StartSucceeded: a boot came to its run command there.
	StartSucceeded struct{ Host string }
	// Tick: time has passed, and what was said until now is handed over. Hosts are
	// judged by it alone, so that no host is for mail that nobody has read yet.
	Tick struct{}
)

func (Known) event()          {}
func (Gone) event()           {}
func (Counted) event()        {}
func (Beat) event()           {}
func (Writable) event()       {}
func (Proceed) event()        {}
func (Declared) event()       {}
func (Forgive) event()        {}
func (StartFailed) event()    {}
func (StartSucceeded) event() {}
func (Tick) event()           {}

// Effect is something to carry out. None of them decides anything.
type Effect interface{ effect() }

type (
	// Judge: the host's record is to say this, its Reasons in sentences. A host
	// that is Failing is given no more instances.
	Judge struct {
		Host     string
		Liveness miosa.Liveness
		Failing  bool
		Reasons  []string
	}
	// Grant: so many more of the silent host's instances may be replaced, with
	// All every one of them. It lasts until the host is judged alive.
	Grant struct {
		Host      string
		Instances int
		All       bool
	}
	// Hold: while On, nothing on a host that is not alive is replaced, whatever
	// was granted; what has begun goes on.
	Hold struct{ On bool }
	// Tell: an event for the timeline; Host is "" where it is about all of them.
	Tell struct{ Host, Type, Message string }
)

func (Judge) effect() {}
func (Grant) effect() {}
func (Hold) effect()  {}
func (Tell) effect()  {}
