package test

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// masqueradeRows are flowTests of TestInternalExternalMasquerade (pkg/proxy/iptables/proxier_test.go:5052): whoever
// dials what of which Service, gets all endpoints or the local ones alone, masqueraded or not, where a local detector
// is configured. Service 2 has externalTrafficPolicy Local, Service 3 internalTrafficPolicy Local.
var masqueradeRows = []struct {
	name    string
	from    string
	to      string
	service int
	local   bool
	masq    bool
}{
	{"pod to ClusterIP", "pod", "ClusterIP", 1, false, false},
	{"pod to NodePort", "pod", "NodePort", 1, false, true},
	{"pod to LB", "pod", "LB", 1, false, true},
	{"node to ClusterIP", "node", "ClusterIP", 1, false, true},
	{"node to NodePort", "node", "NodePort", 1, false, true},
	{"localhost to NodePort", "node", "localhost", 1, false, true},
	{"node to LB", "node", "LB", 1, false, true},
	{"external to ClusterIP", "external", "ClusterIP", 1, false, true},
	{"external to NodePort", "external", "NodePort", 1, false, true},
	{"external to LB", "external", "LB", 1, false, true},
	{"pod to ClusterIP with eTP:Local", "pod", "ClusterIP", 2, false, false},
	{"pod to NodePort with eTP:Local", "pod", "NodePort", 2, false, false},
	{"pod to LB with eTP:Local", "pod", "LB", 2, false, false},
	{"node to ClusterIP with eTP:Local", "node", "ClusterIP", 2, false, true},
	{"node to NodePort with eTP:Local", "node", "NodePort", 1, false, true}, // upstream dials 3001 here, Service 1's
	{"localhost to NodePort with eTP:Local", "node", "localhost", 2, false, true},
	{"node to LB with eTP:Local", "node", "LB", 2, false, true},
	{"external to ClusterIP with eTP:Local", "external", "ClusterIP", 2, false, true},
	{"external to NodePort with eTP:Local", "external", "NodePort", 2, true, false},
	{"external to LB with eTP:Local", "external", "LB", 2, true, false},
	{"pod to ClusterIP with iTP:Local", "pod", "ClusterIP", 3, true, false},
	{"pod to NodePort with iTP:Local", "pod", "NodePort", 3, false, true},
	{"pod to LB with iTP:Local", "pod", "LB", 3, false, true},
	{"node to ClusterIP with iTP:Local", "node", "ClusterIP", 3, true, true},
	{"node to NodePort with iTP:Local", "node", "NodePort", 3, false, true},
	{"localhost to NodePort with iTP:Local", "node", "localhost", 3, false, true},
	{"node to LB with iTP:Local", "node", "LB", 3, false, true},
	{"external to ClusterIP with iTP:Local", "external", "ClusterIP", 3, true, true},
	{"external to NodePort with iTP:Local", "external", "NodePort", 3, false, true},
	{"external to LB with iTP:Local", "external", "LB", 3, false, true},
}

// withoutDetector are the overrides of the same test for no LocalTrafficDetector. (Those for masqueradeAll are not
// here: it is ignored, R-4.1.)
var withoutDetector = map[string]struct{ local, masq bool }{
	"node to ClusterIP":                    {false, false},
	"node to ClusterIP with eTP:Local":     {false, false},
	"node to ClusterIP with iTP:Local":     {true, false},
	"external to ClusterIP":                {false, false},
	"external to ClusterIP with eTP:Local": {false, false},
	"external to ClusterIP with iTP:Local": {true, false},
	"pod to NodePort with eTP:Local":       {true, false},
	"pod to LB with eTP:Local":             {true, false},
}

// masqueradeDeviations are where we do otherwise on purpose, and only where.
var masqueradeDeviations = []struct {
	why  string
	when func(from string, here, masq bool) bool // here: the backend is on the node that the client dials
	masq bool
}{
	{"a pod is seen as itself: its packets come back to where they are translated (R-4.5)",
		func(from string, _, masq bool) bool { return from == "pod" && masq }, false},
	{"so is a client whose backend is on the node that it came to (R-4.2, R-4.5)",
		func(from string, here, masq bool) bool { return from == "external" && here && masq }, false},
	{"what another node answers must come back by this one (R-4.4)",
		func(from string, here, masq bool) bool { return from == "external" && !here && !masq }, true},
}

// tableMasquerade: the rows at a node without a detector and at two with one. There is one endpoint on each node, and
// each Service twice, so that no pod that dials is an endpoint of what it dials.
func (w *agreeWorld) tableMasquerade(t *testing.T) {
	names := w.tables(t, 100)
	local := corev1.ServiceInternalTrafficPolicyLocal
	var services [2][4]*corev1.Service // by the endpoints' numbers on their nodes
	for pod := range services {
		endpoints := []discoveryv1.Endpoint{w.endpoint(0, pod), w.endpoint(1, pod), w.endpoint(2, pod)}
		for number := 1; number <= 3; number++ {
			services[pod][number] = names.put(t, corev1.ServiceTypeLoadBalancer, func(s *corev1.Service) {
				balanced(s, agreeVIP(10*(pod+1)+number))
				switch number {
				case 2:
					s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
				case 3:
					s.Spec.InternalTrafficPolicy = &local
				}
			}, endpoints...)
		}
	}
	w.settle(t)

	var rows []agreeRow
	deviated := make([]bool, len(masqueradeDeviations))
	for node, n := range w.nodes {
		for _, r := range masqueradeRows {
			if r.to == "localhost" && !n.loopback {
				continue // --nodeport-addresses=primary
			}
			if other, ok := withoutDetector[r.name]; ok && node == 0 {
				r.local, r.masq = other.local, other.masq
			}
			for _, kind := range map[string][]agreeKind{"pod": {hookedPod, barePod}, "node": {hostClient}, "external": {outside}}[r.from] {
				pod := 1
				if kind == barePod {
					pod = 0
				}
				s := services[pod][r.service]
				row := agreeRow{name: n.Name + ": " + r.name, from: w.who(node, kind), port: 80, outcome: isServed}
				switch r.to {
				case "ClusterIP":
					row.to = clusterTarget(s)
				case "LB":
					row.to = agreeVIP(10*(pod+1) + r.service)
				case "NodePort":
					row.to, row.port = w.nodeTarget(node), s.Spec.Ports[0].NodePort
				case "localhost":
					row.to, row.port = agreeTarget{"127.0.0.1", "::1"}, s.Spec.Ports[0].NodePort
				}
				for i, other := range w.nodes {
					if i == node || !r.local {
						row.backend = append(row.backend, other.Pods[pod].Name)
					}
				}
				row.sees = func(c agreeCase, backend string) netip.Addr {
					masq, here := r.masq, backend == n.Pods[pod].Name
					for i, d := range masqueradeDeviations {
						if d.when(r.from, here, r.masq) {
							masq, deviated[i] = d.masq, true
						}
					}
					if masq {
						return familyAddr(n.Addrs(), c.to.Addr())
					}
					return c.source()
				}
				rows = append(rows, row)
			}
		}
	}
	w.tabled(t, rows)
	for i, d := range masqueradeDeviations {
		if !deviated[i] {
			t.Errorf("no deviation any more: %s", d.why)
		}
	}
}
