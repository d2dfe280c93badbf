package endpoints

import "testing"

// and the cases of kube-proxy's TestGetLocalEndpointIPs.
func TestLocalEndpoints(t *testing.T) {
	ports := func(s *Slice, list ...SlicePort) *Slice { s.Ports = list; return s }
	for _, tc := range []struct {
		name   string
		slices []*Slice
		want4  int
		want6  int
	}{
		{name: "nothing"},
		{name: "remote", slices: []*Slice{ports(mustSlice(t, 0, "10.0.0.1", "10.0.0.2 nodeless"), SlicePort{"a", TCP, 11})}},
		{name: "local", slices: []*Slice{ports(mustSlice(t, 0, "10.0.0.1 local", "10.0.0.2"), SlicePort{"a", TCP, 11})}, want4: 1},
		{name: "an address counts once over all ports",
			slices: []*Slice{ports(mustSlice(t, 0, "10.0.0.1 local", "10.0.0.2 local"), SlicePort{"a", TCP, 11}, SlicePort{"b", TCP, 12})}, want4: 2},
		{name: "addresses that serve one port each", slices: []*Slice{
			ports(mustSlice(t, 0, "10.0.0.1 local", "10.0.0.2 local"), SlicePort{"a", TCP, 11}),
			ports(mustSlice(t, 0, "10.0.0.3 local", "10.0.0.2 local"), SlicePort{"b", TCP, 12}),
		}, want4: 3},
		{name: "a port that the Service has not", slices: []*Slice{ports(mustSlice(t, 0, "10.0.0.1 local"), SlicePort{"c", TCP, 11})}},
		{name: "ready ones only", want4: 2, slices: []*Slice{ports(
			mustSlice(t, 0, "10.0.0.1 local unready", "10.0.0.2 local leaving", "10.0.0.3 local published", "10.0.0.4 local", "10.0.0.5 local odd"),
			SlicePort{"a", TCP, 11})}},
		{name: "a reused address", want4: 1, slices: []*Slice{ports(
			mustSlice(t, 0, "10.0.0.1 local leaving", "10.0.0.1 local", "10.0.0.2 local published", "10.0.0.2 local unready"), SlicePort{"a", TCP, 11})}},
		{name: "each family", want4: 1, want6: 2, slices: []*Slice{
			ports(mustSlice(t, 0, "fd00::1 local", "fd00::2 local", "fd00::3"), SlicePort{"a", TCP, 11}),
			ports(mustSlice(t, 0, "10.0.0.1 local"), SlicePort{"a", TCP, 11}),
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc := &Service{Name: web, ClusterIPs: mustAddrs("172.30.0.1", "fd30::1"),
				Ports: []Port{{"a", TCP, 80, 0}, {"b", TCP, 81, 0}, {"c", TCP, 0, 0}}}
			if got4, got6 := LocalEndpoints(svc, tc.slices, here()); got4 != tc.want4 || got6 != tc.want6 {
				t.Errorf("got %d IPv4 and %d IPv6, want %d and %d", got4, got6, tc.want4, tc.want6)
			}
			svc.ClusterIPs = nil
			if got4, got6 := LocalEndpoints(svc, tc.slices, here()); got4 != 0 || got6 != 0 {
				t.Errorf("without ClusterIPs: got %d IPv4 and %d IPv6, want none", got4, got6)
			}
		})
	}
}
