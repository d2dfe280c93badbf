package test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

// networks are the ways of hand.Request.
var networks = []string{"tcp", "udp", "udp-unconnected"}

// world is two nodes of two pods each and an outside client, with agents that read the same manifests.
// Nodes and pods answer on serverPort.
type world struct {
	*testenv.Cluster
	a, b           *testenv.Node
	a1, a2, b1, b2 *testenv.Pod
	client         *testenv.Client
	dir            string
	agents         []*agent
}

// newWorld makes the cluster. Agents are started by start, when their first manifests are there.
func newWorld(t *testing.T, o testenv.Options) *world {
	t.Helper()
	o.Nodes, o.PodsPerNode, o.Clients = 2, 2, max(1, o.Clients)
	c := testenv.MustNew(t, o)
	w := &world{Cluster: c, a: c.Nodes[0], b: c.Nodes[1], client: c.Clients[0], dir: t.TempDir()}
	w.a1, w.a2, w.b1, w.b2 = w.a.Pods[0], w.a.Pods[1], w.b.Pods[0], w.b.Pods[1]
	servePods(t, c)
	for _, n := range c.Nodes {
		if _, err := n.ServeAll(t.Context(), serverPort); err != nil {
			t.Fatalf("serve on %s: %v", n.Name, err)
		}
	}
	manifest(t, w.dir, "nodes.yaml", nodeObject(w.a), nodeObject(w.b))
	return w
}

// nodeObject is what kubelet says of a node: without its addresses a link that only carries a tunnel is
// not known to lead out.
func nodeObject(n *testenv.Node) *corev1.Node {
	object := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
	for _, addr := range n.Addrs() {
		object.Status.Addresses = append(object.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
	}
	return object
}

// start starts agents side by side: on all nodes if none is named.
func (w *world) start(t *testing.T, args []string, nodes ...*testenv.Node) {
	t.Helper()
	if len(nodes) == 0 {
		nodes = w.Nodes
	}
	for _, n := range nodes {
		w.agents = append(w.agents, launchAgent(t, n, append([]string{"--manifests", w.dir}, args...)...))
	}
	for _, a := range w.agents {
		if err := a.ready(t.Context()); err != nil {
			t.Fatalf("agent of %s is not ready: %v", a.node.Name, err)
		}
	}
}

// put writes a Service and its backends. Once agents run, it returns when their kernel tables have these.
func (w *world) put(t *testing.T, s *corev1.Service, backends ...apiserver.Backend) {
	t.Helper()
	manifest(t, w.dir, s.Name+".yaml", append([]any{s}, slices(s, backends...)...)...)
	want := map[string]bool{}
	for _, b := range backends {
		for _, addr := range b.Host.Addrs() {
			want[addr.String()] = true
		}
	}
	w.settle(t, s, want)
}

// remove removes a Service and its backends, as put puts them.
func (w *world) remove(t *testing.T, s *corev1.Service) {
	t.Helper()
	if err := os.Remove(filepath.Join(w.dir, s.Name+".yaml")); err != nil {
		t.Fatal(err)
	}
	w.settle(t, s, map[string]bool{})
}

// settle waits until the backends that the kernels know of a Service have just these addresses.
func (w *world) settle(t *testing.T, s *corev1.Service, want map[string]bool) {
	t.Helper()
	type line struct {
		Service string
		Address netip.AddrPort
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, a := range w.agents {
		if err := testenv.Eventually(ctx, func(context.Context) error {
			got := map[string]bool{}
			for _, l := range commandJSON[[]line](t, a.node, "backends") {
				if strings.HasPrefix(l.Service, s.Namespace+"/"+s.Name+":") {
					got[l.Address.Addr().String()] = true
				}
			}
			return different(want, got)
		}); err != nil {
			t.Fatalf("backends of %s on %s: %v", s.Name, a.node.Name, err)
		}
	}
}

// difference is an error that shows a -want +got.
type difference string

func (d difference) Error() string { return "-want +got:\n" + string(d) }

func different(want, got any) error {
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})); d != "" {
		return difference(d)
	}
	return nil
}

// counters returns the counters of an agent's data path, by the names of enum stat.
func counters(t *testing.T, a *agent) map[string]uint64 {
	t.Helper()
	_, body, err := a.get(t.Context(), "127.0.0.1:10249", "/metrics")
	if err != nil {
		t.Fatalf("metrics: %v", err)
	}
	list := map[string]uint64{}
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, "svcproxy_datapath_events_total{event="); ok {
			var name string
			var n float64
			if _, err := fmt.Sscanf(rest, "%q} %g", &name, &n); err != nil {
				t.Fatalf("parse %q: %v", line, err)
			}
			list[name] = uint64(n)
		}
	}
	return list
}

// checkMoved compares by how much some counters have moved since.
func checkMoved(t *testing.T, a *agent, since, want map[string]uint64) {
	t.Helper()
	now, got := counters(t, a), map[string]uint64{}
	for name := range want {
		got[name] = now[name] - since[name]
	}
	if err := different(want, got); err != nil {
		t.Errorf("counters of %s: %v", a.node.Name, err)
	}
}

// form is one way a socket names an address: which of a host's two, and how.
type form struct {
	name string
	addr netip.Addr
	i    int // of Host.Addrs
}

// forms are those of a pair of addresses: IPv4, IPv6, and the first by an AF_INET6 socket.
func forms(v4, v6 netip.Addr) []form {
	return []form{{"IPv4", v4, 0}, {"IPv6", v6, 1}, {"mapped", netip.AddrFrom16(v4.As16()), 0}}
}

func clusterForms(number uint8) []form {
	return forms(netip.MustParseAddr(clusterIPv4(number)), netip.MustParseAddr(clusterIPv6(number)))
}

func hostForms(h *testenv.Host) []form { return forms(h.IPv4, h.IPv6) }

// Where the port comes from that a server sees.
const (
	ownPort  = "the client's"
	snatPort = "from --snat-ports"
)

// exchange is a request and what must come of it.
type exchange struct {
	from    *testenv.Host
	network string
	to      netip.AddrPort
	backend string     // who answers
	source  netip.Addr // whom it sees
	port    string     // ownPort if empty
}

// check makes the request. The client must see the answer come from whom it asked.
func (e exchange) check(t *testing.T) {
	t.Helper()
	r, err := e.from.Request(t.Context(), e.network, e.to.String())
	if err != nil {
		t.Errorf("%s asks %s over %s: %v", e.from.Name, e.to, e.network, err)
		return
	}
	type outcome struct {
		Backend string
		Source  netip.Addr
		Port    string
		Peer    netip.AddrPort
	}
	want := outcome{Backend: e.backend, Source: e.source, Port: e.port, Peer: e.to}
	if want.Port == "" {
		want.Port = ownPort
	}
	got := outcome{Backend: r.Backend, Source: r.Source.Addr(), Port: r.Source.String(), Peer: r.Peer}
	switch port := r.Source.Port(); {
	case port == r.Local.Port():
		got.Port = ownPort
	case port >= 11000 && port <= 29999:
		got.Port = snatPort
	}
	if err := different(want, got); err != nil {
		t.Errorf("%s asks %s over %s: %v", e.from.Name, e.to, e.network, err)
	}
}

// portSlices are slices with the ports of one name alone.
func portSlices(s *corev1.Service, port string, backends ...apiserver.Backend) []any {
	part := s.DeepCopy()
	part.Spec.Ports = nil
	for _, p := range s.Spec.Ports {
		if p.Name == port {
			part.Spec.Ports = append(part.Spec.Ports, p)
		}
	}
	list := slices(part, backends...)
	for _, o := range list {
		o.(*discoveryv1.EndpointSlice).Name += "-" + port
	}
	return list
}
