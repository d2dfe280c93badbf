package test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// localService returns a LoadBalancer Service with externalTrafficPolicy Local and a health check NodePort.
func localService(name string, number uint8, nodePort, checkPort int32) *corev1.Service {
	s := service(name, number, nodePort)
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	s.Spec.HealthCheckNodePort = checkPort
	return s
}

const noAnswer = "refused"

// healthAnswer is what a health check NodePort answers to a load balancer: status, headers, body.
func healthAnswer(ctx context.Context, from *testenv.Host, addr netip.Addr, port int32) string {
	client := http.Client{Transport: &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}}
	url := fmt.Sprintf("http://%s/any/path", netip.AddrPortFrom(addr, uint16(port)))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	response, err := client.Do(request)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return noAnswer
	}
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	h := response.Header
	return fmt.Sprintf("%d %s %s %s\n%s", response.StatusCode, h.Get("Content-Type"), h.Get("X-Content-Type-Options"), h.Get("X-Load-Balancing-Endpoint-Weight"), body)
}

// healthy is the answer of a node with so many endpoints of the Service.
func healthy(s *corev1.Service, count int) string {
	status := http.StatusOK
	if count == 0 {
		status = http.StatusServiceUnavailable
	}
	return fmt.Sprintf("%d application/json nosniff %d\n{\n\t\"service\": {\n\t\t\"namespace\": %q,\n\t\t\"name\": %q\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": true\n}",
		status, count, s.Namespace, s.Name, count)
}

// wantHealth waits until both addresses of a node answer so at a port; v4 and v6 may differ.
func wantHealth(t *testing.T, what string, from *testenv.Host, n *testenv.Node, port int32, v4, v6 string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := testenv.Eventually(ctx, func(ctx context.Context) error {
		return different([]string{v4, v6}, []string{healthAnswer(ctx, from, n.IPv4, port), healthAnswer(ctx, from, n.IPv6, port)})
	}); err != nil {
		t.Errorf("%s: %s at %d: %v", what, n.Name, port, err)
	}
}

// as a load balancer sees them.
func TestServiceHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	const port, another = 32000, 32001
	s := localService("web", 10, 30080, port)
	w.put(t, s, backends(w.a1, w.b1)...)
	w.start(t, nil)
	client := w.client.Host
	want := func(what string, onA, onB string) {
		t.Helper()
		wantHealth(t, what, client, w.a, port, onA, onA)
		wantHealth(t, what, client, w.b, port, onB, onB)
	}
	want("one on each node", healthy(s, 1), healthy(s, 1))
	w.put(t, s, backends(w.a1, w.a2)...)
	want("both on one node", healthy(s, 2), healthy(s, 0))
	manifest(t, w.dir, s.Name+".yaml", append([]any{s}, slices(s, apiserver.PodBackend(w.a1), terminating(w.a2), unready(w.b1))...)...)
	want("neither terminating nor unready ones count", healthy(s, 1), healthy(s, 0))

	// the load balancer is told to go elsewhere while who is here already is still served.
	w.put(t, s, terminating(w.a1))
	want("terminating ones alone", healthy(s, 0), healthy(s, 0))
	exchange{from: client, network: "tcp", to: netip.AddrPortFrom(w.a.IPv4, 30080), backend: w.a1.Name, source: client.IPv4}.check(t)

	w.put(t, s)
	want("no endpoints", healthy(s, 0), healthy(s, 0))
	w.put(t, s, backends(w.b1)...)
	want("the other node", healthy(s, 0), healthy(s, 1))

	// Each family counts its own.
	manifest(t, w.dir, s.Name+".yaml", append([]any{s}, slices(s, backends(w.b1)...)[0])...)
	wantHealth(t, "IPv4 alone", client, w.b, port, healthy(s, 1), healthy(s, 0))

	s.Spec.HealthCheckNodePort = another
	w.put(t, s, backends(w.a1)...)
	want("left port", noAnswer, noAnswer)
	wantHealth(t, "new port", client, w.a, another, healthy(s, 1), healthy(s, 1))

	// The port passes to another Service.
	heir := localService("heir", 11, 30081, another)
	s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyCluster, 0
	w.put(t, s, backends(w.a1)...)
	w.put(t, heir, backends(w.a1, w.a2)...)
	wantHealth(t, "heir", client, w.a, another, healthy(heir, 2), healthy(heir, 2))
	w.remove(t, heir)
	wantHealth(t, "no Service", client, w.a, another, noAnswer, noAnswer)
}

// a port that somebody else has is not given up on, and holds no other Service up.
func TestServiceHealthPortTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	const taken, free = 32010, 32011
	server, err := w.a.Serve(t.Context(), "tcp", netip.AddrPortFrom(w.a.IPv4, taken).String())
	if err != nil {
		t.Fatal(err)
	}
	unlucky, lucky := localService("unlucky", 10, 30080, taken), localService("lucky", 11, 30081, free)
	w.put(t, unlucky, backends(w.a1)...)
	w.put(t, lucky, backends(w.a1)...)
	w.start(t, []string{"--iptables-sync-period=1s"}, w.a)
	wantHealth(t, "other Service", w.client.Host, w.a, free, healthy(lucky, 1), healthy(lucky, 1))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := testenv.Eventually(ctx, func(ctx context.Context) error {
		return different(healthy(unlucky, 1), healthAnswer(ctx, w.client.Host, w.a.IPv6, taken))
	}); err != nil {
		t.Errorf("other family: %v", err)
	}
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantHealth(t, "once it is free", w.client.Host, w.a, taken, healthy(unlucky, 1), healthy(unlucky, 1))
}

// where NodePorts do not answer, neither do health checks.
func TestServiceHealthAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	const port = 32020
	s := localService("web", 10, 30080, port)
	w.put(t, s, backends(w.a1)...)
	w.start(t, []string{"--nodeport-addresses", w.a.IPv4.String() + "/32,2001:db8:ffff::/64"}, w.a)
	wantHealth(t, "one address of one family", w.client.Host, w.a, port, healthy(s, 1), noAnswer)
	if got := healthAnswer(t.Context(), w.a.Host, netip.MustParseAddr("127.0.0.1"), port); got != noAnswer {
		t.Errorf("loopback answers %s", got)
	}
}

// Ports, not Services, of which a policy drops everything on this node (parity 7.4).
func TestNoLocalEndpointsMetric(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	s := localService("web", 10, 30080, 32030)
	local := corev1.ServiceInternalTrafficPolicyLocal
	s.Spec.InternalTrafficPolicy = &local
	w.put(t, s, backends(w.b1)...)
	w.start(t, nil, w.a)
	want := func(what string, ports int) {
		t.Helper()
		var lines []string
		for _, policy := range []string{"internal", "external"} {
			for _, family := range []string{"IPv4", "IPv6"} {
				lines = append(lines, fmt.Sprintf(`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="%s",traffic_policy="%s"} %d`, family, policy, ports))
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := testenv.Eventually(ctx, func(ctx context.Context) error {
			_, body, err := w.agents[0].get(ctx, "127.0.0.1:10249", "/metrics")
			if err != nil {
				return err
			}
			for _, line := range lines {
				if !strings.Contains(body, line+"\n") {
					return fmt.Errorf("no line %s", line)
				}
			}
			return nil
		}); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	want("endpoint elsewhere", 2) // tcp and udp
	w.put(t, s, backends(w.a1, w.b1)...)
	want("endpoint here", 0)
	w.put(t, s, backends(w.b1)...)
	want("elsewhere again", 2)
	w.remove(t, s)
	want("no Service", 0)
}
