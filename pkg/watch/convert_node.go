package watch

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// taintAutoscaler is what the cluster autoscaler puts on a node before it takes it away.
const taintAutoscaler = "ToBeDeletedByClusterAutoscaler"

// convertNode returns what we need of node, and what had to be left out.
func convertNode(node *corev1.Node) (*Node, []error) {
	found := findings{key: key{kindNode, endpoints.ObjectName{Name: node.Name}}}
	n := &Node{
		Name: node.Name,
		Zone: node.Labels[corev1.LabelTopologyZone],
		Deleting: node.DeletionTimestamp != nil ||
			slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taintAutoscaler }),
	}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for i, a := range node.Status.Addresses {
			if a.Type != kind {
				continue
			}
			addr, err := parseAddr(a.Address)
			if err != nil {
				found.add("status.addresses[%d]: %w", i, err)
				continue
			}
			n.Addresses = append(n.Addresses, addr)
		}
	}
	cidrs := node.Spec.PodCIDRs
	if len(cidrs) == 0 && node.Spec.PodCIDR != "" {
		cidrs = []string{node.Spec.PodCIDR}
	}
	for i, text := range cidrs {
		p, err := parsePrefix(text)
		if err != nil {
			found.add("spec.podCIDRs[%d]: %w", i, err)
			continue
		}
		n.PodCIDRs = append(n.PodCIDRs, p)
	}
	return n, found.errs
}
