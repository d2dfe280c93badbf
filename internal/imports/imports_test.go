// Package imports tests that data moves down the list of packages only (docs/ARCHITECTURE.md).
package imports

import (
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/svcproxy/svcproxy/"

func TestLayers(t *testing.T) {
	for _, tc := range []struct{ pkg, banned, reason string }{
		{"pkg/endpoints", "k8s.io/", "the model is pure: watch converts API objects"},
		{"pkg/endpoints", "os", "the model is pure: no I/O"},
		{"pkg/endpoints", module + "pkg/", "the model knows nobody"},
		{"pkg/bpf", "k8s.io/", "the kernel layer knows no policy"},
		{"pkg/bpf", module + "pkg/", "the kernel layer decides nothing"},
		{"pkg/watch", "github.com/cilium/ebpf", "a source does not know that maps exist"},
		{"pkg/watch", module + "pkg/reconcile", "data moves down only"},
		{"pkg/reconcile", "k8s.io/", "the reconciler sees model values"},
		{"pkg/reconcile", module + "pkg/watch", "data moves down only"},
		{"pkg/node", module + "pkg/", "one job"},
		{"pkg/metrics", "github.com/cilium/ebpf", "providers are asked by interface"},
		{"cmd/svcproxy", "testing", "the shipped binary has no test code"},
		{"cmd/svcproxy", "k8s.io/kubernetes", "too heavy: use the published modules"},
	} {
		t.Run(tc.pkg+" without "+tc.banned, func(t *testing.T) {
			for _, dep := range imports(t, tc.pkg) {
				if dep == tc.banned || strings.HasSuffix(tc.banned, "/") && strings.HasPrefix(dep, tc.banned) {
					t.Errorf("%s imports %s: %s", tc.pkg, dep, tc.reason)
				}
			}
		})
	}
}

// imports lists what our packages that pkg is made of import, themselves not included.
func imports(t *testing.T, pkg string) []string {
	t.Helper()
	args := []string{"list", "-f", `{{join .Imports "\n"}}`, module + pkg}
	if strings.HasPrefix(pkg, "cmd/") { // the whole binary
		args = []string{"list", "-deps", module + pkg}
	}
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		t.Fatalf("go list %s: %v", pkg, err)
	}
	return strings.Fields(string(out))
}
