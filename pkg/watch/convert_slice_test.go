package watch

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/svcproxy/svcproxy/pkg/endpoints"
)

// webSlice is a valid slice of Service default/web with one endpoint; edit changes it.
func webSlice(edit func(*discoveryv1.EndpointSlice)) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr("http"), Port: ptr(int32(8080)), Protocol: ptr(corev1.ProtocolTCP)}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}, NodeName: ptr("node-a")}},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

// webSliceModel is what webSlice(nil) becomes; edit changes it.
func webSliceModel(edit func(*endpoints.Slice)) *endpoints.Slice {
	s := &endpoints.Slice{
		Name: endpoints.ObjectName{Namespace: "default", Name: "web-1"}, Service: webName,
		Ports:     []endpoints.SlicePort{{Name: "http", Protocol: endpoints.TCP, Port: 8080}},
		Endpoints: []endpoints.Endpoint{{Addr: addrs("10.0.0.1")[0], Node: "node-a", Ready: true, Serving: true}},
	}
	if edit != nil {
		edit(s)
	}
	return s
}

func TestConvertSlice(t *testing.T) {
	endpoint := func(addresses ...string) discoveryv1.Endpoint { return discoveryv1.Endpoint{Addresses: addresses} }
	for _, tt := range []struct {
		name     string
		edit     func(*discoveryv1.EndpointSlice)
		want     func(*endpoints.Slice) // nil: not used
		trigger  time.Time
		problems []string
	}{
		{name: "plain", edit: func(*discoveryv1.EndpointSlice) {}, want: func(*endpoints.Slice) {}},
		{name: "R-1.6 invisible", edit: func(s *discoveryv1.EndpointSlice) { s.Labels[corev1.IsHeadlessService] = "" }},
		{name: "R-2.1 FQDN", edit: func(s *discoveryv1.EndpointSlice) { s.AddressType = discoveryv1.AddressTypeFQDN }},
		{name: "unknown address type", edit: func(s *discoveryv1.EndpointSlice) { s.AddressType = "IPX" },
			problems: []string{`EndpointSlice default/web-1: addressType: "IPX" is not IPv4, IPv6 or FQDN`}},
		{name: "R-2.1 no Service", edit: func(s *discoveryv1.EndpointSlice) { s.Labels = nil },
			problems: []string{"EndpointSlice default/web-1: label kubernetes.io/service-name is missing"}},
		{name: "R-2.2 ports without name or number mean nothing; no protocol is TCP", edit: func(s *discoveryv1.EndpointSlice) {
			s.Ports = []discoveryv1.EndpointPort{
				{Port: ptr(int32(1))}, {Name: ptr("a")}, {Name: ptr("b"), Port: ptr(int32(0))}, {Name: ptr(""), Port: ptr(int32(4))},
			}
		}, want: func(s *endpoints.Slice) { s.Ports = []endpoints.SlicePort{{Protocol: endpoints.TCP, Port: 4}} }},
		{name: "bad ports", edit: func(s *discoveryv1.EndpointSlice) {
			s.Ports = append(s.Ports,
				discoveryv1.EndpointPort{Name: ptr("foo"), Port: ptr(int32(1)), Protocol: ptr(corev1.Protocol("FOO"))},
				discoveryv1.EndpointPort{Name: ptr("large"), Port: ptr(int32(65536))},
				discoveryv1.EndpointPort{Name: ptr("negative"), Port: ptr(int32(-1))},
				discoveryv1.EndpointPort{Name: ptr("http"), Port: ptr(int32(9090))},
				discoveryv1.EndpointPort{Name: ptr("http"), Port: ptr(int32(9090)), Protocol: ptr(corev1.ProtocolUDP)})
		}, want: func(s *endpoints.Slice) {
			s.Ports = append(s.Ports, endpoints.SlicePort{Name: "http", Protocol: endpoints.UDP, Port: 9090})
		}, problems: []string{
			`EndpointSlice default/web-1: port "foo": protocol "FOO" is not TCP, UDP or SCTP`,
			`EndpointSlice default/web-1: port "large": port 65536 is not 1 to 65535`,
			`EndpointSlice default/web-1: port "negative": port -1 is not 1 to 65535`,
			`EndpointSlice default/web-1: port "http": there is another one of this name for tcp`,
		}},
		{name: "R-2.3 the first address, read sloppily", edit: func(s *discoveryv1.EndpointSlice) {
			s.Endpoints = []discoveryv1.Endpoint{endpoint("010.0.0.01", "10.0.0.2")}
		}, want: func(s *endpoints.Slice) { s.Endpoints[0].Node = "" }},
		{name: "bad endpoints", edit: func(s *discoveryv1.EndpointSlice) {
			s.Endpoints = append(s.Endpoints, endpoint(), endpoint("x"), endpoint("fd00::1"), endpoint("127.0.0.1"), endpoint("169.254.169.254"), endpoint("0.0.0.0"))
		}, want: func(*endpoints.Slice) {}, problems: []string{
			"EndpointSlice default/web-1: endpoints[1]: has no address",
			`EndpointSlice default/web-1: endpoints[2]: "x" is not an IP address`,
			"EndpointSlice default/web-1: endpoints[3]: fd00::1 is not of the slice's addressType",
			"EndpointSlice default/web-1: endpoints[4]: 127.0.0.1 is a loopback address",
			"EndpointSlice default/web-1: endpoints[5]: 169.254.169.254 is a link-local address",
			"EndpointSlice default/web-1: endpoints[6]: 0.0.0.0 is the unspecified address",
		}},
		{name: "IPv6", edit: func(s *discoveryv1.EndpointSlice) {
			s.AddressType, s.Endpoints = discoveryv1.AddressTypeIPv6, []discoveryv1.Endpoint{endpoint("FD00:0::1"), endpoint("::ffff:10.0.0.1")}
		}, want: func(s *endpoints.Slice) {
			s.IPv6, s.Endpoints = true, []endpoints.Endpoint{{Addr: addrs("fd00::1")[0], Ready: true, Serving: true}}
		}, problems: []string{"EndpointSlice default/web-1: endpoints[1]: 10.0.0.1 is not of the slice's addressType"}},
		{name: "R-2.4 conditions", edit: func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: ptr(false), Serving: ptr(false), Terminating: ptr(true)}
		}, want: func(s *endpoints.Slice) {
			s.Endpoints[0].Ready, s.Endpoints[0].Serving, s.Endpoints[0].Terminating = false, false, true
		}},
		{name: "R-2.6 hints", edit: func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}, {Name: "b"}}, ForNodes: []discoveryv1.ForNode{{Name: "n"}}}
			s.Endpoints[0].Zone = ptr("c")
		}, want: func(s *endpoints.Slice) {
			s.Endpoints[0].Zones, s.Endpoints[0].Nodes = []string{"a", "b"}, []string{"n"}
		}},
		{name: "R-2.6 empty hints are none", edit: func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{}}
		}, want: func(*endpoints.Slice) {}},
		{name: "R-11.10 trigger", edit: func(s *discoveryv1.EndpointSlice) {
			s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: "2026-01-02T03:04:05.000000006Z"}
		}, want: func(*endpoints.Slice) {}, trigger: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)},
		{name: "R-11.10 bad trigger", edit: func(s *discoveryv1.EndpointSlice) {
			s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: "yesterday"}
		}, want: func(*endpoints.Slice) {},
			problems: []string{`EndpointSlice default/web-1: annotation endpoints.kubernetes.io/last-change-trigger-time: "yesterday" is not a time`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, trigger, problems := convertSlice(webSlice(tt.edit), newInterner())
			var want *endpoints.Slice
			if tt.want != nil {
				want = webSliceModel(tt.want)
			}
			if diff := cmp.Diff(want, got, compareAddrs); diff != "" {
				t.Errorf("slice (-want +got):\n%s", diff)
			}
			if !trigger.Equal(tt.trigger) {
				t.Errorf("trigger is %v, want %v", trigger, tt.trigger)
			}
			if diff := cmp.Diff(tt.problems, messages(problems)); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestInternerShares(t *testing.T) {
	in := newInterner()
	list := func(names ...string) []string { return in.list(len(names), func(i int) string { return names[i] }) }
	a, b := list("a", "b"), list("a", "b")
	if &a[0] != &b[0] {
		t.Error("equal lists are not shared")
	}
	for _, names := range [][]string{{"a"}, {"a", "c"}, {"a\x00b"}, {"a\x00", "b"}, {"a", "\x00b"}, nil} {
		if diff := cmp.Diff(names, list(names...)); diff != "" {
			t.Errorf("list of %q (-want +got):\n%s", names, diff)
		}
	}
	for i := range 3 * maxInterned {
		in.text(string(rune(i)) + "x")
	}
	if n := len(in.texts); n > maxInterned {
		t.Errorf("remembers %d texts, want at most %d", n, maxInterned)
	}
}
