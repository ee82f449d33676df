package cell_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cell"
)

// A task that has not ended keeps its version and its attempts; one that has goes in
// time, its attempts before it.
func TestWhatIsKeptOfTasks(t *testing.T) {
	now := time.Date(2026, 11, 28, 9, 0, 0, 0, time.UTC)
	ended := func(i miosa.Instance, ago time.Duration) miosa.Instance {
		i.Observed.State, i.Observed.StoppedAt = miosa.Stopped, now.Add(-ago)
		return i
	}
	r := cell.Records{
		Environments: []miosa.Environment{{ID: "env_1"}},
		Tasks: []miosa.Task{
			{ID: "task_000", EnvironmentID: "env_1", VersionID: "ver_000", State: miosa.TaskPending},
			{ID: "task_001", EnvironmentID: "env_1", VersionID: "ver_001", State: miosa.TaskFailed, FinishedAt: now.Add(-cell.KeepTasksFor)},
			{ID: "task_002", EnvironmentID: "env_1", VersionID: "ver_002", State: miosa.TaskSucceeded, FinishedAt: now.Add(-time.Hour)},
		},
		Instances: []miosa.Instance{
			ended(miosa.Instance{ID: "ri_open", TaskID: "task_000"}, 30*24*time.Hour),
			ended(miosa.Instance{ID: "ri_old", TaskID: "task_002"}, cell.KeepAttempts),
			ended(miosa.Instance{ID: "ri_new", TaskID: "task_002"}, cell.KeepAttempts-time.Second),
			ended(miosa.Instance{ID: "ri_gone", TaskID: "task_gone"}, cell.KeepAttempts),
			ended(miosa.Instance{ID: "ri_service", ServiceID: "svc_1"}, cell.KeepAttempts),
		},
	}
	for n := range 100 {
		r.Versions = append(r.Versions, miosa.Version{ID: fmt.Sprintf("ver_%03d", n), EnvironmentID: "env_1", State: miosa.VersionReady})
	}
	s := cell.Retain(now, r)
	if got := fmt.Sprint(ids(s.Tasks, func(t miosa.Task) string { return t.ID })); got != "[task_001]" {
		t.Errorf("tasks go: %s", got)
	}
	if got := fmt.Sprint(ids(s.Instances, func(i miosa.Instance) string { return i.ID })); got != "[ri_old ri_gone]" {
		t.Errorf("instances go: %s", got)
	}
	for _, v := range s.Archive {
		if v.ID == "ver_000" {
			t.Error("the version of a task is archived that has not ended")
		}
	}
	if len(s.Archive) != 100-cell.KeepVersions-1 {
		t.Errorf("%d versions are archived", len(s.Archive))
	}

	// Beyond the newest ones of an environment they go however young they are.
	r.Tasks = r.Tasks[:1]
	for n := range cell.KeepTasks + 3 {
		r.Tasks = append(r.Tasks, miosa.Task{ID: fmt.Sprintf("task_1%03d", n), EnvironmentID: "env_1", State: miosa.TaskFailed, FinishedAt: now})
	}
	if got := fmt.Sprint(ids(cell.Retain(now, r).Tasks, func(t miosa.Task) string { return t.ID })); got != "[task_1002 task_1001 task_1000]" {
		t.Errorf("tasks go: %s", got)
	}
}

func ids[T any](list []T, id func(T) string) (out []string) {
	for _, v := range list {
		out = append(out, id(v))
	}
	return out
}
