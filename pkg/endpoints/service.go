// Package endpoints is the model: who may answer each frontend of a Service, seen from this node. It is
// pure (values in, values out; no clocks, no I/O, no Kubernetes types), and the oracle that the kernel
// programs are tested against. The rules are kube-proxy's; R-n.m in comments names them.
package endpoints

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Protocol is an IP protocol number (IANA).
type Protocol uint8

// The protocols a Service port can have.
const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	case SCTP:
		return "sctp"
	}
	return fmt.Sprintf("protocol-%d", uint8(p))
}

// ObjectName names a namespaced object.
type ObjectName struct{ Namespace, Name string }

func (n ObjectName) String() string { return n.Namespace + "/" + n.Name }

// Compare orders names by namespace, then name.
func (n ObjectName) Compare(m ObjectName) int {
	if c := strings.Compare(n.Namespace, m.Namespace); c != 0 {
		return c
	}
	return strings.Compare(n.Name, m.Name)
}

// PortName names one port of a Service: kube-proxy's ServicePortName. Port is the port's name, often empty.
type PortName struct {
	ObjectName
	Port     string
	Protocol Protocol
}

func (p PortName) String() string {
	return p.Namespace + "/" + p.Name + ":" + p.Port + "/" + p.Protocol.String()
}

// Service is what the model needs of a Service object. Immutable once made.
type Service struct {
	Name    ObjectName
	Created time.Time // of two Services that claim one frontend the older has it
	Ports   []Port

	ClusterIPs      []netip.Addr // at most one a family; a family without one does not exist for the Service
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr // those to be programmed: ipMode VIP
	SourceRanges    []netip.Prefix

	InternalLocal bool // internalTrafficPolicy: Local
	// ExternalLocal is externalTrafficPolicy: Local on a Service whose type lets it count.
	ExternalLocal       bool
	Affinity            time.Duration // session affinity by client address; 0: none
	HealthCheckNodePort uint16        // 0: none
	Balancing           Balancing     // Default: the view's
}

// Balancing is how a new connection finds its backend among those that may answer it.
type Balancing uint8

const (
	Default Balancing = iota
	// Random: each connection anew.
	Random
	// Maglev: packets of one client address and port reach the same backend whatever node they come by, and most
	// still do when backends come and go (Eisenbud et al., NSDI 2016). Sockets of this node choose at random.
	Maglev
)

// ParseBalancing is the inverse of String for the two that can be chosen.
func ParseBalancing(text string) (Balancing, error) {
	switch text {
	case "random":
		return Random, nil
	case "maglev":
		return Maglev, nil
	}
	return Default, fmt.Errorf("%q is neither random nor maglev", text)
}

func (b Balancing) String() string { return [...]string{"default", "random", "maglev"}[b] }

// Port is one port of a Service.
type Port struct {
	Name     string
	Protocol Protocol
	Port     uint16
	NodePort uint16 // 0: none
}

// Slice is what the model needs of an EndpointSlice. Immutable once made.
type Slice struct {
	Name      ObjectName
	Service   ObjectName // from the label kubernetes.io/service-name
	IPv6      bool       // addressType
	Ports     []SlicePort
	Endpoints []Endpoint
}

// SlicePort is one port of a slice: the port that its endpoints listen on for a Service port of that
// name and protocol. Slices of one Service may differ.
type SlicePort struct {
	Name     string
	Protocol Protocol
	Port     uint16
}

// Endpoint is one endpoint of a slice; nil conditions have been replaced by their defaults.
type Endpoint struct {
	Addr        netip.Addr
	Node        string // "": unknown, so not on this node
	Ready       bool
	Serving     bool
	Terminating bool
	Zones       []string // hints.forZones
	Nodes       []string // hints.forNodes
}

// View is the node that the model looks from.
type View struct {
	Node string // "" if unknown: nothing is local then
	Zone string // label topology.kubernetes.io/zone
	// Primary is the node's primary address of each family. A range that admits it admits the load
	// balancer addresses too: a node that has one on a local link dials it from itself.
	Primary []netip.Addr
	// NodePorts are the addresses on which NodePorts answer, loopback ones included where wanted; those
	// serve only processes on the host network.
	NodePorts []netip.Addr
	// MasqueradeAll: who dials a ClusterIP is SNATed, which only the packet path can do for pods.
	MasqueradeAll bool
	// Balancing is that of Services which say nothing; Default is Random.
	Balancing Balancing
}

// Equal reports whether v and w see the same.
func (v *View) Equal(w *View) bool {
	return v.Node == w.Node && v.Zone == w.Zone && v.MasqueradeAll == w.MasqueradeAll && v.Balancing == w.Balancing &&
		slices.Equal(v.NodePorts, w.NodePorts) && slices.Equal(v.Primary, w.Primary)
}

// Scope is one of the two sets of backends that a policy chooses from.
type Scope uint8

const (
	// Cluster is every usable endpoint, narrowed by topology hints.
	Cluster Scope = iota
	// Local is the usable endpoints on this node.
	Local
)

func (s Scope) String() string {
	if s == Local {
		return "local"
	}
	return "cluster"
}

// Verdict is what happens to a new connection to a frontend.
type Verdict uint8

const (
	// Serve: one of the pool's backends answers.
	Serve Verdict = iota
	// Reject: the client is told at once that nobody answers.
	Reject
	// Drop: silence; there are backends, but the policy wants one on this node.
	Drop
)

func (v Verdict) String() string { return [...]string{"serve", "reject", "drop"}[v] }

// Kind says which field of a Service a frontend comes from.
type Kind uint8

const (
	ClusterIP Kind = iota
	NodePort
	ExternalIP
	LoadBalancer
)

func (k Kind) String() string {
	return [...]string{"ClusterIP", "NodePort", "ExternalIP", "LoadBalancer"}[k]
}

// PoolName identifies a pool of a Service port for as long as the port exists.
type PoolName struct {
	IPv6  bool
	Scope Scope
}

// Pool is a set of backends that frontends name. Backends index [Resolved.Backends], ascending; there
// are some exactly when the verdict is Serve.
type Pool struct {
	Name     PoolName
	Verdict  Verdict
	Backends []int
}

// Frontend is what a client dials, and the pools that answer it (DESIGN D4).
type Frontend struct {
	Addr netip.Addr
	Port uint16
	Kind Kind
	// Inside answers host processes of this node, and pods where a local detector is configured;
	// Outside answers everybody else.
	Inside, Outside Scope
	// HostOnly: a loopback address, usually a NodePort's: in any network namespace but the host's it
	// means that namespace.
	HostOnly bool
	// NoSocket: the socket hooks must leave it to the packet path; where that is to masquerade, they keep the
	// node's own connections, which have the node's address.
	NoSocket bool
	// SourceRanges of clients that may use it; none: everybody may. Of the frontend's family,
	// shared between frontends: not to be written.
	SourceRanges []netip.Prefix
}

// Backend is an endpoint with its port. Known backends that no pool holds (for example serving ones
// that terminate while ready ones exist) keep their flows.
type Backend struct {
	Addr        netip.AddrPort
	Local       bool
	Ready       bool
	Serving     bool
	Terminating bool
}

// Resolved is the model's answer for one port of a Service, both families together.
type Resolved struct {
	Port      PortName
	Created   time.Time     // of the Service
	Affinity  time.Duration // 0: none
	Maglev    bool          // otherwise Random
	Frontends []Frontend    // sorted by kind, address, port; no two with one address and port
	Pools     []Pool        // sorted by family, scope; only those that a frontend names
	Backends  []Backend     // sorted by address, port; no two with one address and port
}
