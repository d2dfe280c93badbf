package test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// an agent that may not read EndpointSlices waits, says for what, and leaves alone what an earlier run
// has put into the kernel.
func TestAPIAwaitsAll(t *testing.T) {
	c := newAPICluster(t)
	node, client, a, b := c.Nodes[0], c.pod(0, 1), c.pod(0, 0), c.pod(1, 0)
	s := c.create(t, apiserver.NewService("awaits", corev1.ServiceTypeNodePort, tcpPort("tcp")), backends(a)...)
	first := startAgent(t, node, "--kubeconfig", c.kubeconfig(t, proxyUser))
	for _, addr := range clusterAddrs(s, 80) {
		answered(t, client, "tcp", addr, a.Name)
	}
	before := command(t, node, "services", "-o", "json")
	first.stop(t)

	c.setBackends(t, s, backends(b)...)
	unheard := c.create(t, apiserver.NewService("awaits-too", corev1.ServiceTypeClusterIP, tcpPort("tcp")), backends(b)...)
	var slices, others []rbacv1.PolicyRule
	for _, rule := range proxyRules {
		if rule.Resources[0] == "endpointslices" {
			slices = append(slices, rule)
		} else {
			others = append(others, rule)
		}
	}
	if err := grant(t.Context(), c.admin, "svcproxy-without-slices", anotherUser, others...); err != nil {
		t.Fatal(err)
	}
	second := launchAgent(t, node, "--kubeconfig", c.kubeconfig(t, anotherUser))
	second.logged(t, "resource=EndpointSlice")
	second.logged(t, "forbidden")
	eventually(t, "readyz", func(ctx context.Context) error {
		code, body, err := second.get(ctx, "127.0.0.1:10256", "/readyz")
		if err == nil && (code != http.StatusServiceUnavailable || !strings.Contains(body, "EndpointSlices")) {
			err = fmt.Errorf("%d: %s, want 503 that names EndpointSlices", code, body)
		}
		return err
	})
	if code, body, err := second.get(t.Context(), "127.0.0.1:10256", "/livez"); err != nil || code != http.StatusOK {
		t.Errorf("livez: %d %s %v, want 200", code, body, err)
	}
	for _, addr := range clusterAddrs(s, 80) {
		answered(t, client, "tcp", addr, a.Name)
	}
	for _, addr := range nodeAddrs(node, s.Spec.Ports[0].NodePort) {
		answered(t, c.Clients[0], "tcp", addr, a.Name)
	}
	unreachable(t, node, clusterAddrs(unheard, 80)[0])
	if diff := cmp.Diff(before, command(t, node, "services", "-o", "json")); diff != "" {
		t.Errorf("tables changed before everything was known (-before +now):\n%s", diff)
	}
	if n := second.writes(t); n != 0 {
		t.Errorf("%v writes before everything was known", n)
	}

	if err := grant(t.Context(), c.admin, "svcproxy-slices", anotherUser, slices...); err != nil {
		t.Fatal(err)
	}
	if err := second.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	answered(t, client, "tcp", clusterAddrs(s, 80)[0], b.Name)
	answered(t, client, "tcp", clusterAddrs(unheard, 80)[0], b.Name)
}

// without an API server everything goes on; what it was told meanwhile arrives when it is back, and the
// tables are then those of an agent that has missed nothing.
func TestAPIOutage(t *testing.T) {
	c := newAPICluster(t)
	c.startAgents(t)
	a, b, ctx := c.pod(0, 0), c.pod(1, 0), t.Context()
	s := c.create(t, apiserver.NewService("outage", corev1.ServiceTypeNodePort, tcpPort("tcp"), udpPort("udp")), backends(a)...)
	s = c.update(t, s, func(s *corev1.Service) { s.Spec.Ports[1].NodePort = s.Spec.Ports[0].NodePort })
	addrs, outside := clusterAddrs(s, 80), nodeAddrs(c.Nodes[0], s.Spec.Ports[0].NodePort)
	for i, n := range c.Nodes {
		answered(t, n.Pods[1], "udp", addrs[0], a.Name)
		answered(t, c.Clients[0], "udp", nodeAddrs(n, s.Spec.Ports[0].NodePort)[i], a.Name)
	}
	var l loads
	l.startAll(t, c.pod(0, 1).Host, addrs[0])
	l.startAll(t, c.pod(1, 1).Host, addrs[1])
	l.startAll(t, c.Clients[0].Host, outside...)
	l.each(t, 10)

	c.access[0].Close()
	c.agents[0].logged(t, "cannot read from the API server")
	// Told to the API server, and to node-b; a cannot hear of it.
	c.setBackends(t, s, backends(b)...)
	answered(t, c.pod(1, 1), "tcp", addrs[0], b.Name)
	answered(t, c.pod(0, 1), "tcp", addrs[0], a.Name)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	missed := &churn{apiCluster: c, rand: rand.New(rand.NewPCG(seed, 0)), services: map[int]*corev1.Service{}}
	t.Cleanup(func() { _ = missed.removeAll(context.Background()) })
	err := missed.createAll(ctx)
	for range outageChanges {
		if err == nil {
			err = missed.step(ctx)
		}
	}
	if err != nil {
		t.Fatal(err)
	}

	c.server.Kill() // ending by itself it waits a minute for its watchers to go
	stopped := true
	defer func() {
		if stopped {
			_ = c.server.Start(context.Background()) // others need it
		}
	}()
	l.each(t, 20)
	answered(t, c.pod(1, 1), "tcp", addrs[0], b.Name)
	answered(t, c.pod(0, 1), "tcp", addrs[0], a.Name)
	for i, agent := range c.agents {
		for _, path := range []string{"/livez", "/healthz", "/readyz"} {
			if code, body, err := agent.get(ctx, "127.0.0.1:10256", path); err != nil || code != http.StatusOK {
				t.Errorf("%s of %s in the outage: %d %s %v, want 200", path, c.Nodes[i].Name, code, body, err)
			}
		}
	}

	if err := c.server.Start(ctx); err != nil {
		t.Fatal(err)
	}
	stopped = false
	if _, err := c.server.Expose(c.Nodes[0]); err != nil {
		t.Fatal(err)
	}
	begin := time.Now() // client-go asks again after ever longer pauses, half a minute at last
	again, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if err := testenv.Eventually(again, func(ctx context.Context) error {
		r, err := request(ctx, c.pod(0, 1), "tcp", addrs[0])
		if err == nil && r.Backend != b.Name {
			err = fmt.Errorf("answered by %s", r.Backend)
		}
		return err
	}); err != nil {
		t.Fatalf("what was missed: %v", err)
	}
	answered(t, c.pod(0, 1), "tcp", addrs[0], b.Name)
	t.Logf("what was missed arrived %v after the outage", time.Since(begin))
	answered(t, c.Clients[0], "tcp", outside[0], b.Name)
	l.ended = true
	c.setBackends(t, s, backends(a, b)...) // both nodes hear what comes from now on
	for _, n := range c.Nodes {
		answered(t, n.Pods[1], "tcp", addrs[1], a.Name, b.Name)
	}
	l.stop(t)
	fresh := newAPICluster(t)
	fresh.startAgents(t)
	again, cancel = context.WithTimeout(ctx, 2*time.Minute) // each kind of object has a pause of its own
	defer cancel()
	for i, n := range c.Nodes {
		if err := testenv.Eventually(again, func(context.Context) error {
			if diff := cmp.Diff(meaning(t, fresh.Nodes[i]), meaning(t, n)); diff != "" {
				return errors.New("differ from a fresh agent's (-want +got):\n" + diff)
			}
			return nil
		}); err != nil {
			t.Errorf("tables of %s: %v", n.Name, err)
		}
	}
}

// outageChanges is how many changes of Services an agent misses: an hour's, on a busy cluster.
const outageChanges = 400
