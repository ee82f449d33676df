package resource

import "time"

// UsageAmount is what was used. A GB of memory and of disk is 1024 MB, one of
// bandwidth and of storage 10^9 bytes.
type UsageAmount struct {
	ComputeHours   float64 `json:"compute_hours" doc:"vCPU-hours that instances ran."`
	ComputeSeconds float64 `json:"compute_seconds" doc:"The same in seconds."`
	InstanceHours  float64 `json:"instance_hours" doc:"Hours that instances ran, whatever their size."`
	MemoryGBHours  float64 `json:"memory_gb_hours"`
	DiskGBHours    float64 `json:"disk_gb_hours" doc:"Of ephemeral disk."`
	BandwidthGB    float64 `json:"bandwidth_gb" doc:"What instances sent."`
	EgressBytes    int64   `json:"egress_bytes" doc:"The same in bytes, as counted on the host's side of the network interface."`
	IngressBytes   int64   `json:"ingress_bytes"`
	LogBytes       int64   `json:"log_bytes" doc:"Of text that apps wrote, before compression."`
	LogLines       int64   `json:"log_lines"`
	StorageGBHours float64 `json:"storage_gb_hours" doc:"Of releases, looked at every hour; each digest once a tenant."`
}

// UsageSummary is the usage of a period, all together.
type UsageSummary struct {
	PeriodStart time.Time `json:"period_start"`
	PeriodEnd   time.Time `json:"period_end"`
	StorageGB   float64   `json:"storage_gb" doc:"Of releases held at the period's end."`
	LogsKept    *LogsKept `json:"logs_kept" doc:"Whatever the period. null: logs are not kept here, or the key sees one workspace only."`
	UsageAmount
}

// LogsKept is how much of its plan's max_log_storage_mb a tenant uses.
type LogsKept struct {
	Bytes    int64  `json:"bytes" doc:"Of the text of the lines of the last log_days, by whole hours, before compression; purged ones too, and the platform's own."`
	MaxBytes *int64 `json:"max_bytes" doc:"What is over it is dropped. null: any number."`
}

// UsageSummaryAnswer shows the summary twice: some clients read it at the top.
type UsageSummaryAnswer struct {
	UsageSummary
	Data UsageSummary `json:"data"`
}

// UsageGroup is what one group used. What it is not grouped by is null.
type UsageGroup struct {
	PeriodStart         time.Time `json:"period_start"`
	PeriodEnd           time.Time `json:"period_end"`
	TenantID            *string   `json:"tenant_id"`
	DeploymentID        *string   `json:"deployment_id"`
	DeploymentName      *string   `json:"deployment_name" doc:"Its slug at that time; also of one that is deleted."`
	ServiceID           *string   `json:"service_id" doc:"Null also for what belongs to no service, as storage does."`
	ExternalWorkspaceID *string   `json:"external_workspace_id"`
	ExternalUserID      *string   `json:"external_user_id"`
	ExternalProjectID   *string   `json:"external_project_id"`
	UsageAmount
}
