package watch

import (
	"errors"
	"fmt"
	"net/netip"

	utilnet "k8s.io/utils/net"
)

// parseAddr reads an address as kube-proxy does: leading zeros are decimal, and IPv4 is never a mapped
// IPv6.
func parseAddr(text string) (netip.Addr, error) {
	addr, ok := netip.AddrFromSlice(utilnet.ParseIPSloppy(text))
	if !ok {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", text)
	}
	return addr.Unmap(), nil
}

// parsePrefix reads a CIDR as kube-proxy does; host bits are cleared.
func parsePrefix(text string) (netip.Prefix, error) {
	_, ipnet, err := utilnet.ParseCIDRSloppy(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR", text)
	}
	addr, _ := netip.AddrFromSlice(ipnet.IP)
	bits, _ := ipnet.Mask.Size()
	if addr.Is4In6() { // has at least 96 bits, or the mask would have cleared the mapping
		addr, bits = addr.Unmap(), bits-96
	}
	return netip.PrefixFrom(addr, bits), nil
}

var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// checkFrontend refuses addresses that nobody can dial as one host's.
func checkFrontend(addr netip.Addr) error {
	switch {
	case addr.IsUnspecified():
		return errors.New("is the unspecified address")
	case addr.IsMulticast():
		return errors.New("is a multicast address")
	case addr == broadcast:
		return errors.New("is the broadcast address")
	}
	return nil
}

// checkHost is checkFrontend, and refuses addresses that mean another host on each host. The API server
// admits none of these as external IP or endpoint: they would lead into the hosts of others.
func checkHost(addr netip.Addr) error {
	switch {
	case addr.IsLoopback():
		return errors.New("is a loopback address")
	case addr.IsLinkLocalUnicast():
		return errors.New("is a link-local address")
	}
	return checkFrontend(addr)
}
