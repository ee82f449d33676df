package cli

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/text/unicode/norm"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

type publishFlags struct {
	name, run, health, environment, kind string
	port, replicas                       int
	memory, cpus, disk                   int
	worker, wait, promote                bool
}

func (a *app) publishCommand() *cobra.Command {
	f := publishFlags{}
	cmd := &cobra.Command{
		Use:   "publish FILE --name NAME",
		Short: "Upload a packaged app and make it live",
		Long: `Upload FILE (a tar, tar.gz or tar.zst of a Linux root file system, or an OCI
image archive) and roll it out as a new version. The deployment is made if there
is none of that name. What is not said (command, port, health check, size) stays
as in the version that is live.

New instances start beside the old ones; only when all are healthy do requests
go to them. If they never are, what was live goes on serving and the command
ends with exit code 4.`,
		Example: `  miosa publish ./rootfs.tar.zst --name hello --run "/app/server" --port 8080 --health /healthz
  miosa publish ./image.oci.tar --name shop
  miosa publish ./rootfs.tar.zst --name hello --environment staging`,
	}
	fl := cmd.Flags()
	fl.StringVar(&f.name, "name", "", "name of the deployment (needed)")
	fl.StringVar(&f.run, "run", "", "command to run in it")
	fl.IntVar(&f.port, "port", 0, "port it listens on, 1–65535")
	fl.StringVar(&f.health, "health", "", "path that answers 2xx when it is healthy")
	fl.StringVar(&f.environment, "environment", "production", "environment to publish to")
	fl.StringVar(&f.kind, "kind", "", "rootfs or oci (default: told by the file)")
	fl.IntVar(&f.replicas, "replicas", 0, "how many instances")
	fl.IntVar(&f.memory, "memory", 0, "MB of memory an instance")
	fl.IntVar(&f.cpus, "cpus", 0, "vCPUs an instance")
	fl.IntVar(&f.disk, "disk", 0, "MB of disk an instance")
	fl.BoolVar(&f.worker, "worker", false, "it has no port: healthy while its process runs")
	fl.BoolVar(&f.promote, "promote", true, "make it live; with --promote=false it is only proven to become healthy")
	fl.BoolVar(&f.wait, "wait", true, "wait until it is live or has failed")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.name == "" {
			return usagef("--name is needed: the deployment's name\nSee: %s --help", cmd.CommandPath())
		}
		return a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
			return a.publish(ctx, c, args[0], f, cmd.Flags().Changed)
		})(cmd, args)
	}
	return cmd
}

func (a *app) publish(ctx context.Context, c *client.Client, path string, f publishFlags, given func(string) bool) error {
	body, err := f.body(given)
	if err != nil {
		return err
	}
	artifact, err := client.FileArtifact(path)
	if err != nil {
		return err
	}
	if f.kind != "" {
		artifact.Kind = f.kind
	}
	p := a.progress()
	defer p.end()
	dep, made, err := findOrCreate(ctx, c, f.name)
	if err != nil {
		return err
	}
	if made {
		p.step("Deployment %s is new: %s", dep.Slug, dep.PublicURL)
	} else if len(body.Services) > 0 && !f.worker {
		live, err := liveVersion(ctx, c, dep, f.environment)
		if err != nil {
			return err
		}
		body.Services = beside(live, body.Services[0])
	}
	p.wait("reading %s", path)
	artifact.Sent = func(sent, all int64) { p.wait("uploading %s of %s", size(sent), size(all)) }
	release, err := c.Upload(ctx, dep.ID, artifact)
	if err != nil {
		return err
	}
	p.step("Uploaded %s: %s, %d files", release.ID, size(release.SizeBytes), release.ArtifactManifest.Files)
	p.wait("publishing")
	body.ReleaseID = release.ID
	var options []client.Option
	if a.json && f.wait {
		options = append(options, client.Wait())
	}
	out, err := c.Publish(ctx, dep.ID, body, options...)
	if err != nil {
		return err
	}
	if f.wait && !a.json {
		p.step("Version %d of %s is being rolled out to %s", out.Version.VersionNumber, dep.Slug, f.environment)
		if out.Rollout, err = a.follow(ctx, c, p, dep.Slug, out.Rollout); err != nil {
			return err
		}
		if out.Version, err = c.Version(ctx, dep.ID, out.Version.ID); err != nil {
			return err
		}
	}
	p.end()
	if err := a.show(out, func() {
		switch {
		case !f.wait:
			a.printf("Version %d of %s is being rolled out. Follow it with: miosa events %s -f\n", out.Version.VersionNumber, dep.Slug, dep.Slug)
		case out.Rollout.Step == "done" && !out.Rollout.Promote:
			a.printf("Version %d of %s is healthy. Make it live with: miosa promote %s %d\n", out.Version.VersionNumber, dep.Slug, dep.Slug, out.Version.VersionNumber)
		case out.Rollout.Step == "draining" || out.Rollout.Step == "done":
			a.live(ctx, c, dep, out.Version)
		}
	}); err != nil {
		return err
	}
	if !f.wait || out.Rollout.Live() && out.Rollout.Step != "draining" {
		return nil
	}
	return a.outcome(ctx, c, out.Rollout, out.Version)
}

// live says that a version is, and where it is served.
func (a *app) live(ctx context.Context, c *client.Client, dep resource.Deployment, v resource.Version) {
	raw := a.rawServices(ctx, c, dep, v.EnvironmentID)
	switch {
	case v.RoutedServiceID != nil:
		a.printf("Version %d of %s is live: %s\n", v.VersionNumber, dep.Slug, a.url(ctx, c, dep, v.EnvironmentID))
	case len(raw) == 0:
		a.printf("Version %d of %s is live. It has workers only, and serves no HTTP.\n", v.VersionNumber, dep.Slug)
	default:
		a.printf("Version %d of %s is live.\n", v.VersionNumber, dep.Slug)
	}
	for _, s := range raw {
		a.printf("  %s: %s\n", s.Name, text(s.PublicURL))
	}
}

// rawServices are those of an environment that are reached on a port of their
// own. What cannot be had is left out.
func (a *app) rawServices(ctx context.Context, c *client.Client, dep resource.Deployment, environment string) (out []resource.Service) {
	for s, err := range c.Services(ctx, dep.ID) {
		if err != nil {
			return out
		}
		if s.EnvironmentID == environment && s.PublicURL != nil {
			out = append(out, s)
		}
	}
	return out
}

// url is where the environment with that ID is served.
func (a *app) url(ctx context.Context, c *client.Client, dep resource.Deployment, environment string) string {
	for e, err := range c.Environments(ctx, dep.ID) {
		if err == nil && e.ID == environment {
			return e.PublicURL
		}
	}
	return dep.PublicURL
}

// body of the publish. A flag for one service makes it name its service.
func (f publishFlags) body(given func(string) bool) (resource.Publish, error) {
	out := resource.Publish{Environment: f.environment}
	if !f.promote {
		out.Promote = new(false)
	}
	if given("port") && (f.port < 1 || f.port > 65535) {
		return out, usagef("--port must be 1–65535, not %d", f.port)
	}
	if f.health != "" && f.health[0] != '/' {
		return out, usagef("--health must begin with /")
	}
	if f.worker && (given("port") || given("health")) {
		return out, usagef("a --worker has no --port and no --health")
	}
	var port *int
	if given("port") {
		port = &f.port
	}
	if !f.worker && !given("replicas") && !given("memory") && !given("cpus") && !given("disk") {
		out.RunCommand, out.Port, out.HealthCheckPath = f.run, port, f.health
		return out, nil
	}
	s := resource.PublishService{Name: "web", Type: "web", RunCommand: f.run, Port: port, HealthCheckPath: f.health}
	if f.worker {
		s.Name, s.Type = "worker", "worker"
	}
	if given("replicas") {
		s.DesiredReplicas = &f.replicas
	}
	if given("memory") || given("cpus") || given("disk") {
		s.Resources = &resource.ResourcesPatch{}
		for name, to := range map[string]**int{"memory": &s.Resources.MemoryMB, "cpus": &s.Resources.VCPUs, "disk": &s.Resources.DiskMB} {
			if given(name) {
				*to = map[string]*int{"memory": &f.memory, "cpus": &f.cpus, "disk": &f.disk}[name]
			}
		}
	}
	out.Services = []resource.PublishService{s}
	return out, nil
}

// liveVersion is the one that is live in an environment, or the zero one.
func liveVersion(ctx context.Context, c *client.Client, dep resource.Deployment, environment string) (resource.Version, error) {
	for e, err := range c.Environments(ctx, dep.ID) {
		if err != nil {
			return resource.Version{}, err
		}
		if (e.Name == environment || e.ID == environment) && e.ActiveVersionID != nil {
			return c.Version(ctx, dep.ID, *e.ActiveVersionID)
		}
	}
	return resource.Version{}, nil
}

// beside is what a publish names when flags are for one service: that of the
// live version's that requests go to, and the others as they are, since what a
// version does not name ends with it. Of workers alone it is the first.
func beside(version resource.Version, s resource.PublishService) []resource.PublishService {
	live := version.Services
	whole := slices.IndexFunc(live, func(v resource.VersionService) bool {
		return version.RoutedServiceID != nil && v.ServiceID == *version.RoutedServiceID
	})
	if whole < 0 {
		whole = slices.IndexFunc(live, func(v resource.VersionService) bool {
			return v.Type != "worker" || s.Port == nil && s.HealthCheckPath == ""
		})
	}
	out := []resource.PublishService{s}
	for n, v := range live {
		if n == whole {
			out[0].Name, out[0].Type = v.Name, v.Type
			continue
		}
		out = append(out, resource.PublishService{Name: v.Name, Type: v.Type})
	}
	return out
}

// findOrCreate takes an ID, a slug or a name.
func findOrCreate(ctx context.Context, c *client.Client, name string) (dep resource.Deployment, made bool, err error) {
	dep, err = find(ctx, c, name)
	if client.Status(err) != 404 || strings.HasPrefix(name, "dep_") {
		return dep, false, err
	}
	dep, err = c.CreateDeployment(ctx, resource.DeploymentCreate{Name: name, SourceType: "upload"})
	return dep, err == nil, err
}

// find takes an ID, or a slug or a name that leads to one deployment alone.
func find(ctx context.Context, c *client.Client, name string) (resource.Deployment, error) {
	if miosa.IDPrefix(name) == miosa.PrefixDeployment {
		return c.Deployment(ctx, name)
	}
	wanted := norm.NFC.String(strings.TrimSpace(name))
	var found []resource.Deployment
	for d, err := range c.Deployments(ctx, client.Query("name", wanted)) {
		if err != nil {
			return d, err
		}
		if wanted != "" && (d.Slug == wanted || norm.NFC.String(d.Name) == wanted) {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 0:
		message := fmt.Sprintf("no deployment %q; see: miosa deployments ls", name)
		return resource.Deployment{}, &client.Error{Status: http.StatusNotFound, Code: "deployment_not_found", Message: message}
	case 1:
		return found[0], nil
	}
	var which strings.Builder
	for _, d := range found {
		fmt.Fprintf(&which, "\n  %s  %s  %s", d.ID, d.Slug, d.PublicURL)
	}
	return resource.Deployment{}, usagef("%d deployments are called %q: name one by its ID%s", len(found), name, which.String())
}
