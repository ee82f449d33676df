package agent

import (
	"testing"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/logs"
)

// TestAnAttemptsLinesAreItsTasks: what it writes goes into the spool as its task's.
func TestAnAttemptsLinesAreItsTasks(t *testing.T) {
	a := &Agent{cfg: Config{Host: miosa.Host{ID: "host_1"}}}
	j := a.newJournal(miosa.Instance{ID: "ri_1", TenantID: "ten_1", DeploymentID: "dep_1", TaskID: "task_1", Attempt: 2, VersionID: "ver_1", Attribution: miosa.Attribution{WorkspaceID: "ws"}})
	want := logs.Origin{TenantID: "ten_1", DeploymentID: "dep_1", InstanceID: "ri_1", VersionID: "ver_1", HostID: "host_1", WorkspaceID: "ws", TaskID: "task_1"}
	if j.origin != want {
		t.Errorf("%+v, want %+v", j.origin, want)
	}
}
