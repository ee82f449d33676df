package api

import (
	"fmt"
	"net/http"
	"slices"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/rollout"
	"github.com/miosa/miosa/store"
)

// move is a promote or rollback: an existing version is made live.
type move struct {
	kind        miosa.RolloutKind
	versionID   string
	releaseID   string
	environment string // "" : the version's own
}

func (s *Server) rollback(c *call, in resource.Rollback) (resource.Promoted, error) {
	if in.VersionID != "" && in.ReleaseID != "" {
		return resource.Promoted{}, invalidField("release_id", "and version_id are given: name one")
	}
	if in.Environment == "" {
		in.Environment = miosa.Production
	}
	return c.move(move{miosa.RolloutRollback, in.VersionID, in.ReleaseID, in.Environment})
}

func (s *Server) promoteVersion(c *call, in resource.Promote) (resource.Promoted, error) {
	id, err := c.pathID("version_id", miosa.PrefixVersion, "version")
	if err != nil {
		return resource.Promoted{}, err
	}
	return c.move(move{kind: miosa.RolloutPromote, versionID: id, environment: in.Environment})
}

func (s *Server) promoteRelease(c *call, in resource.Promote) (resource.Promoted, error) {
	id, err := c.pathID("release_id", miosa.PrefixRelease, "release")
	if err != nil {
		return resource.Promoted{}, err
	}
	if in.Environment == "" {
		in.Environment = miosa.Production
	}
	return c.move(move{kind: miosa.RolloutPromote, releaseID: id, environment: in.Environment})
}

// move answers after the flip, unless the caller doesn't want to wait.
func (c *call) move(m move) (resource.Promoted, error) {
	wait, err := c.patience(true)
	if err != nil {
		return resource.Promoted{}, err
	}
	calledOff := false
	err = c.updateRoom(func(tx *store.Tx) error {
		dep, err := c.txDeployment(tx, c.r.PathValue("id"))
		if err != nil {
			return err
		}
		if err := c.txMatchDeployment(tx, dep); err != nil {
			return err
		}
		live, err := c.txCallOff(tx, dep, m)
		if calledOff = live.ID != ""; calledOff || err != nil {
			c.made = made{Deployment: dep.ID, Rollout: live.ID}
			return err
		}
		begun, err := c.txMove(tx, &dep, m)
		c.made = made{Deployment: dep.ID, Rollout: begun.ID}
		return err
	})
	if err != nil {
		return resource.Promoted{}, err
	}
	var begun miosa.Rollout
	ended := c.made.Rollout == ""
	if !ended {
		if begun, ended, err = c.awaitMade(wait); err != nil {
			return resource.Promoted{}, err
		}
	}
	switch {
	case calledOff && ended && isLive(begun):
		return resource.Promoted{}, conflict("nothing_to_roll_back_to", fmt.Sprintf("the %s went live in this moment, and nothing was live before", begun.Kind))
	case !calledOff && ended && begun.ID != "" && !isLive(begun):
		reason := begun.Reason
		if reason == "" {
			reason = string(begun.Step)
		}
		return resource.Promoted{}, conflict("rollout_"+string(begun.Step), fmt.Sprintf("the %s did not go live: %s", begun.Kind, reason))
	}
	if !ended {
		c.status = http.StatusAccepted
	}
	out := resource.Promoted{}
	if out.Deployment, err = c.showMade(); err != nil {
		return resource.Promoted{}, err
	}
	if begun.ID != "" {
		out.Rollout = new(rolloutResource(begun))
	}
	return out, nil
}

// txCallOff ends the rollout that goes on where an empty rollback finds nothing
// live to go back to, and is the zero one elsewhere.
func (c *call) txCallOff(tx *store.Tx, dep miosa.Deployment, m move) (miosa.Rollout, error) {
	if m.kind != miosa.RolloutRollback || m.versionID != "" || m.releaseID != "" {
		return miosa.Rollout{}, nil
	}
	env, err := c.txEnvironment(tx, dep, m.environment)
	if err != nil || env.ActiveVersionID != "" {
		return miosa.Rollout{}, err
	}
	live, err := c.txLive(tx, env)
	if err != nil || !live.Live() {
		return miosa.Rollout{}, err
	}
	if off, ok := rollout.CallOff(c.s.now().UTC(), live, c.key.ID); ok {
		live = off
		if err := store.Save(tx, store.Rollouts, live); err != nil {
			return miosa.Rollout{}, err
		}
	}
	return live, c.audit(tx, miosa.Event{
		DeploymentID: dep.ID, VersionID: live.TargetID, RolloutID: live.ID, Type: "rollback.requested",
		Message: fmt.Sprintf("a rollback in %s called the %s off: nothing was live before", env.Name, live.Kind),
	})
}

// txMove begins the rollout; the zero one when the version is live already.
func (c *call) txMove(tx *store.Tx, dep *miosa.Deployment, m move) (miosa.Rollout, error) {
	target, env, err := c.txTarget(tx, *dep, m)
	if err != nil {
		return miosa.Rollout{}, err
	}
	if err := bootable(target); err != nil {
		return miosa.Rollout{}, err
	}
	for _, spec := range target.Services {
		r, err := store.Load(tx, store.Releases, store.ReleaseKey(dep.TenantID, dep.ID, spec.ReleaseID))
		if err != nil && miosa.CodeOf(err) != miosa.NotFound {
			return miosa.Rollout{}, err
		}
		if err != nil || r.State == miosa.ReleaseArchived {
			r.ID = spec.ReleaseID
			return miosa.Rollout{}, releaseGone(r)
		}
	}
	live, err := c.txLive(tx, env)
	if err != nil {
		return miosa.Rollout{}, err
	}
	if m.kind != miosa.RolloutRollback {
		if err := c.txNoRollout(tx, env); err != nil {
			return miosa.Rollout{}, err
		}
	}
	if target.ID == env.ActiveVersionID && !live.Live() {
		return miosa.Rollout{}, nil
	}
	var begun miosa.Rollout
	if target.EnvironmentID == env.ID {
		var plan miosa.Plan
		if plan, err = c.plan(); err == nil {
			err = c.roomBack(tx, plan, env, target)
		}
		if err != nil {
			return miosa.Rollout{}, err
		}
		begun, err = c.startRollout(tx, env, target, m.kind, true)
	} else {
		target, begun, err = c.txCarry(tx, dep, env, target, m.kind)
	}
	if err != nil {
		return miosa.Rollout{}, err
	}
	return begun, c.audit(tx, miosa.Event{
		DeploymentID: dep.ID, VersionID: target.ID, RolloutID: begun.ID, Type: string(m.kind) + ".requested",
		Message: fmt.Sprintf("%s of version %d in %s was asked for", m.kind, target.Number, env.Name),
	})
}

// txTarget is the version to make live, and where.
func (c *call) txTarget(tx *store.Tx, dep miosa.Deployment, m move) (miosa.Version, miosa.Environment, error) {
	none := func(err error) (miosa.Version, miosa.Environment, error) {
		return miosa.Version{}, miosa.Environment{}, err
	}
	id := m.versionID
	if id != "" && miosa.IDPrefix(id) != miosa.PrefixVersion {
		return none(absent("version", id))
	}
	if id != "" && m.environment == "" {
		v, err := store.Load(tx, store.Versions, store.VersionKey(dep.TenantID, dep.ID, id))
		if err != nil {
			return none(err)
		}
		m.environment = v.EnvironmentID
	}
	env, err := c.txEnvironment(tx, dep, m.environment)
	if err != nil {
		return none(err)
	}
	switch {
	case id != "":
	case m.releaseID != "":
		if id, err = c.versionOf(dep, env, m.releaseID); err != nil {
			return none(err)
		}
	default:
		if id, err = c.txBefore(tx, env); err != nil {
			return none(err)
		}
	}
	v, err := store.Load(tx, store.Versions, store.VersionKey(dep.TenantID, dep.ID, id))
	return v, env, err
}

// txBefore is an empty rollback's target.
func (c *call) txBefore(tx *store.Tx, env miosa.Environment) (string, error) {
	live, err := c.txLive(tx, env)
	if err != nil {
		return "", err
	}
	// What goes on has not taken over: back means to stay.
	if live.Live() && (live.Step == miosa.StepPulling || live.Step == miosa.StepStarting) && env.ActiveVersionID != "" {
		return env.ActiveVersionID, nil
	}
	before := env.PreviousVersionID
	if live.Live() && live.Step == miosa.StepFlipping {
		before = env.ActiveVersionID
	}
	if before == "" {
		return "", conflict("nothing_to_roll_back_to", fmt.Sprintf("nothing was live in %s before the present version", env.Name))
	}
	return before, nil
}

// versionOf is the newest version made of a release that may be made live.
func (c *call) versionOf(dep miosa.Deployment, env miosa.Environment, releaseID string) (string, error) {
	if miosa.IDPrefix(releaseID) != miosa.PrefixRelease {
		return "", absent("release", releaseID)
	}
	release, err := store.Get(c.r.Context(), c.s.store, store.Releases, store.ReleaseKey(dep.TenantID, dep.ID, releaseID))
	if err != nil {
		return "", err
	}
	if release.State == miosa.ReleaseArchived {
		return "", releaseGone(release)
	}
	made, err := collect(c, store.Versions, store.VersionsOf(dep.TenantID, dep.ID), func(v miosa.Version) bool {
		return slices.ContainsFunc(v.Services, func(s miosa.ServiceSpec) bool { return s.ReleaseID == releaseID })
	})
	if err != nil {
		return "", err
	}
	best := miosa.Version{}
	rank := func(v miosa.Version) int {
		n := 0
		if v.State == miosa.VersionReady {
			n += 2
		}
		if v.EnvironmentID == env.ID {
			n++
		}
		return n
	}
	for _, v := range made { // newest first
		if best.ID == "" || rank(v) > rank(best) {
			best = v
		}
	}
	if best.ID == "" {
		return "", conflict("version_not_ready", "this release was never published: publish it")
	}
	return best.ID, nil
}

// bootable: only what has once been healthy can be made live again.
func bootable(v miosa.Version) error {
	switch v.State {
	case miosa.VersionReady:
		return nil
	case miosa.VersionArchived:
		return &miosa.Error{Code: miosa.Gone, Public: "version_archived", Message: fmt.Sprintf("version %d was archived and cannot be booted any more", v.Number)}
	case miosa.VersionFailed:
		return conflict("version_not_ready", fmt.Sprintf("version %d never became healthy: it cannot be made live", v.Number))
	}
	return &miosa.Error{
		Code: miosa.Conflict, Public: "version_not_ready", Passing: true,
		Message: fmt.Sprintf("version %d is %s: it has to be healthy once before", v.Number, v.State),
	}
}

// txCarry takes a version to another environment: services and variables are
// that one's own, so that it becomes a new version there.
func (c *call) txCarry(tx *store.Tx, dep *miosa.Deployment, env miosa.Environment, from miosa.Version, kind miosa.RolloutKind) (miosa.Version, miosa.Rollout, error) {
	services, err := c.servicesOf(env)
	if err != nil {
		return miosa.Version{}, miosa.Rollout{}, err
	}
	plan, err := c.plan()
	if err != nil {
		return miosa.Version{}, miosa.Rollout{}, err
	}
	active, err := c.version(*dep, env.ActiveVersionID)
	if err != nil && miosa.CodeOf(err) != miosa.NotFound {
		return miosa.Version{}, miosa.Rollout{}, err
	}
	p := publication{c: c, dep: *dep, env: env, plan: plan, active: active, all: services}
	var specs []miosa.ServiceSpec
	for _, spec := range from.Services {
		s, set, err := p.service(tx, resource.PublishService{Name: spec.Name, Type: string(spec.Type)}, spec.Protocol == miosa.ProtocolTCP)
		if err != nil {
			return miosa.Version{}, miosa.Rollout{}, err
		}
		spec.ServiceID, spec.Settings = s.ID, set // how many there are, and where, is the environment's own
		specs = append(specs, spec)
	}
	if err := c.room(tx, plan, env, p.named(specs)); err != nil {
		return miosa.Version{}, miosa.Rollout{}, err
	}
	return c.startVersion(tx, dep, env, miosa.Version{
		Kind: from.Kind, Services: specs, Image: from.Image, Attribution: from.Attribution, Metadata: from.Metadata,
	}, kind, true)
}
