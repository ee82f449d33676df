package resource

import "time"

// Event is one thing that happened, and who asked.
type Event struct {
	ID                string            `json:"id"`
	TenantID          *string           `json:"tenant_id"`
	DeploymentID      *string           `json:"deployment_id"`
	ServiceID         *string           `json:"service_id"`
	RuntimeInstanceID *string           `json:"runtime_instance_id"`
	VersionID         *string           `json:"version_id"`
	RolloutID         *string           `json:"rollout_id"`
	TaskID            *string           `json:"task_id"`
	HostID            *string           `json:"host_id"`
	Type              string            `json:"type" doc:"noun.past_tense: rollout.flipped, instance.crashed …"`
	Message           string            `json:"message" doc:"In words."`
	Actor             string            `json:"actor" doc:"An API key's ID, or the part of the platform that did it."`
	RequestID         *string           `json:"request_id"`
	Details           map[string]string `json:"details"`
	CreatedAt         time.Time         `json:"created_at"`
}

// Explanation says in words why a thing is as it is.
type Explanation struct {
	ID       string   `json:"id"`
	Kind     string   `json:"kind" enum:"deployment,version,runtime_instance,service,rollout"`
	State    string   `json:"state"`
	Summary  string   `json:"summary" doc:"One sentence."`
	Reasons  []string `json:"reasons" doc:"What led to it, the most important first."`
	NextStep string   `json:"next_step" doc:"What the platform does next, or what you can do; may be empty."`
	LogLines []string `json:"log_lines" doc:"The last lines of the instance that failed, where that is the cause."`
	Events   []Event  `json:"events" doc:"The latest that concern it, oldest first."`
}
