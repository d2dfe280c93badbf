package test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// editSlices changes the EndpointSlices of a Service.
func (c *apiCluster) editSlices(t *testing.T, s *corev1.Service, edit func(*discoveryv1.EndpointSlice)) {
	t.Helper()
	client := c.admin.DiscoveryV1().EndpointSlices(s.Namespace)
	list, err := client.List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + s.Name})
	if err != nil {
		t.Fatalf("list slices of %s: %v", s.Name, err)
	}
	for i := range list.Items {
		edit(&list.Items[i])
		if _, err := client.Update(t.Context(), &list.Items[i], metav1.UpdateOptions{}); err != nil {
			t.Fatalf("update slice: %v", err)
		}
	}
}

func apiProxyNameLabel(t *testing.T, c *apiCluster) {
	const label = "service.kubernetes.io/service-proxy-name"
	client, node, b := c.pod(0, 1), c.Nodes[0], c.pod(1, 0)
	s := apiserver.NewService("proxy-name", corev1.ServiceTypeNodePort, tcpPort("tcp"))
	s.Labels = map[string]string{label: "somebody-else"}
	s = c.create(t, s, backends(b)...)
	marker := c.create(t, apiserver.NewService("proxy-name-marker", corev1.ServiceTypeClusterIP, tcpPort("tcp")), backends(b)...)
	answered(t, client, "tcp", clusterAddrs(marker, 80)[0], b.Name) // so the other has been seen, or never will be
	ours := func(want bool) {
		t.Helper()
		for i, addr := range clusterAddrs(s, 80) {
			outside := nodeAddrs(node, s.Spec.Ports[0].NodePort)[i]
			if want {
				answered(t, client, "tcp", addr, b.Name)
				answered(t, c.Clients[0], "tcp", outside, b.Name)
			} else {
				unreachable(t, node, addr)
				refused(t, c.Clients[0], outside)
			}
		}
	}
	ours(false)
	c.update(t, s, func(s *corev1.Service) { delete(s.Labels, label) })
	ours(true)
	c.update(t, s, func(s *corev1.Service) { s.Labels = map[string]string{label: ""} })
	ours(false)
}

func apiHeadlessLabel(t *testing.T, c *apiCluster) {
	client, b := c.pod(0, 1), c.pod(1, 0)
	s := c.create(t, apiserver.NewService("headless-slices", corev1.ServiceTypeClusterIP, tcpPort("tcp")), backends(b)...)
	for _, visible := range []bool{true, false, true} {
		c.editSlices(t, s, func(slice *discoveryv1.EndpointSlice) {
			delete(slice.Labels, corev1.IsHeadlessService)
			if !visible {
				slice.Labels[corev1.IsHeadlessService] = ""
			}
		})
		for _, addr := range clusterAddrs(s, 80) {
			if visible {
				answered(t, client, "tcp", addr, b.Name)
			} else {
				refused(t, client, addr)
			}
		}
	}
}

// The upstream test of this is e2e/network/service.go:4116.
func apiTargetPorts(t *testing.T, c *apiCluster) {
	const otherPort = serverPort + 1
	client, a, b := c.pod(0, 1), c.pod(0, 0), c.pod(1, 0)
	servers, err := b.ServeAll(t.Context(), otherPort)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range servers {
		defer func() { _ = addr.Stop(t.Context()) }()
	}
	s := c.create(t, apiserver.NewService("target-ports", corev1.ServiceTypeClusterIP, tcpPort("tcp")), backends(a)...)
	second := s.DeepCopy()
	second.Spec.Ports[0].TargetPort.IntVal = otherPort
	for _, slice := range apiserver.NewSlices(second, backends(b)...) {
		slice.Name += "-second"
		if _, err := c.admin.DiscoveryV1().EndpointSlices(s.Namespace).Create(t.Context(), slice, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, addr := range clusterAddrs(s, 80) {
		answered(t, client, "tcp", addr, a.Name, b.Name)
	}
	c.setBackends(t, s)
	for _, addr := range clusterAddrs(s, 80) {
		answered(t, client, "tcp", addr, b.Name)
	}
}

func apiSliceMoves(t *testing.T, c *apiCluster) {
	client, b := c.pod(0, 1), c.pod(1, 0)
	from := c.create(t, apiserver.NewService("moves-from", corev1.ServiceTypeClusterIP, tcpPort("tcp")), backends(b)...)
	to := c.create(t, apiserver.NewService("moves-to", corev1.ServiceTypeClusterIP, tcpPort("tcp")))
	for i, addr := range clusterAddrs(from, 80) {
		answered(t, client, "tcp", addr, b.Name)
		refused(t, client, clusterAddrs(to, 80)[i])
	}
	c.editSlices(t, from, func(slice *discoveryv1.EndpointSlice) { slice.Labels[discoveryv1.LabelServiceName] = to.Name })
	for i, addr := range clusterAddrs(from, 80) {
		answered(t, client, "tcp", clusterAddrs(to, 80)[i], b.Name)
		refused(t, client, addr)
	}
}

func apiZoneHints(t *testing.T, c *apiCluster) {
	zone := func(n *testenv.Node, name string) {
		t.Helper()
		nodes := c.admin.CoreV1().Nodes()
		object, err := nodes.Get(t.Context(), n.Name, metav1.GetOptions{})
		if err == nil {
			delete(object.Labels, corev1.LabelTopologyZone)
			if name != "" {
				object.Labels[corev1.LabelTopologyZone] = name
			}
			_, err = nodes.Update(t.Context(), object, metav1.UpdateOptions{})
		}
		if err != nil {
			t.Fatalf("set zone of %s: %v", n.Name, err)
		}
	}
	a, b := c.pod(0, 0), c.pod(1, 0)
	s := c.create(t, apiserver.NewService("hints", corev1.ServiceTypeClusterIP, tcpPort("tcp")), backends(a, b)...)
	c.editSlices(t, s, func(slice *discoveryv1.EndpointSlice) {
		for i, name := range []string{"east", "west"} {
			slice.Endpoints[i].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: name}}}
		}
	})
	dial := func(want ...string) {
		t.Helper()
		for _, addr := range clusterAddrs(s, 80) {
			answered(t, c.pod(0, 1), "tcp", addr, want...)
		}
	}
	dial(a.Name, b.Name) // the node has no zone
	zone(c.Nodes[0], "west")
	dial(b.Name)
	zone(c.Nodes[0], "east")
	dial(a.Name)
	zone(c.Nodes[0], "south") // nobody there
	dial(a.Name, b.Name)
	zone(c.Nodes[0], "west")
	dial(b.Name)
	zone(c.Nodes[0], "")
	dial(a.Name, b.Name)
}
