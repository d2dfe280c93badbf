package main

import (
	"github.com/svcproxy/svcproxy/pkg/endpoints"
	"github.com/svcproxy/svcproxy/pkg/metrics"
)

// portCounts counts ports of Services by policy (internal, external) and family (IPv4, IPv6).
type portCounts [2][2]int

var policies = [2]metrics.TrafficPolicy{metrics.InternalPolicy, metrics.ExternalPolicy}

// countNoLocal counts those ports of a Service whose clients are dropped because a policy wants an endpoint
// on this node, and there are only others.
func countNoLocal(ports []endpoints.Resolved) portCounts {
	var counts portCounts
	for i := range ports {
		dropped := [2]bool{} // the local pool of a family drops
		for _, pool := range ports[i].Pools {
			if pool.Name.Scope == endpoints.Local && pool.Verdict == endpoints.Drop {
				dropped[family(pool.Name.IPv6)] = true
			}
		}
		var counted [2][2]bool
		for _, f := range ports[i].Frontends {
			policy := 1
			if f.Kind == endpoints.ClusterIP {
				policy = 0
			}
			fam := family(f.Addr.Is6())
			if f.Outside == endpoints.Local && dropped[fam] && !counted[policy][fam] {
				counted[policy][fam] = true
				counts[policy][fam]++
			}
		}
	}
	return counts
}

// noLocalPorts is the sum over all Services.
type noLocalPorts struct {
	services map[endpoints.ObjectName]portCounts // without those of which there are none
	total    portCounts
}

func (n *noLocalPorts) set(name endpoints.ObjectName, counts portCounts) {
	before := n.services[name]
	for p := range counts {
		for f := range counts[p] {
			n.total[p][f] += counts[p][f] - before[p][f]
		}
	}
	if counts == (portCounts{}) {
		delete(n.services, name)
		return
	}
	if n.services == nil {
		n.services = make(map[endpoints.ObjectName]portCounts)
	}
	n.services[name] = counts
}

func (n *noLocalPorts) report(m *metrics.Metrics) {
	for p, policy := range policies {
		for f, fam := range families {
			m.NoLocalEndpoints(policy, fam, n.total[p][f])
		}
	}
}
