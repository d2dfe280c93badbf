package test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

var cgroupAttachTypes = []ebpf.AttachType{
	ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect,
	ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
	ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg,
	ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
}

// attached lists the programs at a node's cgroup and at its links, by place and id, and its links' qdiscs.
func attached(t *testing.T, n *testenv.Node) (list []string) {
	t.Helper()
	cgroup, err := os.Open(n.Cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer cgroup.Close()
	for _, attach := range cgroupAttachTypes {
		list = append(list, programsAt(t, int(cgroup.Fd()), attach, n.Name)...)
	}
	links, err := n.Netlink().LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		a := l.Attrs()
		for _, attach := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			err := n.Do(func() error { // links are looked up in the caller's namespace
				list = append(list, programsAt(t, a.Index, attach, a.Name)...)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		qdiscs, err := n.Netlink().QdiscList(l)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range qdiscs {
			list = append(list, fmt.Sprintf("%s qdisc %s", a.Name, q.Type()))
		}
	}
	return list
}

func programsAt(t *testing.T, target int, attach ebpf.AttachType, where string) (list []string) {
	result, err := link.QueryPrograms(link.QueryOptions{Target: target, Attach: attach})
	if err != nil {
		t.Errorf("query %v at %s: %v", attach, where, err)
		return nil
	}
	for _, p := range result.Programs {
		list = append(list, fmt.Sprintf("%s %v program %d", where, attach, p.ID))
	}
	return list
}

// pinned returns the ids of the maps pinned below the node's BPF root, and of the programs in pinned links.
func pinned(t *testing.T, n *testenv.Node) (maps map[string]ebpf.MapID, programs map[string]ebpf.ProgramID) {
	t.Helper()
	maps, programs = map[string]ebpf.MapID{}, map[string]ebpf.ProgramID{}
	err := filepath.WalkDir(n.BPFRoot, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Type() == fs.ModeSymlink { // that one says which agent runs
			return err
		}
		if filepath.Base(filepath.Dir(path)) == "maps" {
			m, err := ebpf.LoadPinnedMap(path, nil)
			if err != nil {
				return err
			}
			defer m.Close()
			info, err := m.Info()
			if err != nil {
				return err
			}
			maps[e.Name()], _ = info.ID()
			return nil
		}
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return err
		}
		defer l.Close()
		info, err := l.Info()
		if err != nil {
			return err
		}
		programs[e.Name()] = info.Program
		return nil
	})
	if err != nil {
		t.Fatalf("pins of %s: %v", n.Name, err)
	}
	return maps, programs
}

func reservedPorts(t *testing.T, n *testenv.Node) (text string) {
	t.Helper()
	if err := n.Do(func() error {
		b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_reserved_ports")
		text = strings.TrimSpace(string(b))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return text
}

// Cleanup takes away all that agents have brought, and nothing else; then an agent can come again.
func TestCleanup(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node := c.Nodes[0]
	foreign := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{Parent: netlink.HANDLE_CLSACT, Handle: netlink.MakeHandle(0xffff, 0)}}
	pod, err := node.Netlink().LinkByName(node.Pods[0].HostLink)
	if err != nil {
		t.Fatal(err)
	}
	foreign.LinkIndex = pod.Attrs().Index // somebody else's
	if err := node.Netlink().QdiscAdd(foreign); err != nil {
		t.Fatal(err)
	}
	if err := node.Sysctl("net.ipv4.ip_local_reserved_ports", "5000-5001,30000"); err != nil {
		t.Fatal(err)
	}
	before, ports := attached(t, node), reservedPorts(t, node)
	for range 2 {
		a := startAgent(t, node, "--manifests", dir)
		for _, addr := range webAddrs() {
			answered(t, node.Pods[1], "tcp", addr, c.Nodes[0].Pods[0].Name, c.Nodes[1].Pods[0].Name)
		}
		for _, addr := range nodeAddrs(node, 30080) {
			answered(t, c.Clients[0], "tcp", addr, c.Nodes[0].Pods[0].Name, c.Nodes[1].Pods[0].Name)
		}
		if got, want := len(attached(t, node))-len(before), len(cgroupAttachTypes)+2+2*len(node.Pods); got != want {
			t.Errorf("%d programs more than before, want %d:\n%v", got, want, attached(t, node))
		}
		maps, programs := pinned(t, node)
		if len(maps) == 0 || len(programs) != len(cgroupAttachTypes)+2+2*len(node.Pods) {
			t.Errorf("pinned: maps %v, links %v", maps, programs)
		}
		if reservedPorts(t, node) == ports {
			t.Error("no ports reserved")
		}
		a.stop(t)

		for range 2 { // the second finds nothing, which is no error
			command(t, node, "cleanup")
			if diff := cmp.Diff(before, attached(t, node)); diff != "" {
				t.Errorf("programs and qdiscs (-before +after):\n%s", diff)
			}
			if got := reservedPorts(t, node); got != ports {
				t.Errorf("reserved ports are %q, were %q", got, ports)
			}
			if _, err := os.Stat(node.BPFRoot); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is still there: %v", node.BPFRoot, err)
			}
		}
		gone(t, maps, programs)
		for _, addr := range webAddrs() {
			unreachable(t, node, addr)
		}
		for _, addr := range nodeAddrs(node, 30080) {
			refused(t, c.Clients[0], addr)
		}
	}
}

// gone waits until the kernel has none of these any more: it frees them a moment after the last reference.
func gone(t *testing.T, maps map[string]ebpf.MapID, programs map[string]ebpf.ProgramID) {
	t.Helper()
	for name, id := range maps {
		eventually(t, "map "+name, func(context.Context) error {
			m, err := ebpf.NewMapFromID(id)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return errors.Join(err, m.Close(), fmt.Errorf("map %d is still there", id))
		})
	}
	for name, id := range programs {
		eventually(t, "program "+name, func(context.Context) error {
			p, err := ebpf.NewProgramFromID(id)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return errors.Join(err, p.Close(), fmt.Errorf("program %d is still there", id))
		})
	}
}
