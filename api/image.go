package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/registry"
	"github.com/miosa/miosa/store"
)

// Pulls says how far the images of versions have come.
type Pulls interface {
	// Status is of a version's pull; false: none goes on.
	Status(versionID string) (miosa.PullStatus, bool)
}

// image checks what a publish names, and writes its reference in full.
func (f *faults) image(field string, in *resource.PublishImage) {
	ref, err := registry.Parse(in.Reference)
	if e, ok := errors.AsType[*miosa.Error](err); ok {
		f.add(field+".reference", "%s", e.Message)
		return
	}
	in.Reference = ref.String()
	if in.Platform == "" {
		in.Platform = registry.Here.String()
	}
	if in.Platform != registry.Here.String() {
		f.add(field+".platform", "must be %s: that is what instances run on here", registry.Here)
	}
}

// imageResource is nil for what was uploaded.
func imageResource(i miosa.Image, pull *resource.Pull) *resource.Image {
	if i.Reference == "" {
		return nil
	}
	return &resource.Image{Reference: i.Reference, Digest: str(i.Digest), Platform: i.Platform, Pull: pull}
}

// pullOf is how far a version's image has come; nil when nothing is pulled.
func (s *Server) pullOf(v miosa.Version) *resource.Pull {
	if s.pulls == nil || v.Image.Reference == "" || v.Pulled() {
		return nil
	}
	p, ok := s.pulls.Status(v.ID)
	if !ok {
		return nil
	}
	return &resource.Pull{State: string(p.State), Layers: p.Layers, LayersDone: p.LayersDone, Bytes: p.Bytes, BytesDone: p.BytesDone}
}

// behalf is a call that somebody made before, and that goes on without them.
func (s *Server) behalf(ctx context.Context, tenantID, keyID string) (*call, error) {
	tenant, err := store.Get(ctx, s.store, store.Tenants, store.TenantKey(tenantID))
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, BasePath, nil)
	if err != nil {
		return nil, err
	}
	return &call{s: s, r: r, tenant: tenant, key: miosa.APIKey{ID: keyID, TenantID: tenantID}}, nil
}

// RoomForImage says why the tenant's plan has no room for so many more bytes.
func (s *Server) RoomForImage(ctx context.Context, tenantID string, bytes int64) error {
	c, err := s.behalf(ctx, tenantID, "")
	if err != nil {
		return err
	}
	plan, err := c.plan()
	if err != nil {
		return err
	}
	left, err := c.storageLeft(plan)
	if err == nil && left >= 0 && bytes > left {
		err = tooMuchStored(plan, left)
	}
	return err
}

// UseImage gives a rollout's version the release that its deployment has of an
// image, if there is one whose bytes are kept.
func (s *Server) UseImage(ctx context.Context, r miosa.Rollout, digest string) (bool, error) {
	c, err := s.behalf(ctx, r.TenantID, r.Requester)
	if err != nil {
		return false, err
	}
	same, err := collect(c, store.Releases, store.ReleasesOf(r.TenantID, r.DeploymentID), func(rel miosa.Release) bool {
		return rel.Image.Digest == digest && rel.State == miosa.ReleaseReady
	})
	if err != nil || len(same) == 0 {
		return false, err
	}
	used := false
	err = c.update(func(tx *store.Tx) error {
		release, err := store.Load(tx, store.Releases, store.ReleaseKey(r.TenantID, r.DeploymentID, same[0].ID))
		if used = err == nil && release.State == miosa.ReleaseReady; !used {
			return err
		}
		return c.txPulled(tx, r, release, digest)
	})
	return used && err == nil, err
}

// KeepImage makes what was pulled a release and gives it to the rollout's version.
func (s *Server) KeepImage(ctx context.Context, r miosa.Rollout, digest string, stored artifact.Stored) error {
	c, err := s.behalf(ctx, r.TenantID, r.Requester)
	if err != nil {
		return err
	}
	return c.updateRoom(func(tx *store.Tx) error {
		v, err := c.txWaiting(tx, r)
		if err != nil {
			return err
		}
		release, fresh, err := c.txRelease(tx, r.DeploymentID, stored, v.Attribution)
		if err != nil {
			return err
		}
		if fresh || release.Image.Digest != digest {
			release.Image = v.Image
			release.Image.Digest, release.Image.WorkspaceID = digest, ""
			if err := store.Save(tx, store.Releases, release); err != nil {
				return err
			}
		}
		return c.txPulled(tx, r, release, digest)
	})
}

// FailImage has the version fail, if it still waits for its image.
func (s *Server) FailImage(ctx context.Context, r miosa.Rollout, reason string) error {
	c, err := s.behalf(ctx, r.TenantID, r.Requester)
	if err != nil {
		return err
	}
	return c.update(func(tx *store.Tx) error {
		v, err := c.txWaiting(tx, r)
		if err != nil {
			return err
		}
		v.Image.Failure, v.UpdatedAt = reason, s.now().UTC()
		return store.Save(tx, store.Versions, v)
	})
}

// txWaiting is a version that waits for its image: its rollout is still in that
// step, and nobody wants it to end.
func (c *call) txWaiting(tx *store.Tx, r miosa.Rollout) (miosa.Version, error) {
	now, err := store.Load(tx, store.Rollouts, store.RolloutKey(r.TenantID, r.DeploymentID, r.ID))
	if err != nil {
		return miosa.Version{}, err
	}
	if now.Step != miosa.StepPulling || now.CancelledBy != "" {
		return miosa.Version{}, conflict("rollout_"+string(now.Step), "nobody waits for the image any more")
	}
	v, err := store.Load(tx, store.Versions, store.VersionKey(r.TenantID, r.DeploymentID, r.TargetID))
	if err == nil && (v.Pulled() || v.Image.Failure != "") {
		err = conflict("image_decided", "the version has its image, or will have none")
	}
	return v, err
}

// txPulled freezes what the version's services have of the image.
func (c *call) txPulled(tx *store.Tx, r miosa.Rollout, release miosa.Release, digest string) error {
	v, err := c.txWaiting(tx, r)
	if err != nil {
		return err
	}
	for n := range v.Services {
		spec := &v.Services[n]
		if err := ofRelease(spec, release); err != nil {
			return err
		}
	}
	v.RoutedServiceID, v.Image.Digest, v.UpdatedAt = miosa.RoutedService(v.Services), digest, c.s.now().UTC()
	if err := store.Save(tx, store.Versions, v); err != nil {
		return err
	}
	return c.audit(tx, miosa.Event{
		DeploymentID: r.DeploymentID, VersionID: v.ID, RolloutID: r.ID, Type: "image.pulled",
		Message: fmt.Sprintf("%s is release %s: %d files, %d bytes, %s", v.Image.Reference, release.ID, release.Manifest.Files, release.SizeBytes, digest),
		Details: map[string]string{"release_id": release.ID, "digest": digest},
	})
}

// ofRelease freezes what a service has of its release: the bytes, and what the
// image says where nobody else does.
func ofRelease(spec *miosa.ServiceSpec, release miosa.Release) error {
	spec.ReleaseID, spec.SHA256, spec.Kind = release.ID, release.SHA256, release.Kind
	if spec.Command == "" && len(release.Config.Entrypoint)+len(release.Config.Cmd) == 0 {
		return invalidField("run_command", fmt.Sprintf("is needed for service %s: the release names no command of its own", spec.Name))
	}
	switch {
	case spec.Type == miosa.ServiceWorker, spec.Port != 0:
	case len(release.Config.ExposedPorts) > 0:
		spec.Port = release.Config.ExposedPorts[0]
	default:
		spec.Port = defaultPort
	}
	return nil
}
