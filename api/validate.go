package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/text/unicode/norm"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
)

const (
	maxName = 100
	// A slug, "--" and an environment's name make one DNS label of at most 63.
	maxSlug          = 40
	maxEnvironment   = 20
	maxCommand       = 16 << 10
	maxHealthHeaders = 20
	maxHealthHeader  = 4 << 10 // bytes of its value
	maxPath          = 1024
	maxMetadata      = 16 << 10
	maxExternalID    = 200
	maxServices      = 40 // of one publish, whatever the plan: one transaction holds them
	maxVarValue      = 64 << 10
	maxVars          = 500
	maxReplicas      = 10_000
	maxVarsTotal     = 512 << 10
)

// faults gathers everything that is wrong with a request.
type faults []miosa.Field

func (f *faults) add(name, format string, args ...any) {
	*f = append(*f, miosa.Field{Name: name, Message: fmt.Sprintf(format, args...)})
}

func (f *faults) err() error { return invalid(*f) }

// inOrder yields a map's entries by their names: whatever is said of them comes
// in the same order each time.
func inOrder[V any](m map[string]V) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			if !yield(name, m[name]) {
				return
			}
		}
	}
}

// name checks a name and returns it trimmed.
func (f *faults) name(field, v string) string {
	// One form for what looks the same: names are compared.
	v = norm.NFC.String(strings.TrimSpace(v))
	n := utf8.RuneCountInString(v)
	switch {
	case n == 0:
		f.add(field, "is needed")
	case n > maxName:
		f.add(field, "may have at most %d characters, it has %d", maxName, n)
	case !utf8.ValidString(v) || strings.ContainsFunc(v, func(r rune) bool { return !unicode.IsGraphic(r) || r == utf8.RuneError }):
		f.add(field, "may hold visible characters only: no line breaks, no control characters")
	case !strings.ContainsFunc(v, func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }):
		f.add(field, "needs at least one letter or digit")
	}
	return v
}

// slugOf makes a DNS label of a name. A name without a Latin letter or digit
// gets one from its hash: the same name, the same slug.
func slugOf(name string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(name) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0 && !strings.HasSuffix(b.String(), "-") && r != '\'':
			// One hyphen at most: two separate a slug from an environment.
			b.WriteByte('-')
		}
	}
	slug := b.String()
	slug = strings.Trim(slug[:min(len(slug), maxSlug)], "-")
	if slug == "" {
		sum := sha256.Sum256([]byte(name))
		slug = "app-" + hex.EncodeToString(sum[:4])
	}
	return slug
}

// validLabel reports whether v is a slug or an environment's name: lower-case
// letters, digits and single hyphens inside.
func validLabel(v string, longest int) bool {
	if v == "" || len(v) > longest || v[0] == '-' || v[len(v)-1] == '-' || strings.Contains(v, "--") {
		return false
	}
	for i := range len(v) {
		if c := v[i]; c != '-' && (!alphanumeric(rune(c)) || c >= 'A' && c <= 'Z') {
			return false
		}
	}
	return true
}

func (f *faults) label(field, v string, longest int) {
	if !validLabel(v, longest) {
		f.add(field, "must be 1–%d lower-case letters, digits and single hyphens, not at its ends", longest)
	}
}

func (f *faults) port(field string, v *int) {
	if v != nil && (*v < 1 || *v > 65535) {
		f.add(field, "must be 1–65535, not %d", *v)
	}
}

func (f *faults) command(field, v string) {
	switch {
	case len(v) > maxCommand:
		f.add(field, "may have at most %d characters", maxCommand)
	case strings.ContainsRune(v, 0):
		f.add(field, "may not hold a NUL character")
	case v != "" && strings.TrimSpace(v) == "":
		f.add(field, "is blank")
	}
}

func (f *faults) path(field, v string) {
	switch {
	case v == "":
	case v[0] != '/':
		f.add(field, "must begin with /")
	case len(v) > maxPath:
		f.add(field, "may have at most %d characters", maxPath)
	case strings.ContainsFunc(v, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }):
		f.add(field, "may not hold spaces, control characters or #")
	}
}

func (f *faults) oneOf(field, v string, allowed ...string) {
	if slices.Contains(allowed, v) {
		return
	}
	f.add(field, "must be one of %s", strings.Join(allowed, ", "))
}

func (f *faults) between(field string, v *int, low, high int) {
	if v != nil && (*v < low || *v > high) {
		f.add(field, "must be %d–%d, not %d", low, high, *v)
	}
}

func (f *faults) metadata(field string, m map[string]any) {
	if m == nil {
		return
	}
	if raw, err := json.Marshal(m); err != nil || len(raw) > maxMetadata {
		f.add(field, "may have at most %d KB as JSON", maxMetadata>>10)
	}
}

func (f *faults) external(field, v string) {
	if len(v) > maxExternalID || !utf8.ValidString(v) || strings.ContainsFunc(v, unicode.IsControl) {
		f.add(field, "may have at most %d visible characters", maxExternalID)
	}
}

// attribution checks and converts; a key restricted to a workspace brings it along.
func (c *call) attribution(f *faults, a resource.Attribution) (miosa.Attribution, error) {
	f.external("external_workspace_id", a.ExternalWorkspaceID)
	f.external("external_user_id", a.ExternalUserID)
	f.external("external_project_id", a.ExternalProjectID)
	out := miosa.Attribution{WorkspaceID: a.ExternalWorkspaceID, UserID: a.ExternalUserID, ProjectID: a.ExternalProjectID}
	if c.key.WorkspaceID != "" {
		if out.WorkspaceID != "" && out.WorkspaceID != c.key.WorkspaceID {
			return out, otherWorkspace()
		}
		out.WorkspaceID = c.key.WorkspaceID
	}
	return out, nil
}

func otherWorkspace() error {
	return &miosa.Error{Code: miosa.Forbidden, Public: "other_workspace", Message: "this key is restricted to another external_workspace_id"}
}

func (f *faults) varName(field, v string) bool {
	ok := miosa.ValidVarName(v)
	if !ok {
		f.add(field, "is no name for a variable: use letters, digits, _, . and -, beginning with a letter or _, at most %d", miosa.MaxVarName)
	}
	return ok
}

// variable checks one to be set.
func (f *faults) variable(field, key, value string) {
	switch {
	case !f.varName(field, key):
	case key == "PORT":
		f.add(field, "is set by the platform, to the port of the service: say that one where you publish (port, or --port)")
	case miosa.PlatformVar(key):
		f.add(field, "is set by the platform: names that begin with MIOSA_ tell an app where it runs; choose another")
	case len(value) > maxVarValue:
		f.add(field, "may have at most %d KB", maxVarValue>>10)
	case strings.ContainsRune(value, 0):
		f.add(field, "may not hold a NUL character")
	}
}

// resources applies a change of size.
func (f *faults) resources(field string, r miosa.Resources, p *resource.ResourcesPatch) miosa.Resources {
	if p == nil {
		return r
	}
	set := func(name string, to *int, v *int, low, high int) {
		f.between(field+"."+name, v, low, high)
		if v != nil {
			*to = *v
		}
	}
	set("vcpus", &r.VCPUs, p.VCPUs, 1, 256)
	set("memory_mb", &r.MemoryMB, p.MemoryMB, 64, 4<<20)
	set("disk_mb", &r.DiskMB, p.DiskMB, 64, 64<<20)
	set("gpu", &r.GPU, p.GPU, 0, 16)
	switch {
	case p.EgressMbps.Null:
		r.EgressMbps = 0
	case p.EgressMbps.Set:
		set("egress_mbps", &r.EgressMbps, &p.EgressMbps.Value, 1, 400_000)
	}
	return r
}

// health applies a change of health check.
func (f *faults) health(field string, h miosa.HealthCheck, p *resource.HealthPatch) miosa.HealthCheck {
	if p == nil {
		return h
	}
	if p.Path != nil {
		if h.Type == miosa.HealthTCP || h.Type == miosa.HealthExec || h.Type == miosa.HealthNone {
			h.Type = miosa.HealthHTTP // unless Type says otherwise: nothing else has a path
		}
		f.path(field+".path", *p.Path)
		h.Path = *p.Path
		if h.Path == "" {
			h.Path = "/"
		}
	}
	if p.Type != nil {
		f.oneOf(field+".type", *p.Type, "http", "tcp", "grpc", "exec", "none")
		h.Type = miosa.HealthType(*p.Type)
	}
	if p.Scheme != nil {
		f.oneOf(field+".scheme", *p.Scheme, "http", "https")
		h.Scheme = *p.Scheme
	}
	if p.Host.Set {
		h.Host = p.Host.Value
		if h.Host != "" && (len(h.Host) > 255 || !httpguts.ValidHostHeader(h.Host)) {
			f.add(field+".host", "is no host name")
		}
	}
	if p.Headers != nil {
		h.Headers = f.headers(field+".headers", p.Headers)
	}
	if p.Command != nil {
		f.command(field+".command", *p.Command)
		h.Command = *p.Command
	}
	if h.Type == miosa.HealthExec && h.Command == "" {
		f.add(field+".command", "is needed where type is exec")
	}
	seconds := func(name string, to *time.Duration, v *float64, low, high float64) {
		if v == nil {
			return
		}
		if !(*v >= low && *v <= high) {
			f.add(field+"."+name, "must be %g–%g seconds", low, high)
			return
		}
		*to = time.Duration(*v * float64(time.Second))
	}
	seconds("stable_seconds", &h.Stable, p.StableSeconds, 1, 600)
	seconds("interval_seconds", &h.Interval, p.IntervalSeconds, 1, 300)
	seconds("timeout_seconds", &h.Timeout, p.TimeoutSeconds, 0.1, 60)
	seconds("grace_period_seconds", &h.Grace, p.GracePeriodSeconds, 1, 600)
	f.between(field+".unhealthy_threshold", p.UnhealthyThreshold, 1, 100)
	if p.UnhealthyThreshold != nil {
		h.Threshold = *p.UnhealthyThreshold
	}
	return h
}

// headers are those of a health check, by name.
func (f *faults) headers(field string, given map[string]string) (out []miosa.Header) {
	if len(given) > maxHealthHeaders {
		f.add(field, "may be at most %d", maxHealthHeaders)
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		value := given[name]
		switch canonical := http.CanonicalHeaderKey(name); {
		case !httpguts.ValidHeaderFieldName(name):
			f.add(field, "%q is no name for a header", name)
		case len(value) > maxHealthHeader || !httpguts.ValidHeaderFieldValue(value):
			f.add(field+"."+name, "must be visible characters, at most %d", maxHealthHeader)
		case canonical == "Host":
			f.add(field+"."+name, "is set by health_check.host")
		case canonical == "Connection" || canonical == "Content-Length" || canonical == "Transfer-Encoding" || canonical == "Upgrade":
			f.add(field+"."+name, "is the health check's own")
		default:
			out = append(out, miosa.Header{Name: canonical, Value: value})
		}
	}
	return out
}

// spoken applies a change of how a service is spoken to.
func (f *faults) spoken(prefix string, s *miosa.ServiceSpec, p resource.SpokenPatch) {
	if p.Protocol != nil {
		f.oneOf(prefix+"protocol", *p.Protocol, "http1", "h2c", "tcp")
		s.Protocol = miosa.Protocol(*p.Protocol)
	}
	if s.Protocol == miosa.ProtocolTCP && s.Type == miosa.ServiceWorker {
		f.add(prefix+"protocol", "is tcp, and service %s is a worker, which is not spoken to: give it the type api", s.Name)
	}
	seconds := func(name string, to *time.Duration, v resource.Nullable[float64], most time.Duration) {
		switch {
		case !v.Set:
		case v.Null:
			*to = 0
		case !(v.Value >= 1 && v.Value <= most.Seconds()):
			f.add(prefix+name, "must be 1–%g seconds", most.Seconds())
		default:
			*to = time.Duration(v.Value * float64(time.Second))
		}
	}
	seconds("response_timeout_seconds", &s.ResponseTimeout, p.ResponseTimeoutSeconds, miosa.MaxResponseTimeout)
	seconds("stop_grace_seconds", &s.StopGrace, p.StopGraceSeconds, miosa.MaxStopGrace)
	if p.StopSignal.Set {
		signal, ok := miosa.ParseSignal(p.StopSignal.Value)
		if s.StopSignal = signal; !ok && !p.StopSignal.Null {
			f.add(prefix+"stop_signal", "must be the name of a signal, like SIGTERM or SIGQUIT")
		}
	}
}

// suits checks that a service's health check is one that its type can have.
func (f *faults) suits(prefix string, s miosa.ServiceSpec) {
	how := s.Health.Type
	if s.Type == miosa.ServiceWorker && how != "" && how != miosa.HealthExec && how != miosa.HealthNone {
		f.add(prefix+"health_check.type", "is %s, and service %s is a worker, which has no port to be asked on: give it exec with a command, or none", how, s.Name)
	}
}

// sticky checks and converts.
func (f *faults) sticky(field string, s resource.Sticky) miosa.Sticky {
	f.oneOf(field+".mode", s.Mode, "none", "cookie", "client_ip", "header")
	token := func(r rune) bool { return !alphanumeric(r) && r != '-' && r != '_' }
	switch {
	case len(s.Name) > 100 || strings.ContainsFunc(s.Name, token):
		f.add(field+".name", "may hold letters, digits, - and _ only")
	case s.Mode == "header" && s.Name == "":
		f.add(field+".name", "is needed: the header's name")
	}
	if s.Mode == "none" {
		return miosa.Sticky{Mode: miosa.StickyNone}
	}
	return miosa.Sticky{Mode: miosa.StickyMode(s.Mode), Name: s.Name}
}

// restart applies a change of restart policy.
func (f *faults) restart(field string, r miosa.RestartPolicy, p *resource.RestartPatch) miosa.RestartPolicy {
	if p == nil {
		return r
	}
	if p.Policy != nil {
		f.oneOf(field+".policy", *p.Policy, "always", "on_failure", "never")
		r.Mode = miosa.RestartMode(*p.Policy)
	}
	if p.MaxAgeSeconds != nil {
		if n := *p.MaxAgeSeconds; n != 0 && (n < 60 || n > 365*86400) {
			f.add(field+".max_age_seconds", "must be 0 (never) or 60–31536000")
		} else {
			r.MaxAge = time.Duration(n) * time.Second
		}
	}
	return r
}

// disruption applies a change of how many instances may be missing by our own doing.
func (f *faults) disruption(field string, m miosa.MaxUnavailable, p *resource.DisruptionPatch) miosa.MaxUnavailable {
	if p == nil || p.MaxUnavailable == nil {
		return m
	}
	next, err := miosa.ParseMaxUnavailable(string(*p.MaxUnavailable))
	if err != nil || next.Count > maxReplicas {
		f.add(field+".max_unavailable", "must be a number of instances, 0–%d, or a percentage like \"25%%\", 0%%–100%%; not %q", maxReplicas, string(*p.MaxUnavailable))
		return m
	}
	return next
}

// stopAfterDisconnect checks and converts.
func (f *faults) stopAfterDisconnect(field string, seconds int) time.Duration {
	const least, most = int(miosa.MinStopAfterDisconnect / time.Second), int(miosa.MaxStopAfterDisconnect / time.Second)
	if seconds != 0 && (seconds < least || seconds > most) {
		f.add(field, "must be 0 (never) or %d–%d seconds, not %d", least, most, seconds)
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// labels checks what a host must have.
func (f *faults) labels(field string, labels map[string]string) map[string]string {
	if len(labels) > miosa.MaxLabels {
		f.add(field, "may be at most %d", miosa.MaxLabels)
	}
	for key, value := range inOrder(labels) {
		const rule = "must be 1–%d letters, digits, -, _, . and /, beginning with a letter or digit"
		switch {
		case !miosa.ValidLabel(key):
			f.add(field, "the key %q "+rule, key, miosa.MaxLabel)
		case !miosa.ValidLabel(value):
			f.add(field+"."+key, rule, miosa.MaxLabel)
		}
	}
	return labels
}

// logLimit applies a change of how much may be logged.
func (f *faults) logLimit(field string, l miosa.LogLimit, p *resource.LogLimitPatch) miosa.LogLimit {
	if p == nil {
		return l
	}
	if p.Unlimited != nil {
		l.Unlimited = *p.Unlimited
		if l.Unlimited {
			if given(p.LinesPerSecond) || given(p.Burst) {
				f.add(field+".unlimited", "goes with no number: give either")
			}
			return miosa.LogLimit{Unlimited: true}
		}
	}
	set := func(name string, to *int, v resource.Nullable[int], most int) {
		if !v.Set {
			return
		}
		*to = 0
		if given(v) {
			f.between(field+"."+name, &v.Value, 1, most)
			*to, l.Unlimited = v.Value, false
		}
	}
	set("lines_per_second", &l.LinesPerSecond, p.LinesPerSecond, 1_000_000)
	set("burst", &l.Burst, p.Burst, 10_000_000)
	return l
}

func given(v resource.Nullable[int]) bool { return v.Set && !v.Null }

// logRate is how many lines a second the plan allows; -1: any number.
func logRate(plan miosa.Plan) int {
	return max(cmp.Or(plan.MaxLogRate, miosa.DefaultPlan().MaxLogRate), -1)
}

// burstSeconds is for how long a burst may be of the plan's most.
const burstSeconds = 10

// fitsLogs checks a log limit against the plan.
func fitsLogs(plan miosa.Plan, service string, l miosa.LogLimit) error {
	most := logRate(plan)
	if most < 0 || !l.Unlimited && l.LinesPerSecond <= most && l.Burst <= burstSeconds*most {
		return nil
	}
	return quota(fmt.Sprintf("service %s: plan %s allows %d log lines a second an instance, and %d at once; ask for fewer, or the operator for another plan",
		service, plan.Name, most, burstSeconds*most))
}

// fits checks a size against the plan: what a plan doesn't hold is a
// question of money, not of form.
func fits(plan miosa.Plan, service string, r miosa.Resources) error {
	var over string
	switch {
	case r.VCPUs > plan.MaxVCPUs:
		over = fmt.Sprintf("%d vCPUs an instance, not %d", plan.MaxVCPUs, r.VCPUs)
	case r.MemoryMB > plan.MaxMemoryMB:
		over = fmt.Sprintf("%d MB of memory an instance, not %d", plan.MaxMemoryMB, r.MemoryMB)
	case r.DiskMB > plan.MaxDiskMB:
		over = fmt.Sprintf("%d MB of disk an instance, not %d", plan.MaxDiskMB, r.DiskMB)
	case r.GPU > 0 && !plan.GPU:
		over = "no GPU"
	default:
		return nil
	}
	nearest := ""
	for _, s := range miosa.Sizes() {
		if s.Resources.VCPUs <= plan.MaxVCPUs && s.Resources.MemoryMB <= plan.MaxMemoryMB && s.Resources.DiskMB <= plan.MaxDiskMB {
			nearest = fmt.Sprintf("; the largest size within it is %s (%d vCPUs, %d MB)", s.Slug, s.Resources.VCPUs, s.Resources.MemoryMB)
		}
	}
	return quota(fmt.Sprintf("service %s: plan %s allows %s%s", service, plan.Name, over, nearest))
}

func str(v string) *string {
	if v == "" {
		return nil
	}
	return &v
}

func num(v int) *int {
	if v == 0 {
		return nil
	}
	return &v
}

func at(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.UTC())
}
