package cell

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/miosa/miosa"
)

// noticesFor is how long after a rollout's step an instance's log is still told
// of it: an older step is no news.
const noticesFor = 10 * time.Minute

// rolloutNotices are what the log of an instance is to tell of the rollouts of its
// environment and does not tell yet. Of a service's instances in one version
// one speaks for all: see speaker.
func (p *pass) rolloutNotices(i *miosa.Instance) []miosa.Notice {
	var out []miosa.Notice
	rollouts := p.rolloutsNow()
	for _, r := range rollouts[max(0, len(rollouts)-2):] {
		what, text := p.noticeOf(r, i)
		made := what == "began" && i.VersionID == r.TargetID // by it, and after it
		if !made && r.StepSince.Before(i.CreatedAt) || p.now.Sub(r.StepSince) > noticesFor {
			continue
		}
		if id := r.ID + "/" + what; text != "" && !p.told[noticed{unit{i.ServiceID, i.VersionID}, id}] {
			out = append(out, miosa.Notice{ID: id, At: p.now, Text: text})
		}
	}
	return out
}

// faultNotices are what routers found wrong with an instance's app and its log does
// not tell yet. Every instance speaks for itself.
func (p *pass) faultNotices(i *miosa.Instance) []miosa.Notice {
	var out []miosa.Notice
	told := func(id string) bool {
		is := func(w miosa.Notice) bool { return w.ID == id }
		return slices.ContainsFunc(i.Notices, is) || slices.ContainsFunc(out, is)
	}
	found := false
	for _, r := range p.m.routers {
		found = found || r.faults[i.ID] != ""
	}
	if !found {
		return nil
	}
	for _, router := range slices.Sorted(maps.Keys(p.m.routers)) {
		why := clipped(p.m.routers[router].faults[i.ID])
		if id := "fault/" + why; why != "" && !told(id) {
			out = append(out, miosa.Notice{ID: id, At: p.now, Text: why})
		}
	}
	return out
}

// noticeOf is what a rollout's present step means to an instance, if it does.
func (p *pass) noticeOf(r miosa.Rollout, i *miosa.Instance) (what, text string) {
	target, ok := p.version(r.TargetID)
	if !ok {
		return "", ""
	}
	whole := fmt.Sprintf("%s of version %d", r.Kind, target.Number)
	mine := i.VersionID == r.TargetID
	switch {
	case !mine && (r.FromID == "" || i.VersionID != r.FromID):
		return "", ""
	case r.Live() && r.CancelledBy == "":
		what, text = "began", fmt.Sprintf("%s began (%s%s)", whole, r.ID, by(r.Requester))
	case r.Step == miosa.StepDraining, r.Step == miosa.StepDone && r.Promote:
		if mine {
			return "live", fmt.Sprintf("version %d is live (%s, %s)", target.Number, r.Kind, r.ID)
		}
		return "live", fmt.Sprintf("version %d is live in its place (%s, %s)", target.Number, r.Kind, r.ID)
	case r.Step == miosa.StepDone:
		what, text = "proven", whole+" ended: "+r.Reason
	case r.Step == miosa.StepFailed:
		what, text = "failed", whole+" failed: "+clipped(r.Reason)
	case r.Step == miosa.StepCancelled:
		what, text = "cancelled", whole+" ended: "+r.Reason
	}
	if text != "" && !mine && r.Step.Terminal() {
		text += "; this version stays live"
	}
	return what, text
}

func by(requester string) string {
	if requester == "" {
		return ""
	}
	return ", asked for by " + requester
}

// rolloutsNow are the environment's rollouts as this pass leaves them, in order
// of ID.
func (p *pass) rolloutsNow() []miosa.Rollout {
	out := slices.Clone(p.members.rollouts)
	for _, put := range p.commit.Put {
		if changed, ok := put.(miosa.Rollout); ok {
			for n := range out {
				if out[n].ID == changed.ID {
					out[n] = changed
				}
			}
		}
	}
	return out
}

// speakers finds for each service and version the instance that speaks for all:
// the lowest slot that has a host; and what was told already.
func (p *pass) speakers() {
	p.speaker, p.told = map[unit]string{}, map[noticed]bool{}
	slot := map[unit]int{}
	for n := range p.all {
		i := &p.all[n]
		of := unit{i.ServiceID, i.VersionID}
		for _, w := range i.Notices {
			p.told[noticed{of, w.ID}] = true
		}
		if i.HostID == "" || i.State().Terminal() {
			continue
		}
		if n, ok := slot[of]; !ok || i.Slot < n {
			slot[of], p.speaker[of] = i.Slot, i.ID
		}
	}
}

// noticed is a notice that one of a unit's instances was given.
type noticed struct {
	unit
	notice string
}

// addNotices adds what is due to the notices of an instance.
func (p *pass) addNotices(i *miosa.Instance) bool {
	due := p.faultNotices(i)
	if p.speaks(i) {
		for _, w := range p.rolloutNotices(i) {
			p.told[noticed{unit{i.ServiceID, i.VersionID}, w.ID}] = true
			due = append(due, w)
		}
	}
	if len(due) == 0 {
		return false
	}
	all := append(append([]miosa.Notice(nil), i.Notices...), due...)
	i.Notices = all[max(0, len(all)-miosa.MaxNotices):]
	return true
}

// speaks reports whether the instance is the one that speaks for its unit.
func (p *pass) speaks(i *miosa.Instance) bool {
	if len(p.members.rollouts) == 0 {
		return false // there is nothing to say
	}
	if p.speaker == nil {
		p.speakers()
	}
	of := unit{i.ServiceID, i.VersionID}
	if i.ID != "" {
		return p.speaker[of] == i.ID
	}
	if i.HostID == "" || p.speaker[of] != "" {
		return false
	}
	p.speaker[of] = "the one that is made now"
	return true
}

// clipped bounds what a reason may add to a record.
func clipped(reason string) string {
	return strings.ToValidUTF8(reason[:min(len(reason), 2<<10)], "\uFFFD")
}
