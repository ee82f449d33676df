package cell

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/miosa/miosa"
)

// Facts are the records that the boots of one commit rest on.
type Facts struct {
	Tenant      miosa.Tenant
	Deployment  miosa.Deployment
	Environment miosa.Environment
	Versions    map[string]miosa.Version // by ID
	Hosts       map[string]miosa.Host    // by ID
}

// Boot is what an instance boots with.
type Boot struct {
	Command string
	Argv    []string // an image's entry point, where there is no command
	Env     []string // KEY=value, sorted
	User    string
	WorkDir string
	// StopSignal is Linux's number of the signal that asks the app to end; 0: SIGTERM.
	StopSignal int
	PublicURL  string
}

// BootOf puts together what an instance boots with. image is what its release
// says of itself, vars the customer's variables in clear, public where users
// reach the environment. Later ones win: the image's own environment, the
// operator's bindings, the customer's variables, PORT and MIOSA_*.
func BootOf(i miosa.Instance, f Facts, image miosa.ImageConfig, vars map[string]string, bindings []Binding, public string) Boot {
	env := map[string]string{}
	for _, kv := range image.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	names := strings.NewReplacer("{tenant}", f.Tenant.Slug, "{tenant_id}", f.Tenant.ID, "{deployment}", f.Deployment.Slug,
		"{deployment_id}", f.Deployment.ID, "{environment}", f.Environment.Name, "{service}", i.Spec.Name)
	for _, b := range bindings {
		env[b.Key] = names.Replace(b.Template)
	}
	for k, v := range vars {
		if !miosa.PlatformVar(k) { // set before that was refused
			env[k] = v
		}
	}
	if i.Spec.Port != 0 {
		env["PORT"] = strconv.Itoa(i.Spec.Port)
	}
	env["MIOSA_DEPLOYMENT_ID"], env["MIOSA_SERVICE_ID"] = i.DeploymentID, cmp.Or(i.ServiceID, i.Spec.ServiceID)
	if i.Once() {
		env["MIOSA_TASK_ID"] = i.TaskID
	}
	env["MIOSA_RUNTIME_INSTANCE_ID"], env["MIOSA_VERSION_ID"] = i.ID, i.VersionID
	env["MIOSA_ENVIRONMENT"], env["MIOSA_REGION"] = f.Environment.Name, i.Region
	env["MIOSA_PUBLIC_URL"] = public

	b := Boot{
		Command: i.Spec.Command, User: image.User, WorkDir: image.WorkingDir,
		StopSignal: stopSignal(i.Spec.StopSignal, image.StopSignal), PublicURL: public,
	}
	if b.Command == "" {
		b.Argv = append(slices.Clone(image.Entrypoint), image.Cmd...)
	}
	for k, v := range env {
		b.Env = append(b.Env, k+"="+v)
	}
	slices.SortFunc(b.Env, cmp.Compare[string])
	return b
}

// Binding is a variable that the operator gives every instance. In Template
// {tenant}, {deployment}, {environment} and {service} stand for their slugs
// and names, {tenant_id} and {deployment_id} for their IDs.
type Binding struct{ Key, Template string }

// ParseBinding reads KEY=template.
func ParseBinding(s string) (Binding, error) {
	key, template, ok := strings.Cut(s, "=")
	if ok && miosa.PlatformVar(key) {
		return Binding{}, miosa.Errorf(miosa.Invalid, "binding %s: PORT and MIOSA_* are set by the platform itself", key)
	}
	if !ok || !miosa.ValidVarName(key) {
		return Binding{}, miosa.Errorf(miosa.Invalid, "%q is no binding: write KEY=template, e.g. AUTH_URL=https://auth.example/{tenant}/{deployment}", s)
	}
	rest := template
	for {
		_, after, open := strings.Cut(rest, "{")
		if !open {
			return Binding{Key: key, Template: template}, nil
		}
		name, tail, closed := strings.Cut(after, "}")
		if !closed || !slices.Contains([]string{"tenant", "tenant_id", "deployment", "deployment_id", "environment", "service"}, name) {
			return Binding{}, miosa.Errorf(miosa.Invalid, "binding %s: {%s} is none of {tenant} {tenant_id} {deployment} {deployment_id} {environment} {service}", key, name)
		}
		rest = tail
	}
}

// stopSignal is the number of the signal that asks an app to end: the service's,
// else the image's, if that is one; 0: SIGTERM.
func stopSignal(service, image string) int {
	name, ok := service, service != ""
	if !ok {
		name, _ = miosa.ParseSignal(image)
	}
	n, _ := miosa.SignalNumber(name)
	return n
}
