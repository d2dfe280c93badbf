package test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// secondWire connects a node and a client with links called eth1, and returns the node's address on it. The
// node has a route through it, so it is an uplink.
func secondWire(t *testing.T, node *testenv.Node, client *testenv.Client) netip.Addr {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth1"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth1", PeerNamespace: netlink.NsPid(client.HandPID())}
	if err := node.Netlink().LinkAdd(veth); err != nil {
		t.Fatalf("add veth: %v", err)
	}
	ours := netip.MustParsePrefix("172.31.0.11/24")
	setUp(t, client.Namespace, "eth1", netip.MustParsePrefix("172.31.0.201/24"))
	setUp(t, node.Namespace, "eth1", ours)
	if err := node.AddRoute(netip.MustParsePrefix("192.0.2.0/24"), netip.MustParseAddr("172.31.0.201")); err != nil {
		t.Fatalf("add route: %v", err)
	}
	return ours.Addr()
}

func setUp(t *testing.T, n *testenv.Namespace, name string, addr netip.Prefix) {
	t.Helper()
	l := linkOf(t, n, name)
	if err := n.Netlink().LinkSetUp(l); err != nil {
		t.Fatalf("set up %s: %v", name, err)
	}
	if err := n.Netlink().AddrAdd(l, address(addr)); err != nil {
		t.Fatalf("add %s to %s: %v", addr, name, err)
	}
}

func linkOf(t *testing.T, n *testenv.Namespace, name string) netlink.Link {
	t.Helper()
	l, err := n.Netlink().LinkByName(name)
	if err != nil {
		t.Fatalf("link %s: %v", name, err)
	}
	return l
}

func address(p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{Flags: unix.IFA_F_NODAD,
		IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
}

// An uplink appears, vanishes and comes back while the agent runs; the other goes on.
func TestUplinkComesAndGoes(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node, client := c.Nodes[0], c.Clients[0]
	both := []string{c.Nodes[0].Pods[0].Name, c.Nodes[1].Pods[0].Name}
	startAgent(t, node, "--manifests", dir)
	var l loads
	l.startAll(t, client.Host, nodeAddrs(node, 30080)...)
	for range 3 {
		addr := addrPort(secondWire(t, node, client), 30080)
		answered(t, client, "tcp", addr, both...)
		answered(t, client, "udp", addr, both...)
		if err := node.Netlink().LinkDel(linkOf(t, node.Namespace, "eth1")); err != nil {
			t.Fatal(err)
		}
		eventually(t, "uplinks", func(context.Context) error {
			if list := attachedLinks(t, node); len(list) != 1 || list[0] != "eth0" {
				return fmt.Errorf("programs sit on %v", list)
			}
			return nil
		})
	}
	l.each(t, 3)
	l.stop(t)
}

// attachedLinks names the links that the programs sit on.
func attachedLinks(t *testing.T, n *testenv.Node) (names []string) {
	t.Helper()
	status := commandJSON[struct {
		Uplinks []struct{ Name string }
	}](t, n, "status")
	for _, l := range status.Uplinks {
		names = append(names, l.Name)
	}
	return names
}

// NodePorts answer on an address of the node as soon as it has it, and no longer than that.
func TestNodeAddressComesAndGoes(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node, client := c.Nodes[0], c.Clients[0]
	both := []string{c.Nodes[0].Pods[0].Name, c.Nodes[1].Pods[0].Name}
	startAgent(t, node, "--manifests", dir)
	eth0 := linkOf(t, node.Namespace, "eth0")
	for _, prefix := range []string{"172.30.0.99/24", "fd30::99/64"} {
		addr := netip.MustParsePrefix(prefix)
		// The client goes on sending to the node although that says no longer that the address is its.
		neighbour := &netlink.Neigh{LinkIndex: linkOf(t, client.Namespace, "eth0").Attrs().Index, State: netlink.NUD_PERMANENT,
			IP: addr.Addr().AsSlice(), HardwareAddr: eth0.Attrs().HardwareAddr}
		if err := client.Netlink().NeighSet(neighbour); err != nil {
			t.Fatal(err)
		}
		dialled := addrPort(addr.Addr(), 30080)
		for range 2 {
			if err := node.Netlink().AddrAdd(eth0, address(addr)); err != nil {
				t.Fatal(err)
			}
			answered(t, client, "tcp", dialled, both...)
			answered(t, node.Pods[1], "udp", dialled, both...)
			if err := node.Netlink().AddrDel(eth0, address(addr)); err != nil {
				t.Fatal(err)
			}
			failing(t, client, dialled, "is served no longer", func(err error) bool { return err != nil })
		}
	}
}
