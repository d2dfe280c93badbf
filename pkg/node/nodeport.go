package node

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// NodePortPolicy says on which of the node's addresses NodePorts answer: kube-proxy's nodePortAddresses.
// The zero value is the empty list: on all of them.
type NodePortPolicy struct {
	all, primary, localhost bool
	prefixes                []netip.Prefix
}

var loopbacks = map[bool]struct { // by: is it IPv6
	addr, wildcard netip.Addr
	prefix         netip.Prefix
}{
	false: {netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv4Unspecified(), netip.MustParsePrefix("127.0.0.0/8")},
	true:  {netip.IPv6Loopback(), netip.IPv6Unspecified(), netip.MustParsePrefix("::1/128")},
}

// ParseNodePortPolicy accepts CIDRs, or the word primary, and the words of KEP-6032 beside either
// all is every local address, localhost is 127.0.0.1 and ::1. Errors name the entries.
func ParseNodePortPolicy(entries []string) (NodePortPolicy, error) {
	var p NodePortPolicy
	var errs []error
	for i, entry := range entries {
		switch entry {
		case "all":
			p.all = true
			continue
		case "primary":
			p.primary = true
			continue
		case "localhost":
			p.localhost = true
			continue
		}
		prefix, err := netip.ParsePrefix(entry)
		if err != nil || prefix.Addr().Is4In6() {
			errs = append(errs, fmt.Errorf("nodePortAddresses[%d]: %q is no CIDR and none of primary, all, localhost", i, entry))
			continue
		}
		p.prefixes = append(p.prefixes, prefix.Masked())
	}
	if p.primary && len(p.prefixes) > 0 {
		i := slices.Index(entries, "primary")
		errs = append(errs, fmt.Errorf("nodePortAddresses[%d]: can't use both 'primary' and CIDRs", i))
	}
	if len(errs) > 0 {
		return NodePortPolicy{}, errors.Join(errs...)
	}
	return p, nil
}

// Addresses returns the addresses that NodePorts answer on, sorted, out of local (State.Addresses).
// NodeIPs are the node's, for the word primary. Localhost is kube-proxy's
// iptables.localhostNodePorts: 127.0.0.1 and ::1 too, where the policy covers them (R-5.8; the IPv6 one
// kube-proxy has not, R-5.9); the word localhost in the policy does not need it.
func (p NodePortPolicy) Addresses(local, nodeIPs []netip.Addr, localhost bool) []netip.Addr {
	var addrs []netip.Addr
	for _, ipv6 := range []bool{false, true} {
		allowed := p.family(ipv6, nodeIPs)
		for _, addr := range local {
			if addr.Is6() == ipv6 && !addr.IsLoopback() && contains(allowed, addr) {
				addrs = append(addrs, addr)
			}
		}
		if loopback := loopbacks[ipv6].addr; p.localhost || localhost && contains(allowed, loopback) {
			addrs = append(addrs, loopback)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// ListenAddresses returns what health check NodePorts listen on: the wildcard of a family where the policy
// allows all of it, else the allowed addresses.
func (p NodePortPolicy) ListenAddresses(local, nodeIPs []netip.Addr) []netip.Addr {
	var addrs []netip.Addr
	listed := p.Addresses(local, nodeIPs, true)
	for _, ipv6 := range []bool{false, true} {
		if slices.ContainsFunc(p.family(ipv6, nodeIPs), matchesAll) {
			addrs = append(addrs, loopbacks[ipv6].wildcard)
			continue
		}
		for _, addr := range listed {
			if addr.Is6() == ipv6 {
				addrs = append(addrs, addr)
			}
		}
	}
	return addrs
}

// family returns the allowed prefixes of one family. A family that nothing was said about is open,
// even under primary if the node has no address in it.
func (p NodePortPolicy) family(ipv6 bool, nodeIPs []netip.Addr) []netip.Prefix {
	everything := netip.PrefixFrom(loopbacks[ipv6].wildcard, 0)
	if p.all {
		return []netip.Prefix{everything}
	}
	var allowed []netip.Prefix
	for _, prefix := range p.prefixes {
		if prefix.Addr().Is6() == ipv6 {
			allowed = append(allowed, prefix)
		}
	}
	for _, ip := range nodeIPs {
		if p.primary && ip.Is6() == ipv6 && !ip.IsLoopback() {
			allowed = append(allowed, netip.PrefixFrom(ip, ip.BitLen()))
		}
	}
	if p.localhost {
		allowed = append(allowed, loopbacks[ipv6].prefix)
	}
	if len(allowed) == 0 || slices.ContainsFunc(allowed, matchesAll) {
		return []netip.Prefix{everything}
	}
	return allowed
}

func matchesAll(p netip.Prefix) bool { return p.Bits() == 0 }

func contains(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
