package main

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// The gauge of R-7.4's table: Service ports, by policy and family, that drop because their endpoints are
// elsewhere; neither those without endpoints nor those with one here.
func TestNoLocal(t *testing.T) {
	name := endpoints.ObjectName{Namespace: "ns", Name: "web"}
	view := &endpoints.View{Node: "here", NodePorts: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	service := func(edit func(*endpoints.Service)) *endpoints.Service {
		s := &endpoints.Service{
			Name:       name,
			ClusterIPs: []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")},
			Ports: []endpoints.Port{
				{Name: "a", Protocol: endpoints.TCP, Port: 80, NodePort: 30080},
				{Name: "b", Protocol: endpoints.TCP, Port: 81, NodePort: 30081},
			},
		}
		edit(s)
		return s
	}
	slice := func(node string) *endpoints.Slice {
		return &endpoints.Slice{
			Name: name, Service: name,
			Ports: []endpoints.SlicePort{{Name: "a", Protocol: endpoints.TCP, Port: 8080}, {Name: "b", Protocol: endpoints.TCP, Port: 8081}},
			Endpoints: []endpoints.Endpoint{
				{Addr: netip.MustParseAddr("10.1.0.1"), Node: node, Ready: true, Serving: true}},
		}
	}
	internal := service(func(s *endpoints.Service) { s.InternalLocal = true })
	external := service(func(s *endpoints.Service) { s.ExternalLocal = true })
	both := service(func(s *endpoints.Service) { s.InternalLocal, s.ExternalLocal = true, true })
	var n noLocalPorts
	for _, step := range []struct {
		what    string
		service *endpoints.Service
		slice   *endpoints.Slice
		want    portCounts // internal, external; IPv4, IPv6
	}{
		{"cluster", service(func(*endpoints.Service) {}), slice("there"), portCounts{}},
		{"internal", internal, slice("there"), portCounts{{2, 0}, {0, 0}}},
		{"external", external, slice("there"), portCounts{{0, 0}, {2, 0}}},
		{"both", both, slice("there"), portCounts{{2, 0}, {2, 0}}},
		{"both, endpoint here", both, slice("here"), portCounts{}},
		{"both, no endpoints", both, &endpoints.Slice{Name: name, Service: name}, portCounts{}},
		{"both again", both, slice("there"), portCounts{{2, 0}, {2, 0}}},
	} {
		n.set(name, countNoLocal(endpoints.Resolve(step.service, []*endpoints.Slice{step.slice}, view)))
		if diff := cmp.Diff(step.want, n.total); diff != "" {
			t.Errorf("%s: -want +got\n%s", step.what, diff)
		}
	}
	n.set(endpoints.ObjectName{Name: "other"}, portCounts{{1, 1}, {0, 5}})
	n.set(name, portCounts{})
	if diff := cmp.Diff(portCounts{{1, 1}, {0, 5}}, n.total); diff != "" || len(n.services) != 1 {
		t.Errorf("%d services, -want +got\n%s", len(n.services), diff)
	}
}
