package watch

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// compareAddrs lets cmp look at addresses and prefixes, whose fields it cannot.
var compareAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func addrs(texts ...string) []netip.Addr {
	var list []netip.Addr
	for _, t := range texts {
		list = append(list, netip.MustParseAddr(t))
	}
	return list
}

func prefixes(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, t := range texts {
		list = append(list, netip.MustParsePrefix(t))
	}
	return list
}

func messages(errs []error) []string {
	var texts []string
	for _, err := range errs {
		texts = append(texts, err.Error())
	}
	return texts
}

var webName = endpoints.ObjectName{Namespace: "default", Name: "web"}

// web is a valid Service with one port; edit changes it.
func web(edit func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", CreationTimestamp: metav1.Unix(1000, 0)},
		Spec: corev1.ServiceSpec{
			Type:      corev1.ServiceTypeClusterIP,
			ClusterIP: "10.96.0.10", ClusterIPs: []string{"10.96.0.10"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	if edit != nil {
		edit(svc)
	}
	return svc
}

// webModel is what web(nil) becomes; edit changes it.
func webModel(edit func(*endpoints.Service)) *endpoints.Service {
	s := &endpoints.Service{
		Name: webName, Created: time.Unix(1000, 0).UTC(),
		Ports:      []endpoints.Port{{Name: "http", Protocol: endpoints.TCP, Port: 80}},
		ClusterIPs: addrs("10.96.0.10"),
	}
	if edit != nil {
		edit(s)
	}
	return s
}

func ptr[T any](v T) *T { return &v }

func TestConvertService(t *testing.T) {
	local, cluster := corev1.ServiceInternalTrafficPolicyLocal, corev1.ServiceInternalTrafficPolicyCluster
	vip, proxy := corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy
	lb := func(svc *corev1.Service, ips ...string) {
		svc.Spec.Type = corev1.ServiceTypeLoadBalancer
		for _, ip := range ips {
			svc.Status.LoadBalancer.Ingress = append(svc.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
		}
	}
	for _, tt := range []struct {
		name     string
		edit     func(*corev1.Service)
		want     func(*endpoints.Service) // nil: not served
		problems []string
	}{
		{name: "plain", edit: func(*corev1.Service) {}, want: func(*endpoints.Service) {}},
		{name: "R-1.1 headless", edit: func(s *corev1.Service) { s.Spec.ClusterIP = "None" }},
		{name: "R-1.1 ExternalName keeps its old ClusterIP", edit: func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }},
		{name: "R-1.1 no ClusterIP", edit: func(s *corev1.Service) { s.Spec.ClusterIP = "" },
			problems: []string{"Service default/web: spec.clusterIP is not set"}},
		{name: "R-1.3 somebody else's, whatever the value", edit: func(s *corev1.Service) { s.Labels = map[string]string{labelProxyName: ""} }},
		{name: "R-1.2 dual stack", edit: func(s *corev1.Service) {
			s.Spec.ClusterIPs, s.Spec.IPFamilies = []string{"10.96.0.10", "fd00::a"}, []corev1.IPFamily{"IPv4", "IPv6"}
		}, want: func(s *endpoints.Service) { s.ClusterIPs = addrs("10.96.0.10", "fd00::a") }},
		{name: "R-1.2 old object without families", edit: func(s *corev1.Service) { s.Spec.ClusterIPs, s.Spec.IPFamilies = nil, nil },
			want: func(*endpoints.Service) {}},
		{name: "R-1.2 family does not match", edit: func(s *corev1.Service) {
			s.Spec.ClusterIPs, s.Spec.IPFamilies = []string{"10.96.0.10", "10.96.0.11"}, []corev1.IPFamily{"IPv4", "IPv6"}
		}, want: func(*endpoints.Service) {},
			problems: []string{"Service default/web: spec.clusterIPs[1]: 10.96.0.11 does not match spec.ipFamilies [IPv4 IPv6]"}},
		{name: "second address of a family", edit: func(s *corev1.Service) {
			s.Spec.ClusterIPs, s.Spec.IPFamilies = []string{"10.96.0.10", "10.96.0.11"}, nil
		}, want: func(*endpoints.Service) {},
			problems: []string{"Service default/web: spec.clusterIPs[1]: 10.96.0.11 is a second IPv4 address"}},
		{name: "R-1.27 leading zeros are decimal, mapped is IPv4", edit: func(s *corev1.Service) {
			s.Spec.ClusterIPs = []string{"010.096.000.010"}
			s.Spec.ExternalIPs = []string{"::ffff:192.0.2.1", "192.0.2.01", "2001:DB8::0:1"}
		}, want: func(s *endpoints.Service) { s.ExternalIPs = addrs("192.0.2.1", "2001:db8::1") }},
		{name: "bad external IPs", edit: func(s *corev1.Service) {
			s.Spec.ExternalIPs = []string{"nonsense", "127.0.0.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "fe80::1%eth0", "192.0.2.1"}
		}, want: func(s *endpoints.Service) { s.ExternalIPs = addrs("192.0.2.1") },
			problems: []string{
				`Service default/web: spec.externalIPs[0]: "nonsense" is not an IP address`,
				`Service default/web: spec.externalIPs[1]: 127.0.0.1 is a loopback address`,
				`Service default/web: spec.externalIPs[2]: 169.254.1.1 is a link-local address`,
				`Service default/web: spec.externalIPs[3]: 0.0.0.0 is the unspecified address`,
				`Service default/web: spec.externalIPs[4]: 224.0.0.1 is a multicast address`,
				`Service default/web: spec.externalIPs[5]: 255.255.255.255 is the broadcast address`,
				`Service default/web: spec.externalIPs[6]: "fe80::1%eth0" is not an IP address`,
			}},
		{name: "no usable ClusterIP", edit: func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"10.96.0.999"} },
			problems: []string{`Service default/web: spec.clusterIPs[0]: "10.96.0.999" is not an IP address`, "Service default/web: spec.clusterIPs: none is usable"}},
		{name: "ClusterIPs nobody can dial", edit: func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"0.0.0.0"} },
			problems: []string{`Service default/web: spec.clusterIPs[0]: 0.0.0.0 is the unspecified address`, "Service default/web: spec.clusterIPs: none is usable"}},
		{name: "a ClusterIP that would take the host's own", edit: func(s *corev1.Service) { s.Spec.ClusterIPs = []string{"127.0.0.1"} },
			problems: []string{`Service default/web: spec.clusterIPs[0]: 127.0.0.1 is a loopback address`, "Service default/web: spec.clusterIPs: none is usable"}},
		{name: "R-1.9 load balancer addresses by mode, R-1.8 whatever the type", edit: func(s *corev1.Service) {
			s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{
				{IP: "192.0.2.1"}, {IP: "192.0.2.2", IPMode: &vip}, {IP: "192.0.2.3", IPMode: &proxy}, {Hostname: "lb.example"}, {IP: "x"}, {IP: "::"},
			}
		}, want: func(s *endpoints.Service) { s.LoadBalancerIPs = addrs("192.0.2.1", "192.0.2.2") },
			problems: []string{
				`Service default/web: status.loadBalancer.ingress[4].ip: "x" is not an IP address`,
				`Service default/web: status.loadBalancer.ingress[5].ip: :: is the unspecified address`,
			}},
		{name: "R-1.10 ranges are trimmed and masked", edit: func(s *corev1.Service) {
			lb(s, "192.0.2.1")
			s.Spec.LoadBalancerSourceRanges = []string{" 10.1.2.3/8\t", "2001:db8::1/32", "::ffff:10.0.0.0/104"}
		}, want: func(s *endpoints.Service) {
			s.LoadBalancerIPs, s.SourceRanges = addrs("192.0.2.1"), prefixes("10.0.0.0/8", "2001:db8::/32", "10.0.0.0/8")
		}},
		{name: "one bad range leaves the others", edit: func(s *corev1.Service) {
			lb(s, "192.0.2.1")
			s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0/8", "10.0.0.0/33"}
		}, want: func(s *endpoints.Service) {
			s.LoadBalancerIPs, s.SourceRanges = addrs("192.0.2.1"), prefixes("10.0.0.0/8")
		}, problems: []string{`Service default/web: spec.loadBalancerSourceRanges[1]: "10.0.0.0/33" is not a CIDR`}},
		{name: "a mistake in the only range opens nothing", edit: func(s *corev1.Service) {
			lb(s, "192.0.2.1")
			s.Spec.LoadBalancerSourceRanges = []string{"10.0.0.0"}
		}, want: func(*endpoints.Service) {}, problems: []string{
			`Service default/web: spec.loadBalancerSourceRanges[0]: "10.0.0.0" is not a CIDR`,
			`Service default/web: status.loadBalancer.ingress: 192.0.2.1 is not served: no usable spec.loadBalancerSourceRanges for it`,
		}},
		{name: "R-1.12 affinity", edit: func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(60))}}
		}, want: func(s *endpoints.Service) { s.Affinity = time.Minute }},
		{name: "R-1.12 affinity without timeout", edit: func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP },
			want: func(s *endpoints.Service) { s.Affinity = 3 * time.Hour }},
		{name: "affinity timeout too large", edit: func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(86401))}}
		}, want: func(s *endpoints.Service) { s.Affinity = 3 * time.Hour },
			problems: []string{"Service default/web: spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not 1 to 86400"}},
		{name: "timeout without affinity", edit: func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityNone
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr(int32(60))}}
		}, want: func(*endpoints.Service) {}},
		{name: "Maglev by annotation", edit: func(s *corev1.Service) { s.Annotations = map[string]string{"svcproxy.io/load-balancing": "maglev"} },
			want: func(s *endpoints.Service) { s.Balancing = endpoints.Maglev }},
		{name: "unknown balancing", edit: func(s *corev1.Service) { s.Annotations = map[string]string{"svcproxy.io/load-balancing": "best"} },
			want:     func(*endpoints.Service) {},
			problems: []string{`Service default/web: metadata.annotations[svcproxy.io/load-balancing]: "best" is neither random nor maglev`}},
		{name: "unknown affinity", edit: func(s *corev1.Service) { s.Spec.SessionAffinity = "Cookie" }, want: func(*endpoints.Service) {},
			problems: []string{`Service default/web: spec.sessionAffinity: "Cookie" is not None or ClientIP`}},
		{name: "R-1.14 external Local does not count on a plain ClusterIP", edit: func(s *corev1.Service) {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}, want: func(*endpoints.Service) {}},
		{name: "R-1.14 external Local counts with external IPs, even bad ones", edit: func(s *corev1.Service) {
			s.Spec.ExternalTrafficPolicy, s.Spec.ExternalIPs = corev1.ServiceExternalTrafficPolicyLocal, []string{"x"}
		}, want: func(s *endpoints.Service) { s.ExternalLocal = true },
			problems: []string{`Service default/web: spec.externalIPs[0]: "x" is not an IP address`}},
		{name: "R-1.14 external Local on a NodePort", edit: func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeNodePort, corev1.ServiceExternalTrafficPolicyLocal
			s.Spec.HealthCheckNodePort = 30001 // not this type's
		}, want: func(s *endpoints.Service) { s.ExternalLocal = true }},
		{name: "R-1.15 internal Local", edit: func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &local },
			want: func(s *endpoints.Service) { s.InternalLocal = true }},
		{name: "R-1.15 internal Cluster", edit: func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &cluster }, want: func(*endpoints.Service) {}},
		{name: "R-1.16 health check", edit: func(s *corev1.Service) {
			lb(s)
			s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, 30001
		}, want: func(s *endpoints.Service) { s.ExternalLocal, s.HealthCheckNodePort = true, 30001 }},
		{name: "R-1.16 no health check for Cluster", edit: func(s *corev1.Service) {
			lb(s)
			s.Spec.HealthCheckNodePort = 30001
		}, want: func(*endpoints.Service) {}},
		{name: "R-1.16 health check port missing", edit: func(s *corev1.Service) {
			lb(s)
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}, want: func(s *endpoints.Service) { s.ExternalLocal = true },
			problems: []string{"Service default/web: spec.healthCheckNodePort: 0 is not 1 to 65535"}},
		{name: "R-1.7 names are not validated", edit: func(s *corev1.Service) { s.Name = "9Lives_" },
			want: func(s *endpoints.Service) { s.Name.Name = "9Lives_" }},
		{name: "a name that would break the dump", edit: func(s *corev1.Service) { s.Name = "web/evil:80" },
			problems: []string{`Service default/web/evil:80: metadata: "default/web/evil:80" is not a name`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, problems := convertService(web(tt.edit))
			var want *endpoints.Service
			if tt.want != nil {
				want = webModel(tt.want)
			}
			if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
				t.Errorf("service (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.problems, messages(problems)); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestConvertServicePorts(t *testing.T) {
	for _, tt := range []struct {
		name     string
		ports    []corev1.ServicePort
		want     []endpoints.Port // none: the Service is not served
		problems []string
	}{
		{name: "all protocols, unset is TCP", ports: []corev1.ServicePort{
			{Name: "a", Port: 1}, {Name: "b", Port: 2, Protocol: "UDP"}, {Name: "c", Port: 3, Protocol: "SCTP", NodePort: 30003},
		}, want: []endpoints.Port{
			{Name: "a", Protocol: endpoints.TCP, Port: 1}, {Name: "b", Protocol: endpoints.UDP, Port: 2},
			{Name: "c", Protocol: endpoints.SCTP, Port: 3, NodePort: 30003},
		}},
		{name: "R-1.20 one number, two protocols, one node port", ports: []corev1.ServicePort{
			{Name: "dns", Port: 53, Protocol: "UDP", NodePort: 30053}, {Name: "dns-tcp", Port: 53, Protocol: "TCP", NodePort: 30053},
		}, want: []endpoints.Port{
			{Name: "dns", Protocol: endpoints.UDP, Port: 53, NodePort: 30053}, {Name: "dns-tcp", Protocol: endpoints.TCP, Port: 53, NodePort: 30053},
		}},
		{name: "the only port has an unknown protocol", ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: "FOO"}},
			problems: []string{`Service default/web: port "http": protocol "FOO" is not TCP, UDP or SCTP`, "Service default/web: spec.ports: none is usable"}},
		{name: "no ports", problems: []string{"Service default/web: spec.ports: none is usable"}},
		{name: "numbers out of range", ports: []corev1.ServicePort{
			{Name: "zero", Port: 0}, {Name: "negative", Port: -1}, {Name: "large", Port: 65536}, {Name: "edge", Port: 65535, NodePort: 65536}, {Name: "ok", Port: 1, NodePort: -1},
		}, want: []endpoints.Port{{Name: "edge", Protocol: endpoints.TCP, Port: 65535}, {Name: "ok", Protocol: endpoints.TCP, Port: 1}},
			problems: []string{
				`Service default/web: port "zero": port 0 is not 1 to 65535`,
				`Service default/web: port "negative": port -1 is not 1 to 65535`,
				`Service default/web: port "large": port 65536 is not 1 to 65535`,
				`Service default/web: port "edge": nodePort 65536 is not 1 to 65535`,
				`Service default/web: port "ok": nodePort -1 is not 1 to 65535`,
			}},
		{name: "duplicates", ports: []corev1.ServicePort{
			{Name: "a", Port: 1, NodePort: 30001}, {Name: "a", Port: 2}, {Name: "b", Port: 1}, {Name: "c", Port: 3, NodePort: 30001},
		}, want: []endpoints.Port{{Name: "a", Protocol: endpoints.TCP, Port: 1, NodePort: 30001}, {Name: "c", Protocol: endpoints.TCP, Port: 3}},
			problems: []string{
				`Service default/web: port "a": there is another one of this name`,
				`Service default/web: port "b": tcp 1 is another port's already`,
				`Service default/web: port "c": nodePort tcp 30001 is another port's already`,
			}},
		{name: "a port's name that would break the dump", ports: []corev1.ServicePort{{Name: "a b", Port: 1}, {Port: 2}},
			want:     []endpoints.Port{{Protocol: endpoints.TCP, Port: 2}},
			problems: []string{`Service default/web: spec.ports[0].name: "a b" is not a name`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, problems := convertService(web(func(s *corev1.Service) { s.Spec.Ports = tt.ports }))
			var ports []endpoints.Port
			if got != nil {
				ports = got.Ports
			}
			if diff := cmp.Diff(tt.want, ports); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.problems, messages(problems)); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}
