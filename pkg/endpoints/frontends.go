package endpoints

import (
	"cmp"
	"net/netip"
	"slices"
)

// frontends returns what a client can dial to reach p, with the pools that answer it (parity §0).
func frontends(svc *Service, fam *families, p *Port, view *View) []Frontend {
	n := len(fam) + len(svc.ExternalIPs) + len(svc.LoadBalancerIPs)
	if p.NodePort != 0 {
		n += len(view.NodePorts)
	}
	list := make([]Frontend, 0, n)

	// internalTrafficPolicy is about ClusterIPs only, externalTrafficPolicy about all else; the
	// latter with a short circuit: who is inside has every backend to choose from.
	internal := Frontend{Port: p.Port, Kind: ClusterIP, NoSocket: view.MasqueradeAll}
	if svc.InternalLocal {
		internal.Inside, internal.Outside = Local, Local
	}
	var external Frontend
	if svc.ExternalLocal {
		external.Outside = Local
	}

	// Where two have one address and port the first in this order has it: NodePorts come last (§0).
	for i := range fam {
		if fam[i].clusterIP.IsValid() {
			list = appendFrontend(list, fam, internal, fam[i].clusterIP)
		}
	}
	external.Kind, external.Port = ExternalIP, p.Port
	for _, addr := range svc.ExternalIPs {
		list = appendFrontend(list, fam, external, addr)
	}
	external.Kind = LoadBalancer
	for _, addr := range svc.LoadBalancerIPs {
		list = appendFrontend(list, fam, external, addr)
	}
	if p.NodePort != 0 {
		external.Kind, external.Port = NodePort, p.NodePort
		for _, addr := range view.NodePorts {
			list = appendFrontend(list, fam, external, addr)
		}
	}
	return settle(list)
}

// appendFrontend appends f at addr, unless nobody can dial that or the Service has no such family.
func appendFrontend(list []Frontend, fam *families, f Frontend, addr netip.Addr) []Frontend {
	addr, ok := dialable(addr)
	if !ok || !fam.has(addr) {
		return list
	}
	f.Addr = addr
	f.HostOnly = addr.IsLoopback()
	if f.Kind == LoadBalancer {
		f.SourceRanges = fam[family(addr)].ranges
		f.NoSocket = len(f.SourceRanges) > 0 // a socket's source is not known at connect (DESIGN D5)
	}
	return append(list, f)
}

// settle leaves the first frontend of each address and port, and sorts by kind, address, port.
func settle(list []Frontend) []Frontend {
	slices.SortStableFunc(list, compareDial)
	list = slices.CompactFunc(list, func(a, b Frontend) bool { return compareDial(a, b) == 0 })
	slices.SortFunc(list, func(a, b Frontend) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), compareDial(a, b))
	})
	return list
}

func compareDial(a, b Frontend) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port))
}
