package artifacttest_test

import (
	"testing"
	"time"

	"github.com/miosa/miosa/artifact"
	"github.com/miosa/miosa/artifact/artifacttest"
)

func TestMemory(t *testing.T) {
	artifacttest.Blobs(t, func(_ *testing.T, now func() time.Time) artifact.Blobs { return artifacttest.NewMemory(now) })
}
