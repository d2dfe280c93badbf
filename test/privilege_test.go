package test

import (
	"os/exec"
	"testing"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// TestLeastPrivilege runs the agent with the capabilities of deploy/daemonset.yaml and no others.
func TestLeastPrivilege(t *testing.T) {
	c := testenv.MustNew(t, testenv.Options{Nodes: 2, PodsPerNode: 1, Clients: 1})
	servePods(t, c)
	n, pod := c.Nodes[0], c.Nodes[0].Pods[0]
	dir := t.TempDir()
	s := service("web", 10, 30080)
	manifest(t, dir, "web.yaml", append([]any{s}, slices(s, apiserver.PodBackend(pod))...)...)

	a := &agent{node: n, log: &output{}}
	cmd := exec.Command("setpriv", "--bounding-set", "-all,+bpf,+net_admin,+perfmon,+sys_admin", "--no-new-privs", "--",
		binary, "run", "--hostname-override", n.Name, "--cgroup-root", n.Cgroup, "--bpf-root", n.BPFRoot, "--manifests", dir)
	cmd.Stdout, cmd.Stderr = a.log, a.log
	var err error
	if a.Process, err = n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := a.ready(t.Context()); err != nil {
		t.Fatalf("not ready: %v\n%s", err, a.log)
	}
	for host, addr := range map[*testenv.Host]string{pod.Host: clusterIPv4(10) + ":80", c.Clients[0].Host: n.IPv4.String() + ":30080"} {
		if r, err := host.Request(t.Context(), "tcp", addr); err != nil || r.Backend != pod.Name {
			t.Errorf("%s to %s: %+v, %v", host.Name, addr, r, err)
		}
	}
}
