package memory_test

import (
	"testing"

	"github.com/parleyio/parley/internal/fabric"
	"github.com/parleyio/parley/internal/fabric/fabrictest"
	"github.com/parleyio/parley/internal/fabric/memory"
)

func TestContract(t *testing.T) {
	fabrictest.Run(t, func(*testing.T) fabric.Provider { return memory.New() })
}
