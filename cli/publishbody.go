package cli

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/cli/appfile"
	"github.com/miosa/miosa/client"
)

// body of the publish. A flag for one service makes it name its service.
func (f *publishFlags) body() (resource.Publish, error) {
	out := resource.Publish{Environment: f.environment}
	if !f.promote {
		out.Promote = new(false)
	}
	if path := f.service.Health.Path; path != nil && *path != "" && (*path)[0] != '/' {
		return out, usagef("--health must begin with /")
	}
	if f.file != nil {
		return out, f.whole(&out)
	}
	if f.worker {
		f.service.Type = new("worker")
		said := f.service
		if said.HealthType() == "none" && said.Health.Type == nil {
			// Its health check may be a command, as it is live.
			said.Health.Interval, said.Health.Timeout, said.Health.Grace, said.Health.Threshold = nil, nil, nil, nil
		}
		if wrong := f.faults(&said, ""); wrong != "" {
			return out, usagef("%s", wrong)
		}
	}
	if f.plain() {
		s := f.service.Publish("")
		out.RunCommand, out.Port = s.RunCommand, s.Port
		if s.HealthCheck != nil {
			out.HealthCheckPath = *s.HealthCheck.Path
		}
		return out, nil
	}
	s := f.service.Publish(f.of)
	switch {
	case f.worker:
		s.Type = "worker"
		if s.Name == "" {
			s.Name = "worker"
		}
	case s.Name == "":
		s.Name, s.Type = "web", "web"
	}
	out.Services = []resource.PublishService{s}
	return out, nil
}

// whole is what the app's file says, and over it the flags: all services, each
// as it is there and nothing of how it was before.
func (f *publishFlags) whole(out *resource.Publish) error {
	file := f.file
	if f.worker {
		return usagef("--worker goes without %s: a service there is one by type = \"worker\"; or publish with --no-config", file.path)
	}
	if len(file.Order) == 0 {
		file.Order, file.Services = []string{"web"}, map[string]*appfile.Service{"web": {}}
	}
	of := cmp.Or(f.of, file.Routed(), file.Order[0])
	if file.Services[of] == nil {
		return usagef("%s has no service %q: it has %s", file.path, of, strings.Join(file.Order, ", "))
	}
	f.applyTo(file.Services[of])
	if wrong := f.faults(file.Services[of], file.path+": services."+of+"."); wrong != "" {
		return usagef("%s", wrong)
	}
	out.Reset, out.Variables = true, file.Variables
	for _, name := range file.Order {
		out.Services = append(out.Services, file.Services[name].Publish(name))
	}
	return nil
}

// plain: the flags say nothing but what a publish says of the app as a whole.
func (f *publishFlags) plain() bool {
	return !f.worker && f.of == "" && !slices.ContainsFunc(f.given, func(g givenFlag) bool {
		return g.key != "command" && g.key != "port" && g.key != "health.path"
	})
}

// beside adds to a publish of one service what the others of the live version
// are, since what a version does not name ends with it.
func (f *publishFlags) beside(ctx context.Context, c *client.Client, dep resource.Deployment, body *resource.Publish) error {
	if len(body.Services) == 0 || f.file != nil || f.worker && f.of == "" {
		return nil
	}
	live, err := liveVersion(ctx, c, dep, f.environment)
	if err != nil {
		return err
	}
	body.Services = beside(live, body.Services[0], f.of)
	return nil
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
// live version's that has the name, or without one that which requests go to,
// and the others as they are. Of workers alone it is the first.
func beside(version resource.Version, s resource.PublishService, name string) []resource.PublishService {
	live := version.Services
	whole := slices.IndexFunc(live, func(v resource.VersionService) bool {
		return name == "" && version.RoutedServiceID != nil && v.ServiceID == *version.RoutedServiceID || v.Name == name
	})
	if whole < 0 && name == "" {
		whole = slices.IndexFunc(live, func(v resource.VersionService) bool {
			return v.Type != "worker" || s.Port == nil && (s.HealthCheck == nil || s.HealthCheck.Path == nil)
		})
	}
	// In their order: of several of type web, requests go to the first.
	var out []resource.PublishService
	for n, v := range live {
		same := resource.PublishService{Name: v.Name, Type: v.Type}
		if n == whole {
			same = s
			same.Name = v.Name
			if s.Type != "worker" {
				same.Type = v.Type
			}
		}
		out = append(out, same)
	}
	if whole < 0 {
		out = append(out, s)
	}
	return out
}
