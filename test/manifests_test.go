package test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

const serverPort = 8080

// service returns a NodePort Service with TCP and UDP on port 80, as the API server would return it.
func service(name string, number uint8, nodePort int32) *corev1.Service {
	s := apiserver.NewService(name, corev1.ServiceTypeNodePort,
		corev1.ServicePort{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(serverPort), NodePort: nodePort},
		corev1.ServicePort{Name: "udp", Protocol: corev1.ProtocolUDP, Port: 80, TargetPort: intstr.FromInt32(serverPort), NodePort: nodePort})
	s.TypeMeta.APIVersion, s.TypeMeta.Kind = "v1", "Service"
	s.Spec.ClusterIPs = []string{clusterIPv4(number), clusterIPv6(number)}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	return s
}

func slices(s *corev1.Service, backends ...apiserver.Backend) (list []any) {
	for _, slice := range apiserver.NewSlices(s, backends...) {
		slice.TypeMeta.APIVersion, slice.TypeMeta.Kind = discoveryv1.SchemeGroupVersion.String(), "EndpointSlice"
		list = append(list, slice)
	}
	return list
}

// servePods lets every pod of the cluster answer on its server port.
func servePods(t *testing.T, c *testenv.Cluster) {
	t.Helper()
	for _, n := range c.Nodes {
		for _, p := range n.Pods {
			if _, err := p.ServeAll(t.Context(), serverPort); err != nil {
				t.Fatalf("serve on %s: %v", p.Name, err)
			}
		}
	}
}

func TestSmoke(t *testing.T) {
	c := testenv.MustNew(t, testenv.Options{Nodes: 2, PodsPerNode: 2, Clients: 1})
	servePods(t, c)
	dir := t.TempDir()
	s := service("web", 10, 30080)
	manifest(t, dir, "web.yaml", append([]any{s}, slices(s, apiserver.PodBackend(c.Nodes[0].Pods[0]), apiserver.PodBackend(c.Nodes[1].Pods[0]))...)...)
	for _, n := range c.Nodes {
		startAgent(t, n, "--manifests", dir)
	}
	t.Log("\n" + command(t, c.Nodes[0], "services", "-o", "wide"))
	t.Log("\n" + command(t, c.Nodes[0], "backends", "-o", "wide"))
	t.Log("\n" + command(t, c.Nodes[0], "status"))
	for _, network := range []string{"tcp", "udp", "udp-unconnected"} {
		for _, addr := range []string{clusterIPv4(10) + ":80", "[" + clusterIPv6(10) + "]:80"} {
			for range 3 {
				r, err := c.Nodes[0].Pods[1].Request(t.Context(), network, addr)
				t.Log("pod", network, addr, r, err)
			}
			r, err := c.Nodes[0].Request(t.Context(), network, addr)
			t.Log("node", network, addr, r, err)
		}
		for _, addr := range []string{c.Nodes[0].IPv4.String() + ":30080", "[" + c.Nodes[0].IPv6.String() + "]:30080"} {
			for range 6 {
				r, err := c.Clients[0].Request(t.Context(), network, addr)
				t.Log("client", network, addr, r, err)
			}
		}
	}
	t.Log("\n" + command(t, c.Nodes[0], "flows", "-o", "wide"))
	t.Log("\n" + command(t, c.Nodes[0], "status"))
}

func clusterIPv4(number uint8) string { return fmt.Sprintf("10.96.0.%d", number) }
func clusterIPv6(number uint8) string { return fmt.Sprintf("fd96::%x", number) }
