package watch

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// parseProtocol is; unset means TCP, as the API server fills in.
func parseProtocol(p corev1.Protocol) (endpoints.Protocol, bool) {
	switch p {
	case corev1.ProtocolTCP, "":
		return endpoints.TCP, true
	case corev1.ProtocolUDP:
		return endpoints.UDP, true
	case corev1.ProtocolSCTP:
		return endpoints.SCTP, true
	}
	return 0, false
}

// protocolPort is a port number as clients see it.
type protocolPort struct {
	protocol endpoints.Protocol
	port     int32
}

// servicePorts leaves out what the API server would not admit: of two ports with one name, one number or
// one node port the first has it.
func servicePorts(ports []corev1.ServicePort, found *findings) []endpoints.Port {
	usable := make([]endpoints.Port, 0, len(ports))
	names := make(map[string]bool, len(ports))
	numbers := make(map[protocolPort]bool, len(ports))
	nodePorts := make(map[protocolPort]bool)
	for i := range ports {
		p := &ports[i]
		protocol, ok := parseProtocol(p.Protocol)
		number := protocolPort{protocol, p.Port}
		switch {
		case !ok:
			found.add("port %q: protocol %q is not TCP, UDP or SCTP", p.Name, p.Protocol)
			continue
		case p.Port < 1 || p.Port > maxPort:
			found.add("port %q: port %d is not 1 to %d", p.Name, p.Port, maxPort)
			continue
		case p.Name != "" && !usableName(p.Name):
			found.add("spec.ports[%d].name: %q is not a name", i, p.Name)
			continue
		case names[p.Name]:
			found.add("port %q: there is another one of this name", p.Name)
			continue
		case numbers[number]:
			found.add("port %q: %v %d is another port's already", p.Name, protocol, p.Port)
			continue
		}
		names[p.Name], numbers[number] = true, true

		nodePort := p.NodePort
		onNode := protocolPort{protocol, nodePort}
		switch {
		case nodePort == 0:
		case nodePort < 0 || nodePort > maxPort:
			found.add("port %q: nodePort %d is not 1 to %d", p.Name, nodePort, maxPort)
			nodePort = 0
		case nodePorts[onNode]:
			found.add("port %q: nodePort %v %d is another port's already", p.Name, protocol, nodePort)
			nodePort = 0
		default:
			nodePorts[onNode] = true
		}
		usable = append(usable, endpoints.Port{Name: p.Name, Protocol: protocol, Port: uint16(p.Port), NodePort: uint16(nodePort)})
	}
	return usable
}
