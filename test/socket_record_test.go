package test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
	"github.com/svcproxy/svcproxy/internal/testenv/hand"
)

// What a UDP socket is told about its peers must be true after whatever it did before (DESIGN D5). Each
// step names a Service or a pod: "connect" and "send" must be answered by who is behind it, and the answer
// must be shown as coming from what was named.
func TestSocketRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testenv.Options{})
	backends := map[string]*testenv.Pod{"A": w.a1, "B": w.b1, "C": w.b2, "A again": w.a1, "B again": w.b1}
	pods := map[string]*testenv.Pod{w.a1.Name: w.a1, w.b1.Name: w.b1}
	ports := map[string]uint8{"A": 40, "B": 41, "C": 42, "A again": 43, "B again": 44}
	for name, pod := range backends {
		s := service(strings.ToLower(strings.ReplaceAll(name, " ", "-")), ports[name], 30000+int32(ports[name]))
		w.put(t, s, apiserver.PodBackend(pod))
	}
	w.start(t, nil, w.a)

	// After a disconnect the kernel lets an AF_INET6 socket hear its old peer only (it forgets to clear
	// sk_v6_daddr), with or without us.
	const notIPv6 = "IPv6"
	tests := []struct {
		name  string
		steps []string
		not   string // a form in which this cannot be asked
	}{
		{name: "connect to another Service", steps: []string{"connect A", "connect B", "connect A"}},
		{name: "connect to the pod behind the Service", steps: []string{"connect A", "connect pod-a1"}},
		{name: "connect to another pod", steps: []string{"connect A", "connect pod-b1", "connect A"}},
		{name: "disconnect, then send to the pod behind it", steps: []string{"connect A", "disconnect", "send pod-a1"}},
		{name: "disconnect, then send to the Service", steps: []string{"connect A", "disconnect", "send A"}},
		{name: "disconnect, then to Service and pod in turn", steps: []string{"connect A", "disconnect", "send A", "send pod-a1", "send A"}},
		{name: "disconnect, then send to another Service", steps: []string{"connect A", "disconnect", "send B", "send A", "send B"}, not: notIPv6},
		{name: "disconnect, then another Service's pod", steps: []string{"connect A", "disconnect", "send B", "send pod-b1", "send pod-a1"}, not: notIPv6},
		{name: "send, then connect", steps: []string{"send A", "connect B", "disconnect", "send A"}, not: notIPv6},
		{name: "Service, then its pod, and back", steps: []string{"send A", "send pod-a1", "send A"}},
		{name: "pod, then its Service, and back", steps: []string{"send pod-a1", "send A", "send pod-a1"}},
		{name: "Service, then another pod", steps: []string{"send A", "send pod-b1", "send A", "send pod-b1"}},
		{name: "two Services in turn", steps: []string{"send A", "send B", "send A", "send B"}},
		{name: "three Services in turn", steps: []string{"send A", "send B", "send C", "send A", "send B", "send C"}},
		{name: "two Services with one backend", steps: []string{"send A", "send A again", "send A", "send A again"}},
		{name: "two Services with one backend, and a third", steps: []string{"send A", "send B", "send A again", "send A", "send B", "send A again"}},
		{name: "two Services with one backend, after a third", steps: []string{"send A", "send B", "send B again", "send B", "send B again", "send A"}},
		{name: "two Services, then the first one's pod", steps: []string{"send A", "send B", "send pod-a1", "send A", "send B"}},
		{name: "two Services, then the second one's pod", steps: []string{"send A", "send B", "send pod-b1", "send B", "send A"}},
	}
	for _, f := range []string{"IPv4", "IPv6", "mapped"} {
		target := func(name string) (backend *testenv.Host, addr netip.AddrPort) {
			candidates, port := []form(nil), uint16(80)
			if number, ok := ports[name]; ok {
				backend, candidates = backends[name].Host, clusterForms(number)
			} else if pod := pods[name]; pod != nil {
				backend, candidates, port = pod.Host, hostForms(pod.Host), serverPort
			}
			for _, c := range candidates {
				if c.name == f {
					return backend, netip.AddrPortFrom(c.addr, port)
				}
			}
			return nil, netip.AddrPort{}
		}
		for _, test := range tests {
			if test.not == f {
				continue
			}
			t.Run(f+"/"+test.name, func(t *testing.T) {
				_, first := target("A")
				s := openSocket(t, w.a2.Host, first.Addr(), unix.SOCK_DGRAM, 0)
				for i, step := range test.steps {
					op, name, _ := strings.Cut(step, " ")
					backend, addr := target(name)
					if err := take(t, s, op, addr, backend, i); err != nil {
						t.Fatalf("step %d, %s: %v", i+1, step, err)
					}
				}
			})
		}
	}
	t.Run("connected, sends to another Service", func(t *testing.T) { testSendElsewhere(t, w) })
	t.Run("two threads", func(t *testing.T) { testThreads(t, w) })
}

// seen is what a client is told of an answer.
type seen struct {
	Backend, Payload string
	From             netip.AddrPort
}

// take does one step on a socket and says what is not as it should be.
func take(t *testing.T, s *hand.Socket, op string, addr netip.AddrPort, backend *testenv.Host, i int) error {
	to := addr
	switch op {
	case "disconnect":
		return s.Disconnect(t.Context())
	case "connect":
		if err := s.Connect(t.Context(), addr); err != nil {
			return err
		}
		peer, err := s.GetPeerName(t.Context())
		if err != nil {
			return err
		}
		if peer != addr {
			return fmt.Errorf("getpeername shows %s, want %s", peer, addr)
		}
		to = netip.AddrPort{}
	}
	payload := fmt.Sprintf("step-%d", i)
	if err := s.SendTo(t.Context(), payload, to); err != nil {
		return err
	}
	got, err := hear(t, s)
	if err != nil {
		return err
	}
	return different(seen{Backend: backend.Name, Payload: payload, From: addr}, got)
}

// hear receives an answer of a hand.Server.
func hear(t *testing.T, s *hand.Socket) (seen, error) {
	answer, from, err := s.RecvFrom(t.Context())
	if err != nil {
		return seen{}, err
	}
	words := strings.Fields(answer)
	if len(words) != 3 {
		return seen{}, fmt.Errorf("%q is no answer", answer)
	}
	return seen{Backend: words[0], Payload: words[2], From: from}, nil
}

// A connected socket may name another Service in a single sendto. The answer cannot come back to it, for
// the kernel lets only its peer's through; but it must arrive, and the peer stays.
func testSendElsewhere(t *testing.T, w *world) {
	const sinkPort = 9000
	sink := service("sink", 45, 30045)
	for i := range sink.Spec.Ports {
		sink.Spec.Ports[i].TargetPort = intstr.FromInt32(sinkPort)
	}
	w.put(t, sink, apiserver.PodBackend(w.b2))
	for i, f := range clusterForms(40)[:2] {
		server := openSocket(t, w.b2.Host, f.addr, unix.SOCK_DGRAM, 0)
		if err := server.Bind(t.Context(), netip.AddrPortFrom(w.b2.Addrs()[i], sinkPort)); err != nil {
			t.Fatal(err)
		}
		s := openSocket(t, w.a2.Host, f.addr, unix.SOCK_DGRAM, 0)
		peer := netip.AddrPortFrom(f.addr, 80)
		if err := take(t, s, "connect", peer, w.a1.Host, 0); err != nil {
			t.Fatal(err)
		}
		if err := s.SendTo(t.Context(), "elsewhere", netip.AddrPortFrom(clusterForms(45)[i].addr, 80)); err != nil {
			t.Fatal(err)
		}
		if payload, from, err := server.RecvFrom(t.Context()); payload != "elsewhere" || from.Addr() != w.a2.Addrs()[i] || err != nil {
			t.Errorf("%s: the other Service's pod received %q from %s, %v", f.name, payload, from, err)
		}
		if got, err := s.GetPeerName(t.Context()); got != peer || err != nil {
			t.Errorf("%s: getpeername shows %s, %v, want %s as before", f.name, got, err, peer)
		}
		if err := take(t, s, "send", peer, w.a1.Host, 1); err != nil {
			t.Errorf("%s: the peer, afterwards: %v", f.name, err)
		}
	}
}

// Two threads send on one socket, each to its own Service. Either may get the other's answer, but each
// answer is shown as from the Service whose backend gave it.
func testThreads(t *testing.T, w *world) {
	const each = 1000
	s := openSocket(t, w.a2.Host, clusterForms(40)[0].addr, unix.SOCK_DGRAM, 0)
	services := map[string]netip.AddrPort{}
	for name, number := range map[string]uint8{w.a1.Name: 40, w.b1.Name: 41} {
		services[name] = netip.AddrPortFrom(clusterForms(number)[0].addr, 80)
	}
	var threads sync.WaitGroup
	for backend, to := range services {
		threads.Go(func() {
			for range each {
				if err := s.SendTo(t.Context(), backend, to); err != nil {
					t.Errorf("send to %s: %v", to, err)
					return
				}
				got, err := hear(t, s)
				if err == nil {
					err = different(seen{Backend: got.Payload, Payload: got.Payload, From: services[got.Payload]}, got)
				}
				if err != nil {
					t.Errorf("answer: %v", err)
					return
				}
			}
		})
	}
	threads.Wait()
}
