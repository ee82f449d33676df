package client_test

import (
	"strings"
	"testing"

	"github.com/miosa/miosa/api/resource"
)

func TestOnlyTextIsSent(t *testing.T) {
	_, _, c := start(t)
	bad := "caf\xe9"
	for field, err := range map[string]error{
		"name":                    second(c.CreateDeployment(t.Context(), resource.DeploymentCreate{Name: bad})),
		"env.KEY":                 second(c.SetVars(t.Context(), "x", resource.VarsMerge{Env: map[string]*string{"KEY": &bad}})),
		"services[0].run_command": second(c.Publish(t.Context(), "x", resource.Publish{Services: []resource.PublishService{{RunCommand: bad}}})),
	} {
		if err == nil || !strings.HasPrefix(err.Error(), field+" is not UTF-8 text") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
