package endpoints

import "net/netip"

// sourceRanges returns the ranges of one family (1: IPv6) that the load balancer addresses of svc are
// restricted to; none: everybody is admitted.
func sourceRanges(svc *Service, fam int, view *View) []netip.Prefix {
	var ranges []netip.Prefix
	node := false // whether this node's primary address is admitted
	for _, p := range svc.SourceRanges {
		p = unmapPrefix(p)
		if !p.IsValid() || family(p.Addr()) != fam {
			continue
		}
		if p.Bits() == 0 {
			return nil
		}
		ranges = append(ranges, p)
		for _, addr := range view.Primary {
			node = node || p.Contains(addr.Unmap())
		}
	}
	if !node {
		return ranges
	}
	for _, addr := range svc.LoadBalancerIPs {
		if addr, ok := dialable(addr); ok && family(addr) == fam {
			ranges = append(ranges, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	return ranges
}
