// Package testenv makes little Kubernetes-like clusters out of network namespaces: nodes, pods and outside
// clients on one wire, each with its own addresses, its own cgroup, and a process that does there what a
// test wants done. With it the project is tested, and `svcproxy demo` makes its cluster.
//
//	fabric: a bridge, 172.30.0.0/24 and fd30::/64
//	├── node-a  .11  ── pod-a1 10.244.1.11, pod-a2 …        pods: 10.244.<node>.0/24, fd44:<node>::/64
//	├── node-b  .12  ── pod-b1 10.244.2.11, pod-b2 …
//	└── client-1 .201                                       knows the wire only
//
// Nothing leaves the machine: no namespace has a link to another than these. Pods send everything to
// their node; nodes know each other's pods; nobody has a route to anything else (see [Host.AddRoute]).
//
// [Main] must be called first in main or TestMain. It needs root; [New] says what is missing otherwise.
package testenv

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
)

// PodNetwork is how pods hang on their node.
type PodNetwork int

const (
	// Routed: a veth pair and a host route for each pod, as Calico, kindnet and AWS VPC CNI do.
	Routed PodNetwork = iota
	// Bridged: veth pairs into the bridge cni0, as flannel does.
	Bridged
)

func (p PodNetwork) String() string { return [...]string{"routed", "bridged"}[p] }

// Overlay is how pods of one node reach those of another.
type Overlay int

const (
	// Direct: a route through the other node's address.
	Direct Overlay = iota
	// VXLAN: the link flannel.1 on each node, with flannel's static neighbours.
	VXLAN
)

func (o Overlay) String() string { return [...]string{"direct", "vxlan"}[o] }

// Options are the shape of a cluster.
type Options struct {
	Nodes       int // at most 26
	PodsPerNode int // at the start; [Node.AddPod] makes more
	Clients     int // at most 50
	PodNetwork  PodNetwork
	Overlay     Overlay
}

// Cluster is nodes, pods and outside clients on one wire. [Node.AddPod] and [Pod.Close] may change it, by
// one goroutine at a time.
type Cluster struct {
	Nodes   []*Node
	Clients []*Client

	options Options
	fabric  *Namespace
	cgroup  string
	bpfRoot string
}

// Client is a host outside of the cluster: it can reach nodes, and knows nothing of pods or Services.
type Client struct{ *Host }

const wire = "wire" // the fabric's bridge

// New makes a cluster, after removing what clusters of dead processes left on the machine.
// The caller must close it.
func New(ctx context.Context, o Options) (*Cluster, error) {
	if o.Nodes > 26 || o.Clients > 50 {
		return nil, fmt.Errorf("%d nodes and %d clients are more than a cluster can have", o.Nodes, o.Clients)
	}
	cgroupRoot, err := checkMachine()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{cgroupRoot, bpffs} {
		if err := Sweep(dir); err != nil {
			return nil, fmt.Errorf("sweep %s: %w", dir, err)
		}
	}
	name := newName()
	c := &Cluster{options: o, cgroup: filepath.Join(cgroupRoot, name), bpfRoot: filepath.Join(bpffs, name)}
	if err := c.build(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) build(ctx context.Context) error {
	if err := os.Mkdir(c.cgroup, 0o755); err != nil {
		return fmt.Errorf("create cgroup: %w", err)
	}
	if err := os.Mkdir(c.bpfRoot, 0o700); err != nil {
		return fmt.Errorf("create BPF directory: %w", err)
	}
	if err := c.makeFabric(); err != nil {
		return fmt.Errorf("fabric: %w", err)
	}
	for i := range c.options.Nodes {
		if err := c.addNode(i + 1); err != nil {
			return err
		}
	}
	for i := range c.options.Clients {
		if err := c.addClient(i + 1); err != nil {
			return err
		}
	}
	for _, n := range c.Nodes {
		for range c.options.PodsPerNode {
			if _, err := n.addPod(); err != nil {
				return err
			}
		}
		for _, other := range c.Nodes {
			if other != n {
				if err := n.reach(other); err != nil {
					return fmt.Errorf("%s: reach %s: %w", n.Name, other.Name, err)
				}
			}
		}
	}
	// Hands are most of the time it takes; they start side by side.
	hosts := c.Hosts()
	errs := make([]error, len(hosts))
	var starting sync.WaitGroup
	for i, h := range hosts {
		starting.Go(func() { errs[i] = h.startHand(ctx) })
	}
	starting.Wait()
	return errors.Join(errs...)
}

// Close ends every process on the cluster's hosts and removes all that [New] and the tests made.
func (c *Cluster) Close() error {
	var errs []error
	for _, client := range c.Clients {
		errs = append(errs, client.close())
	}
	for _, n := range c.Nodes {
		for _, p := range n.Pods {
			errs = append(errs, p.close())
		}
		errs = append(errs, n.close())
	}
	if c.fabric != nil {
		errs = append(errs, c.fabric.Close())
	}
	return errors.Join(append(errs, removeCgroup(c.cgroup), os.RemoveAll(c.bpfRoot))...)
}

// Hosts lists nodes, pods and clients.
func (c *Cluster) Hosts() []*Host {
	var hosts []*Host
	for _, n := range c.Nodes {
		hosts = append(hosts, n.Host)
		for _, p := range n.Pods {
			hosts = append(hosts, p.Host)
		}
	}
	for _, client := range c.Clients {
		hosts = append(hosts, client.Host)
	}
	return hosts
}

func (c *Cluster) makeFabric() error {
	var err error
	if c.fabric, err = NewNamespace(); err != nil {
		return err
	}
	// A wire: no address of its own, and no firewall.
	if err := c.fabric.Sysctl("net.ipv6.conf.default.disable_ipv6", "1"); err != nil {
		return err
	}
	for _, family := range []string{"ip", "ip6"} {
		err := c.fabric.Sysctl("net.bridge.bridge-nf-call-"+family+"tables", "0")
		if err != nil && !errors.Is(err, os.ErrNotExist) { // without br_netfilter there is none
			return err
		}
	}
	return addBridge(c.fabric, wire)
}

// plug connects a host to the wire with its eth0.
func (c *Cluster) plug(h *Host) error {
	if err := addVeth(h.Namespace, "eth0", c.fabric, h.Name, 0); err != nil {
		return err
	}
	if err := enslave(c.fabric, h.Name, wire); err != nil {
		return err
	}
	return addAddrs(h.Namespace, "eth0", netip.PrefixFrom(h.IPv4, 24), netip.PrefixFrom(h.IPv6, 64))
}

func (c *Cluster) addClient(number int) error {
	name := fmt.Sprintf("client-%d", number)
	host, err := newHost(name, filepath.Join(c.cgroup, name),
		mustAddr("172.30.0.%d", 200+number), mustAddr("fd30::%d", 200+number))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	c.Clients = append(c.Clients, &Client{Host: host})
	if err := c.plug(host); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// AddRoute gives the host a route to prefix through via, as a router on the way would be configured.
func (h *Host) AddRoute(prefix netip.Prefix, via netip.Addr) error {
	return addRoute(h.Namespace, "", netlink.Route{Dst: ipNet(prefix), Gw: via.AsSlice()})
}

// mustAddr returns an address of the cluster's plan.
func mustAddr(format string, args ...any) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf(format, args...))
}
