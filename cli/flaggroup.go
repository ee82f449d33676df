package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagGroup is flags of one concern, which --help shows under a title.
type flagGroup struct {
	title string
	*pflag.FlagSet
}

func newFlagGroup(title string) flagGroup {
	g := flagGroup{title, pflag.NewFlagSet(title, pflag.ContinueOnError)}
	g.SortFlags = false
	return g
}

// helpWidth is where the lines of help end, in columns.
const helpWidth = 100

// group gives a command the flags, and a help that shows them by their groups.
func group(cmd *cobra.Command, groups ...flagGroup) {
	for _, g := range groups {
		cmd.Flags().AddFlagSet(g.FlagSet)
	}
	cmd.SetUsageFunc(func(c *cobra.Command) error {
		var b strings.Builder
		fmt.Fprintf(&b, "Usage:\n  %s\n", c.UseLine())
		if c.HasExample() {
			fmt.Fprintf(&b, "\nExamples:\n%s\n", c.Example)
		}
		rest := newFlagGroup("Other flags")
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			for _, g := range groups {
				if g.Lookup(f.Name) != nil {
					return
				}
			}
			rest.AddFlag(f)
		})
		rest.AddFlagSet(c.InheritedFlags())
		for _, g := range append(groups, rest) {
			fmt.Fprintf(&b, "\n%s:\n%s", g.title, g.FlagUsagesWrapped(helpWidth))
		}
		_, err := fmt.Fprint(c.OutOrStderr(), b.String())
		return err
	})
}
