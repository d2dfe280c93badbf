// Package test runs the real agent on clusters of network namespaces and sends real packets through it.
package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
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
	defer cleanUp()
	return m.Run()
}

var (
	cleanupMu sync.Mutex
	cleanups  []func()
)

// afterAll registers what is to be done when all tests have ended: the last one registered first.
func afterAll(f func()) {
	cleanupMu.Lock()
	defer cleanupMu.Unlock()
	cleanups = append(cleanups, f)
}

func cleanUp() {
	for i := len(cleanups) - 1; i >= 0; i-- {
		cleanups[i]()
	}
}
