package test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// rejected is how many objects of a kind the agent has found something wrong with.
func (a *agent) rejected(t *testing.T, kind string) float64 {
	t.Helper()
	return a.metric(t, fmt.Sprintf("svcproxy_rejected_objects_total{kind=%q}", kind))
}

// Objects that no API server admits: what is wrong is left out, named and counted; the rest is served.
func TestBadObjects(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node, client := c.Nodes[0], c.Nodes[0].Pods[1]
	a0, b0 := c.Nodes[0].Pods[0], c.Nodes[1].Pods[0]
	a := startAgent(t, node, "--manifests", dir)
	for i, tt := range []struct {
		name    string
		kind    string
		service func(*corev1.Service)
		slice   func(*discoveryv1.EndpointSlice)
		log     string
		port    int32  // that is dialled to see what is left, over TCP; 0: nothing is
		answers string // over that port; "": refused
	}{
		{"bad-ip", "Service", func(s *corev1.Service) { s.Spec.ClusterIPs[1] = "fd96::zz" }, nil, "fd96::zz", 80, a0.Name},
		{"bad-ips", "Service", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.999", nil }, nil, "10.96.0.999", 0, ""},
		{"port-0", "Service", func(s *corev1.Service) { s.Spec.Ports[1].Port = 0 }, nil, "port 0 is not", 80, a0.Name},
		{"port-70000", "Service", func(s *corev1.Service) { s.Spec.Ports[1].Port = 70000 }, nil, "70000", 80, a0.Name},
		{"bad-nodeport", "Service", func(s *corev1.Service) { s.Spec.Ports[1].NodePort = -5 }, nil, "nodePort -5", 80, a0.Name},
		{"unknown-protocol", "Service", func(s *corev1.Service) { s.Spec.Ports[1].Protocol = "QUIC" }, nil, "QUIC", 80, a0.Name},
		{"bad-endpoint", "EndpointSlice", nil, func(s *discoveryv1.EndpointSlice) {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{"10.244.1.1.1"}})
		}, "10.244.1.1.1", 80, a0.Name},
		{"loopback-endpoint", "EndpointSlice", nil, func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses[0] = "127.0.0.1" }, "loopback", 80, ""},
		{"no-address", "EndpointSlice", nil, func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses = nil }, "has no address", 80, ""},
		{"bad-slice-port", "EndpointSlice", nil, func(s *discoveryv1.EndpointSlice) {
			s.Ports = append([]discoveryv1.EndpointPort(nil), s.Ports...) // the other slice has them too
			s.Ports[0].Port = new(int32)
			*s.Ports[0].Port = 99999
		}, "99999", 80, ""},
		{"bad-address-type", "EndpointSlice", nil, func(s *discoveryv1.EndpointSlice) { s.AddressType = "IPX" }, "IPX", 80, ""},
		{"no-service-label", "EndpointSlice", nil, func(s *discoveryv1.EndpointSlice) { s.Labels = nil }, "kubernetes.io/service-name", 80, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			number := uint8(50 + i)
			s := service(tt.name, number, 30100+int32(i))
			behind := slices(s, backends(a0)...)
			if tt.service != nil {
				tt.service(s)
			}
			if tt.slice != nil {
				tt.slice(behind[0].(*discoveryv1.EndpointSlice)) // the IPv4 one
			}
			before := a.rejected(t, tt.kind)
			manifest(t, dir, tt.name+".yaml", append([]any{s}, behind...)...)
			a.logged(t, tt.log)
			a.logged(t, tt.kind+" default/"+tt.name)
			if got := a.rejected(t, tt.kind) - before; got != 1 {
				t.Errorf("counted %v objects of kind %s, want 1", got, tt.kind)
			}
			addr := fmt.Sprintf("%s:%d", clusterIPv4(number), tt.port)
			switch {
			case tt.port == 0:
				unreachable(t, node, clusterIPv4(number)+":80")
			case tt.answers == "":
				refused(t, client, addr)
			default:
				answered(t, client, "tcp", addr, tt.answers)
			}
			for _, addr := range webAddrs() {
				answered(t, client, "tcp", addr, a0.Name, b0.Name)
			}
		})
	}
	if n := a.rejected(t, "Manifest"); n != 0 {
		t.Errorf("counted %v files as broken", n)
	}
}

// of two Services that want one address the older has it, and the other follows.
func TestContestedFrontend(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node, client := c.Nodes[0], c.Nodes[0].Pods[1]
	a0, a1, b1 := c.Nodes[0].Pods[0], c.Nodes[0].Pods[1], c.Nodes[1].Pods[1]
	startAgent(t, node, "--manifests", dir)
	now := time.Now()
	write := func(name string, age time.Duration, pod *testenv.Pod) {
		s := service(name, 60, 30160) // all the same addresses
		s.CreationTimestamp = metav1.NewTime(now.Add(-age))
		manifest(t, dir, name+".yaml", append([]any{s}, slices(s, backends(pod)...)...)...)
	}
	check := func(want *testenv.Pod) {
		t.Helper()
		answered(t, client, "tcp", clusterIPv4(60)+":80", want.Name)
		answered(t, client, "udp", "["+clusterIPv6(60)+"]:80", want.Name)
		answered(t, c.Clients[0], "tcp", nodeAddrs(node, 30160)[0], want.Name)
	}
	write("middle", 2*time.Hour, a0)
	check(a0)
	write("young", time.Hour, a1)
	marker := service("marker", 61, 30161)
	manifest(t, dir, "zz-marker.yaml", append([]any{marker}, slices(marker, backends(a1)...)...)...)
	answered(t, client, "tcp", clusterIPv4(61)+":80", a1.Name) // so "young" has been read
	check(a0)
	write("aged", 3*time.Hour, b1)
	check(b1)
	for _, step := range []struct {
		goes string
		next *testenv.Pod
	}{{"aged", a0}, {"middle", a1}} {
		if err := os.Remove(filepath.Join(dir, step.goes+".yaml")); err != nil {
			t.Fatal(err)
		}
		check(step.next)
	}
	// The same age: the first by name.
	write("middle", time.Hour, a0)
	check(a0)
}

// A file that cannot be understood is named; what it said before stays until it is mended.
func TestBrokenManifest(t *testing.T) {
	t.Parallel()
	c, dir := lifeCluster(t)
	node, client := c.Nodes[0], c.Nodes[0].Pods[1]
	a0, b0, b1 := c.Nodes[0].Pods[0], c.Nodes[1].Pods[0], c.Nodes[1].Pods[1]
	write := func(name string, number uint8, pod *testenv.Pod) {
		s := service(name, number, 30100+int32(number))
		manifest(t, dir, name+".yaml", append([]any{s}, slices(s, backends(pod)...)...)...)
	}
	write("victim", 20, a0)
	a := startAgent(t, node, "--manifests", dir)
	for i, text := range []string{
		"apiVersion: v1\nkind: Service\n\tmetadata: {name: victim}\n",
		"apiVersion: v1\nkind: Service\nmetadata: {name: victim}\nspec: {ports: many}\n",
		"kind: Service\n",
		strings.Repeat("- [", 1000),
		"\x00\x01\x02\xff\xfe",
	} {
		before := a.rejected(t, "Manifest")
		if err := os.WriteFile(filepath.Join(dir, "victim.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		eventually(t, "count of broken files", func(context.Context) error {
			if got := a.rejected(t, "Manifest") - before; got < 1 { // more if it was read half-way
				return fmt.Errorf("%v after file %d", got, i)
			}
			return nil
		})
		a.logged(t, filepath.Join(dir, "victim.yaml"))
		answered(t, client, "tcp", clusterIPv4(20)+":80", a0.Name)
		write("other", 21, b1) // the others are read as before
		answered(t, client, "tcp", clusterIPv4(21)+":80", b1.Name)
		write("other", 21, b0)
		answered(t, client, "tcp", clusterIPv4(21)+":80", b0.Name)
		for _, addr := range webAddrs() {
			answered(t, client, "tcp", addr, a0.Name, b0.Name)
		}
	}
	write("victim", 20, b0)
	answered(t, client, "tcp", clusterIPv4(20)+":80", b0.Name)

	// At the start there is nothing that it said before: the others are served.
	a.stop(t)
	if err := os.WriteFile(filepath.Join(dir, "victim.yaml"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	startAgent(t, node, "--manifests", dir).logged(t, filepath.Join(dir, "victim.yaml"))
	answered(t, client, "tcp", clusterIPv4(21)+":80", b0.Name)
	unreachable(t, node, clusterIPv4(20)+":80")
}
