package test

import (
	"fmt"
	"maps"
	"net/netip"
	goslices "slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// agreeRow is a row of a truth table: somebody dials something, and what kube-proxy's own tests say comes of it.
type agreeRow struct {
	name string
	from []*agreeClient
	to   agreeTarget
	port int32

	outcome outcome
	backend []string // who may answer
	closed  bool     // no Service's: every program lets it pass
	sees    func(c agreeCase, backend string) netip.Addr
}

// agreeTarget is what is dialled in each family.
type agreeTarget [2]string

// tabled checks that the model says what the rows say, for both protocols and families, and that all agree.
func (w *agreeWorld) tabled(t *testing.T, rows []agreeRow) {
	t.Helper()
	var cases []agreeCase
	for _, row := range rows {
		for _, from := range row.from {
			for _, network := range []string{"tcp", "udp"} {
				for _, to := range row.to {
					c := agreeCase{from, network, netip.AddrPortFrom(netip.MustParseAddr(to), uint16(row.port))}
					cases = append(cases, c)
					if err := row.check(c, w.expect(c)); err != nil {
						t.Errorf("%s: %v: %v", row.name, c, err)
					}
				}
			}
		}
	}
	counts := w.agree(t, cases)
	t.Logf("%d rows, cases: %v", len(rows), counts)
}

func (row *agreeRow) check(c agreeCase, e expectation) error {
	got := goslices.Sorted(maps.Keys(e.sees))
	if e.outcome != row.outcome || strings.Join(got, " ") != strings.Join(goslices.Sorted(goslices.Values(row.backend)), " ") {
		return fmt.Errorf("the model says %s by %v, kube-proxy %s by %v", e.outcome, got, row.outcome, row.backend)
	}
	for _, h := range e.hops {
		if row.closed && h.outcome != isPassed {
			return fmt.Errorf("the model says that a Service has it, kube-proxy that none has")
		}
	}
	if row.sees == nil {
		return nil
	}
	for backend, got := range e.sees {
		if want := row.sees(c, backend); got != want {
			return fmt.Errorf("%s is to see %v, by the model %v", backend, want, got)
		}
	}
	return nil
}

// Whom a row is about, at a node.
func (w *agreeWorld) who(node int, kinds ...agreeKind) (list []*agreeClient) {
	for _, c := range w.clients {
		if c.node == node && goslices.Contains(kinds, c.kind) {
			list = append(list, c)
		}
	}
	return list
}

// agreeNames numbers the Services of a table, with a ClusterIP and a NodePort for each.
type agreeNames struct {
	w    *agreeWorld
	made int
}

const agreeNodePort = 31000

// tables returns a numbering of Services that go with the test.
func (w *agreeWorld) tables(t *testing.T, first int) *agreeNames {
	n := &agreeNames{w: w, made: first}
	t.Cleanup(func() {
		for number := first; number < n.made; number++ {
			w.remove(t, fmt.Sprintf("table-%d", number), true)
		}
	})
	return n
}

// put makes the next Service, with TCP and UDP on port 80, and the endpoints of its slices.
func (n *agreeNames) put(t *testing.T, kind corev1.ServiceType, edit func(*corev1.Service), list ...discoveryv1.Endpoint) *corev1.Service {
	t.Helper()
	number := n.made
	n.made++
	s := agreeService(fmt.Sprintf("table-%d", number), number, kind, tcpPort("tcp"), udpPort("udp"))
	if kind != corev1.ServiceTypeClusterIP {
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = agreeNodePort + int32(number)
		}
	}
	if edit != nil {
		edit(s)
	}
	n.w.put(t, s)
	var slices []*discoveryv1.EndpointSlice
	for i, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		var of []discoveryv1.Endpoint
		for _, e := range list {
			e.Addresses = e.Addresses[i : i+1]
			of = append(of, e)
		}
		slices = append(slices, agreeSlice(s.Name, fmt.Sprint(4+2*i), family, of,
			agreePort("tcp", corev1.ProtocolTCP, agreePorts[0]), agreePort("udp", corev1.ProtocolUDP, agreePorts[0])))
	}
	n.w.putSlices(t, s.Name, slices...)
	return s
}

// endpoint is a ready pod of a node; both its addresses, of which put takes one a slice.
func (w *agreeWorld) endpoint(node, pod int) discoveryv1.Endpoint {
	p := w.nodes[node].Pods[pod]
	return discoveryv1.Endpoint{Addresses: []string{p.IPv4.String(), p.IPv6.String()}, NodeName: &w.nodes[node].Name}
}

// What a row dials.
func clusterTarget(s *corev1.Service) agreeTarget {
	return agreeTarget{s.Spec.ClusterIPs[0], s.Spec.ClusterIPs[1]}
}
func (w *agreeWorld) nodeTarget(node int) agreeTarget {
	return agreeTarget{w.nodes[node].IPv4.String(), w.nodes[node].IPv6.String()}
}
func agreeVIP(number int) agreeTarget {
	return agreeTarget{fmt.Sprintf("203.0.113.%d", number), fmt.Sprintf("2001:db8:1::%x", number)}
}

// balanced gives a Service load balancer addresses.
func balanced(s *corev1.Service, vip agreeTarget) {
	for _, ip := range vip {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
	}
}
