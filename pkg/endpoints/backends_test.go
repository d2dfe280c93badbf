package endpoints

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBackends(t *testing.T) {
	other := func(s *Slice, change func(*Slice)) *Slice { change(s); return s }
	for _, tc := range []struct {
		name   string
		slices []*Slice
		want   []string
	}{
		{name: "no slices"},
		{name: "sorted, with their states", slices: []*Slice{
			mustSlice(t, 80, "10.0.0.9 local", "10.0.0.10 nodeless", "10.0.0.2 leaving", "10.0.0.3 published", "10.0.0.4 odd"),
		}, want: []string{
			"10.0.0.2:80 serving terminating", "10.0.0.3:80 ready terminating", "10.0.0.4:80 serving",
			"10.0.0.9:80 local ready serving", "10.0.0.10:80 ready serving",
		}},
		{name: "neither ready nor serving", slices: []*Slice{mustSlice(t, 80, "10.0.0.1 unready", "10.0.0.2 gone")}},
		{name: "of two slices", slices: []*Slice{mustSlice(t, 80, "10.0.0.2"), mustSlice(t, 80, "10.0.0.1")},
			want: []string{"10.0.0.1:80 ready serving", "10.0.0.2:80 ready serving"}},
		{name: "slices with different target ports (R-1.21)",
			slices: []*Slice{mustSlice(t, 8080, "10.0.0.2", "10.0.0.3"), mustSlice(t, 80, "10.0.0.1", "10.0.0.2")},
			want: []string{"10.0.0.1:80 ready serving", "10.0.0.2:80 ready serving",
				"10.0.0.2:8080 ready serving", "10.0.0.3:8080 ready serving"}},
		{name: "both families", slices: []*Slice{mustSlice(t, 80, "fd00::5", "fd00::4"), mustSlice(t, 80, "10.0.0.1")},
			want: []string{"10.0.0.1:80 ready serving", "[fd00::4]:80 ready serving", "[fd00::5]:80 ready serving"}},

		//
		{name: "running beats leaving", slices: []*Slice{mustSlice(t, 80, "10.0.0.1 local leaving", "10.0.0.1", "10.0.0.1 local gone")},
			want: []string{"10.0.0.1:80 ready serving"}},
		{name: "running beats leaving in a later slice", slices: []*Slice{mustSlice(t, 80, "10.0.0.1"), mustSlice(t, 80, "10.0.0.1 leaving")},
			want: []string{"10.0.0.1:80 ready serving"}},
		{name: "running beats published", slices: []*Slice{mustSlice(t, 80, "10.0.0.1 published", "10.0.0.1")},
			want: []string{"10.0.0.1:80 ready serving"}},
		{name: "not yet ready beats leaving", slices: []*Slice{mustSlice(t, 80, "10.0.0.1 leaving", "10.0.0.1 unready")}},
		{name: "leaving beats gone", slices: []*Slice{mustSlice(t, 80, "10.0.0.1 gone", "10.0.0.1 leaving")},
			want: []string{"10.0.0.1:80 serving terminating"}},
		{name: "moved between slices", slices: []*Slice{mustSlice(t, 80, "10.0.0.1 unready"), mustSlice(t, 80, "10.0.0.1")},
			want: []string{"10.0.0.1:80 ready serving"}},
		{name: "twice the same", slices: []*Slice{mustSlice(t, 80, "10.0.0.1", "10.0.0.1")},
			want: []string{"10.0.0.1:80 ready serving"}},
		{name: "mapped and plain", slices: []*Slice{other(mustSlice(t, 80, "10.0.0.1 leaving", "::ffff:10.0.0.1"), func(s *Slice) { s.IPv6 = false })},
			want: []string{"10.0.0.1:80 ready serving"}},

		// What a slice must say to count.
		{name: "of another Service", slices: []*Slice{other(mustSlice(t, 80, "10.0.0.1"), func(s *Slice) { s.Service.Name = "api" })}},
		{name: "of another namespace", slices: []*Slice{other(mustSlice(t, 80, "10.0.0.1"), func(s *Slice) { s.Service.Namespace = "test" })}},
		{name: "another port name", slices: []*Slice{other(mustSlice(t, 80, "10.0.0.1"), func(s *Slice) { s.Ports[0].Name = "http" })}},
		{name: "another protocol", slices: []*Slice{other(mustSlice(t, 80, "10.0.0.1"), func(s *Slice) { s.Ports[0].Protocol = UDP })}},
		{name: "no ports", slices: []*Slice{other(mustSlice(t, 80, "10.0.0.1"), func(s *Slice) { s.Ports = nil })}},
		{name: "port 0 (R-2.2)", slices: []*Slice{mustSlice(t, 0, "10.0.0.1")}},
		{name: "a port twice", slices: []*Slice{other(mustSlice(t, 80, "10.0.0.1"), func(s *Slice) {
			s.Ports = append(s.Ports, SlicePort{Protocol: TCP, Port: 81}, SlicePort{Protocol: TCP, Port: 80})
		})}, want: []string{"10.0.0.1:80 ready serving", "10.0.0.1:81 ready serving"}},
		{name: "the wrong family (R-2.1)", slices: []*Slice{
			other(mustSlice(t, 80, "10.0.0.1"), func(s *Slice) { s.IPv6 = true }),
			other(mustSlice(t, 80, "fd00::1", "::ffff:10.0.0.1"), func(s *Slice) { s.IPv6 = false }),
		}, want: []string{"10.0.0.1:80 ready serving"}},
		{name: "addresses that cannot be backends", slices: []*Slice{
			mustSlice(t, 80, "10.0.0.1", "0.0.0.0", "127.0.0.1", "169.254.0.1", "224.0.0.1", "239.1.1.1", "255.255.255.255"),
			mustSlice(t, 80, "fd00::1", "::", "::1", "fe80::1", "fe80::1%eth0", "fd00::1%eth0", "ff02::1"),
			other(mustSlice(t, 80), func(s *Slice) { s.Endpoints = make([]Endpoint, 1); s.Endpoints[0].Ready = true }),
		}, want: []string{"10.0.0.1:80 ready serving", "[fd00::1]:80 ready serving"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc := &Service{Name: web, Ports: []Port{{Protocol: TCP, Port: 80}}, ClusterIPs: mustAddrs("172.30.0.1", "fd30::1")}
			r := mustOne(t, Resolve(svc, tc.slices, here()))
			if diff := cmp.Diff(tc.want, backendsText(r)); diff != "" {
				t.Errorf("backends (-want +got):\n%s", diff)
			}
		})
	}
}

// Of duplicates that leaves open, which one counts does not depend on their order.
func TestDuplicatesInAnyOrder(t *testing.T) {
	for _, tc := range []struct {
		name  string
		first string // the one that counts
		other string
		want  []string
	}{
		{"ready before not ready", "10.0.0.1", "10.0.0.1 odd", []string{"ipv4 cluster: serve 10.0.0.1:80 10.0.0.2:80", "ipv4 local: drop"}},
		{"here before elsewhere", "10.0.0.1 local", "10.0.0.1", []string{"ipv4 cluster: serve 10.0.0.1:80 10.0.0.2:80", "ipv4 local: serve 10.0.0.1:80"}},
		{"by node hint", "10.0.0.1 node=a", "10.0.0.1 node=here", []string{"ipv4 cluster: serve 10.0.0.1:80 10.0.0.2:80", "ipv4 local: drop"}},
		{"by zone hint", "10.0.0.1 zone=zone-a", "10.0.0.1 zone=zone-b", []string{"ipv4 cluster: serve 10.0.0.1:80", "ipv4 local: drop"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc := &Service{Name: web, ClusterIPs: mustAddrs("172.30.0.1"), ExternalLocal: true,
				Ports: []Port{{Protocol: TCP, Port: 80, NodePort: 30080}}}
			third := "10.0.0.2 node=n9 zone=zone-c"
			for _, s := range []*Slice{mustSlice(t, 80, third, tc.first, tc.other), mustSlice(t, 80, tc.other, tc.first, third)} {
				r := mustOne(t, Resolve(svc, []*Slice{s}, here()))
				if diff := cmp.Diff(tc.want, poolsText(r)); diff != "" {
					t.Errorf("pools (-want +got):\n%s", diff)
				}
			}
		})
	}
}

// A backend belongs to the Service port whose name and protocol its slice port has.
func TestBackendsOfSeveralPorts(t *testing.T) {
	svc := &Service{Name: web, ClusterIPs: mustAddrs("172.30.0.1"), Ports: []Port{
		{Name: "dns", Protocol: UDP, Port: 53}, {Name: "dns-tcp", Protocol: TCP, Port: 53}, {Name: "stats", Protocol: TCP, Port: 80},
	}}
	s := mustSlice(t, 0, "10.0.0.1", "10.0.0.2 unready")
	s.Ports = []SlicePort{{"dns-tcp", TCP, 5353}, {"dns", UDP, 5053}, {"dns", TCP, 99}, {"", UDP, 98}}
	got := map[string][]string{}
	for _, r := range Resolve(svc, []*Slice{s}, here()) {
		got[r.Port.String()] = poolsText(r)
	}
	want := map[string][]string{
		"shop/web:dns/udp":     {"ipv4 cluster: serve 10.0.0.1:5053"},
		"shop/web:dns-tcp/tcp": {"ipv4 cluster: serve 10.0.0.1:5353"},
		"shop/web:stats/tcp":   {"ipv4 cluster: reject"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pools by port (-want +got):\n%s", diff)
	}
}
