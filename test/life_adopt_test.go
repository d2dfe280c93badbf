package test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/pkg/reconcile"
)

// An agent that finds everything as it should be writes nothing, and ids stay.
func TestSecondStartWritesNothing(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node := c.Nodes[0]
	a := startAgent(t, node, "--manifests", dir)
	if n := a.writes(t); n == 0 {
		t.Fatal("the first start counts no writes")
	}
	before := command(t, node, "services", "-o", "json") + command(t, node, "backends", "-o", "json")
	for _, end := range []func(){func() { a.stop(t) }, a.Kill} {
		end()
		a = startAgent(t, node, "--manifests", dir)
		if n := a.writes(t); n != 0 {
			t.Errorf("%v writes at a start that changes nothing", n)
		}
		after := command(t, node, "services", "-o", "json") + command(t, node, "backends", "-o", "json")
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("services and backends (-before +after):\n%s", diff)
		}
	}
}

// What was changed while no agent ran is all that a start changes; what has gone is pruned.
func TestChangesWhileDown(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node, client := c.Nodes[0], c.Nodes[0].Pods[1]
	a0, b0, b1 := c.Nodes[0].Pods[0], c.Nodes[1].Pods[0], c.Nodes[1].Pods[1]
	addr := func(number uint8) string { return clusterIPv4(number) + ":80" }
	write := func(name string, number uint8, nodePort int32, pods ...*testenv.Pod) {
		s := service(name, number, nodePort)
		manifest(t, dir, name+".yaml", append([]any{s}, slices(s, backends(pods...)...)...)...)
	}
	write("goes", 20, 30020, a0)
	write("changes", 21, 30021, a0)
	a := startAgent(t, node, "--manifests", dir)
	answered(t, client, "tcp", addr(20), a0.Name)
	answered(t, client, "tcp", addr(21), a0.Name)
	before := byService(kernelTables(t, node))
	a.stop(t)

	if err := os.Remove(filepath.Join(dir, "goes.yaml")); err != nil {
		t.Fatal(err)
	}
	write("changes", 21, 30021, b0)
	write("comes", 22, 30022, b1)
	answered(t, client, "tcp", addr(20), a0.Name) // nobody is there to know
	answered(t, client, "tcp", addr(21), a0.Name)
	startAgent(t, node, "--manifests", dir)
	unreachable(t, node, addr(20))
	refused(t, c.Clients[0], nodeAddrs(node, 30020)[0])
	answered(t, client, "tcp", addr(21), b0.Name)
	answered(t, client, "tcp", addr(22), b1.Name)
	answered(t, c.Clients[0], "tcp", nodeAddrs(node, 30022)[0], b1.Name)

	after := byService(kernelTables(t, node))
	for name, entry := range before {
		switch name {
		case "default/goes:tcp/tcp", "default/goes:udp/udp":
			if _, ok := after[name]; ok {
				t.Errorf("%s is still there", name)
			}
		case "default/changes:tcp/tcp", "default/changes:udp/udp":
			if entry.ID != after[name].ID {
				t.Errorf("%s has id %d, had %d", name, after[name].ID, entry.ID)
			}
		default:
			if diff := cmp.Diff(entry, after[name], asPrinted); diff != "" {
				t.Errorf("%s, which nobody changed (-before +after):\n%s", name, diff)
			}
		}
	}
}

// Entries as they are printed.
var asPrinted = cmp.Options{cmpopts.IgnoreUnexported(reconcile.FrontendEntry{}), cmpopts.EquateComparable(netip.AddrPort{})}

func byService(s *reconcile.Snapshot) map[string]reconcile.ServiceEntry {
	entries := map[string]reconcile.ServiceEntry{}
	for _, e := range s.Services {
		entries[e.Name+"/"+e.Protocol] = e
	}
	return entries
}

// Two agents on one kernel: what happens to one does not reach the other.
func TestTwoAgents(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	a := startAgent(t, c.Nodes[0], "--manifests", dir)
	b := startAgent(t, c.Nodes[1], "--manifests", dir)
	other := c.Nodes[1]
	tables, programs, writes := command(t, other, "services", "-o", "json"), attached(t, other), b.writes(t)
	var l loads
	l.startAll(t, other.Pods[1].Host, webAddrs()...)
	l.startAll(t, c.Clients[0].Host, nodeAddrs(other, 30080)...)
	l.each(t, 5)

	untouched := func(when string) {
		t.Helper()
		if diff := cmp.Diff(tables, command(t, other, "services", "-o", "json")); diff != "" {
			t.Errorf("tables of %s after %s (-before +after):\n%s", other.Name, when, diff)
		}
		if diff := cmp.Diff(programs, attached(t, other)); diff != "" {
			t.Errorf("programs of %s after %s (-before +after):\n%s", other.Name, when, diff)
		}
		if n := b.writes(t); n != writes {
			t.Errorf("%v writes by the agent of %s after %s", n-writes, other.Name, when)
		}
	}
	a.stop(t)
	a = startAgent(t, c.Nodes[0], "--manifests", dir)
	untouched("the other's restart")
	a.Kill()
	command(t, c.Nodes[0], "cleanup")
	untouched("the other's cleanup")
	startAgent(t, c.Nodes[0], "--manifests", dir)
	untouched("the other's new beginning")
	l.each(t, 5)
	l.stop(t)
	answered(t, c.Nodes[0].Pods[1], "tcp", webAddrs()[0], c.Nodes[0].Pods[0].Name, c.Nodes[1].Pods[0].Name)
}
