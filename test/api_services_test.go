package test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// What a real API server says comes to be what the kernel does, on both nodes.
func TestAPI(t *testing.T) {
	c := newAPICluster(t)
	c.startAgents(t)
	for _, tt := range []struct {
		name string
		test func(*testing.T, *apiCluster)
	}{
		{"service from creation to recreation", apiServiceLife},
		{"ports renamed, removed and added", apiPorts},
		{"types", apiTypes},
		{"families", apiFamilies},
		{"R-1.5 label service-proxy-name", apiProxyNameLabel},
		{"R-1.6 label headless on a slice", apiHeadlessLabel},
		{"R-1.21 slices with different target ports", apiTargetPorts},
		{"R-11.6 slice moves to another service", apiSliceMoves},
		{"zone hints", apiZoneHints},
		{"R-2.9 to R-2.12 terminating endpoints", apiTerminating},
		{"traffic policies", apiPolicies},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, c) })
	}
}

// tcpPort is the port 80 that leads to the pods' server.
func tcpPort(name string) corev1.ServicePort {
	return corev1.ServicePort{Name: name, Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(serverPort)}
}

func udpPort(name string) corev1.ServicePort {
	p := tcpPort(name)
	p.Protocol = corev1.ProtocolUDP
	return p
}

func apiServiceLife(t *testing.T, c *apiCluster) {
	client, node, outside := c.pod(0, 1), c.Nodes[0], c.Clients[0]
	a, b := c.pod(0, 0), c.pod(1, 0)
	s := c.create(t, apiserver.NewService("life", corev1.ServiceTypeNodePort, tcpPort("tcp"), udpPort("udp")), backends(a)...)
	dialled := append(clusterAddrs(s, 80), nodeAddrs(node, s.Spec.Ports[0].NodePort)...)
	t.Logf("first answer %v after the API server's", answered(t, client, "tcp", dialled[0], a.Name))
	for _, addr := range dialled {
		answered(t, client, "tcp", addr, a.Name)
		answered(t, node, "tcp", addr, a.Name)
	}
	for i, addr := range nodeAddrs(c.Nodes[1], s.Spec.Ports[1].NodePort) {
		answered(t, client, "udp", clusterAddrs(s, 80)[i], a.Name)
		answered(t, outside, "udp", addr, a.Name)
	}

	c.setBackends(t, s, backends(a, b)...)
	for _, addr := range dialled {
		answered(t, client, "tcp", addr, a.Name, b.Name)
	}
	for _, addr := range nodeAddrs(node, s.Spec.Ports[0].NodePort) {
		answered(t, outside, "tcp", addr, a.Name, b.Name)
	}

	c.setBackends(t, s)
	for _, addr := range dialled {
		refused(t, client, addr)
		refused(t, node, addr)
	}
	c.setBackends(t, s, backends(b)...)
	for _, addr := range dialled {
		answered(t, client, "tcp", addr, b.Name)
	}

	c.remove(t, s)
	for _, addr := range clusterAddrs(s, 80) {
		unreachable(t, node, addr)
	}
	for _, addr := range nodeAddrs(node, s.Spec.Ports[0].NodePort) {
		refused(t, outside, addr) // by the node's own stack
	}

	again := apiserver.NewService("life", corev1.ServiceTypeClusterIP, tcpPort("tcp"))
	again.Spec.ClusterIP, again.Spec.ClusterIPs = s.Spec.ClusterIP, s.Spec.ClusterIPs
	c.create(t, again, backends(c.pod(1, 1))...)
	for _, addr := range clusterAddrs(s, 80) {
		answered(t, client, "tcp", addr, c.pod(1, 1).Name)
	}
}

// The upstream test of this is e2e/network/service.go:906.
func apiPorts(t *testing.T, c *apiCluster) {
	client, node, b := c.pod(0, 1), c.Nodes[0], c.pod(1, 0)
	first, second := tcpPort("first"), tcpPort("second")
	second.Port = 81
	s := c.create(t, apiserver.NewService("ports", corev1.ServiceTypeClusterIP, first), backends(b)...)
	addrs, others := clusterAddrs(s, 80), clusterAddrs(s, 81)
	for _, addr := range addrs {
		answered(t, client, "tcp", addr, b.Name)
	}

	first.Name = "renamed" // the slices' ports are still called as before
	s = c.update(t, s, func(s *corev1.Service) { s.Spec.Ports[0].Name = first.Name })
	for _, addr := range addrs {
		refused(t, client, addr)
	}
	c.setBackends(t, s, backends(b)...)
	for _, addr := range addrs {
		answered(t, client, "tcp", addr, b.Name)
	}

	s = c.update(t, s, func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, second) })
	c.setBackends(t, s, backends(b)...)
	for i := range addrs {
		answered(t, client, "tcp", addrs[i], b.Name)
		answered(t, client, "tcp", others[i], b.Name)
	}
	s = c.update(t, s, func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[1:] })
	for i := range addrs {
		unreachable(t, node, addrs[i])
		answered(t, client, "tcp", others[i], b.Name)
	}

	// one number, two protocols.
	udp := udpPort("udp")
	udp.Port = second.Port
	s = c.update(t, s, func(s *corev1.Service) { s.Spec.Ports = append(s.Spec.Ports, udp) })
	c.setBackends(t, s, backends(b)...)
	for _, addr := range others {
		answered(t, client, "udp-unconnected", addr, b.Name)
	}
	c.update(t, s, func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[1:] })
	for _, addr := range others {
		unreachable(t, node, addr)
		answered(t, client, "udp", addr, b.Name)
	}
}

func apiTypes(t *testing.T, c *apiCluster) {
	client, node, outside, b := c.pod(0, 1), c.Nodes[0], c.Clients[0], c.pod(1, 0)
	s := c.create(t, apiserver.NewService("types", corev1.ServiceTypeNodePort, tcpPort("tcp")), backends(b)...)
	nodePort := s.Spec.Ports[0].NodePort
	for _, addr := range nodeAddrs(node, nodePort) {
		answered(t, outside, "tcp", addr, b.Name)
	}

	s = c.update(t, s, func(s *corev1.Service) {
		s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeClusterIP, 0
	})
	for i, addr := range nodeAddrs(node, nodePort) {
		refused(t, outside, addr)
		refused(t, client, addr)
		answered(t, client, "tcp", clusterAddrs(s, 80)[i], b.Name)
	}

	// with its old addresses on paper only.
	c.update(t, s, func(s *corev1.Service) {
		s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}
	})
	for _, addr := range clusterAddrs(s, 80) {
		unreachable(t, node, addr)
	}

	c.update(t, s, func(s *corev1.Service) {
		s.Spec = apiserver.NewService("types", corev1.ServiceTypeClusterIP, tcpPort("tcp")).Spec
	})
	s, err := c.admin.CoreV1().Services(s.Namespace).Get(t.Context(), s.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range clusterAddrs(s, 80) {
		answered(t, client, "tcp", addr, b.Name)
	}

	// A headless one beside it has nothing to dial, and does no harm.
	headless := apiserver.NewService("without-address", corev1.ServiceTypeClusterIP, tcpPort("tcp"))
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	c.create(t, headless, backends(b)...)
	marker := c.create(t, apiserver.NewService("headless-marker", corev1.ServiceTypeClusterIP, tcpPort("tcp")), backends(b)...)
	answered(t, client, "tcp", clusterAddrs(marker, 80)[0], b.Name)
	if dump := command(t, node, "services"); strings.Contains(dump, headless.Name+":") {
		t.Errorf("the headless service is in the kernel:\n%s", dump)
	}
}

// Dual stack, and one family after the other.
func apiFamilies(t *testing.T, c *apiCluster) {
	client, b := c.pod(0, 1), c.pod(1, 0)
	for name, families := range map[string][]corev1.IPFamily{
		"v4":    {corev1.IPv4Protocol},
		"v6":    {corev1.IPv6Protocol},
		"v6-v4": {corev1.IPv6Protocol, corev1.IPv4Protocol},
	} {
		s := apiserver.NewService(name, corev1.ServiceTypeNodePort, tcpPort("tcp"))
		s.Spec.IPFamilies = families
		if len(families) == 1 {
			policy := corev1.IPFamilyPolicySingleStack
			s.Spec.IPFamilyPolicy = &policy
		}
		s = c.create(t, s, backends(b)...)
		for _, addr := range clusterAddrs(s, 80) {
			answered(t, client, "tcp", addr, b.Name)
		}
		for i, family := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			addr := nodeAddrs(c.Nodes[0], s.Spec.Ports[0].NodePort)[i]
			if len(families) == 2 || families[0] == family {
				answered(t, c.Clients[0], "tcp", addr, b.Name)
			} else {
				refused(t, c.Clients[0], addr)
			}
		}
	}

	policy := corev1.IPFamilyPolicySingleStack
	s := apiserver.NewService("grows", corev1.ServiceTypeClusterIP, tcpPort("tcp"))
	s.Spec.IPFamilyPolicy, s.Spec.IPFamilies = &policy, s.Spec.IPFamilies[:1]
	s = c.create(t, s, backends(b)...)
	answered(t, client, "tcp", clusterAddrs(s, 80)[0], b.Name)
	both := c.update(t, s, func(s *corev1.Service) {
		policy := corev1.IPFamilyPolicyRequireDualStack
		s.Spec.IPFamilyPolicy = &policy
	})
	for _, addr := range clusterAddrs(both, 80) {
		answered(t, client, "tcp", addr, b.Name)
	}
	c.update(t, s, func(s *corev1.Service) {
		s.Spec.IPFamilyPolicy, s.Spec.IPFamilies, s.Spec.ClusterIPs = &policy, s.Spec.IPFamilies[:1], s.Spec.ClusterIPs[:1]
	})
	unreachable(t, c.Nodes[0], clusterAddrs(both, 80)[1])
	answered(t, client, "tcp", clusterAddrs(both, 80)[0], b.Name)
}
