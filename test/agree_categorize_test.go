package test

import (
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// categorizeRows are TestCategorizeEndpoints (pkg/proxy/topology_test.go:49). An endpoint is its conditions and hints;
// node-1 is the node that looks. Sets are indices of endpoints. Not here, for the API server does not take it:
// externalTrafficPolicy Local on a Service that is not externally accessible (TestConvertService has it); nor rows of
// feature gates that are locked.
var categorizeRows = []struct {
	name           string
	zone           string
	itp, etp, port bool // internalPolicyLocal, externalPolicyLocal, nodePort
	endpoints      []string
	cluster, local string
	onlyRemote     bool // onlyRemoteEndpoints
}{
	{name: "should use topology since all endpoints have hints, node has a zone label and and there are endpoints for the node's zone", zone: "zone-a",
		endpoints: []string{"zone-a ready", "zone-b ready", "zone-c ready", "zone-a ready"}, cluster: "0 3"},
	{name: "externalTrafficPolicy: Local, topology ignored for Local endpoints", zone: "zone-a", etp: true, port: true,
		endpoints: []string{"local zone-a ready", "local zone-b ready", "zone-c ready", "zone-a ready"}, cluster: "0 3", local: "0 1"},
	{name: "internalTrafficPolicy: Local, topology ignored for Local endpoints", zone: "zone-a", itp: true, port: true,
		endpoints: []string{"local zone-a ready", "local zone-b ready", "zone-c ready", "zone-a ready"}, cluster: "0 3", local: "0 1"},
	{name: "empty node labels", endpoints: []string{"zone-a ready"}, cluster: "0"},
	{name: "node in different zone, no endpoint filtering", zone: "zone-b", endpoints: []string{"zone-a ready"}, cluster: "0"},
	{name: "unready endpoint", zone: "zone-a",
		endpoints: []string{"zone-a ready", "zone-b ready", "zone-c ready", "zone-a"}, cluster: "0"},
	{name: "only unready endpoints in same zone (should not filter)", zone: "zone-a",
		endpoints: []string{"zone-a", "zone-b ready", "zone-c ready", "zone-a"}, cluster: "1 2"},
	{name: "missing hints, no filtering applied", zone: "zone-a",
		endpoints: []string{"zone-a ready", "zone-b ready", "ready", "zone-a ready"}, cluster: "0 1 2 3"},
	{name: "multiple hints per endpoint, filtering includes any endpoint with zone included", zone: "zone-c",
		endpoints: []string{"zone-a zone-b zone-c ready", "zone-b zone-c ready", "zone-b zone-d ready", "zone-c ready"}, cluster: "0 1 3"},
	{name: "PreferSameNode available", zone: "zone-a",
		endpoints: []string{"zone-a node-1 ready", "zone-b node-2 ready", "zone-c node-3 ready", "zone-a node-4 ready"}, cluster: "0"},
	{name: "PreferSameNode ignored if some endpoints unhinted", zone: "zone-a",
		endpoints: []string{"zone-a node-1 ready", "ready", "zone-c node-3 ready", "zone-a node-4 ready"}, cluster: "0 1 2 3"},
	{name: "PreferSameNode falls back to PreferSameZone if no endpoint for node", zone: "zone-a",
		endpoints: []string{"zone-a node-5 ready", "zone-b node-2 ready", "zone-c node-3 ready", "zone-a node-4 ready"}, cluster: "0 3"},
	{name: "conflicting topology and localness require merging allEndpoints", zone: "zone-a", etp: true, port: true,
		endpoints: []string{"local zone-a ready", "local zone-b ready", "zone-a ready", "zone-b ready"}, cluster: "0 2", local: "0 1"},
	{name: "internalTrafficPolicy: Local, with empty endpoints", itp: true},
	{name: "internalTrafficPolicy: Local, but all endpoints are remote", itp: true, endpoints: []string{"ready", "ready"}, onlyRemote: true},
	{name: "internalTrafficPolicy: Local, all endpoints are local", itp: true, endpoints: []string{"local ready", "local ready"}, local: "0 1"},
	{name: "internalTrafficPolicy: Local, some endpoints are local", itp: true, endpoints: []string{"local ready", "ready"}, local: "0"},
	{name: "Cluster traffic policy, endpoints not Ready", endpoints: []string{"", ""}},
	{name: "Cluster traffic policy, some endpoints are Ready", endpoints: []string{"", "ready"}, cluster: "1"},
	{name: "Cluster traffic policy, all endpoints are terminating",
		endpoints: []string{"local serving terminating", "serving terminating"}, cluster: "0 1"},
	{name: "iTP: Local, eTP: Cluster, some endpoints local", itp: true, port: true,
		endpoints: []string{"local ready", "ready"}, cluster: "0 1", local: "0"},
	{name: "iTP: Cluster, eTP: Local, some endpoints local", etp: true, port: true,
		endpoints: []string{"local ready", "ready"}, cluster: "0 1", local: "0"},
	{name: "iTP: Local, eTP: Local, some endpoints local", itp: true, etp: true, port: true,
		endpoints: []string{"local ready", "ready"}, cluster: "0 1", local: "0"},
	{name: "iTP: Local, eTP: Local, all endpoints remote", itp: true, etp: true, port: true,
		endpoints: []string{"ready", "ready"}, cluster: "0 1"},
	{name: "iTP: Local, eTP: Local, all endpoints remote and terminating", itp: true, etp: true, port: true,
		endpoints: []string{"serving terminating", "serving terminating"}, cluster: "0 1", onlyRemote: true},
	{name: "iTP: Cluster, eTP: Local, with terminating endpoints", etp: true, port: true,
		endpoints: []string{"ready", "local", "local serving terminating", "serving terminating"}, cluster: "0", local: "2"},
	{name: "no cluster endpoints for iTP:Local internal-only service", itp: true, endpoints: []string{"ready", "local ready"}, local: "1"},
	{name: "empty endpoints when no service endpoints exist"},
	{name: "single endpoint not ready, not serving, not terminating", zone: "zone-a", endpoints: []string{""}},
}

// tableCategorize: each row at a node of its zone, one without a zone if it names none. A process of the node gets one
// set at the ClusterIP, a client outside the other at the NodePort; where both are of one policy, the same. An empty set
// is a rejection, or silence if there are endpoints (hasAnyEndpoints).
func (w *agreeWorld) tableCategorize(t *testing.T) {
	names := w.tables(t, 120)
	zones := map[string]int{"zone-a": 0, "zone-b": 1, "zone-c": 2, "": 2}
	var rows, unzoned []agreeRow
	for _, r := range categorizeRows {
		node := zones[r.zone]
		var list []discoveryv1.Endpoint
		here, elsewhere := 0, 0
		var pods []string
		for _, text := range r.endpoints {
			at, pod := node, here
			if strings.HasPrefix(text, "local") {
				here++
			} else {
				at, pod = (node+1+elsewhere/2)%3, elsewhere%2
				elsewhere++
			}
			pods = append(pods, w.nodes[at].Pods[pod].Name)
			list = append(list, w.described(at, pod, node, text))
		}
		kind := corev1.ServiceTypeClusterIP
		if r.port {
			kind = corev1.ServiceTypeNodePort
		}
		s := names.put(t, kind, func(s *corev1.Service) {
			if local := corev1.ServiceInternalTrafficPolicyLocal; r.itp {
				s.Spec.InternalTrafficPolicy = &local
			}
			if r.etp {
				s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			}
		}, list...)

		set := func(local bool) (backends []string, o outcome) {
			indices := r.cluster
			if local {
				indices = r.local
			}
			for index := range strings.FieldsSeq(indices) {
				i, err := strconv.Atoi(index)
				if err != nil {
					t.Fatal(err)
				}
				backends = append(backends, pods[i])
			}
			switch {
			case len(backends) > 0:
				return backends, isServed
			case r.cluster+r.local != "" || r.onlyRemote:
				return nil, isDropped
			}
			return nil, isRefused
		}
		mine := []agreeRow{{name: r.name, from: w.who(node, hostClient, hookedPod, barePod), to: clusterTarget(s), port: 80}}
		mine[0].backend, mine[0].outcome = set(r.itp)
		if r.port {
			mine = append(mine, agreeRow{name: r.name, from: w.who(node, outside), to: w.nodeTarget(node), port: s.Spec.Ports[0].NodePort})
			mine[1].backend, mine[1].outcome = set(r.etp)
		}
		if r.zone == "" {
			unzoned = append(unzoned, mine...)
		} else {
			rows = append(rows, mine...)
		}
	}
	w.settle(t)
	w.tabled(t, rows)
	w.setZone(t, 2, "")
	w.settle(t)
	w.tabled(t, unzoned)
}

// described is a pod's endpoint with the conditions and hints that a row names.
func (w *agreeWorld) described(at, pod, looking int, text string) discoveryv1.Endpoint {
	e := w.endpoint(at, pod)
	has := func(word string) *bool {
		yes := strings.Contains(text, word)
		return &yes
	}
	e.Conditions = discoveryv1.EndpointConditions{Ready: has("ready"), Serving: has("serving"), Terminating: has("terminating")}
	hints := &discoveryv1.EndpointHints{}
	for word := range strings.FieldsSeq(text) {
		switch {
		case strings.HasPrefix(word, "zone-"):
			hints.ForZones = append(hints.ForZones, discoveryv1.ForZone{Name: word})
		case word == "node-1":
			hints.ForNodes = append(hints.ForNodes, discoveryv1.ForNode{Name: w.nodes[looking].Name})
		case strings.HasPrefix(word, "node-"):
			hints.ForNodes = append(hints.ForNodes, discoveryv1.ForNode{Name: word})
		}
	}
	if len(hints.ForZones)+len(hints.ForNodes) > 0 {
		e.Hints = hints
	}
	return e
}
