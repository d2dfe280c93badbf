package test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// terminating is a pod that still serves but is about to end.
func terminating(p *testenv.Pod) apiserver.Backend {
	b := apiserver.PodBackend(p)
	yes, no := true, false
	b.Conditions.Ready, b.Conditions.Serving, b.Conditions.Terminating = &no, &yes, &yes
	return b
}

// unready is a pod that does not serve.
func unready(p *testenv.Pod) apiserver.Backend {
	b := apiserver.PodBackend(p)
	no := false
	b.Conditions.Ready, b.Conditions.Serving, b.Conditions.Terminating = &no, &no, &no
	return b
}

func apiTerminating(t *testing.T, c *apiCluster) {
	a, a2, b := c.pod(0, 0), c.pod(0, 1), c.pod(1, 0)
	cluster := c.create(t, apiserver.NewService("terminating", corev1.ServiceTypeNodePort, tcpPort("tcp")))
	spec := apiserver.NewService("terminating-local", corev1.ServiceTypeNodePort, tcpPort("tcp"))
	spec.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	local := c.create(t, spec)
	for _, tt := range []struct {
		name     string
		backends []apiserver.Backend
		cluster  []string // who answers with the policy Cluster; nobody: refused
		local    []string // who answers at node-a's NodePort with the policy Local; nobody: dropped, or refused like cluster
	}{
		{"R-2.9 a ready one anywhere", []apiserver.Backend{terminating(a), apiserver.PodBackend(b)}, []string{b.Name}, []string{a.Name}},
		{"R-2.10 no ready one", []apiserver.Backend{terminating(a), terminating(b), unready(a2)}, []string{a.Name, b.Name}, []string{a.Name}},
		{"R-2.11 a ready one here", []apiserver.Backend{terminating(a), apiserver.PodBackend(a2), apiserver.PodBackend(b)}, []string{a2.Name, b.Name}, []string{a2.Name}},
		{"R-2.12 only a terminating one here", []apiserver.Backend{terminating(a), unready(a2), apiserver.PodBackend(b)}, []string{b.Name}, []string{a.Name}},
		{"R-2.13 nobody here", []apiserver.Backend{apiserver.PodBackend(b)}, []string{b.Name}, nil},
		{"R-2.16 only unready ones", []apiserver.Backend{unready(a), unready(b)}, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c.setBackends(t, cluster, tt.backends...)
			c.setBackends(t, local, tt.backends...)
			for i, addr := range clusterAddrs(cluster, 80) {
				outside := nodeAddrs(c.Nodes[0], cluster.Spec.Ports[0].NodePort)[i]
				here := nodeAddrs(c.Nodes[0], local.Spec.Ports[0].NodePort)[i]
				if tt.cluster == nil {
					refused(t, a2, addr)
					refused(t, c.Clients[0], outside)
					refused(t, c.Clients[0], here)
					continue
				}
				answered(t, a2, "tcp", addr, tt.cluster...)
				answered(t, c.Clients[0], "tcp", outside, tt.cluster...)
				if tt.local == nil {
					silent(t, c.Clients[0], here)
				} else {
					answered(t, c.Clients[0], "tcp", here, tt.local...)
				}
			}
		})
	}
}

// Policies changed on a living Service, seen from node-a.
func apiPolicies(t *testing.T, c *apiCluster) {
	a, b, client, outside := c.pod(0, 0), c.pod(1, 0), c.pod(0, 1), c.Clients[0]
	s := c.create(t, apiserver.NewService("policies", corev1.ServiceTypeNodePort, tcpPort("tcp")), backends(a, b)...)
	check := func(inside, external []string) {
		t.Helper()
		for i, addr := range clusterAddrs(s, 80) {
			answered(t, client, "tcp", addr, inside...)
			answered(t, outside, "tcp", nodeAddrs(c.Nodes[0], s.Spec.Ports[0].NodePort)[i], external...)
		}
	}
	both, here := []string{a.Name, b.Name}, []string{a.Name}
	check(both, both)
	c.update(t, s, func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	check(both, here)
	policy := corev1.ServiceInternalTrafficPolicyLocal
	c.update(t, s, func(s *corev1.Service) {
		s.Spec.InternalTrafficPolicy = &policy
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	})
	check(here, both)
	c.update(t, s, func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	check(here, here)

	// The client's address is kept where the policy is Local, and is the node's where the backend is elsewhere.
	for i, addr := range nodeAddrs(c.Nodes[0], s.Spec.Ports[0].NodePort) {
		r, err := outside.Request(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := r.Source.Addr(), outside.Addrs()[i]; got != want {
			t.Errorf("the backend sees %v, want the client's %v", got, want)
		}
	}
	c.setBackends(t, s, backends(b)...)
	for _, addr := range nodeAddrs(c.Nodes[0], s.Spec.Ports[0].NodePort) {
		silent(t, outside, addr)
	}
	c.update(t, s, func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster })
	for i, addr := range nodeAddrs(c.Nodes[0], s.Spec.Ports[0].NodePort) {
		answered(t, outside, "tcp", addr, b.Name)
		r, err := outside.Request(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := r.Source.Addr(), c.Nodes[0].Addrs()[i]; got != want {
			t.Errorf("the backend sees %v, want the node's %v", got, want)
		}
	}
}
