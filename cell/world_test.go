package cell

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/schedule"
)

// TestAttemptsAreNoInstancesOfServices: in whatever order records come and go, who
// asks for an environment's instances never sees an attempt, all that has not ended is
// promised room, and nothing is kept of what has ended with its task.
func TestAttemptsAreNoInstancesOfServices(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(schedule.Spread)
		w.whole = rapid.Bool().Draw(t, "whole")
		if err := w.put(miosa.Host{ID: "host_1", Liveness: miosa.Alive, Schedulable: true}, newTouched()); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(1, 40).Draw(t, "length") {
			n := rapid.IntRange(0, 3).Draw(t, "which")
			id, of := fmt.Sprint("ri_", n), fmt.Sprint("task_", n/2)
			var err error
			touched := newTouched()
			switch rapid.IntRange(0, 5).Draw(t, "event") {
			case 0, 1:
				i := miosa.Instance{ID: id, EnvironmentID: "env_1", HostID: rapid.SampledFrom([]string{"", "host_1"}).Draw(t, "host"), Goal: miosa.GoalRun}
				if i.TaskID = of; n == 3 {
					i.TaskID, i.ServiceID = "", "svc_1"
				}
				err = w.put(i, touched)
			case 2:
				err = w.put(miosa.Observation{InstanceID: id, State: rapid.SampledFrom([]miosa.InstanceState{miosa.Starting, miosa.Healthy, miosa.Stopped, miosa.Failed}).Draw(t, "state")}, touched)
			case 3:
				err = w.put(miosa.Task{ID: of, EnvironmentID: "env_1", State: rapid.SampledFrom([]miosa.TaskState{miosa.TaskPending, miosa.TaskSucceeded}).Draw(t, "task")}, touched)
			case 4:
				err = w.remove("instance", id, touched)
			case 5:
				err = w.remove("task", of, touched)
			}
			if err != nil {
				t.Fatal(err)
			}
			m := w.membersOf("env_1")
			w.forgetAttempts(m)
			promised := 0
			for _, list := range [][]miosa.Instance{m.instances, m.attempts} {
				for n := range list {
					i := &list[n]
					if w.instance(i.ID) == nil {
						t.Fatalf("%s is not found", i.ID)
					}
					if i.HostID != "" && !i.State().Terminal() {
						promised++
					}
				}
			}
			for n := range m.instances {
				if m.instances[n].Once() {
					t.Fatalf("%s is among the instances of services", m.instances[n].ID)
				}
			}
			for n := range m.attempts {
				if i := &m.attempts[n]; !i.Once() || i.State().Terminal() && m.task(i.TaskID) == nil {
					t.Fatalf("%s of %q is kept", i.ID, i.TaskID)
				}
			}
			if len(w.onHost["host_1"]) != promised {
				t.Fatalf("%d are promised room, of %d", len(w.onHost["host_1"]), promised)
			}
		}
	})
}
