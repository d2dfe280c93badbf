// Package test runs the real agent on clusters of network namespaces and sends real packets through it.
package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// binary is the agent under test.
var binary string

func TestMain(m *testing.M) {
	testenv.Main()
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "svcproxy-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "svcproxy")
	build := exec.Command("go", "build", "-o", binary, "../cmd/svcproxy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the agent:", err)
		return 1
	}
	return m.Run()
}
