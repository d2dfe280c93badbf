package endpoints

import "net/netip"

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// dialable returns addr, IPv4 never as mapped IPv6, and whether a frontend can have it. A zone
// belongs to one link, which tables that know no links cannot express.
func dialable(addr netip.Addr) (netip.Addr, bool) {
	if !addr.IsValid() || addr.Zone() != "" {
		return netip.Addr{}, false
	}
	addr = addr.Unmap()
	return addr, !addr.IsUnspecified() && !addr.IsMulticast() && addr != broadcast
}

// routable returns addr, IPv4 never as mapped IPv6, and whether a backend can have it: as for the API
// server, loopback and link-local addresses are not backends but a way into the hosts of others.
func routable(addr netip.Addr) (netip.Addr, bool) {
	addr, ok := dialable(addr)
	return addr, ok && !addr.IsLoopback() && !addr.IsLinkLocalUnicast()
}

// unmapPrefix returns p with its host bits cleared and a range of mapped IPv4 as one of IPv4.
func unmapPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}
