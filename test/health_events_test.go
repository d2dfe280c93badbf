package test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// What the agents tell the API server (parity 7.5), and count of it (parity 7.4).
func TestAPIEvents(t *testing.T) {
	c := newAPICluster(t)
	const taken = 32100
	node := c.Nodes[0]
	server, err := node.Serve(t.Context(), "tcp", netip.AddrPortFrom(node.IPv4, taken).String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := server.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	c.startAgents(t, "--iptables-sync-period=1s")

	winner := apiserver.NewService("events-a", corev1.ServiceTypeClusterIP, tcpPort("tcp"))
	winner.Spec.ExternalIPs = []string{"198.51.100.9"}
	loser := winner.DeepCopy()
	loser.Name = "events-b"
	winner, loser = c.create(t, winner), c.create(t, loser)
	deaf := apiserver.NewService("events-deaf", corev1.ServiceTypeLoadBalancer, tcpPort("tcp"))
	deaf.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	deaf.Spec.HealthCheckNodePort = taken
	deaf = c.create(t, deaf, backends(c.pod(0, 0))...)

	wantEvent := func(namespace, kind, name, reason, of, action string, note ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := testenv.Eventually(ctx, func(ctx context.Context) error {
			list, err := c.admin.EventsV1().Events(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return err
			}
			var seen []string
			for _, e := range list.Items {
				if e.ReportingController != "svcproxy" || e.Regarding.Kind != kind || e.Regarding.Name != name {
					continue
				}
				fits := e.Reason == reason && e.Type == of && e.Action == action
				for _, words := range note {
					fits = fits && strings.Contains(e.Note, words)
				}
				if fits {
					return nil
				}
				seen = append(seen, fmt.Sprintf("%s %s %s: %s", e.Type, e.Reason, e.Action, e.Note))
			}
			return fmt.Errorf("there are only %q", seen)
		}); err != nil {
			t.Errorf("%s %s: no Event %s: %v", kind, name, reason, err)
		}
	}
	for _, n := range c.Nodes {
		wantEvent("default", "Node", n.Name, "Starting", corev1.EventTypeNormal, "StartKubeProxy")
		wantEvent(loser.Namespace, "Service", loser.Name, "FrontendTaken", corev1.EventTypeWarning, "Program",
			"node "+n.Name, "198.51.100.9:80/tcp", "Service "+winner.Namespace+"/"+winner.Name)
	}
	wantEvent(deaf.Namespace, "Service", deaf.Name, "FailedToStartServiceHealthcheck", corev1.EventTypeWarning, "Listen",
		"node "+node.Name, `"`+deaf.Namespace+"/"+deaf.Name+`"`, "address already in use")

	// once for each trigger, in the family of the slice.
	slices := c.admin.DiscoveryV1().EndpointSlices(deaf.Namespace)
	list, err := slices.List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + deaf.Name})
	if err != nil {
		t.Fatal(err)
	}
	for _, slice := range list.Items {
		if slice.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		no := false
		slice.Endpoints[0].Conditions.Ready = &no
		slice.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().Format(time.RFC3339Nano)}
		if _, err := slices.Update(t.Context(), &slice, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := testenv.Eventually(ctx, func(ctx context.Context) error {
		_, body, err := c.agents[0].get(ctx, "127.0.0.1:10249", "/metrics")
		if err != nil {
			return err
		}
		for _, line := range []string{
			`rest_client_requests_total{code="200",`, `rest_client_requests_total{code="201",`, "rest_client_request_duration_seconds_bucket{",
			`kubeproxy_network_programming_duration_seconds_count{ip_family="IPv4"} 1` + "\n",
		} {
			if !strings.Contains(body, "\n"+line) {
				return fmt.Errorf("no line %s", line)
			}
		}
		if strings.Contains(body, `kubeproxy_network_programming_duration_seconds_count{ip_family="IPv6"} 1`) {
			return errors.New("observed for IPv6 too")
		}
		return nil
	}); err != nil {
		t.Errorf("/metrics: %v", err)
	}
	if n := strings.Count(c.agents[0].log.String(), "cannot read from the API server"); n != 0 {
		t.Errorf("%d complaints about what cannot be read", n)
	}
}
