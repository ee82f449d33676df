package resource

import "time"

// Metrics are the figures of an instance, a service or a deployment over time.
type Metrics struct {
	DeploymentID      string            `json:"deployment_id"`
	ServiceID         *string           `json:"service_id"`
	RuntimeInstanceID *string           `json:"runtime_instance_id"`
	Since             time.Time         `json:"since" doc:"When the first point begins: point n stands for the step_seconds from since + n * step_seconds on."`
	Until             time.Time         `json:"until"`
	StepSeconds       int               `json:"step_seconds"`
	Series            []MetricSeries    `json:"series" doc:"Of all instances together."`
	Instances         []InstanceMetrics `json:"instances" doc:"With by=instance: each by itself, the oldest first."`
	MoreInstances     bool              `json:"more_instances" doc:"true: there were more than are listed; series has them too."`
}

// MetricSeries is one figure over time.
type MetricSeries struct {
	Name   string     `json:"name" enum:"cpu,memory,memory_used,disk,disk_used,network_received,network_sent,restarts,probe,requests,errors,latency_p50,latency_p99,in_flight"`
	Unit   string     `json:"unit" enum:"cores,bytes,bytes_per_second,count,seconds,per_second,requests"`
	Source string     `json:"source" enum:"host,guest,router" doc:"Who measured it. guest: the instance's own word."`
	Values []*float64 `json:"values" doc:"The average over the step; of a count, how many in it. null: nothing is known."`
	Max    []*float64 `json:"max" doc:"The highest 15 s of the step; empty for counts."`
}

// InstanceMetrics are one instance's part.
type InstanceMetrics struct {
	RuntimeInstanceID string         `json:"runtime_instance_id"`
	ServiceID         string         `json:"service_id"`
	LastSampleAt      time.Time      `json:"last_sample_at"`
	Series            []MetricSeries `json:"series"`
}
