package endpoints

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var (
	pod      = Client{FromInside, netip.MustParseAddr("10.244.0.7")}
	loosePod = Client{FromOutside, netip.MustParseAddr("10.244.0.7")} // no local detector
	host     = Client{FromHost, netip.MustParseAddr("192.168.0.1")}
	stranger = Client{FromOutside, netip.MustParseAddr("198.51.100.9")}
)

// The flows of kube-proxy's TestInternalExternalMasquerade (parity §4.1): which set answers whom.
func TestAnswer(t *testing.T) {
	service := func(change func(*Service)) Resolved {
		svc := &Service{
			Name: web, ClusterIPs: mustAddrs("172.30.0.41"), ExternalIPs: mustAddrs("203.0.113.1"), LoadBalancerIPs: mustAddrs("203.0.113.2"),
			Ports: []Port{{Protocol: TCP, Port: 80, NodePort: 30080}},
		}
		change(svc)
		return mustOne(t, Resolve(svc, []*Slice{mustSlice(t, 80, "10.180.0.1 local", "10.180.1.1")}, here()))
	}
	services := map[string]Resolved{
		"Cluster":        service(func(*Service) {}),
		"external Local": service(func(s *Service) { s.ExternalLocal = true }),
		"internal Local": service(func(s *Service) { s.InternalLocal = true }),
		"both Local":     service(func(s *Service) { s.InternalLocal, s.ExternalLocal = true, true }),
	}
	const (
		clusterIP  = "172.30.0.41:80"
		nodePort   = "192.168.0.1:30080"
		loopback   = "127.0.0.1:30080"
		externalIP = "203.0.113.1:80"
		lb         = "203.0.113.2:80"

		both = "serve 10.180.0.1:80 10.180.1.1:80"
		here = "serve 10.180.0.1:80"
		none = "not ours"
	)
	for _, tc := range []struct {
		who    string
		client Client
		dial   string

		cluster, externalLocal, internalLocal, bothLocal string
	}{
		{"pod to ClusterIP", pod, clusterIP, both, both, here, here},
		{"pod to NodePort", pod, nodePort, both, both, both, both},
		{"pod to ExternalIP", pod, externalIP, both, both, both, both},
		{"pod to LB", pod, lb, both, both, both, both},
		{"pod to its own loopback", pod, loopback, none, none, none, none},

		{"pod to ClusterIP, no detector", loosePod, clusterIP, both, both, here, here},
		{"pod to NodePort, no detector", loosePod, nodePort, both, here, both, here},
		{"pod to LB, no detector", loosePod, lb, both, here, both, here},
		{"pod to its own loopback, no detector", loosePod, loopback, none, none, none, none},

		{"node to ClusterIP", host, clusterIP, both, both, here, here},
		{"node to NodePort", host, nodePort, both, both, both, both},
		{"node to ExternalIP", host, externalIP, both, both, both, both},
		{"node to LB", host, lb, both, both, both, both},
		{"node to loopback", host, loopback, both, both, both, both},

		{"external to ClusterIP", stranger, clusterIP, both, both, here, here},
		{"external to NodePort", stranger, nodePort, both, here, both, here},
		{"external to ExternalIP", stranger, externalIP, both, here, both, here},
		{"external to LB", stranger, lb, both, here, both, here},
		{"external to loopback", stranger, loopback, none, none, none, none},

		//
		{"an unused port of the ClusterIP", pod, "172.30.0.41:81", none, none, none, none},
		{"the NodePort of the ClusterIP", pod, "172.30.0.41:30080", none, none, none, none},
		{"the Service port of the node", pod, "192.168.0.1:80", none, none, none, none},
		{"the NodePort of another node", stranger, "192.168.0.2:30080", none, none, none, none},
		{"mapped", pod, "[::ffff:172.30.0.41]:80", both, both, here, here},
	} {
		t.Run(tc.who, func(t *testing.T) {
			got := map[string]string{}
			for name, r := range services {
				got[name] = answerText(r.Answer(tc.client, netip.MustParseAddrPort(tc.dial)))
			}
			want := map[string]string{"Cluster": tc.cluster, "external Local": tc.externalLocal,
				"internal Local": tc.internalLocal, "both Local": tc.bothLocal}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%v dials %s, answer by policy (-want +got):\n%s", tc.client.Origin, tc.dial, diff)
			}
		})
	}
}

// The last column of parity §4.1: with masqueradeAll every client of a ClusterIP is masqueraded, and nobody else is for
// that reason; the sets are as without it.
func TestAnswerMasqueraded(t *testing.T) {
	svc := &Service{
		Name: web, ClusterIPs: mustAddrs("172.30.0.41"), ExternalIPs: mustAddrs("203.0.113.1"), LoadBalancerIPs: mustAddrs("203.0.113.2"),
		Ports:        []Port{{Protocol: TCP, Port: 80, NodePort: 30080}},
		SourceRanges: mustPrefixes("0.0.0.0/0"), ExternalLocal: true,
	}
	slices := []*Slice{mustSlice(t, 80, "10.180.0.1 local", "10.180.1.1")}
	all := here()
	all.MasqueradeAll = true
	plain, masquerading := mustOne(t, Resolve(svc, slices, here())), mustOne(t, Resolve(svc, slices, all))
	for dial, want := range map[string]bool{
		"172.30.0.41:80": true, "192.168.0.1:30080": false, "203.0.113.1:80": false, "203.0.113.2:80": false,
	} {
		for _, client := range []Client{pod, loosePod, host, stranger} {
			to := netip.MustParseAddrPort(dial)
			before, _ := plain.Answer(client, to)
			after, _ := masquerading.Answer(client, to)
			if before.Masqueraded || after.Masqueraded != want {
				t.Errorf("%v dials %s: masqueraded %v without masqueradeAll, %v with it; want false, %v",
					client.Origin, dial, before.Masqueraded, after.Masqueraded, want)
			}
			if diff := cmp.Diff(answerText(before, true), answerText(after, true)); diff != "" {
				t.Errorf("%v dials %s (-without +with):\n%s", client.Origin, dial, diff)
			}
		}
	}
}

// Parity §3: who is rejected, dropped or served when backends are missing.
func TestAnswerWithoutBackends(t *testing.T) {
	const (
		clusterIP = "172.30.0.41:80"
		nodePort  = "192.168.0.1:30080"
		external  = "203.0.113.1:80"
		lb        = "203.0.113.2:80"
	)
	remote := []string{"10.180.1.1"}
	served := "serve 10.180.1.1:80"
	for _, tc := range []struct {
		name          string
		internalLocal bool
		externalLocal bool
		ranges        []netip.Prefix
		endpoints     []string
		client        Client
		dial          string
		want          string
	}{
		{name: "R-3.1", client: pod, dial: clusterIP, want: "reject"},
		{name: "R-3.1 from outside", client: stranger, dial: clusterIP, want: "reject"},
		{name: "R-3.1 only unready ones", endpoints: []string{"10.180.0.1 local unready"}, client: pod, dial: clusterIP, want: "reject"},
		{name: "R-3.1 beats internal Local", internalLocal: true, client: pod, dial: clusterIP, want: "reject"},
		{name: "R-3.2", internalLocal: true, endpoints: remote, client: pod, dial: clusterIP, want: "drop"},
		{name: "R-3.2 from the host", internalLocal: true, endpoints: remote, client: host, dial: clusterIP, want: "drop"},
		{name: "R-3.2 does not concern external Local", externalLocal: true, endpoints: remote, client: pod, dial: clusterIP, want: served},
		{name: "R-3.3", client: stranger, dial: external, want: "reject"},
		{name: "R-3.3 beats external Local", externalLocal: true, client: stranger, dial: external, want: "reject"},
		{name: "R-3.4 from the host (§14: as nftables)", client: host, dial: lb, want: "reject"},
		{name: "R-3.5 external IP", externalLocal: true, endpoints: remote, client: stranger, dial: external, want: "drop"},
		{name: "R-3.5 load balancer", externalLocal: true, endpoints: remote, client: stranger, dial: lb, want: "drop"},
		{name: "R-3.6 pod", externalLocal: true, endpoints: remote, client: pod, dial: lb, want: served},
		{name: "R-3.6 host", externalLocal: true, endpoints: remote, client: host, dial: external, want: served},
		{name: "R-3.6 pod without detector", externalLocal: true, endpoints: remote, client: loosePod, dial: lb, want: "drop"},
		{name: "R-3.7 stranger", ranges: mustPrefixes("192.168.0.0/24"), endpoints: remote, client: stranger, dial: lb, want: "drop"},
		{name: "R-3.7 pod", ranges: mustPrefixes("192.168.0.0/24"), endpoints: remote, client: pod, dial: lb, want: "drop"},
		{name: "R-3.7 pod in range", ranges: mustPrefixes("10.244.0.7/32"), endpoints: remote, client: pod, dial: lb, want: served},
		{name: "R-3.7 host in range", ranges: mustPrefixes("192.168.0.0/24"), endpoints: remote, client: host, dial: lb, want: served},
		{name: "R-3.7 host from the load balancer address", ranges: mustPrefixes("192.168.0.0/24"), endpoints: remote,
			client: Client{FromHost, netip.MustParseAddr("203.0.113.2")}, dial: lb, want: served},
		{name: "R-3.7 host from the load balancer address, node not in range", ranges: mustPrefixes("10.0.0.0/8"), endpoints: remote,
			client: Client{FromHost, netip.MustParseAddr("203.0.113.2")}, dial: lb, want: "drop"},
		{name: "R-3.7 unknown source", ranges: mustPrefixes("192.168.0.0/24"), endpoints: remote, client: Client{Origin: FromHost}, dial: lb, want: "drop"},
		{name: "R-3.7 mapped source", ranges: mustPrefixes("198.51.100.0/24"), endpoints: remote,
			client: Client{FromOutside, netip.MustParseAddr("::ffff:198.51.100.9")}, dial: lb, want: served},
		{name: "R-3.7 stranger, no endpoints (§14: as nftables)", ranges: mustPrefixes("192.168.0.0/24"), client: stranger, dial: lb, want: "drop"},
		{name: "R-3.7 admitted, no endpoints", ranges: mustPrefixes("198.51.100.0/24"), client: stranger, dial: lb, want: "reject"},
		{name: "R-3.7 admitted, external Local", ranges: mustPrefixes("198.51.100.0/24"), externalLocal: true, endpoints: remote,
			client: stranger, dial: lb, want: "drop"},
		{name: "R-3.7 does not bind external IPs", ranges: mustPrefixes("192.168.0.0/24"), endpoints: remote, client: stranger, dial: external, want: served},
		{name: "R-3.7 does not bind NodePorts", ranges: mustPrefixes("192.168.0.0/24"), endpoints: remote, client: stranger, dial: nodePort, want: served},
		{name: "R-3.8", client: stranger, dial: nodePort, want: "reject"},
		{name: "R-3.8 loopback", client: host, dial: "127.0.0.1:30080", want: "reject"},
		{name: "R-3.9", externalLocal: true, endpoints: remote, client: stranger, dial: nodePort, want: "drop"},
		{name: "R-3.9 leaving elsewhere", externalLocal: true, endpoints: []string{"10.180.1.1 leaving"}, client: stranger, dial: nodePort, want: "drop"},
		{name: "R-3.9 leaving here", externalLocal: true, endpoints: []string{"10.180.1.1", "10.180.0.1 local leaving"},
			client: stranger, dial: nodePort, want: "serve 10.180.0.1:80"},
		{name: "short circuit to who is ready elsewhere (R-2.12)", externalLocal: true, endpoints: []string{"10.180.1.1", "10.180.0.1 local leaving"},
			client: host, dial: nodePort, want: served},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc := &Service{
				Name: web, ClusterIPs: mustAddrs("172.30.0.41"), ExternalIPs: mustAddrs("203.0.113.1"), LoadBalancerIPs: mustAddrs("203.0.113.2"),
				Ports:         []Port{{Protocol: TCP, Port: 80, NodePort: 30080}},
				InternalLocal: tc.internalLocal, ExternalLocal: tc.externalLocal, SourceRanges: tc.ranges,
			}
			view := here()
			view.Primary = mustAddrs("192.168.0.1")
			r := mustOne(t, Resolve(svc, []*Slice{mustSlice(t, 80, tc.endpoints...)}, view))
			if got := answerText(r.Answer(tc.client, netip.MustParseAddrPort(tc.dial))); got != tc.want {
				t.Errorf("%v %v dials %s: %s, want %s", tc.client.Origin, tc.client.Addr, tc.dial, got, tc.want)
			}
		})
	}
}

func TestDial(t *testing.T) {
	young, old := time.Unix(200, 0), time.Unix(100, 0)
	// Each Service has a backend that says who it is.
	var all []Resolved
	add := func(n int, name string, created time.Time, p Port, change func(*Service)) {
		svc := &Service{Name: ObjectName{"shop", name}, Created: created, Ports: []Port{p},
			ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{172, 30, 0, byte(n)})}}
		change(svc)
		s := mustSlice(t, 80, fmt.Sprintf("10.0.0.%d", n))
		s.Service = svc.Name
		s.Ports[0] = SlicePort{Name: p.Name, Protocol: p.Protocol, Port: 80}
		all = append(all, Resolve(svc, []*Slice{s}, here())...)
	}
	external := func(list ...string) func(*Service) {
		return func(s *Service) { s.ExternalIPs = mustAddrs(list...) }
	}
	add(1, "z-old", old, Port{Protocol: TCP, Port: 80}, external("203.0.113.1"))
	add(2, "a-young", young, Port{Protocol: TCP, Port: 80}, external("203.0.113.1", "203.0.113.2"))
	add(3, "b-young", young, Port{Protocol: TCP, Port: 80}, external("203.0.113.1", "203.0.113.2"))
	add(4, "udp", old, Port{Protocol: UDP, Port: 80}, external("203.0.113.1"))
	add(5, "node-port", old, Port{Protocol: TCP, Port: 80, NodePort: 8080}, external())
	add(6, "node-ip", young, Port{Protocol: TCP, Port: 8080}, external("192.168.0.1"))
	twoPorts := func(s *Service) {
		s.ExternalIPs = mustAddrs("203.0.113.3")
		s.Ports = append(s.Ports, Port{Name: "a", Protocol: TCP, Port: 80})
	}
	add(7, "two-ports", old, Port{Name: "b", Protocol: TCP, Port: 80}, twoPorts)

	for _, tc := range []struct {
		name     string
		client   Client
		protocol Protocol
		dial     string
		want     string
	}{
		{"only one has it", pod, TCP, "172.30.0.2:80", "serve 10.0.0.2:80"},
		{"the older Service (R-1.25)", pod, TCP, "203.0.113.1:80", "serve 10.0.0.1:80"},
		{"of one age, the lesser name", pod, TCP, "203.0.113.2:80", "serve 10.0.0.2:80"},
		{"of one Service, the lesser port name", pod, TCP, "203.0.113.3:80", "reject"},
		{"the same port of another protocol (R-1.20)", pod, UDP, "203.0.113.1:80", "serve 10.0.0.4:80"},
		{"a younger IP before an older NodePort", stranger, TCP, "192.168.0.1:8080", "serve 10.0.0.6:80"},
		{"that NodePort elsewhere", stranger, TCP, "[::ffff:127.0.0.1]:8080", "not ours"},
		{"that NodePort on loopback", host, TCP, "127.0.0.1:8080", "serve 10.0.0.5:80"},
		{"nobody's", pod, SCTP, "203.0.113.1:80", "not ours"},
		{"invalid", pod, TCP, "", "not ours"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var dial netip.AddrPort
			if tc.dial != "" {
				dial = netip.MustParseAddrPort(tc.dial)
			}
			for range 2 { // the order does not matter
				if got := answerText(Dial(all, tc.client, tc.protocol, dial)); got != tc.want {
					t.Errorf("%s, want %s", got, tc.want)
				}
				for i, j := 0, len(all)-1; i < j; i, j = i+1, j-1 {
					all[i], all[j] = all[j], all[i]
				}
			}
		})
	}
}
