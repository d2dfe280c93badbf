package testenv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	podBridge = "cni0"
	vxlan     = "flannel.1"
	vxlanMTU  = 1450 // 1500 less the headers of VXLAN over IPv4
)

// Node is a host that forwards for its pods. What is attached to its cgroup sees its own processes and
// those of its pods.
type Node struct {
	*Host
	Pods     []*Pod
	PodCIDRs []netip.Prefix // IPv4 first
	BPFRoot  string         // a directory for pins, removed with the cluster

	cluster  *Cluster
	number   int // from 1
	podsMade int
}

func (c *Cluster) addNode(number int) error {
	letter := 'a' + rune(number-1)
	name := fmt.Sprintf("node-%c", letter)
	host, err := newHost(name, filepath.Join(c.cgroup, name),
		mustAddr("172.30.0.%d", 10+number), mustAddr("fd30::%d", 10+number))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	n := &Node{
		Host:    host,
		BPFRoot: filepath.Join(c.bpfRoot, name),
		PodCIDRs: []netip.Prefix{
			netip.PrefixFrom(mustAddr("10.244.%d.0", number), 24),
			netip.PrefixFrom(mustAddr("fd44:%d::", number), 64),
		},
		cluster: c,
		number:  number,
	}
	c.Nodes = append(c.Nodes, n)
	if err := n.build(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (n *Node) build() error {
	if err := os.Mkdir(n.BPFRoot, 0o700); err != nil {
		return fmt.Errorf("create BPF directory: %w", err)
	}
	for _, name := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := n.Sysctl(name, "1"); err != nil {
			return err
		}
	}
	if err := n.cluster.plug(n.Host); err != nil {
		return err
	}
	if n.cluster.options.PodNetwork == Bridged {
		if err := addBridge(n.Namespace, podBridge); err != nil {
			return err
		}
		if err := addAddrs(n.Namespace, podBridge, n.gateways()...); err != nil {
			return err
		}
	}
	if n.cluster.options.Overlay == VXLAN {
		return n.addVXLAN()
	}
	return nil
}

// gateways are the bridge's addresses: the first of each pod CIDR.
func (n *Node) gateways() []netip.Prefix {
	var gateways []netip.Prefix
	for _, cidr := range n.PodCIDRs {
		gateways = append(gateways, netip.PrefixFrom(cidr.Addr().Next(), cidr.Bits()))
	}
	return gateways
}

// reach adds the routes to another node's pods.
func (n *Node) reach(other *Node) error {
	for i, cidr := range other.PodCIDRs {
		var err error
		if n.cluster.options.Overlay == VXLAN {
			err = n.reachVXLAN(other, cidr)
		} else {
			err = n.AddRoute(cidr, other.Addrs()[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// addVXLAN makes the tunnel's link. Its addresses are the network addresses of the pod CIDRs, as flannel
// has it; unlike there one tunnel carries both families.
func (n *Node) addVXLAN() error {
	uplink, err := n.nl.LinkByName("eth0")
	if err != nil {
		return fmt.Errorf("link eth0: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = vxlan, vxlanMTU, n.vxlanMAC()
	link := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: 1, VtepDevIndex: uplink.Attrs().Index, SrcAddr: n.IPv4.AsSlice(), Port: 8472}
	if err := n.nl.LinkAdd(link); err != nil {
		return fmt.Errorf("add vxlan %s: %w", vxlan, err)
	}
	if err := n.up(vxlan); err != nil {
		return err
	}
	return addAddrs(n.Namespace, vxlan, hostRoute(n.PodCIDRs[0].Addr()), hostRoute(n.PodCIDRs[1].Addr()))
}

func (n *Node) vxlanMAC() net.HardwareAddr { return net.HardwareAddr{2, 0, 10, 244, byte(n.number), 0} }

func (n *Node) reachVXLAN(other *Node, cidr netip.Prefix) error {
	link, err := n.nl.LinkByName(vxlan)
	if err != nil {
		return fmt.Errorf("link %s: %w", vxlan, err)
	}
	entry := &netlink.Neigh{LinkIndex: link.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_SELF,
		State: netlink.NUD_PERMANENT, IP: other.IPv4.AsSlice(), HardwareAddr: other.vxlanMAC()}
	if err := n.nl.NeighSet(entry); err != nil {
		return fmt.Errorf("add forwarding entry for %s: %w", other.vxlanMAC(), err)
	}
	if err := addNeighbor(n.Namespace, vxlan, cidr.Addr(), other.vxlanMAC()); err != nil {
		return err
	}
	return addRoute(n.Namespace, vxlan, netlink.Route{Dst: ipNet(cidr), Gw: cidr.Addr().AsSlice(), Flags: onlink})
}

// AddPod makes another pod on the node.
func (n *Node) AddPod(ctx context.Context) (*Pod, error) {
	p, err := n.addPod()
	if err == nil {
		err = p.startHand(ctx)
	}
	if err != nil && p != nil {
		err = errors.Join(err, p.Close())
	}
	return p, err
}

func (n *Node) removePod(p *Pod) {
	n.Pods = slices.DeleteFunc(n.Pods, func(q *Pod) bool { return p == q })
}
