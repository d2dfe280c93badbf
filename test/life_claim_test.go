package test

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// fails runs a verb of the binary that is to end with exit status 1, and returns what it prints.
func fails(t *testing.T, n *testenv.Node, args ...string) string {
	t.Helper()
	var out output
	cmd := exec.Command(binary, append(args, "--bpf-root", n.BPFRoot)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := n.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var exit *exec.ExitError
	if err := p.Wait(ctx); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("svcproxy %v ended with %v, want exit status 1\n%s", args, err, out.String())
	}
	return out.String()
}

// A second agent with the same --bpf-root does not start, and says whose it is; nor does cleanup take away what
// an agent is at work with. When the first is gone, however that was, they may.
func TestSecondAgentRefused(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node := c.Nodes[0]
	first := startAgent(t, node, "--manifests", dir)
	tables, writes := command(t, node, "services", "-o", "json"), first.writes(t)
	var l loads
	l.startAll(t, node.Pods[1].Host, webAddrs()...)
	l.each(t, 3)
	who := strings.TrimSpace(command(t, node, "status", "-o", "json"))
	for _, args := range [][]string{
		{"run", "--manifests", t.TempDir(), "--cgroup-root", node.Cgroup, "--hostname-override", node.Name},
		{"run", "--init-only", "--manifests", dir, "--cgroup-root", node.Cgroup},
		{"cleanup"},
	} {
		said := fails(t, node, args...)
		_, line, _ := strings.Cut(said, "svcproxy: ")
		line = strings.TrimSpace(line)
		_, owner, found := strings.Cut(line, "another svcproxy is at work there, ")
		if !found || !strings.HasPrefix(line, "--bpf-root "+node.BPFRoot) || !strings.HasPrefix(owner, "pid ") || !strings.Contains(owner, " since ") {
			t.Errorf("%v says %q", args[0], said)
		}
		if !strings.Contains(who, owner) || owner == "" {
			t.Errorf("%v says %q, status says %s", args[0], owner, who)
		}
	}
	if got := command(t, node, "services", "-o", "json"); got != tables {
		t.Errorf("tables were\n%s\nare\n%s", tables, got)
	}
	if n := first.writes(t); n != writes {
		t.Errorf("%v writes more by the first agent", n-writes)
	}
	if code, body, err := first.get(t.Context(), "127.0.0.1:10256", "/readyz"); err != nil || code != 200 {
		t.Errorf("the first agent: %d %s %v", code, body, err)
	}

	first.Kill()
	if agent := commandJSON[struct{ Agent string }](t, node, "status").Agent; agent != "" {
		t.Errorf("status says that %q runs, which was killed", agent)
	}
	second := startAgent(t, node, "--manifests", dir)
	if n := second.writes(t); n != 0 {
		t.Errorf("%v writes by the agent that follows", n)
	}
	l.each(t, 3)
	l.stop(t)
	second.stop(t)
	command(t, node, "cleanup")
}
