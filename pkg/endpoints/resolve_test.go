package endpoints

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func portsText(resolved []Resolved) []string {
	var lines []string
	for _, r := range resolved {
		lines = append(lines, r.Port.String())
	}
	return lines
}

func TestResolvePorts(t *testing.T) {
	for _, tc := range []struct {
		name       string
		clusterIPs []netip.Addr
		ports      []Port
		want       []string
	}{
		{name: "in their order", clusterIPs: mustAddrs("172.30.0.1"),
			ports: []Port{{"z", TCP, 80, 0}, {"a", TCP, 443, 0}, {"m", SCTP, 36412, 0}},
			want:  []string{"shop/web:z/tcp", "shop/web:a/tcp", "shop/web:m/sctp"}},
		{name: "one number, two protocols (R-1.20)", clusterIPs: mustAddrs("172.30.0.1"),
			ports: []Port{{"dns", UDP, 53, 0}, {"dns-tcp", TCP, 53, 0}},
			want:  []string{"shop/web:dns/udp", "shop/web:dns-tcp/tcp"}},
		{name: "one name, two protocols", clusterIPs: mustAddrs("172.30.0.1"),
			ports: []Port{{"dns", UDP, 53, 0}, {"dns", TCP, 53, 0}},
			want:  []string{"shop/web:dns/udp", "shop/web:dns/tcp"}},
		{name: "none", clusterIPs: mustAddrs("172.30.0.1")},
		{name: "no ClusterIP (R-1.2)", ports: []Port{{"", TCP, 80, 30080}}},
		{name: "no usable ClusterIP", clusterIPs: append(mustAddrs("0.0.0.0", "ff02::1", "fe80::1%eth0"), netip.Addr{}), ports: []Port{{"", TCP, 80, 30080}}},
		{name: "port 0", clusterIPs: mustAddrs("172.30.0.1"), ports: []Port{{"a", TCP, 0, 30080}, {"b", TCP, 80, 0}}, want: []string{"shop/web:b/tcp"}},
		{name: "unknown protocol", clusterIPs: mustAddrs("172.30.0.1"), ports: []Port{{"a", 0, 80, 0}, {"b", 1, 80, 0}, {"c", 255, 80, 0}}},
		{name: "a name twice", clusterIPs: mustAddrs("172.30.0.1"), ports: []Port{{"a", TCP, 0, 0}, {"a", TCP, 80, 0}, {"a", TCP, 81, 0}}, want: []string{"shop/web:a/tcp"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc := &Service{Name: web, ClusterIPs: tc.clusterIPs, Ports: tc.ports}
			if diff := cmp.Diff(tc.want, portsText(Resolve(svc, nil, here()))); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
		})
	}
}

// Each family decides for itself: conditions, hints and localness of one say nothing about the other.
func TestResolveDualStack(t *testing.T) {
	svc := &Service{
		Name: web, Created: time.Unix(100, 0), Affinity: time.Hour, ClusterIPs: mustAddrs("fd30::1", "172.30.0.1"),
		ExternalLocal: true, Ports: []Port{{Protocol: TCP, Port: 80, NodePort: 30080}},
	}
	slices := []*Slice{
		mustSlice(t, 8080, "fd00::9 zone=zone-a", "fd00::8 local leaving", "fd00::7 zone=zone-b"),
		mustSlice(t, 80, "10.0.0.2 leaving", "10.0.0.1 leaving"),
	}
	r := mustOne(t, Resolve(svc, slices, here()))
	want := []string{
		"ipv4 cluster: serve 10.0.0.1:80 10.0.0.2:80",
		"ipv4 local: drop",
		"ipv6 cluster: serve [fd00::9]:8080",
		"ipv6 local: serve [fd00::8]:8080",
	}
	if diff := cmp.Diff(want, poolsText(r)); diff != "" {
		t.Errorf("pools (-want +got):\n%s", diff)
	}
	if !r.Created.Equal(svc.Created) || r.Affinity != time.Hour {
		t.Errorf("created %v, affinity %v; want those of the Service", r.Created, r.Affinity)
	}
}

func TestResolveSingleStackIgnoresTheOtherFamily(t *testing.T) {
	svc := &Service{Name: web, ClusterIPs: mustAddrs("172.30.0.1"), Ports: []Port{{Protocol: TCP, Port: 80}}}
	r := mustOne(t, Resolve(svc, []*Slice{mustSlice(t, 80, "fd00::1")}, here()))
	if diff := cmp.Diff([]string{"ipv4 cluster: reject"}, poolsText(r)); diff != "" {
		t.Errorf("pools (-want +got):\n%s", diff)
	}
	if len(r.Backends) != 0 {
		t.Errorf("backends %v, want none", r.Backends)
	}
}

func TestResolveNegativeAffinity(t *testing.T) {
	svc := &Service{Name: web, ClusterIPs: mustAddrs("172.30.0.1"), Ports: []Port{{Protocol: TCP, Port: 80}}, Affinity: -time.Hour}
	if r := mustOne(t, Resolve(svc, nil, here())); r.Affinity != 0 {
		t.Errorf("affinity %v, want none", r.Affinity)
	}
}
