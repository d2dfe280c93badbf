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

func clusterIPv4(number uint8) string { return fmt.Sprintf("10.96.0.%d", number) }
func clusterIPv6(number uint8) string { return fmt.Sprintf("fd96::%x", number) }
