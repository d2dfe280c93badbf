package test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// tableNobody: nobody to answer, or nobody who may (parity §3), and the order of §0. The rows are those of
// TestNoEndpointsReject, TestLoadBalancer, TestInternalTrafficPolicy and TestLoadBalancerIngressRouteTypeProxy in
// pkg/proxy/nftables/proxier_test.go, and those of §3 that only its prose has. Not here: clients that have a load
// balancer's address for their own (the model's TestRanges has them).
func (w *agreeWorld) tableNobody(t *testing.T) {
	const here = 1 // with a local detector; node 0 has none
	names := w.tables(t, 160)
	local := corev1.ServiceInternalTrafficPolicyLocal
	external := agreeTarget{"198.51.100.9", "2001:db8:e::9"}
	pods, node, client, stranger := w.who(here, hookedPod, barePod), w.who(here, hostClient), w.who(here, outside), w.who(0, outside)
	all := w.who(here, hookedPod, barePod, hostClient, outside)
	both := func(indices ...int) (list []discoveryv1.Endpoint) {
		for _, i := range indices {
			list = append(list, w.endpoint(i, 1))
		}
		return list
	}
	pod := func(node int) string { return w.nodes[node].Pods[1].Name }
	everybody := []string{pod(0), pod(1), pod(2)}

	empty := names.put(t, corev1.ServiceTypeLoadBalancer, func(s *corev1.Service) {
		balanced(s, agreeVIP(101))
		s.Spec.ExternalIPs = external[:]
	})
	unready := names.put(t, corev1.ServiceTypeClusterIP, nil, w.described(0, 0, 0, ""), w.described(1, 0, 0, ""))
	itp := func(list ...discoveryv1.Endpoint) *corev1.Service {
		return names.put(t, corev1.ServiceTypeClusterIP, func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &local }, list...)
	}
	cluster := names.put(t, corev1.ServiceTypeClusterIP, nil, both(0, 1, 2)...)
	itpOne, itpNone := itp(both(0, 1, 2)...), itp(both(0, 2)...)
	itpTwo := itp(w.endpoint(here, 0), w.endpoint(here, 1), w.endpoint(2, 1))
	away := names.put(t, corev1.ServiceTypeLoadBalancer, func(s *corev1.Service) {
		balanced(s, agreeVIP(102))
		s.Spec.ExternalIPs = []string{"198.51.100.10", "2001:db8:e::a"}
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}, both(2)...)
	walled := func(vip agreeTarget, list ...discoveryv1.Endpoint) *corev1.Service {
		return names.put(t, corev1.ServiceTypeLoadBalancer, func(s *corev1.Service) {
			balanced(s, vip)
			s.Spec.LoadBalancerSourceRanges = []string{"172.30.0.202/32", " 172.30.0.12/32", "fd30::202/128", "fd30::12/128"}
		}, list...)
	}
	ranged := walled(agreeVIP(103), both(2)...)
	walled(agreeVIP(104))
	proxied := names.put(t, corev1.ServiceTypeLoadBalancer, func(s *corev1.Service) {
		balanced(s, agreeVIP(105))
		mode := corev1.LoadBalancerIPModeProxy
		for i := range s.Status.LoadBalancer.Ingress {
			s.Status.LoadBalancer.Ingress[i].IPMode = &mode
		}
	}, both(2)...)
	// An IP that is a node's, with a port that is another's NodePort.
	taking := names.put(t, corev1.ServiceTypeClusterIP, func(s *corev1.Service) {
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].Port = proxied.Spec.Ports[0].NodePort
		}
		target := w.nodeTarget(here)
		s.Spec.ExternalIPs = target[:]
	}, both(0)...)
	w.settle(t)

	nodePort := func(s *corev1.Service) int32 { return s.Spec.Ports[0].NodePort }
	w.tabled(t, []agreeRow{
		{name: "R-3.1 cluster IP with no endpoints", from: all, to: clusterTarget(empty), port: 80, outcome: isRefused},
		{name: "R-3.3, R-3.4 external IP with no endpoints", from: all, to: external, port: 80, outcome: isRefused},
		{name: "R-3.8 NodePort with no endpoints", from: all, to: w.nodeTarget(here), port: nodePort(empty), outcome: isRefused},
		{name: "R-3.3, R-3.4 LoadBalancer IP with no endpoints", from: all, to: agreeVIP(101), port: 80, outcome: isRefused},
		{name: "R-2.16 only unready endpoints", from: all, to: clusterTarget(unready), port: 80, outcome: isRefused},

		{name: "internalTrafficPolicy is cluster", from: all, to: clusterTarget(cluster), port: 80, outcome: isServed, backend: everybody},
		{name: "internalTrafficPolicy is local and there is one local endpoint", from: all, to: clusterTarget(itpOne), port: 80,
			outcome: isServed, backend: []string{pod(here)}},
		{name: "internalTrafficPolicy is local and there are multiple local endpoints", from: all, to: clusterTarget(itpTwo), port: 80,
			outcome: isServed, backend: []string{w.nodes[here].Pods[0].Name, pod(here)}},
		{name: "R-3.2 internalTrafficPolicy is local and there are no local endpoints", from: all, to: clusterTarget(itpNone), port: 80,
			outcome: isDropped},

		{name: "R-3.9 NodePort, none here", from: client, to: w.nodeTarget(here), port: nodePort(away), outcome: isDropped},
		{name: "R-3.5 LB, none here", from: client, to: agreeVIP(102), port: 80, outcome: isDropped},
		{name: "R-3.5 external IP, none here", from: client, to: agreeTarget{"198.51.100.10", "2001:db8:e::a"}, port: 80, outcome: isDropped},
		{name: "R-3.6 NodePort, none here", from: append(pods, node...), to: w.nodeTarget(here), port: nodePort(away),
			outcome: isServed, backend: []string{pod(2)}},
		{name: "R-3.6 LB, none here", from: append(pods, node...), to: agreeVIP(102), port: 80, outcome: isServed, backend: []string{pod(2)}},
		{name: "R-3.5 LB, none here, no detector", from: w.who(0, hookedPod, barePod), to: agreeVIP(102), port: 80, outcome: isDropped},
		{name: "R-3.6 LB, none here, no detector", from: w.who(0, hostClient), to: agreeVIP(102), port: 80,
			outcome: isServed, backend: []string{pod(2)}},

		{name: "pod to cluster IP", from: all, to: clusterTarget(ranged), port: 80, outcome: isServed, backend: []string{pod(2)}},
		{name: "nodePort bypasses LoadBalancerSourceRanges", from: append(stranger, client...), to: w.nodeTarget(here), port: nodePort(ranged),
			outcome: isServed, backend: []string{pod(2)}},
		{name: "accepted external to LB", from: client, to: agreeVIP(103), port: 80, outcome: isServed, backend: []string{pod(2)}},
		{name: "blocked external to LB", from: stranger, to: agreeVIP(103), port: 80, outcome: isDropped},
		{name: "pod to LB (blocked by LoadBalancerSourceRanges)", from: pods, to: agreeVIP(103), port: 80, outcome: isDropped},
		{name: "node to LB (allowed by LoadBalancerSourceRanges)", from: node, to: agreeVIP(103), port: 80, outcome: isServed, backend: []string{pod(2)}},
		{name: "R-3.7 no endpoints, not allowed", from: append(stranger, pods...), to: agreeVIP(104), port: 80, outcome: isDropped},
		{name: "R-3.7 no endpoints, allowed", from: append(client, node...), to: agreeVIP(104), port: 80, outcome: isRefused},

		{name: "R-1.9 ipMode Proxy", from: all, to: agreeVIP(105), port: 80, outcome: isUnreachable, closed: true},
		{name: "R-1.9 ipMode Proxy, cluster IP", from: all, to: clusterTarget(proxied), port: 80, outcome: isServed, backend: []string{pod(2)}},
		{name: "§0 an IP before a NodePort", from: all, to: w.nodeTarget(here), port: nodePort(proxied), outcome: isServed, backend: []string{pod(0)}},
		{name: "§0 the NodePort elsewhere", from: w.who(2, hookedPod, barePod, hostClient, outside), to: w.nodeTarget(2), port: nodePort(proxied),
			outcome: isServed, backend: []string{pod(2)}},
		{name: "§0 the ClusterIP of that", from: all, to: clusterTarget(taking), port: nodePort(proxied), outcome: isServed, backend: []string{pod(0)}},

		{name: "R-3.10 localhost, not among the NodePorts' addresses", from: w.who(2, hostClient), to: agreeTarget{"127.0.0.1", "::1"},
			port: nodePort(ranged), outcome: isRefused, closed: true},
		{name: "R-3.11 unused port of a cluster IP", from: all, to: clusterTarget(cluster), port: 81, outcome: isRefused},
		{name: "R-3.12 unallocated cluster IP", from: all, to: agreeTarget{"10.96.77.254", "fd96::7:fe"}, port: 80, outcome: isDropped},
		{name: "R-3.13 unused port of an external IP", from: all, to: external, port: 81, outcome: isUnreachable, closed: true},
		{name: "R-3.13 unused port of a node", from: all, to: w.nodeTarget(here), port: 81, outcome: isRefused, closed: true},
	})
}
