package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/miosa/miosa/vmm/bundle"
)

// bundleCommand is for `make build` and for machines that are set up by hand.
func bundleCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "bundle", Short: "Build the guest bundle: kernel and initrd of the instances", Hidden: true,
	}
	cfg := bundle.Config{}
	build := &cobra.Command{
		Use: "build", Short: "Build the bundle unless it is cached", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.InitBinary == "" {
				self, err := os.Executable()
				if err != nil {
					return fmt.Errorf("find this program: %w", err)
				}
				cfg.InitBinary = filepath.Join(filepath.Dir(self), "miosa-init")
			}
			cfg.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			b, err := bundle.Ensure(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "guest bundle %s: Linux %s, %s\n", b.Digest[:12], b.KernelVersion, filepath.Dir(b.Kernel))
			return nil
		},
	}
	build.Flags().StringVar(&cfg.InitBinary, "init", "", "the miosa-init to boot; default: beside this program")
	build.Flags().StringVar(&cfg.KernelDeb, "kernel-deb", "", "a downloaded kernel package, for machines without a network")
	build.Flags().BoolVar(&cfg.Refresh, "refresh", false, "ask for the current kernel even if one is cached")
	root.AddCommand(build)
	return root
}
