package endpoints

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The cases are those of kube-proxy's TestCategorizeEndpoints, and. Cases with the gate
// PreferSameTrafficDistribution off are left out: it is locked on.
func TestPools(t *testing.T) {
	const (
		internalLocal = 1 << iota
		externalLocal
		nodePort // makes the Service externally accessible
	)
	threeZones := []string{"10.0.0.3 zone=zone-a", "10.0.0.4 zone=zone-b", "10.0.0.5 zone=zone-c", "10.0.0.6 zone=zone-a"}
	localZones := []string{"10.0.0.3 local zone=zone-a", "10.0.0.4 local zone=zone-b", "10.0.0.5 zone=zone-c", "10.0.0.6 zone=zone-a"}
	fourNodes := []string{
		"10.0.0.3 zone=zone-a node=here", "10.0.0.4 zone=zone-b node=n2",
		"10.0.0.5 zone=zone-c node=n3", "10.0.0.6 zone=zone-a node=n4",
	}
	const all = "ipv4 cluster: serve 10.0.0.3:80 10.0.0.4:80 10.0.0.5:80 10.0.0.6:80"

	for _, tc := range []struct {
		name      string
		policy    int
		node      string // "-": not known; "": here
		zone      string // "-": none; "": zone-a
		endpoints []string
		want      []string
	}{
		// Hints.
		{name: "all have zone hints, some for ours", endpoints: threeZones,
			want: []string{"ipv4 cluster: serve 10.0.0.3:80 10.0.0.6:80"}},
		{name: "external Local ignores hints (R-2.17)", policy: externalLocal | nodePort, endpoints: localZones,
			want: []string{"ipv4 cluster: serve 10.0.0.3:80 10.0.0.6:80", "ipv4 local: serve 10.0.0.3:80 10.0.0.4:80"}},
		{name: "internal Local ignores hints (R-2.14)", policy: internalLocal | nodePort, endpoints: localZones,
			want: []string{"ipv4 cluster: serve 10.0.0.3:80 10.0.0.6:80", "ipv4 local: serve 10.0.0.3:80 10.0.0.4:80"}},
		{name: "node without zone", zone: "-", endpoints: threeZones, want: []string{all}},
		{name: "node without zone, hint for the empty zone", zone: "-", endpoints: []string{"10.0.0.3 zone=", "10.0.0.4 zone=b"},
			want: []string{"ipv4 cluster: serve 10.0.0.3:80 10.0.0.4:80"}},
		{name: "no hint for our zone", zone: "zone-b", endpoints: []string{"10.0.0.3 zone=zone-a"},
			want: []string{"ipv4 cluster: serve 10.0.0.3:80"}},
		{name: "an unready one of our zone",
			endpoints: []string{"10.0.0.3 zone=zone-a", "10.0.0.4 zone=zone-b", "10.0.0.5 zone=zone-c", "10.0.0.6 unready zone=zone-a"},
			want:      []string{"ipv4 cluster: serve 10.0.0.3:80"}},
		{name: "only unready ones of our zone",
			endpoints: []string{"10.0.0.3 unready zone=zone-a", "10.0.0.4 zone=zone-b", "10.0.0.5 zone=zone-c", "10.0.0.6 unready zone=zone-a"},
			want:      []string{"ipv4 cluster: serve 10.0.0.4:80 10.0.0.5:80"}},
		{name: "one without hints",
			endpoints: []string{"10.0.0.3 zone=zone-a", "10.0.0.4 zone=zone-b", "10.0.0.5", "10.0.0.6 zone=zone-a"}, want: []string{all}},
		{name: "an unready one without hints does not count", endpoints: []string{"10.0.0.3 zone=zone-a", "10.0.0.4 zone=zone-b", "10.0.0.5 unready"},
			want: []string{"ipv4 cluster: serve 10.0.0.3:80"}},
		{name: "a leaving one without hints does not count", endpoints: []string{"10.0.0.3 zone=zone-a", "10.0.0.4 zone=zone-b", "10.0.0.5 leaving"},
			want: []string{"ipv4 cluster: serve 10.0.0.3:80"}},
		{name: "several zones in one hint", zone: "zone-c",
			endpoints: []string{"10.0.0.3 zone=zone-a,zone-b,zone-c", "10.0.0.4 zone=zone-b,zone-c", "10.0.0.5 zone=zone-b,zone-d", "10.0.0.6 zone=zone-c"},
			want:      []string{"ipv4 cluster: serve 10.0.0.3:80 10.0.0.4:80 10.0.0.6:80"}},
		{name: "node hint before zone hint", endpoints: fourNodes, want: []string{"ipv4 cluster: serve 10.0.0.3:80"}},
		{name: "node hint without zone hints", endpoints: []string{"10.0.0.3 node=n2", "10.0.0.4 node=n3,here"},
			want: []string{"ipv4 cluster: serve 10.0.0.4:80"}},
		{name: "one without node and zone hint",
			endpoints: []string{"10.0.0.3 zone=zone-a node=here", "10.0.0.4", "10.0.0.5 zone=zone-c node=n3", "10.0.0.6 zone=zone-a node=n4"}, want: []string{all}},
		{name: "one without node hint degrades to zone",
			endpoints: []string{"10.0.0.3 zone=zone-a node=here", "10.0.0.4 zone=zone-b", "10.0.0.6 zone=zone-a node=n4"},
			want:      []string{"ipv4 cluster: serve 10.0.0.3:80 10.0.0.6:80"}},
		{name: "no node hint for us degrades to zone", node: "n0", endpoints: fourNodes,
			want: []string{"ipv4 cluster: serve 10.0.0.3:80 10.0.0.6:80"}},
		{name: "no node and no zone hint for us", node: "n0", zone: "zone-z", endpoints: fourNodes, want: []string{all}},
		{name: "unknown node, hint for the empty node", node: "-", zone: "-", endpoints: []string{"10.0.0.3 node=", "10.0.0.4 node=n2"},
			want: []string{"ipv4 cluster: serve 10.0.0.3:80 10.0.0.4:80"}},
		{name: "unknown node degrades to zone", node: "-", endpoints: []string{"10.0.0.3 zone=zone-a node=", "10.0.0.4 zone=zone-b node=n2"},
			want: []string{"ipv4 cluster: serve 10.0.0.3:80"}},
		{name: "hints and localness disagree", policy: externalLocal | nodePort,
			endpoints: []string{"10.0.0.0 local zone=zone-a", "10.0.0.1 local zone=zone-b", "10.0.0.2 zone=zone-a", "10.0.0.3 zone=zone-b"},
			want:      []string{"ipv4 cluster: serve 10.0.0.0:80 10.0.0.2:80", "ipv4 local: serve 10.0.0.0:80 10.0.0.1:80"}},

		// internalTrafficPolicy: Local and nothing external.
		{name: "internal Local, no endpoints", policy: internalLocal, want: []string{"ipv4 local: reject"}},
		{name: "internal Local, all remote (R-2.13)", policy: internalLocal, endpoints: []string{"10.0.0.0", "10.0.0.1"},
			want: []string{"ipv4 local: drop"}},
		{name: "internal Local, all local", policy: internalLocal, endpoints: []string{"10.0.0.0 local", "10.0.0.1 local"},
			want: []string{"ipv4 local: serve 10.0.0.0:80 10.0.0.1:80"}},
		{name: "internal Local, some local", policy: internalLocal, endpoints: []string{"10.0.0.0 local", "10.0.0.1"},
			want: []string{"ipv4 local: serve 10.0.0.0:80"}},
		{name: "internal Local, remote leaving", policy: internalLocal, endpoints: []string{"10.0.0.0 leaving"}, want: []string{"ipv4 local: drop"}},
		{name: "internal Local, remote unready", policy: internalLocal, endpoints: []string{"10.0.0.0 unready"}, want: []string{"ipv4 local: reject"}},
		{name: "internal Local, unknown node", policy: internalLocal, node: "-", endpoints: []string{"10.0.0.0 local", "10.0.0.1 nodeless"},
			want: []string{"ipv4 local: drop"}},

		// Conditions.
		{name: "no endpoints", want: []string{"ipv4 cluster: reject"}},
		{name: "none ready (R-2.16)", endpoints: []string{"10.0.0.0 unready", "10.0.0.1 unready"}, want: []string{"ipv4 cluster: reject"}},
		{name: "some ready", endpoints: []string{"10.0.0.0 unready", "10.0.0.1"}, want: []string{"ipv4 cluster: serve 10.0.0.1:80"}},
		{name: "one ready, others leaving (R-2.9)", endpoints: []string{"10.0.0.0 leaving", "10.0.0.1", "10.0.0.2 local leaving"},
			want: []string{"ipv4 cluster: serve 10.0.0.1:80"}},
		{name: "all leaving (R-2.10)", endpoints: []string{"10.0.0.0 local leaving", "10.0.0.1 leaving", "10.0.0.2 gone", "10.0.0.3 unready"},
			want: []string{"ipv4 cluster: serve 10.0.0.0:80 10.0.0.1:80"}},
		{name: "all leaving, hints ignored (R-2.10)", endpoints: []string{"10.0.0.0 leaving zone=zone-a", "10.0.0.1 leaving zone=zone-b"},
			want: []string{"ipv4 cluster: serve 10.0.0.0:80 10.0.0.1:80"}},
		{name: "all gone", endpoints: []string{"10.0.0.0 local gone", "10.0.0.1 gone"}, want: []string{"ipv4 cluster: reject"}},
		{name: "published ones count as ready (R-1.18)", endpoints: []string{"10.0.0.0 published", "10.0.0.1 leaving"},
			want: []string{"ipv4 cluster: serve 10.0.0.0:80"}},
		{name: "serving alone is not usable", endpoints: []string{"10.0.0.0 odd"}, want: []string{"ipv4 cluster: reject"}},

		// Both scopes.
		{name: "internal Local, external Cluster (R-2.14)", policy: internalLocal | nodePort, endpoints: []string{"10.0.0.0 local", "10.0.0.1"},
			want: []string{"ipv4 cluster: serve 10.0.0.0:80 10.0.0.1:80", "ipv4 local: serve 10.0.0.0:80"}},
		{name: "internal Cluster, external Local", policy: externalLocal | nodePort, endpoints: []string{"10.0.0.0 local", "10.0.0.1"},
			want: []string{"ipv4 cluster: serve 10.0.0.0:80 10.0.0.1:80", "ipv4 local: serve 10.0.0.0:80"}},
		{name: "both Local, some local", policy: internalLocal | externalLocal | nodePort, endpoints: []string{"10.0.0.0 local", "10.0.0.1"},
			want: []string{"ipv4 cluster: serve 10.0.0.0:80 10.0.0.1:80", "ipv4 local: serve 10.0.0.0:80"}},
		{name: "both Local, all remote (R-2.13)", policy: internalLocal | externalLocal | nodePort, endpoints: []string{"10.0.0.0", "10.0.0.1"},
			want: []string{"ipv4 cluster: serve 10.0.0.0:80 10.0.0.1:80", "ipv4 local: drop"}},
		{name: "both Local, all remote and leaving", policy: internalLocal | externalLocal | nodePort,
			endpoints: []string{"10.0.0.0 leaving", "10.0.0.1 leaving"},
			want:      []string{"ipv4 cluster: serve 10.0.0.0:80 10.0.0.1:80", "ipv4 local: drop"}},
		{name: "both Local, nobody", policy: internalLocal | externalLocal | nodePort,
			want: []string{"ipv4 cluster: reject", "ipv4 local: reject"}},
		{name: "external Local, local leaving, remote ready (R-2.12)", policy: externalLocal | nodePort,
			endpoints: []string{"10.0.0.0", "10.0.0.1 local gone", "10.0.0.2 local leaving", "10.0.0.3 leaving"},
			want:      []string{"ipv4 cluster: serve 10.0.0.0:80", "ipv4 local: serve 10.0.0.2:80"}},
		{name: "external Local, local ready and leaving (R-2.11)", policy: externalLocal | nodePort,
			endpoints: []string{"10.0.0.0 local", "10.0.0.1 local leaving"},
			want:      []string{"ipv4 cluster: serve 10.0.0.0:80", "ipv4 local: serve 10.0.0.0:80"}},
		{name: "external Local without anything external", policy: externalLocal, endpoints: []string{"10.0.0.0", "10.0.0.1 local"},
			want: []string{"ipv4 cluster: serve 10.0.0.0:80 10.0.0.1:80"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			svc := &Service{
				Name:          web,
				Ports:         []Port{{Protocol: TCP, Port: 80}},
				ClusterIPs:    mustAddrs("172.30.0.1"),
				InternalLocal: tc.policy&internalLocal != 0,
				ExternalLocal: tc.policy&externalLocal != 0,
			}
			if tc.policy&nodePort != 0 {
				svc.Ports[0].NodePort = 30080
			}
			view := here()
			if tc.node != "" {
				view.Node = tc.node
			}
			if tc.zone != "" {
				view.Zone = tc.zone
			}
			if tc.node == "-" {
				view.Node = ""
			}
			if tc.zone == "-" {
				view.Zone = ""
			}
			r := mustOne(t, Resolve(svc, []*Slice{mustSlice(t, 80, tc.endpoints...)}, view))
			if diff := cmp.Diff(tc.want, poolsText(r)); diff != "" {
				t.Errorf("pools (-want +got):\n%s", diff)
			}
		})
	}
}
