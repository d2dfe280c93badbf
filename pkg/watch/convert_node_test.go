package watch

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// nodeA is a plain Node; edit changes it.
func nodeA(edit func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-a", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}},
		Spec:       corev1.NodeSpec{PodCIDR: "10.0.0.0/24", PodCIDRs: []string{"10.0.0.0/24", "fd00:1::/64"}},
		Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeExternalIP, Address: "198.51.100.1"},
			{Type: corev1.NodeHostName, Address: "node-a"},
			{Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
			{Type: corev1.NodeInternalIP, Address: "2001:db8::1"},
		}},
	}
	if edit != nil {
		edit(n)
	}
	return n
}

func nodeAModel(edit func(*Node)) *Node {
	n := &Node{Name: "node-a", Zone: "z1", Addresses: addrs("192.0.2.1", "2001:db8::1", "198.51.100.1"), PodCIDRs: prefixes("10.0.0.0/24", "fd00:1::/64")}
	if edit != nil {
		edit(n)
	}
	return n
}

func TestConvertNode(t *testing.T) {
	for _, tt := range []struct {
		name     string
		edit     func(*corev1.Node)
		want     func(*Node)
		problems []string
	}{
		{name: "R-10.2 internal addresses first", edit: func(*corev1.Node) {}, want: func(*Node) {}},
		{name: "R-7.4 deletion", edit: func(n *corev1.Node) { n.DeletionTimestamp = ptr(metav1.Unix(1, 0)) }, want: func(n *Node) { n.Deleting = true }},
		{name: "R-7.4 taint, whatever its value", edit: func(n *corev1.Node) {
			n.Spec.Taints = []corev1.Taint{{Key: "other"}, {Key: "ToBeDeletedByClusterAutoscaler", Value: "1", Effect: "Any"}}
		}, want: func(n *Node) { n.Deleting = true }},
		{name: "R-7.4 unschedulable is not deleting", edit: func(n *corev1.Node) { n.Spec.Unschedulable = true }, want: func(*Node) {}},
		{name: "one pod CIDR, old field, no zone", edit: func(n *corev1.Node) { n.Spec.PodCIDRs, n.Labels = nil, nil },
			want: func(n *Node) { n.PodCIDRs, n.Zone = prefixes("10.0.0.0/24"), "" }},
		{name: "bad parts", edit: func(n *corev1.Node) {
			n.Status.Addresses[2].Address, n.Spec.PodCIDRs[1] = "x", "y"
		}, want: func(n *Node) {
			n.Addresses, n.PodCIDRs = addrs("2001:db8::1", "198.51.100.1"), prefixes("10.0.0.0/24")
		}, problems: []string{
			`Node node-a: status.addresses[2]: "x" is not an IP address`,
			`Node node-a: spec.podCIDRs[1]: "y" is not a CIDR`,
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, problems := convertNode(nodeA(tt.edit))
			if diff := cmp.Diff(nodeAModel(tt.want), got, compareAddrs); diff != "" {
				t.Errorf("node (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.problems, messages(problems)); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}
