package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/miosa/miosa"
	"github.com/miosa/miosa/cli"
	"github.com/miosa/miosa/client"
)

const exampleName = "hello"

// publishExample gives an empty platform the packed example app, so that the
// first thing a newcomer sees is an address that answers. It is the publish
// command that everybody uses, progress included.
func (p *platform) publishExample(ctx context.Context, out io.Writer) {
	if err := p.example(ctx, out); err != nil && ctx.Err() == nil {
		fmt.Fprintf(out, "\nThe example app was not published: %v\n", err)
	}
}

func (p *platform) example(ctx context.Context, out io.Writer) error {
	known, err := client.ReadContext(p.data.path("context.json"))
	if err != nil {
		return err
	}
	c, err := client.New(client.Config{URL: known.APIURL, Key: known.APIKey})
	if err != nil {
		return err
	}
	for _, err := range c.Deployments(ctx) {
		return err // there is one already, or it can't be known
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	file := filepath.Join(filepath.Dir(self), "examples", exampleName+".tar.zst")
	if _, err := os.Stat(file); err != nil {
		return miosa.Errorf(miosa.NotFound, "%s is not there: `make build` packs it", file)
	}
	fmt.Fprintf(out, "\nPublishing the example app, as you would with\n  miosa publish %s --name %s --run /app/server --port 8080 --health /healthz\n\n", file, exampleName)
	root := cli.New(cli.Config{Stdout: out, Stderr: out, Version: version})
	root.SetArgs([]string{
		"publish", file, "--context", p.data.path("context.json"),
		"--name", exampleName, "--run", "/app/server", "--port", "8080", "--health", "/healthz",
	})
	return root.ExecuteContext(ctx)
}
