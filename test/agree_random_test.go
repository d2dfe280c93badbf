package test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	goslices "slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// agreeRandom makes Services, slices and cases by chance.
type agreeRandom struct {
	*rand.Rand
	w    *agreeWorld
	live map[int]*corev1.Service // as last put, by number
	born [agreeServices]int      // how often each was made: a ClusterIP is not free at once when its Service goes
}

// newAgreeRandom prints its seed; SVCPROXY_TEST_SEED repeats a run.
func newAgreeRandom(t *testing.T, w *agreeWorld) *agreeRandom {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("SVCPROXY_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SVCPROXY_TEST_SEED=%d", seed)
	return &agreeRandom{Rand: rand.New(rand.NewPCG(seed, 0)), w: w, live: map[int]*corev1.Service{}}
}

func (r *agreeRandom) chance(percent int) bool { return r.IntN(100) < percent }

func pick[T any](r *agreeRandom, list ...T) T { return list[r.IntN(len(list))] }

// some are a random part of a list, in random order.
func some[T any](r *agreeRandom, percent int, list ...T) (part []T) {
	for _, i := range r.Perm(len(list)) {
		if r.chance(percent) {
			part = append(part, list[i])
		}
	}
	return part
}

// Few, so that Services claim each other's: one is a node's own.
var (
	agreeExternal = []string{"198.51.100.1", "198.51.100.2", "203.0.113.1", "2001:db8:e::1", "2001:db8:1::1", "172.30.0.12", "fd30::12"}
	agreeVIPs     = []string{"203.0.113.1", "203.0.113.2", "198.51.100.2", "2001:db8:1::1", "2001:db8:1::2"}
	agreeRanges   = []string{"10.244.1.0/24", "10.244.2.11/32", "172.30.0.0/24", "172.30.0.201/32", "172.30.0.11/32", "0.0.0.0/0",
		"fd44:1::/64", "fd44:2::b/128", "fd30::/64", "fd30::201/128", " fd30::12/128 "}
)

const agreeServices = 8

func agreeName(number int) string { return fmt.Sprintf("agree-%d", number) }

// change changes about half of the world.
func (r *agreeRandom) change(t *testing.T) {
	t.Helper()
	for number := range agreeServices {
		if r.live[number] != nil && r.chance(50) {
			continue
		}
		if r.live[number] != nil && r.chance(30) {
			r.w.remove(t, agreeName(number), r.chance(70))
			delete(r.live, number)
			r.born[number]++
			if r.chance(50) {
				continue
			}
		}
		s := r.service(number)
		r.w.put(t, s)
		r.live[number] = s
		r.w.putSlices(t, s.Name, r.slices(s)...)
	}
	if r.chance(40) {
		r.w.setZone(t, r.IntN(3), pick(r, "zone-a", "zone-b", "zone-c", ""))
	}
}

func (r *agreeRandom) service(number int) *corev1.Service {
	kind := pick(r, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeLoadBalancer)
	nodePort := int32(30100 + 10*number)
	var ports []corev1.ServicePort
	for i, p := range []corev1.ServicePort{
		{Name: "t", Protocol: corev1.ProtocolTCP, Port: pick[int32](r, 80, 81, 30110)},
		{Name: "u", Protocol: corev1.ProtocolUDP, Port: pick[int32](r, 80, 81, 30110)},
		{Name: "v", Protocol: corev1.ProtocolTCP, Port: pick[int32](r, 82, 83)},
	} {
		if kind != corev1.ServiceTypeClusterIP && (kind == corev1.ServiceTypeNodePort || i < 2) {
			p.NodePort = nodePort + int32(i)
			if i == 1 && p.Port == ports[0].Port { // else the API server does not let TCP and UDP share one
				p.NodePort = nodePort
			}
		}
		if i == 0 || r.chance(60) {
			ports = append(ports, p)
		}
	}
	s := agreeService(agreeName(number), 10+number+agreeServices*r.born[number], kind, ports...)
	if old := r.live[number]; old != nil { // families of a living Service may not be changed like this
		s.Spec.IPFamilies, s.Spec.IPFamilyPolicy, s.Spec.ClusterIPs, s.Spec.ClusterIP =
			old.Spec.IPFamilies, old.Spec.IPFamilyPolicy, old.Spec.ClusterIPs, old.Spec.ClusterIP
	} else if r.chance(25) {
		policy, one := corev1.IPFamilyPolicySingleStack, r.IntN(2)
		s.Spec.IPFamilies, s.Spec.IPFamilyPolicy = s.Spec.IPFamilies[one:one+1], &policy
		s.Spec.ClusterIPs = s.Spec.ClusterIPs[one : one+1]
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	}
	s.Spec.ExternalIPs = some(r, 25, agreeExternal...)
	if r.chance(40) {
		local := corev1.ServiceInternalTrafficPolicyLocal
		s.Spec.InternalTrafficPolicy = &local
	}
	if kind != corev1.ServiceTypeClusterIP || len(s.Spec.ExternalIPs) > 0 {
		s.Spec.ExternalTrafficPolicy = pick(r, corev1.ServiceExternalTrafficPolicyLocal, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if r.chance(25) {
		seconds := pick[int32](r, 60, 10800)
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
	if kind == corev1.ServiceTypeLoadBalancer {
		without := false
		s.Spec.AllocateLoadBalancerNodePorts = &without
		if r.chance(50) {
			s.Spec.LoadBalancerSourceRanges = some(r, 30, agreeRanges...)
		}
		if s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
			s.Spec.HealthCheckNodePort = int32(30300 + number)
		}
		for _, ip := range some(r, 50, agreeVIPs...) {
			mode := pick(r, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy)
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip, IPMode: &mode})
		}
	}
	return s
}

// slices are one to three a family, which may repeat endpoints and differ in ports, conditions and hints.
func (r *agreeRandom) slices(s *corev1.Service) (all []*discoveryv1.EndpointSlice) {
	hinted, here := r.IntN(4), r.IntN(5)
	for i, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		for number := range 1 + r.IntN(3) {
			var list []discoveryv1.Endpoint
			for _, c := range r.w.clients {
				if c.kind == outside || !r.chance(30) || here < 3 && c.node != here {
					continue // sometimes all are on one node
				}
				list = append(list, r.endpoint(c, i, hinted))
			}
			var ports []discoveryv1.EndpointPort
			for _, p := range s.Spec.Ports {
				if r.chance(90) {
					ports = append(ports, agreePort(p.Name, p.Protocol, pick(r, agreePorts...)))
				}
			}
			all = append(all, agreeSlice(s.Name, fmt.Sprintf("%d-%d", 4+2*i, number), family, list, ports...))
		}
	}
	return all
}

func (r *agreeRandom) endpoint(c *agreeClient, family, hinted int) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{c.Host.Addrs()[family].String()}}
	if r.chance(95) {
		e.NodeName = &r.w.nodes[c.node].Name
	}
	ready, serving, terminating := true, true, false
	switch r.IntN(8) {
	case 0:
		ready, serving, terminating = false, false, false
	case 1, 2:
		ready, serving, terminating = false, true, true
	case 3:
		ready, serving, terminating = r.chance(50), r.chance(50), r.chance(50)
	case 4: // defaults
		return e
	}
	e.Conditions = discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}
	if hinted == 0 || r.chance(5) {
		return e
	}
	e.Hints = &discoveryv1.EndpointHints{}
	for _, zone := range some(r, 40, "zone-a", "zone-b", "zone-c") {
		e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: zone})
	}
	if hinted == 1 {
		for _, n := range r.w.nodes {
			if n.Node == r.w.nodes[c.node].Node || r.chance(20) {
				e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: n.Name})
			}
		}
	}
	return e
}

// cases are clients that dial what Services have, or might be thought to have.
func (r *agreeRandom) cases(n int) (cases []agreeCase) {
	type target struct {
		network string
		to      netip.AddrPort
	}
	targets := map[target]bool{}
	add := func(network, ip string, port int32) {
		targets[target{network, netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(port))}] = true
	}
	for number := range agreeServices { // also those that are not, or not any more
		s := r.live[number]
		if s == nil {
			s = agreeService("gone", 10+number+agreeServices*max(0, r.born[number]-1), corev1.ServiceTypeClusterIP, tcpPort(""), udpPort("u"))
		}
		for _, p := range s.Spec.Ports {
			for _, network := range []string{"tcp", "udp"} {
				if network != map[corev1.Protocol]string{corev1.ProtocolTCP: "tcp", corev1.ProtocolUDP: "udp"}[p.Protocol] && !r.chance(20) {
					continue
				}
				for _, ip := range s.Spec.ClusterIPs {
					add(network, ip, p.Port)
				}
				for _, ip := range s.Spec.ExternalIPs {
					add(network, ip, p.Port)
				}
				for _, ingress := range s.Status.LoadBalancer.Ingress {
					add(network, ingress.IP, p.Port)
				}
				if p.NodePort != 0 {
					add(network, pick(r, "127.0.0.1", "::1"), p.NodePort)
					for _, node := range r.w.nodes {
						add(network, node.IPv4.String(), p.NodePort)
						add(network, node.IPv6.String(), p.NodePort)
					}
				}
			}
		}
	}
	for _, ip := range []string{"10.96.77.200", "fd96::7:200", agreeVIPs[0], agreeExternal[0], "172.30.0.11"} {
		add("tcp", ip, 99)
		add("udp", ip, 99)
	}
	var all []agreeCase
	for t := range targets {
		for _, c := range r.w.clients {
			if c.kind != outside || !t.to.Addr().IsLoopback() {
				all = append(all, agreeCase{c, t.network, t.to})
			}
		}
	}
	goslices.SortFunc(all, func(a, b agreeCase) int { return strings.Compare(a.String(), b.String()) }) // maps have no order
	for _, i := range r.Perm(len(all))[:min(n, len(all))] {
		cases = append(cases, all[i])
	}
	return cases
}
