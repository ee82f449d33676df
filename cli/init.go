package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa/cli/appfile"
	"github.com/miosa/miosa/cli/appfile/draft"
)

// drafted is what init says with --json.
type drafted struct {
	Path     string   `json:"path"`    // "" with --stdout
	Sources  []string `json:"sources"` // what it was made of
	Services []string `json:"services"`
	Notes    []string `json:"notes"`
	Text     string   `json:"text"`
}

func (a *app) initCommand() *cobra.Command {
	force, stdout := false, false
	cmd := &cobra.Command{
		Use: "init [DIR]", Short: "Write a miosa.toml from what lies in the app's folder",
		Long: `Look at what lies in DIR (default: here) and write a miosa.toml there, which
"miosa publish" reads: from a Procfile; from an image (an archive of docker save,
or an OCI one) or a Dockerfile; or else from what Node.js, Python, Ruby, PHP, Java
and Go apps have. It is a first guess, with comments that say what else there is:
look it over.

No platform is needed for it. A miosa.toml that is there already stays, unless
with --force.`,
		Example: "  miosa init\n  miosa init ./shop --stdout\n  docker save shop -o shop.tar && miosa init && miosa publish shop.tar",
	}
	cmd.Flags().BoolVar(&force, "force", false, "write it anew if it is there already")
	cmd.Flags().BoolVar(&stdout, "stdout", false, "print it instead of writing it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usagef("wrong number of arguments: %s\nSee: %s --help", cmd.UseLine(), cmd.CommandPath())
		}
		dir := "."
		if len(args) > 0 {
			dir = args[0]
		}
		return a.draft(dir, force, stdout)
	}
	return cmd
}

func (a *app) draft(dir string, force, stdout bool) error {
	whole, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("%s is no folder that can be read: %w", dir, err)
	}
	defer root.Close()
	d := draft.Look(root.FS(), filepath.Base(whole))
	text := d.Text()
	out := drafted{Sources: append([]string{}, d.Sources...), Notes: append([]string{}, d.Notes...), Text: string(text)}
	for _, s := range d.Services {
		out.Services = append(out.Services, s.Name)
	}
	if stdout {
		return a.show(out, func() { a.printf("%s", text) })
	}
	out.Path = filepath.Join(dir, appfile.Name)
	if err := write(root, text, force); errors.Is(err, os.ErrExist) {
		return fmt.Errorf("%s is there already: see what would be written with --stdout, or write it anew with --force", out.Path)
	} else if err != nil {
		return fmt.Errorf("write %s: %w", out.Path, err)
	}
	return a.show(out, func() {
		from := "nothing that it knows: fill it in"
		if len(d.Sources) > 0 {
			from = strings.Join(d.Sources, ", ")
		}
		a.printf("Wrote %s, from %s.\n", out.Path, from)
		for _, note := range d.Notes {
			a.printf("  • %s\n", printable(note))
		}
		a.printf("Look it over, then publish with: miosa publish FILE\n")
	})
}

// write makes the file. An old one stays whole until the new one is.
func write(root *os.Root, text []byte, force bool) error {
	name := appfile.Name
	if force {
		name += ".new"
		_ = root.Remove(name) // what an earlier run left
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil && force {
		err = root.Rename(name, appfile.Name)
	}
	if err != nil {
		_ = root.Remove(name)
	}
	return err
}

func (a *app) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON schema of miosa.toml",
		Long: `Print the JSON schema of miosa.toml. Editors that know TOML check the file by it
while it is written, and explain its keys: a file that "miosa init" wrote names it
in its first line.`,
		Args: noSuchCommand,
		RunE: func(*cobra.Command, []string) error {
			a.printf("%s", appfile.Schema())
			return nil
		},
	}
}
