package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/api/resource"
	"github.com/miosa/miosa/cli/appfile"
	"github.com/miosa/miosa/client"
)

// maxAppFile bounds what is read of a miosa.toml, in bytes.
const maxAppFile = 1 << 20

// appFile is a miosa.toml, and where it is.
type appFile struct {
	*appfile.File
	path string
}

// findAppFile looks for the app's file and reads it: the one that --config
// names; else beside what is published; else in the working directory. What it
// says of where the app is published to holds unless a flag does.
func (a *app) findAppFile(f *publishFlags, args []string, given func(string) bool) error {
	var places []string
	switch {
	case f.noConfig && f.config != "":
		return usagef("--config and --no-config are given: give one")
	case f.noConfig:
		return nil
	case f.config != "":
		places = []string{f.config}
	default:
		if len(args) > 0 && args[0] != "-" {
			places = append(places, filepath.Join(filepath.Dir(args[0]), appfile.Name))
		}
		places = append(places, appfile.Name)
	}
	for _, path := range places {
		raw, err := readAppFile(path)
		if errors.Is(err, os.ErrNotExist) && f.config == "" {
			continue
		}
		if err != nil {
			return err
		}
		file, err := appfile.Parse(path, raw)
		if err != nil {
			return &usageError{err.Error()}
		}
		f.file = &appFile{file, path}
		if f.name == "" {
			f.name = file.Name
		}
		if file.Environment != "" && !given("environment") {
			f.environment = file.Environment
		}
		return nil
	}
	return nil
}

func readAppFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxAppFile+1))
	if err == nil && len(raw) > maxAppFile {
		err = fmt.Errorf("%s has more than %d MB, which is no file of settings", path, maxAppFile>>20)
	}
	return raw, err
}

// satisfied is nil when the environment has every variable that the file
// requires; the error names those that it lacks, and how they are set.
func (f *appFile) satisfied(ctx context.Context, c *client.Client, dep resource.Deployment, environment string) error {
	if f == nil || len(f.RequiredVariables) == 0 {
		return nil
	}
	missing := slices.Clone(f.RequiredVariables)
	for v, err := range c.Vars(ctx, dep.ID, environment) {
		if err != nil {
			return err
		}
		missing = slices.DeleteFunc(missing, func(name string) bool { return name == v.Key })
	}
	if len(missing) == 0 {
		return nil
	}
	where := ""
	if environment != miosa.Production {
		where = " --environment " + environment
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s of %s lacks what %s requires, nothing was uploaded: %s\nSet it with:", environment, dep.Slug, f.path, strings.Join(missing, ", "))
	for _, name := range missing {
		fmt.Fprintf(&b, "\n  miosa env set %s %s --secret%s", dep.Slug, name, where)
	}
	return errors.New(b.String())
}

// words names the services of an error as the file does.
func (f *appFile) words(err error) error {
	wrong, ok := errors.AsType[*client.Error](err)
	if f == nil || !ok {
		return err
	}
	in := *wrong
	for n, name := range f.Order {
		in.Message = strings.ReplaceAll(in.Message, fmt.Sprintf("services[%d].", n), "services."+name+".")
	}
	return &in
}
