package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// look makes the agent look for what others have removed or changed, now.
func (a *agent) look(t *testing.T) {
	t.Helper()
	if err := a.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
}

// drifts is how much an agent has put back of a kind.
func (a *agent) drifts(t *testing.T, in string) float64 {
	t.Helper()
	return a.metric(t, fmt.Sprintf("svcproxy_drift_total{in=%q}", in))
}

// Whoever removes the pins below a running agent's root, some or all, finds them there again, the same maps and
// the same links; no request fails and no connection ends, then and at the restart that follows.
func TestPinsRemoved(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node := c.Nodes[0]
	a := startAgent(t, node, "--manifests", dir)
	var l loads
	l.startAll(t, node.Pods[1].Host, webAddrs()...)
	l.startAll(t, c.Clients[0].Host, nodeAddrs(node, 30080)...)
	l.each(t, 5)
	programs := attached(t, node)
	maps, links := pinned(t, node)
	for i, remove := range []func() error{
		func() error { return os.Remove(filepath.Join(node.BPFRoot, "maps", "frontends")) },
		func() error { return os.RemoveAll(filepath.Join(node.BPFRoot, "links")) },
		func() error { return os.RemoveAll(filepath.Join(node.BPFRoot, "maps")) },
		func() error { return os.RemoveAll(node.BPFRoot) },
	} {
		before := a.drifts(t, "pins")
		if err := remove(); err != nil {
			t.Fatal(err)
		}
		a.look(t)
		eventually(t, "pins", func(context.Context) error {
			if a.drifts(t, "pins") == before {
				return errors.New("nothing was put back")
			}
			return nil
		})
		mapsNow, linksNow := pinned(t, node)
		if diff := cmp.Diff(maps, mapsNow); diff != "" {
			t.Errorf("maps pinned (-before +after removal %d):\n%s", i, diff)
		}
		if diff := cmp.Diff(links, linksNow); diff != "" {
			t.Errorf("links pinned (-before +after removal %d):\n%s", i, diff)
		}
		if diff := cmp.Diff(programs, attached(t, node)); diff != "" {
			t.Errorf("programs attached (-before +after removal %d):\n%s", i, diff)
		}
		l.each(t, 2)
	}
	fails(t, node, "cleanup") // the root is the agent's still, though it is another directory
	a.logged(t, "put back what somebody has removed")
	a.Kill()
	a = startAgent(t, node, "--manifests", dir)
	if n := a.writes(t); n != 0 {
		t.Errorf("%v writes at the start that follows", n)
	}
	l.each(t, 3)
	l.stop(t)
}

// Programs that somebody detaches are attached again.
func TestProgramsDetached(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node := c.Nodes[0]
	a := startAgent(t, node, "--manifests", dir)
	both := []string{c.Nodes[0].Pods[0].Name, c.Nodes[1].Pods[0].Name}
	answered(t, node.Pods[1], "tcp", webAddrs()[0], both...)
	before := len(attached(t, node))
	entries, err := os.ReadDir(filepath.Join(node.BPFRoot, "links"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		detach(t, node, e.Name())
	}
	if n := len(attached(t, node)); n != before-len(entries) {
		t.Fatalf("%d programs attached after %d of %d were detached", n, len(entries), before)
	}
	a.look(t)
	eventually(t, "programs", func(context.Context) error {
		if n := a.drifts(t, "programs"); n != float64(len(entries)) {
			return fmt.Errorf("%v put back, not %d", n, len(entries))
		}
		return nil
	})
	if n := len(attached(t, node)); n != before {
		t.Errorf("%d programs attached, were %d", n, before)
	}
	for _, addr := range webAddrs() {
		answered(t, node.Pods[1], "tcp", addr, both...)
	}
	for _, addr := range nodeAddrs(node, 30080) {
		answered(t, c.Clients[0], "tcp", addr, both...)
	}
	pins := a.drifts(t, "pins")
	a.look(t)
	a.look(t)
	eventually(t, "audits", func(context.Context) error {
		if a.metric(t, "svcproxy_audits_total") < 1 {
			return errors.New("none")
		}
		return nil
	})
	if n := a.drifts(t, "programs"); n != float64(len(entries)) || a.drifts(t, "pins") != pins {
		t.Errorf("%v programs and %v pins put back when nothing was removed", n, a.drifts(t, "pins"))
	}
}

func detach(t *testing.T, n *testenv.Node, pin string) {
	t.Helper()
	l, err := link.LoadPinnedLink(filepath.Join(n.BPFRoot, "links", pin), nil)
	if err == nil {
		err = errors.Join(l.Detach(), l.Close())
	}
	if err != nil {
		t.Fatalf("detach %s: %v", pin, err)
	}
}

// An agent that is started with another cgroup serves that one's processes, and no others any more.
func TestCgroupRootChanges(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node := c.Nodes[0]
	a := startAgent(t, node, "--manifests", dir)
	answered(t, node.Pods[1], "tcp", webAddrs()[0], c.Nodes[0].Pods[0].Name, c.Nodes[1].Pods[0].Name)
	a.stop(t)
	elsewhere := c.Nodes[1].Cgroup
	startAgent(t, node, "--manifests", dir, "--cgroup-root", elsewhere)
	s := commandJSON[struct {
		Cgroup      string
		SocketHooks []string
	}](t, node, "status")
	if s.Cgroup != elsewhere || len(s.SocketHooks) != len(cgroupAttachTypes) {
		t.Errorf("attached to %s: %v, want all at %s", s.Cgroup, s.SocketHooks, elsewhere)
	}
	for _, where := range attached(t, node) {
		for _, attach := range cgroupAttachTypes {
			if strings.HasPrefix(where, fmt.Sprintf("%s %v program", node.Name, attach)) {
				t.Errorf("still attached: %s", where)
			}
		}
	}
}
