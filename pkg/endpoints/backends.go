package endpoints

import (
	"cmp"
	"net/netip"
	"slices"
)

// A candidate is a backend and the endpoint it comes from.
type candidate struct {
	Backend
	endpoint *Endpoint
}

// gather appends the known backends of a Service port to list: sorted by address and port, so IPv4
// before IPv6, each once. An endpoint neither ready nor serving is not known.
func gather(list []candidate, port *PortName, fam *families, all []*Slice, view *View) []candidate {
	for _, s := range all {
		if s.Service != port.ObjectName {
			continue
		}
		for i := range s.Ports {
			p := &s.Ports[i]
			if p.Name == port.Port && p.Protocol == port.Protocol && p.Port != 0 {
				list = appendEndpoints(list, s, p.Port, fam, view)
			}
		}
	}
	slices.SortFunc(list, candidate.compare)
	list = slices.CompactFunc(list, func(a, b candidate) bool { return a.Addr == b.Addr })
	return slices.DeleteFunc(list, func(c candidate) bool { return !c.Ready && !c.Serving })
}

func appendEndpoints(list []candidate, s *Slice, port uint16, fam *families, view *View) []candidate {
	list = slices.Grow(list, len(s.Endpoints))
	for i := range s.Endpoints {
		e := &s.Endpoints[i]
		addr, ok := routable(e.Addr)
		if !ok || addr.Is6() != s.IPv6 || !fam.has(addr) {
			continue
		}
		list = append(list, candidate{
			Backend: Backend{
				Addr:        netip.AddrPortFrom(addr, port),
				Local:       e.Node != "" && e.Node == view.Node,
				Ready:       e.Ready,
				Serving:     e.Serving,
				Terminating: e.Terminating,
			},
			endpoint: e,
		})
	}
	return list
}

// compare orders by address and port; among those of one address and port the one to believe is first.
// A pod that runs beats one that terminates and still owns the reused address. For the rest
// kube-proxy's choice depends on the order of a map; ours on what the endpoints say.
func (c candidate) compare(d candidate) int {
	if order := c.Addr.Compare(d.Addr); order != 0 {
		return order
	}
	return cmp.Or(
		trueFirst(!c.Terminating, !d.Terminating),
		trueFirst(c.Ready, d.Ready),
		trueFirst(c.Serving, d.Serving),
		trueFirst(c.Local, d.Local),
		slices.Compare(c.endpoint.Nodes, d.endpoint.Nodes),
		slices.Compare(c.endpoint.Zones, d.endpoint.Zones),
	)
}

func trueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func backends(list []candidate) []Backend {
	if len(list) == 0 {
		return nil
	}
	out := make([]Backend, len(list))
	for i := range list {
		out[i] = list[i].Backend
	}
	return out
}
