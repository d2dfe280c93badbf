package watch

import (
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// convertServiceCIDR returns the prefixes that ClusterIPs are taken from, and what had to be left out. One
// that is being deleted counts until it has gone: Services hold addresses of it until then.
func convertServiceCIDR(obj *networkingv1.ServiceCIDR) ([]netip.Prefix, []error) {
	found := findings{key: key{kindServiceCIDR, endpoints.ObjectName{Name: obj.Name}}}
	var prefixes []netip.Prefix
	for i, text := range obj.Spec.CIDRs {
		prefix, err := parsePrefix(text)
		if err != nil {
			found.add("spec.cidrs[%d]: %w", i, err)
			continue
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, found.errs
}
