package main

import (
	"context"
	"io"
)

func (p *platform) publishExample(context.Context, io.Writer) {}
