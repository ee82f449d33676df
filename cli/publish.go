package cli

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/text/unicode/norm"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/client"
)

// publishFlags are what a publish was asked for.
type publishFlags struct {
	serviceFlags
	name, environment, kind string
	image, platform         string
	of                      string // the service that the flags are for
	config                  string // the app's file; "": looked for
	worker, wait, promote   bool
	noConfig                bool
	file                    *appFile // nil: none
}

func (a *app) publishCommand() *cobra.Command {
	f := publishFlags{}
	cmd := &cobra.Command{
		Use:   "publish [FILE|-] [--name NAME]",
		Short: "Upload a packaged app, or name an image in a registry, and make it live",
		Long: `Upload FILE (an image as docker save, podman save or an OCI layout has it, or a
Linux root file system, as a tar, tar.gz or tar.zst; - is standard input) and roll
it out as a new version. With --image there is no FILE: the platform pulls the
image from its registry, once, and keeps its digest; see "miosa registry" for those
that want a login. The deployment is made if there is none of that name. What is
not said (command, port, health check, size) stays as in the version that is live.

Where there is a miosa.toml beside FILE, or else in this folder, the app is as it
says, all its services at once: flags win over it, it wins over the image, and
what it does not say is the default. "miosa init" writes one.

New instances start beside the old ones; only when all are healthy do requests
go to them. If they never are, what was live goes on serving and the command
ends with exit code 4.

Durations are written like 30s, 1m30s or 500ms.`,
		Example: `  miosa publish ./rootfs.tar.zst --name hello --run "/app/server" --port 8080 --health /healthz
  docker save shop | miosa publish - --name shop
  miosa publish ./image.tar --name shop
  miosa publish --image registry.example/shop:1.4 --name shop
  miosa publish ./rootfs.tar.zst --name hello --environment staging
  miosa publish ./app.tar --name shop --health-grace 5m --stop-grace 60s --stop-signal SIGQUIT
  miosa publish ./app.tar --name jobs --worker --run "/app/jobs" --health-command "/app/jobs alive"`,
	}
	what := newFlagGroup("What is published, and where")
	what.StringVar(&f.name, "name", "", "name of the deployment (needed, unless miosa.toml has it)")
	what.StringVar(&f.image, "image", "", "`REFERENCE` of an image to pull, instead of FILE: registry.example/shop:1.4")
	what.StringVar(&f.platform, "platform", "", "platform of the image (default, and all that runs here: linux/amd64)")
	what.StringVar(&f.environment, "environment", "production", "environment to publish to")
	what.StringVar(&f.kind, "kind", "", "rootfs or oci (default: told by what is in it)")
	what.StringVar(&f.config, "config", "", "the app's `FILE` of settings (default: miosa.toml beside what is published, or else here)")
	what.BoolVar(&f.noConfig, "no-config", false, "look for no miosa.toml")
	what.StringVar(&f.of, "service", "", "the service that the flags below are for (default: the one that requests go to)")
	what.BoolVar(&f.worker, "worker", false, "it has no port: healthy while its process runs")
	what.BoolVar(&f.promote, "promote", true, "make it live; with --promote=false it is only proven to become healthy")
	what.BoolVar(&f.wait, "wait", true, "wait until it is live or has failed")
	group(cmd, append([]flagGroup{what}, f.groups()...)...)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := a.findAppFile(&f, args, cmd.Flags().Changed); err != nil {
			return err
		}
		if f.name == "" {
			return usagef("--name is needed: the deployment's name\nSee: %s --help", cmd.CommandPath())
		}
		if f.image != "" {
			if len(args) > 0 || f.kind != "" {
				return usagef("--image comes instead of FILE and --kind\nSee: %s --help", cmd.CommandPath())
			}
			return a.run(0, 0, func(ctx context.Context, c *client.Client, _ []string) error {
				return a.publish(ctx, c, "", &f)
			})(cmd, args)
		}
		if f.platform != "" {
			return usagef("--platform is of an --image")
		}
		return a.run(1, 1, func(ctx context.Context, c *client.Client, args []string) error {
			return a.publish(ctx, c, args[0], &f)
		})(cmd, args)
	}
	return cmd
}

func (a *app) publish(ctx context.Context, c *client.Client, path string, f *publishFlags) error {
	body, err := f.body()
	if err != nil {
		return err
	}
	var artifact client.Artifact
	if f.image == "" {
		if artifact, err = a.artifact(ctx, path); err != nil {
			return err
		}
		if f.kind != "" {
			artifact.Kind = f.kind
		}
	}
	p := a.progress()
	defer p.end()
	if f.file != nil {
		p.step("Settings are those of %s", f.file.path)
	}
	dep, made, err := findOrCreate(ctx, c, f.name)
	if err != nil {
		return err
	}
	if made {
		p.step("Deployment %s is new: %s", dep.Slug, dep.PublicURL)
	} else if err := f.beside(ctx, c, dep, &body); err != nil {
		return err
	}
	if err := f.file.satisfied(ctx, c, dep, f.environment); err != nil {
		return err
	}
	if f.image != "" {
		body.Image = &resource.PublishImage{Reference: f.image, Platform: f.platform}
	} else {
		if artifact.Stream == nil {
			p.wait("reading %s", path)
		}
		artifact.Sent = func(sent, all int64) {
			if all < 0 {
				p.wait("uploading %s", size(sent))
				return
			}
			p.wait("uploading %s of %s", size(sent), size(all))
		}
		release, err := c.Upload(ctx, dep.ID, artifact)
		if err != nil {
			return err
		}
		p.step("Uploaded %s: %s, %d files", release.ID, size(release.SizeBytes), release.ArtifactManifest.Files)
		for _, note := range release.Notes { // in JSON they are a field of the release
			p.step("Note: %s", note)
		}
		body.ReleaseID = release.ID
	}
	p.wait("publishing")
	var options []client.Option
	if a.json && f.wait {
		options = append(options, client.Wait())
	}
	out, err := c.Publish(ctx, dep.ID, body, options...)
	if err != nil {
		return f.file.words(err)
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

// artifact is the file at path, or what standard input brings. Of that nothing
// is asked or made before its first bytes are there: what was to send them may
// have failed.
func (a *app) artifact(ctx context.Context, path string) (client.Artifact, error) {
	if path != "-" {
		return typed(ctx, func() (client.Artifact, error) { return client.FileArtifact(path) })
	}
	if f, ok := a.cfg.Stdin.(*os.File); ok && isTerminal(f) {
		return client.Artifact{}, usagef("- is what standard input brings, and that is a terminal: pipe an image or archive in, e.g. docker save shop | miosa publish - --name shop")
	}
	artifact, err := typed(ctx, func() (client.Artifact, error) { return client.StreamArtifact(a.cfg.Stdin) })
	if err != nil {
		err = fmt.Errorf("read standard input: %w", err)
	}
	return artifact, err
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
