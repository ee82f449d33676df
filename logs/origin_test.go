package logs_test

import (
	"encoding/json"
	"testing"

	"github.com/miosa/miosa/logs"
)

// Spools and stores keep an Origin as JSON: what former binaries wrote is read,
// and a field that has another name in the code has the same one there.
func TestOriginKeepsItsShape(t *testing.T) {
	origin := logs.Origin{TenantID: "ten_1", DeploymentID: "dep_1", ServiceID: "svc_1", InstanceID: "ri_1", VersionID: "ver_1", HostID: "host_1", WorkspaceID: "w1"}
	task := origin
	task.ServiceID, task.TaskID = "", "task_1"
	for want, origin := range map[string]logs.Origin{
		`{"TenantID":"ten_1","DeploymentID":"dep_1","ServiceID":"svc_1","InstanceID":"ri_1","VersionID":"ver_1","HostID":"host_1","WorkspaceID":"w1"}`:              origin,
		`{"TenantID":"ten_1","DeploymentID":"dep_1","ServiceID":"","InstanceID":"ri_1","VersionID":"ver_1","HostID":"host_1","WorkspaceID":"w1","TaskID":"task_1"}`: task,
	} {
		written, err := json.Marshal(origin)
		if err != nil || string(written) != want {
			t.Errorf("written is %s, %v", written, err)
		}
		var read logs.Origin
		if err := json.Unmarshal([]byte(want), &read); err != nil || read != origin {
			t.Errorf("read is %+v, %v", read, err)
		}
	}
}
