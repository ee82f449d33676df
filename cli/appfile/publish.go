package appfile

import (
	"cmp"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
)

// Publish is the service as a publish names it.
func (s *Service) Publish(name string) resource.PublishService {
	out := resource.PublishService{
		Name: name, Type: deref(s.Type), RunCommand: deref(s.Command), Port: s.Port, SpokenPatch: s.spoken(),
		DesiredReplicas: s.Replicas, Resources: s.resources(), HealthCheck: s.health(),
		Sticky: s.sticky(), Restart: s.restart(),
		Disruption: s.disruption(), StopAfterDisconnectSeconds: wholeSeconds(s.StopAfterDisconnect), Placement: s.placement(),
	}
	if s.Regions != nil {
		out.Regions = &s.Regions
	}
	return out
}

// Patch is the service as a change of it, without a publish.
func (s *Service) Patch() resource.ServicePatch {
	out := resource.ServicePatch{
		DesiredReplicas: s.Replicas, RunCommand: s.Command, Port: s.Port, SpokenPatch: s.spoken(),
		HealthCheck: s.health(), Resources: s.resources(), Sticky: s.sticky(), Restart: s.restart(),
		Disruption: s.disruption(), StopAfterDisconnectSeconds: wholeSeconds(s.StopAfterDisconnect), Placement: s.placement(),
	}
	if s.Regions != nil {
		out.Regions = &s.Regions
	}
	return out
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func seconds(d *Duration) *float64 {
	if d == nil {
		return nil
	}
	return new(d.Seconds())
}

// orDefault is a text that takes the default back where it is empty.
func orDefault(p *string) resource.Nullable[string] {
	n := set(p)
	n.Null = n.Set && n.Value == ""
	return n
}

func set[T any](p *T) (n resource.Nullable[T]) {
	if p != nil {
		n.Set, n.Value = true, *p
	}
	return n
}

func (s *Service) spoken() resource.SpokenPatch {
	return resource.SpokenPatch{
		Protocol: s.Protocol, StopSignal: orDefault(s.StopSignal),
		ResponseTimeoutSeconds: set(seconds(s.ResponseTimeout)), StopGraceSeconds: set(seconds(s.StopGrace)),
	}
}

func (s *Service) health() *resource.HealthPatch {
	h := s.Health
	out := resource.HealthPatch{
		Type: h.Type, Path: h.Path, Scheme: h.Scheme, Host: orDefault(h.Host), Headers: h.Headers, Command: h.Command,
		StableSeconds: seconds(h.Stable), IntervalSeconds: seconds(h.Interval), TimeoutSeconds: seconds(h.Timeout),
		GracePeriodSeconds: seconds(h.Grace), UnhealthyThreshold: h.Threshold,
	}
	if out.Type == nil && out.Command != nil {
		out.Type = new(string(miosa.HealthExec))
	}
	if empty(out) {
		return nil
	}
	return &out
}

// empty reports whether a patch says nothing.
func empty(h resource.HealthPatch) bool {
	return h.Type == nil && h.Path == nil && h.Scheme == nil && !h.Host.Set && h.Headers == nil && h.Command == nil && h.StableSeconds == nil &&
		h.IntervalSeconds == nil && h.TimeoutSeconds == nil && h.GracePeriodSeconds == nil && h.UnhealthyThreshold == nil
}

// resources are those of the named size, changed in parts.
func (s *Service) resources() *resource.ResourcesPatch {
	r := s.Resources
	out := resource.ResourcesPatch{VCPUs: r.VCPUs, MemoryMB: r.MemoryMB, DiskMB: r.DiskMB, GPU: r.GPU, EgressMbps: set(r.EgressMbps)}
	out.EgressMbps.Null = out.EgressMbps.Set && out.EgressMbps.Value == 0
	for _, size := range miosa.Sizes() {
		if size.Slug == deref(s.Size) {
			out.VCPUs = cmp.Or(out.VCPUs, &size.Resources.VCPUs)
			out.MemoryMB = cmp.Or(out.MemoryMB, &size.Resources.MemoryMB)
			out.DiskMB = cmp.Or(out.DiskMB, &size.Resources.DiskMB)
		}
	}
	if out == (resource.ResourcesPatch{}) {
		return nil
	}
	return &out
}

func (s *Service) sticky() *resource.Sticky {
	if s.Sticky.Mode == nil {
		return nil
	}
	return &resource.Sticky{Mode: *s.Sticky.Mode, Name: deref(s.Sticky.Name)}
}

func (s *Service) restart() *resource.RestartPatch {
	if s.Restart == (Restart{}) {
		return nil
	}
	return &resource.RestartPatch{Policy: s.Restart.Policy, MaxAgeSeconds: wholeSeconds(s.Restart.MaxAge)}
}

func wholeSeconds(d *Duration) *int {
	if d == nil {
		return nil
	}
	return new(int(d.Seconds()))
}

func (s *Service) disruption() *resource.DisruptionPatch {
	if s.Disruption.MaxUnavailable == nil {
		return nil
	}
	return &resource.DisruptionPatch{MaxUnavailable: new(resource.CountOrPercent(*s.Disruption.MaxUnavailable))}
}

func (s *Service) placement() *resource.PlacementPatch {
	p := s.Placement
	if p.Labels == nil && p.Apart == nil {
		return nil
	}
	out := resource.PlacementPatch{Apart: p.Apart}
	if p.Labels != nil {
		out.Labels = &p.Labels
	}
	return &out
}
