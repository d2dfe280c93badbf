// Package watch brings what the cluster wants to the agent: it watches an API server, or a folder of
// manifests, converts what it finds into the model's types and says which Services have changed. It
// decides nothing: which endpoint answers whom is pkg/endpoints' business.
package watch

import (
	"net/netip"
	"time"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// Change is the complete new state of one Service. The values it points to are immutable and shared.
type Change struct {
	Name    endpoints.ObjectName
	Service *endpoints.Service // nil: gone, or not ours to serve
	Slices  []*endpoints.Slice // by name; may outlive the Service
	// Decoded is when the first event of the change was; zero: it came with a list.
	Decoded time.Time
	// Triggers are the causes of each changed slice, for the latency of programming.
	Triggers []Trigger
}

// Trigger is the time at which the cause of a change of a slice happened.
type Trigger struct {
	Time time.Time
	IPv6 bool // the slice's family
}

// Node is what we need of our own Node object. Immutable once delivered.
type Node struct {
	Name      string
	Zone      string         // label topology.kubernetes.io/zone
	Addresses []netip.Addr   // InternalIPs, then ExternalIPs
	PodCIDRs  []netip.Prefix // of both families
	// Deleting: the node is about to go, so load balancers should send no more here. The Node
	// object has a deletion timestamp or the autoscaler's taint, or it has gone.
	Deleting bool
}

// Update is everything that has changed since the one before.
type Update struct {
	Changes []Change // sorted by name, one a Service
	Node    *Node    // nil: unchanged
	// ServiceCIDRs are the prefixes that ClusterIPs are taken from, sorted, each once. nil: unchanged,
	// which at the beginning is unknown; empty, not nil: there are none.
	ServiceCIDRs []netip.Prefix
}
