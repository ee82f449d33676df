package resource

import (
	"encoding/json"
	"time"
)

// Service is one process type of a deployment in one environment.
type Service struct {
	ID              string  `json:"id"`
	DeploymentID    string  `json:"deployment_id"`
	EnvironmentID   string  `json:"environment_id"`
	TenantID        string  `json:"tenant_id"`
	Type            string  `json:"type" enum:"static_web,web,api,worker"`
	Name            string  `json:"name"`
	DesiredReplicas int     `json:"desired_replicas"`
	ReadyReplicas   int     `json:"ready_replicas" doc:"Healthy instances of the active version."`
	Routed          bool    `json:"routed" doc:"Whether it is the one that requests to its environment go to."`
	State           string  `json:"state" enum:"pending,starting,running,degraded,stopped,failed" doc:"Of one that no live or wanted version names: stopped."`
	RolloutID       *string `json:"rollout_id" doc:"The rollout that goes on in its environment now, if one does; after a change, the one it began."`
	VersionID       *string `json:"version_id" doc:"The version it runs; null where it is no part of a live one."`
	RunCommand      *string `json:"run_command"`
	Port            *int    `json:"port"`
	PublicPort      *int    `json:"public_port" doc:"Of the router's, leading to a service of protocol tcp. It stays the same over all versions, for as long as one can be rolled back to that has it; null: none."`
	PublicURL       *string `json:"public_url" doc:"Where a service of protocol tcp is reached, as tcp://HOST:PORT; null: it is none of the live version's."`
	Spoken
	HealthCheck                HealthCheck    `json:"health_check"`
	Resources                  Resources      `json:"resources"`
	Regions                    []string       `json:"regions"`
	Sticky                     Sticky         `json:"sticky"`
	Restart                    Restart        `json:"restart"`
	Disruption                 Disruption     `json:"disruption"`
	StopAfterDisconnectSeconds int            `json:"stop_after_disconnect_seconds" doc:"A host that has not reached the control plane for so long stops its instances of this service, and they are replaced only when they certainly have ended: none ever runs twice. 0: never."`
	Placement                  Placement      `json:"placement"`
	Logs                       LogLimit       `json:"logs"`
	Metadata                   map[string]any `json:"metadata"`
	CreatedAt                  time.Time      `json:"created_at"`
	UpdatedAt                  time.Time      `json:"updated_at"`
}

// Spoken is how a service is spoken to, and asked to end.
type Spoken struct {
	Protocol               string  `json:"protocol" enum:"http1,h2c,tcp" doc:"h2c is HTTP/2 without TLS, as gRPC servers speak it; tcp is bytes, on public_port."`
	ResponseTimeoutSeconds float64 `json:"response_timeout_seconds" doc:"How long the router waits for the first byte of an answer."`
	StopSignal             *string `json:"stop_signal" doc:"Asks the app to end; null: the image's own, or SIGTERM."`
	StopGraceSeconds       float64 `json:"stop_grace_seconds" doc:"From the signal to SIGKILL."`
}

// SpokenPatch changes how a service is spoken to; absent fields stay.
type SpokenPatch struct {
	Protocol               *string           `json:"protocol,omitempty" enum:"http1,h2c,tcp" doc:"h2c is HTTP/2 without TLS, as gRPC servers speak it; tcp is bytes, on public_port. Default http1."`
	ResponseTimeoutSeconds Nullable[float64] `json:"response_timeout_seconds,omitzero" doc:"1–3600: how long the router waits for the first byte of an answer; null: 120."`
	StopSignal             Nullable[string]  `json:"stop_signal,omitzero" doc:"A name like SIGQUIT; null: the image's own, or SIGTERM."`
	StopGraceSeconds       Nullable[float64] `json:"stop_grace_seconds,omitzero" doc:"1–300, from the signal to SIGKILL; null: 10."`
}

// HealthCheck is how an instance is judged.
type HealthCheck struct {
	Type               string            `json:"type" enum:"http,tcp,grpc,exec,none" doc:"none: healthy once the process has run for stable_seconds."`
	Path               string            `json:"path" doc:"Of http; of grpc / and the service asked about, / alone being the whole server."`
	Scheme             string            `json:"scheme" enum:"http,https" doc:"Of http; with https any certificate will do."`
	Host               *string           `json:"host" doc:"What http says in Host; null: the managed host name of its environment."`
	Headers            map[string]string `json:"headers" doc:"Sent by http."`
	Command            *string           `json:"command" doc:"Of exec: run in the instance; healthy if it exits with 0."`
	StableSeconds      float64           `json:"stable_seconds" doc:"How long the process must have run where nothing else tells."`
	IntervalSeconds    float64           `json:"interval_seconds"`
	TimeoutSeconds     float64           `json:"timeout_seconds"`
	GracePeriodSeconds float64           `json:"grace_period_seconds"`
	UnhealthyThreshold int               `json:"unhealthy_threshold"`
}

// HealthPatch changes a health check; absent fields stay.
type HealthPatch struct {
	Type               *string           `json:"type,omitempty" enum:"http,tcp,grpc,exec,none" doc:"Default: http, or tcp where protocol is, or none for a worker."`
	Path               *string           `json:"path,omitempty" doc:"Begins with /."`
	Scheme             *string           `json:"scheme,omitempty" enum:"http,https"`
	Host               Nullable[string]  `json:"host,omitzero" doc:"null: the managed host name of its environment."`
	Headers            map[string]string `json:"headers,omitempty" doc:"At most 20; those given before are replaced. ${NAME} in a value is that variable's value."`
	Command            *string           `json:"command,omitempty"`
	StableSeconds      *float64          `json:"stable_seconds,omitempty" doc:"1–600."`
	IntervalSeconds    *float64          `json:"interval_seconds,omitempty" doc:"1–300."`
	TimeoutSeconds     *float64          `json:"timeout_seconds,omitempty" doc:"0.1–60."`
	GracePeriodSeconds *float64          `json:"grace_period_seconds,omitempty" doc:"1–600."`
	UnhealthyThreshold *int              `json:"unhealthy_threshold,omitempty" doc:"1–100."`
}

// Resources is the size of one instance.
type Resources struct {
	VCPUs      int  `json:"vcpus"`
	MemoryMB   int  `json:"memory_mb"`
	DiskMB     int  `json:"disk_mb"`
	GPU        int  `json:"gpu"`
	EgressMbps *int `json:"egress_mbps" doc:"Outbound limit; null: none."`
}

// ResourcesPatch changes a size; absent fields stay.
type ResourcesPatch struct {
	VCPUs      *int          `json:"vcpus,omitempty"`
	MemoryMB   *int          `json:"memory_mb,omitempty"`
	DiskMB     *int          `json:"disk_mb,omitempty"`
	GPU        *int          `json:"gpu,omitempty"`
	EgressMbps Nullable[int] `json:"egress_mbps,omitzero" doc:"null: no limit."`
}

// Sticky ties requests of one client to one instance.
type Sticky struct {
	Mode string `json:"mode" enum:"none,cookie,client_ip,header"`
	Name string `json:"name,omitempty" doc:"Of the cookie or header."`
}

// Restart is a service's answer to exits, and its configured restart.
type Restart struct {
	Policy        string `json:"policy" enum:"always,on_failure,never"`
	MaxAgeSeconds int    `json:"max_age_seconds" doc:"Instances older than this are replaced, make before break; 0: never."`
}

// RestartPatch changes a restart policy.
type RestartPatch struct {
	Policy        *string `json:"policy,omitempty" enum:"always,on_failure,never"`
	MaxAgeSeconds *int    `json:"max_age_seconds,omitempty" doc:"0, or at least 60."`
}

// Disruption is what the platform may do to a service by its own will: drains of
// hosts, restarts and the like. What its customer asks for is never refused by it.
type Disruption struct {
	MaxUnavailable string `json:"max_unavailable" doc:"How many of its instances may be missing meanwhile: a number, or a percentage of those that are wanted, rounded down. 0: a replacement serves before an instance goes."`
}

// DisruptionPatch changes what may be done to a service.
type DisruptionPatch struct {
	MaxUnavailable *CountOrPercent `json:"max_unavailable,omitempty" doc:"0–10000, or 0%–100%."`
}

// CountOrPercent is a number, written as one or as a text, or a percentage.
type CountOrPercent string

// OrNumber marks it for the OpenAPI document and the body checker.
func (CountOrPercent) OrNumber() {}

// UnmarshalJSON reads a text or a number.
func (c *CountOrPercent) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] != '"' {
		*c = CountOrPercent(raw)
		return nil
	}
	return json.Unmarshal(raw, (*string)(c))
}

// Placement is which hosts may run a service's instances, beside its regions.
type Placement struct {
	Labels map[string]string `json:"labels" doc:"A host must have them all."`
	Apart  bool              `json:"apart" doc:"Never two instances on one host, not even where there is no other."`
}

// PlacementPatch changes which hosts may run a service; absent fields stay. It
// holds for instances that are placed from then on.
type PlacementPatch struct {
	Labels *map[string]string `json:"labels,omitempty" doc:"At most 20; those given before are replaced, so that {} is none."`
	Apart  *bool              `json:"apart,omitempty"`
}

// LogLimit is how much each instance may log. What is over it is dropped, with
// a line in its place that counts it; system lines are never limited.
type LogLimit struct {
	LinesPerSecond *int `json:"lines_per_second" doc:"For long; null: the host's default, 5000 unless the operator says otherwise. Bytes of text are limited with it: 256 for each of these lines a second (1280000 at least), and an hour of that a day."`
	Burst          *int `json:"burst" doc:"At once, after a silence; null: four seconds' worth."`
	Unlimited      bool `json:"unlimited" doc:"No limit; the plan must allow any number."`
}

// LogLimitPatch changes how much may be logged; absent fields stay. It applies
// to running instances at once.
type LogLimitPatch struct {
	LinesPerSecond Nullable[int] `json:"lines_per_second,omitzero" doc:"1–1000000, within the plan's max_log_rate; null: the default."`
	Burst          Nullable[int] `json:"burst,omitzero" doc:"1–10000000, at most ten seconds' worth of the plan's max_log_rate; null: the default."`
	Unlimited      *bool         `json:"unlimited,omitempty" doc:"true lifts the limit, where the plan allows any number, and clears the other two."`
}

// ServicePatch changes a service; absent fields stay. run_command, port,
// protocol, timeouts, health_check and resources are frozen in a version: changing them makes a
// new version of the same release and rolls it out.
type ServicePatch struct {
	DesiredReplicas            *int             `json:"desired_replicas,omitempty"`
	Regions                    *[]string        `json:"regions,omitempty" doc:"Slugs of /compute/regions; empty: any."`
	Sticky                     *Sticky          `json:"sticky,omitempty"`
	Restart                    *RestartPatch    `json:"restart,omitempty"`
	Disruption                 *DisruptionPatch `json:"disruption,omitempty"`
	StopAfterDisconnectSeconds *int             `json:"stop_after_disconnect_seconds,omitempty" doc:"10–86400, or 0: never."`
	Placement                  *PlacementPatch  `json:"placement,omitempty"`
	Logs                       *LogLimitPatch   `json:"logs,omitempty"`
	Metadata                   map[string]any   `json:"metadata,omitempty"`
	RunCommand                 *string          `json:"run_command,omitempty"`
	Port                       *int             `json:"port,omitempty"`
	SpokenPatch
	HealthCheck *HealthPatch    `json:"health_check,omitempty"`
	Resources   *ResourcesPatch `json:"resources,omitempty"`
}

// Instance is one running (or waiting, or ended) copy of a service.
type Instance struct {
	ID            string  `json:"id"`
	DeploymentID  string  `json:"deployment_id"`
	EnvironmentID string  `json:"environment_id"`
	ServiceID     string  `json:"service_id"`
	ServiceName   string  `json:"service_name"`
	TaskID        *string `json:"task_id" doc:"It is an attempt at this task, and none of its service's replicas."`
	VersionID     string  `json:"version_id"`
	ReleaseID     *string `json:"release_id"`
	TenantID      string  `json:"tenant_id"`
	Attributed
	Slot               int            `json:"slot" doc:"Which of the service's places it fills, from 0."`
	HostID             *string        `json:"host_id" doc:"null while it waits for a host."`
	Region             *string        `json:"region"`
	Zone               *string        `json:"zone"`
	VMID               *string        `json:"vm_id"`
	DesiredState       string         `json:"desired_state" enum:"running,stopped"`
	State              string         `json:"state" enum:"pending,starting,healthy,unhealthy,stopping,stopped,failed"`
	Reasons            []string       `json:"reasons" doc:"Why it is in this state, in words."`
	IPAddress          *string        `json:"ip_address"`
	Port               *int           `json:"port"`
	HealthCheckPath    *string        `json:"health_check_path"`
	LastHealthCheckAt  *time.Time     `json:"last_health_check_at"`
	LastHealthCheck    *string        `json:"last_health_check" doc:"What the last health check saw."`
	LastHeartbeatAt    *time.Time     `json:"last_heartbeat_at"`
	ScheduledAt        *time.Time     `json:"scheduled_at"`
	StartedAt          *time.Time     `json:"started_at"`
	HealthyAt          *time.Time     `json:"healthy_at"`
	StoppedAt          *time.Time     `json:"stopped_at"`
	ErrorMessage       *string        `json:"error_message"`
	ExitCode           *int           `json:"exit_code"`
	LastLogLines       []string       `json:"last_log_lines" doc:"The last lines before its last failure; at most 50."`
	RestartCount       int            `json:"restart_count"`
	NextRestartAt      *time.Time     `json:"next_restart_at"`
	BootPhases         []Phase        `json:"boot_phases"` // of the present boot, in order
	CPULimitMillicores int            `json:"cpu_limit_millicores"`
	MemoryLimitMB      int            `json:"memory_limit_mb"`
	DiskLimitMB        int            `json:"disk_limit_mb"`
	Metadata           map[string]any `json:"metadata"`
	CreatedAt          time.Time      `json:"created_at"`
	UpdatedAt          time.Time      `json:"updated_at"`
}

// Phase is a named moment of a boot: boot_decided, image_ready, slot_free,
// vmm_started, then kernel_started, pid1_started and hello of a machine that
// boots by itself or resumed of one that goes on from a template, … app_started,
// listening, healthy.
type Phase struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}
