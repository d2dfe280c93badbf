package config

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The cases of kube-proxy's Test_checkBadConfig and Test_checkBadIPConfig that are about what is here, by the
// beginnings of what is said.
func TestCheckFamilies(t *testing.T) {
	const (
		v4, v6, dual = "192.168.0.1", "fd00::1", "192.168.0.1,fd00::1"
		ok           = "--nodeport-addresses=all"
	)
	for _, tc := range []struct {
		name, addresses, podCIDRs, flags string
		single, double                   []string // without and with IPv6 or IPv4 in the kernel; an error begins with !
	}{
		{"nothing set", v4, "", "", []string{"nodePortAddresses, --nodeport-addresses is unset"}, []string{"nodePortAddresses, --nodeport-addresses is unset"}},
		{"primary", v4, "", "--nodeport-addresses=primary", nil, nil},
		{"primary of no addresses", "", "", "--nodeport-addresses=primary", []string{"nodePortAddresses, --nodeport-addresses is unset"}, []string{"nodePortAddresses, --nodeport-addresses is unset"}},
		{"single-stack NodePortAddresses with single-stack config", v4, "", "--cluster-cidr=10.0.0.0/8 --nodeport-addresses=192.168.0.0/24", nil, nil},
		{"dual-stack NodePortAddresses with dual-stack config", v4, "", "--cluster-cidr=10.0.0.0/8,fd09::/64 --nodeport-addresses=192.168.0.0/24,fd03::/64", nil, nil},
		{"single-stack NodePortAddresses with dual-stack config", v4, "", "--cluster-cidr=10.0.0.0/8,fd09::/64 --nodeport-addresses=192.168.0.0/24",
			[]string{"cluster appears to be dual-stack"}, []string{"cluster appears to be dual-stack"}},
		{"single-stack NodePortAddresses with dual-stack podCIDRs", v4, "10.0.0.0/8,fd09::/64", "--nodeport-addresses=192.168.0.0/24",
			[]string{"cluster appears to be dual-stack"}, []string{"cluster appears to be dual-stack"}},
		{"primary of one family with dual-stack config", v4, "", "--cluster-cidr=10.0.0.0/8,fd09::/64 --nodeport-addresses=primary",
			[]string{"cluster appears to be dual-stack"}, []string{"cluster appears to be dual-stack"}},
		{"primary of both", dual, "", "--cluster-cidr=10.0.0.0/8,fd09::/64 --nodeport-addresses=primary", nil, nil},
		{"wrong-single-stack NodePortAddresses", v6, "", "--cluster-cidr=fd09::/64 --nodeport-addresses=192.168.0.0/24",
			[]string{"!the node's primary address is IPv6"}, []string{"cluster appears to be IPv6-primary"}},
		{"ok single-stack clusterCIDR", v4, "", ok + " --cluster-cidr=10.0.0.0/8", nil, nil},
		{"ok reversed dual-stack clusterCIDR", v4, "", ok + " --cluster-cidr=fd01::/64,10.0.0.0/8", nil, nil},
		{"wrong-family clusterCIDR", v4, "", ok + " --cluster-cidr=fd01::/64", []string{"!cluster is IPv4-only but clusterCIDR"}, []string{"cluster is IPv4-primary but clusterCIDR"}},
		{"wrong-family clusterCIDR in another mode", v4, "", ok + " --cluster-cidr=fd01::/64 --detect-local-mode=NodeCIDR", nil, nil},
		{"ok podCIDRs", v4, "10.0.0.0/8", ok + " --detect-local-mode=NodeCIDR", nil, nil},
		{"ok reversed dual-stack podCIDRs", v4, "fd01::/64,10.0.0.0/8", ok + " --detect-local-mode=NodeCIDR", nil, nil},
		{"wrong-family podCIDRs", v4, "fd01::/64", ok + " --detect-local-mode=NodeCIDR",
			[]string{"!cluster is IPv4-only but node.spec.podCIDRs"}, []string{"!cluster is IPv4-primary but node.spec.podCIDRs"}},
		{"wrong-family podCIDRs in another mode", v4, "fd01::/64", ok,
			[]string{"cluster is IPv4-only but node.spec.podCIDRs"}, []string{"cluster is IPv4-primary but node.spec.podCIDRs"}},
		{"IPv6 metrics address", v4, "", ok + " --metrics-bind-address=[fd01::1]:9999", []string{"cluster is IPv4-only but metricsBindAddress"}, nil},
		{"IPv6 wildcard", v4, "", ok + " --metrics-bind-address=[::]:9999 --healthz-bind-address=[::]:9998", nil, nil},
		{"IPv6 health address", v4, "", ok + " --healthz-bind-address=[fd01::1]:9999", []string{"cluster is IPv4-only but healthzBindAddress"}, nil},
		{"bind address of the other family", v6, "10.0.0.0/8", ok + " --bind-address=192.168.0.9", nil, nil},
		{"bind address alone", "", "10.0.0.0/8", ok + " --bind-address=fd00::9", []string{"!the node's primary address is IPv6"}, []string{"cluster is IPv6-primary but node.spec.podCIDRs"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := mustParse(t, strings.Fields(tc.flags)...)
			var addresses []netip.Addr
			for _, text := range strings.FieldsFunc(tc.addresses, func(r rune) bool { return r == ',' }) {
				addresses = append(addresses, netip.MustParseAddr(text))
			}
			var podCIDRs []netip.Prefix
			for _, text := range strings.FieldsFunc(tc.podCIDRs, func(r rune) bool { return r == ',' }) {
				podCIDRs = append(podCIDRs, netip.MustParsePrefix(text))
			}
			for dualStack, want := range map[bool][]string{false: tc.single, true: tc.double} {
				warnings, err := c.CheckFamilies(c.NodeAddresses(addresses), podCIDRs, dualStack)
				if err != nil {
					warnings = append(warnings, "!"+err.Error())
				}
				got := make([]string, len(warnings))
				for i, w := range warnings {
					got[i] = w
					if i < len(want) && strings.HasPrefix(w, want[i]) {
						got[i] = want[i]
					}
				}
				if diff := cmp.Diff(append([]string{}, want...), got); diff != "" {
					t.Errorf("dual stack %t: -want +got\n%s", dualStack, diff)
				}
			}
		})
	}
}
