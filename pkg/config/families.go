package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	utilnet "k8s.io/utils/net"
)

// CheckFamilies compares the configuration with what the Node object says of the families of the cluster, by
// kube-proxy's rules (parity 8). Addresses are those that [Config.NodeAddresses] returns: the first is of the
// primary family. DualStack: the kernel has both. The warnings are of what works, though hardly as it is meant;
// the error is of what kube-proxy does not start with.
func (c *Config) CheckFamilies(addresses []netip.Addr, podCIDRs []netip.Prefix, dualStack bool) (warnings []string, err error) {
	primary, other := "IPv4", "IPv6"
	wrong := netip.Addr.Is6
	if len(addresses) > 0 && addresses[0].Is6() || len(addresses) == 0 && c.bindAddress().Is6() && !c.bindAddress().IsUnspecified() {
		primary, other, wrong = other, primary, netip.Addr.Is4
	}
	if primary == "IPv6" && !dualStack {
		return nil, errors.New("the node's primary address is IPv6, and this kernel has none")
	}
	clusterCIDRs, _ := c.ClusterCIDRs() // checked before
	warnings = c.checkNodePorts(addresses, clusterCIDRs, podCIDRs, primary, other, wrong)

	cluster := primary + "-primary"
	if !dualStack {
		cluster = primary + "-only"
	}
	complain := func(fatal bool, format string, args ...any) {
		text := fmt.Sprintf("cluster is "+cluster+" but "+format, args...)
		if fatal {
			err = errors.Join(err, errors.New(text))
		} else {
			warnings = append(warnings, text)
		}
	}
	if allAre(clusterCIDRs, wrong) {
		complain(!dualStack, "clusterCIDR, --cluster-cidr contains only %s addresses", other)
	}
	if allAre(podCIDRs, wrong) {
		complain(c.Proxy.DetectLocalMode == ModeNodeCIDR, "node.spec.podCIDRs contains only %s addresses", other)
	}
	if !dualStack {
		for name, address := range map[string]string{
			"healthzBindAddress, --healthz-bind-address": c.Proxy.HealthzBindAddress,
			"metricsBindAddress, --metrics-bind-address": c.Proxy.MetricsBindAddress,
		} {
			if host, _, _ := net.SplitHostPort(address); host != "" {
				addr, _ := netip.AddrFromSlice(utilnet.ParseIPSloppy(host))
				if addr = addr.Unmap(); wrong(addr) && !addr.IsUnspecified() {
					complain(false, "%s is %s", name, other)
				}
			}
		}
	}
	slices.Sort(warnings)
	return warnings, err
}

// checkNodePorts warns of a family that nodePortAddresses leaves open to everybody.
func (c *Config) checkNodePorts(addresses []netip.Addr, clusterCIDRs, podCIDRs []netip.Prefix, primary, other string, wrong func(netip.Addr) bool) []string {
	const setting = "nodePortAddresses, --nodeport-addresses"
	var allowed []netip.Prefix
	for _, word := range c.Proxy.NodePortAddresses {
		switch word {
		case "all", "localhost": // says the same of both
			return nil
		case "primary":
			for _, addr := range addresses {
				allowed = append(allowed, netip.PrefixFrom(addr, addr.BitLen()))
			}
		default:
			prefix, _ := netip.ParsePrefix(word) // checked before
			allowed = append(allowed, prefix)
		}
	}
	switch {
	case len(allowed) == 0:
		return []string{setting + " is unset; NodePort connections will be accepted on all local IPs. Consider using `--nodeport-addresses primary`"}
	case allAre(allowed, wrong):
		return []string{fmt.Sprintf("cluster appears to be %s-primary but %s contains only %s addresses; NodePort connections will be accepted on all local %s IPs",
			primary, setting, other, primary)}
	case !slices.ContainsFunc(allowed, func(p netip.Prefix) bool { return wrong(p.Addr()) }) &&
		(bothFamilies(clusterCIDRs) || bothFamilies(podCIDRs)):
		return []string{fmt.Sprintf("cluster appears to be dual-stack but %s contains only %s addresses; NodePort connections will be accepted on all local %s IPs",
			setting, primary, other)}
	}
	return nil
}

// allAre reports whether there are prefixes, all of a family.
func allAre(list []netip.Prefix, family func(netip.Addr) bool) bool {
	return len(list) > 0 && !slices.ContainsFunc(list, func(p netip.Prefix) bool { return !family(p.Addr()) })
}

func bothFamilies(list []netip.Prefix) bool {
	return len(list) > 0 && !allAre(list, netip.Addr.Is4) && !allAre(list, netip.Addr.Is6)
}
