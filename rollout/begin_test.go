package rollout_test

import (
	"testing"
	"time"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/rollout"
)

func TestBegin(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	env := miosa.Environment{ID: "env_1", TenantID: "ten_1", DeploymentID: "dep_1", ActiveVersionID: "ver_1"}
	asked := rollout.Asked{ID: "rol_2", Kind: miosa.RolloutPublish, Target: miosa.Version{ID: "ver_2"}, Promote: true, Requester: "key_1", Traceparent: "trace"}
	for step, want := range map[miosa.RolloutStep]bool{ // whether it is called off
		"":                  false, // there is none
		miosa.StepPulling:   true,
		miosa.StepStarting:  true,
		miosa.StepFlipping:  false,
		miosa.StepDraining:  false,
		miosa.StepDone:      false,
		miosa.StepFailed:    false,
		miosa.StepCancelled: false,
	} {
		live := miosa.Rollout{ID: "rol_1", Step: step}
		if step == "" {
			live = miosa.Rollout{}
		}
		begun, off := rollout.Begin(now, asked, env, live)
		if begun.ID != "rol_2" || begun.FromID != "ver_1" || begun.TargetID != "ver_2" || begun.Step != miosa.StepStarting || !begun.Promote ||
			!begun.Deadline.Equal(now.Add(rollout.StartWithin(asked.Target))) || begun.Requester != "key_1" || begun.Traceparent != "trace" || begun.EnvironmentID != "env_1" {
			t.Errorf("beside one that is %q: %+v", step, begun)
		}
		if (off != nil) != want || off != nil && (off.ID != "rol_1" || off.CancelledBy != "rol_2" || !off.UpdatedAt.Equal(now)) {
			t.Errorf("what is %q is called off: %+v, want %t", step, off, want)
		}
	}
	asked.Target.Image, asked.Target.Services = miosa.Image{Reference: "registry.example/shop:1"}, []miosa.ServiceSpec{{Name: "web"}}
	if begun, _ := rollout.Begin(now, asked, env, miosa.Rollout{}); begun.Step != miosa.StepPulling || !begun.Deadline.Equal(now.Add(rollout.PullDeadline)) || begun.Reason == "" {
		t.Errorf("an image that is not there yet: %+v", begun)
	}
}

func TestCallOff(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	off, ok := rollout.CallOff(now, miosa.Rollout{ID: "rol_1", Step: miosa.StepFlipping}, "key_1")
	if !ok || off.CancelledBy != "key_1" || !off.UpdatedAt.Equal(now) {
		t.Errorf("%+v, %t", off, ok)
	}
	if again, ok := rollout.CallOff(now.Add(time.Hour), off, "key_2"); ok || again.CancelledBy != "key_1" {
		t.Errorf("called off twice: %+v", again)
	}
	if _, ok := rollout.CallOff(now, miosa.Rollout{ID: "rol_1", Step: miosa.StepDone}, "key_1"); ok {
		t.Error("what is over is called off")
	}
}
