package endpoints

import "net/netip"

// families is what a Service has in each address family; index 1 is IPv6.
type families [2]struct {
	clusterIP netip.Addr     // the zero Addr: the Service does not exist in this family
	ranges    []netip.Prefix // of clients that its load balancer addresses admit; none: all
}

func family(addr netip.Addr) int {
	if addr.Is6() {
		return 1
	}
	return 0
}

func familiesOf(svc *Service, view *View) families {
	var fam families
	for _, addr := range svc.ClusterIPs {
		if addr, ok := dialable(addr); ok && !fam.has(addr) {
			fam[family(addr)].clusterIP = addr
		}
	}
	for i := range fam {
		if fam[i].clusterIP.IsValid() {
			fam[i].ranges = sourceRanges(svc, i, view)
		}
	}
	return fam
}

func (f *families) exist() bool {
	return f[0].clusterIP.IsValid() || f[1].clusterIP.IsValid()
}

// has reports whether the Service exists in the family of addr.
func (f *families) has(addr netip.Addr) bool {
	return f[family(addr)].clusterIP.IsValid()
}
