package memory_test

import (
	"testing"

	"github.com/miosa/miosa/metrics"
	"github.com/miosa/miosa/metrics/memory"
	"github.com/miosa/miosa/metrics/metricstest"
)

func TestConformance(t *testing.T) {
	metricstest.Run(t, func(*testing.T) metrics.Store { return &memory.Store{} })
}
