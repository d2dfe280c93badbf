package test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
	"github.com/svcproxy/svcproxy/pkg/endpoints"
	"github.com/svcproxy/svcproxy/pkg/watch"
)

// Where the backends of agreement tests listen, over TCP and UDP: on every pod and node.
var agreePorts = []int32{8080, 8081}

// agreeNode is a node with an agent, and what the model must know of it.
type agreeNode struct {
	*testenv.Node
	agent    *agent
	args     []string                                   // of its agent: each node tells its pods another way
	pods     endpoints.Origin                           // what its own pods are to it
	remote   func(remote *agreeClient) endpoints.Origin // what others' pods and processes are
	loopback bool                                       // NodePorts answer on loopback addresses

	zone     string
	resolved []endpoints.Resolved // by the model, from what the API server has
	kernel   *agreeKernel
}

// agreeKind is where a client's connections are met first.
type agreeKind int

const (
	hookedPod  agreeKind = iota // by the socket hooks
	barePod                     // by the programs at its link: no hook sees it
	hostClient                  // by the socket hooks
	outside                     // by the programs at the node's uplink
)

func (k agreeKind) String() string { return [...]string{"pod", "bare pod", "host", "outside"}[k] }

// agreeClient is a host that dials; node is its own, of outside clients the one that they send to.
type agreeClient struct {
	*testenv.Host
	kind agreeKind
	node int
	pod  *testenv.Pod // nil for others
}

// agreeWorld is three nodes of two pods each and an agent, an outside client for each, and the model of it all:
//
//	node-a: no local detector; node-b: ClusterCIDR; node-c: InterfaceNamePrefix, NodePorts on primary addresses
//
// What nobody answers for goes to one more host, the way to everywhere, which says that it is unreachable.
type agreeWorld struct {
	nodes    [3]*agreeNode
	clients  []*agreeClient
	admin    kubernetes.Interface
	state    *watch.State
	services map[endpoints.ObjectName]watch.Change // what the API server has said
	ranges   []netip.Prefix                        // of ClusterIPs
	// former are addresses that ClusterIPs are or were: the programs know those of Services that have gone for as long as
	// their filter does, which is until the next collection of flows.
	former map[netip.Addr]bool
	rounds int // of changes, for the sentinel
}

func newAgreeWorld(t *testing.T) *agreeWorld {
	t.Helper()
	server, err := apiServer()
	if err != nil {
		t.Fatalf("API server: %v", err)
	}
	config, err := server.Config(apiserver.Admin.Name)
	if err != nil {
		t.Fatal(err)
	}
	config.WarningHandler = rest.NoWarnings{} // of fields that will go one day
	admin, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	c := testenv.MustNew(t, testenv.Options{Nodes: 3, PodsPerNode: 2, Clients: 4})
	w := &agreeWorld{admin: admin, state: watch.NewState(), services: map[endpoints.ObjectName]watch.Change{}, former: map[netip.Addr]bool{}}
	always := func(o endpoints.Origin) func(*agreeClient) endpoints.Origin {
		return func(*agreeClient) endpoints.Origin { return o }
	}
	w.nodes = [3]*agreeNode{
		{Node: c.Nodes[0], pods: endpoints.FromOutside, remote: always(endpoints.FromOutside), loopback: true},
		{Node: c.Nodes[1], pods: endpoints.FromInside, loopback: true,
			remote: func(r *agreeClient) endpoints.Origin { // by address alone
				if r.pod != nil {
					return endpoints.FromInside
				}
				return endpoints.FromOutside
			},
			args: []string{"--cluster-cidr=10.244.0.0/16,fd44::/16"}},
		{Node: c.Nodes[2], pods: endpoints.FromInside, remote: always(endpoints.FromOutside),
			args: []string{"--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=veth-", "--nodeport-addresses=primary"}},
	}
	for i, n := range w.nodes {
		bare := filepath.Join(filepath.Dir(n.Cgroup), "bare-"+n.Name)
		if err := os.Mkdir(bare, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(bare, "cgroup.procs"), []byte(strconv.Itoa(n.Pods[1].HandPID())), 0); err != nil {
			t.Fatal(err)
		}
		w.clients = append(w.clients,
			&agreeClient{Host: n.Pods[0].Host, kind: hookedPod, node: i, pod: n.Pods[0]},
			&agreeClient{Host: n.Pods[1].Host, kind: barePod, node: i, pod: n.Pods[1]},
			&agreeClient{Host: n.Host, kind: hostClient, node: i},
			&agreeClient{Host: c.Clients[i].Host, kind: outside, node: i})
	}
	w.route(t, c.Clients[3].Host)
	for _, client := range w.clients {
		if client.kind == outside {
			continue
		}
		for _, port := range agreePorts {
			if _, err := client.ServeAll(t.Context(), uint16(port)); err != nil {
				t.Fatalf("serve on %s: %v", client.Name, err)
			}
		}
	}
	w.start(t, server)
	return w
}

// route lets the nodes send to everywhere, and outside clients to what Services may have, each by its node. Errors
// come as often as they are due: the kernel's own limits are not what is tested.
func (w *agreeWorld) route(t *testing.T, everywhere *testenv.Host) {
	t.Helper()
	set := func(h *testenv.Host, settings ...string) {
		for _, s := range settings {
			name, value, _ := strings.Cut(s, "=")
			if err := h.Sysctl(name, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	quick := []string{"net.ipv4.icmp_ratemask=0", "net.ipv6.icmp.ratemask=", "net.ipv6.icmp.ratelimit=0"}
	set(everywhere, quick...)
	// Not for want of a route: the kernel bounds how often it says that.
	run(t, everywhere, "table inet unreachable {\nchain everything {\ntype filter hook prerouting priority 0;\n"+
		"meta l4proto { tcp, udp } reject with icmpx host-unreachable\n}\n}", "nft", "-f", "-")
	routes := func(h *testenv.Host, via *testenv.Host, prefixes ...string) {
		for _, p := range prefixes {
			prefix := netip.MustParsePrefix(p)
			if err := h.AddRoute(prefix, gateway(via, prefix)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, n := range w.nodes {
		set(n.Host, append(quick, "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth0.send_redirects=0")...)
		routes(n.Host, everywhere, "0.0.0.0/0", "::/0")
		routes(everywhere, n.Host, n.PodCIDRs[0].String(), n.PodCIDRs[1].String())
	}
	for _, c := range w.clients {
		if c.kind == outside {
			set(c.Host, "net.ipv6.conf.eth0.accept_redirects=0")
			routes(c.Host, w.nodes[c.node].Host,
				apiserver.ServiceCIDR4, apiserver.ServiceCIDR6, "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
		}
	}
}

// start makes the Node objects and starts the agents and the model's own watch.
func (w *agreeWorld) start(t *testing.T, server *apiserver.Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	t.Cleanup(func() {
		cancel()
		if err := <-watched; err != nil {
			t.Errorf("watch: %v", err)
		}
	})
	for i, n := range w.nodes {
		if _, err := apiserver.CreateNode(ctx, w.admin, n.Node); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatalf("create node: %v", err)
		}
		w.setZone(t, i, []string{"zone-a", "zone-b", "zone-c"}[i])
		if _, err := server.Expose(n.Node); err != nil {
			t.Fatalf("expose API server: %v", err)
		}
	}
	t.Cleanup(func() {
		for i := range w.nodes {
			w.setZone(t, i, "") // others may use the Nodes
		}
	})
	go func() { watched <- watch.RunAPI(ctx, w.admin, "node-a", w.state, slog.New(slog.DiscardHandler)) }()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := server.WriteKubeconfig(kubeconfig, proxyUser); err != nil {
		t.Fatal(err)
	}
	for _, n := range w.nodes {
		n.agent = launchAgent(t, n.Node, append(n.args, "--kubeconfig", kubeconfig)...)
	}
	for _, n := range w.nodes {
		if err := n.agent.ready(t.Context()); err != nil {
			t.Fatalf("agent of %s is not ready: %v", n.Name, err)
		}
		n.kernel = newAgreeKernel(t, n.Node)
	}
	// The first packet to a next hop that is not known yet takes the stack, which finds it: not what is asked here.
	for _, n := range w.nodes {
		for _, c := range w.clients {
			for _, addr := range c.Addrs() {
				var err error
				if c.kind == outside {
					_, err = c.Request(t.Context(), "udp", netip.AddrPortFrom(familyAddr(n.Addrs(), addr), uint16(agreePorts[0])).String())
				} else {
					_, err = n.Request(t.Context(), "udp", netip.AddrPortFrom(addr, uint16(agreePorts[0])).String())
				}
				if err != nil {
					t.Fatalf("the cluster's network: %v", err)
				}
			}
		}
	}
}

// setZone labels a Node; "" removes the label.
func (w *agreeWorld) setZone(t *testing.T, node int, zone string) {
	value := "null"
	if zone != "" {
		value = strconv.Quote(zone)
	}
	patch := fmt.Sprintf(`{"metadata":{"labels":{%q:%s}}}`, corev1.LabelTopologyZone, value)
	_, err := w.admin.CoreV1().Nodes().Patch(context.Background(), w.nodes[node].Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		t.Errorf("label node: %v", err)
	}
	w.nodes[node].zone = zone
}

// put creates or replaces a Service as it is described, with its status.
func (w *agreeWorld) put(t *testing.T, s *corev1.Service) {
	t.Helper()
	ctx, services := t.Context(), w.admin.CoreV1().Services(s.Namespace)
	status := s.Status
	now, err := services.Get(ctx, s.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		now, err = services.Create(ctx, s, metav1.CreateOptions{})
	case err == nil:
		s = s.DeepCopy()
		s.ResourceVersion = now.ResourceVersion
		now, err = services.Update(ctx, s, metav1.UpdateOptions{})
	}
	if err == nil {
		now.Status = status
		_, err = services.UpdateStatus(ctx, now, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatalf("put service %s: %v", s.Name, err)
	}
}

// putSlices makes these the only slices of a Service.
func (w *agreeWorld) putSlices(t *testing.T, service string, slices ...*discoveryv1.EndpointSlice) {
	t.Helper()
	ctx, client := t.Context(), w.admin.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	wanted := map[string]bool{}
	for _, s := range slices {
		wanted[s.Name] = true
		_, err := client.Update(ctx, s, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = client.Create(ctx, s, metav1.CreateOptions{})
		}
		if err != nil {
			t.Fatalf("put slice %s: %v", s.Name, err)
		}
	}
	have, err := client.List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range have.Items {
		if !wanted[s.Name] {
			if err := client.Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// remove deletes a Service, and its slices with it or not: some outlive their Service.
func (w *agreeWorld) remove(t *testing.T, name string, slices bool) {
	ctx := context.Background()
	err := w.admin.CoreV1().Services(metav1.NamespaceDefault).Delete(ctx, name, metav1.DeleteOptions{})
	if err == nil || apierrors.IsNotFound(err) {
		err = nil
		if slices {
			err = w.admin.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).DeleteCollection(ctx, metav1.DeleteOptions{},
				metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name})
		}
	}
	if err != nil {
		t.Errorf("remove service %s: %v", name, err)
	}
}

const agreeSentinel = "agree-sentinel"

// settle returns when the model knows all that was written to the API server before, and the tables of every node
// say the same as the model. The sentinel is the last Service and the last slice written: a watch is in order.
func (w *agreeWorld) settle(t *testing.T) {
	t.Helper()
	w.rounds++
	port := int32(10000 + w.rounds)
	s := agreeService(agreeSentinel, 250, corev1.ServiceTypeClusterIP, corev1.ServicePort{Name: "p", Protocol: corev1.ProtocolTCP, Port: port})
	w.put(t, s)
	w.putSlices(t, agreeSentinel, agreeSlice(s.Name, "only", discoveryv1.AddressTypeIPv4, nil, agreePort("p", corev1.ProtocolTCP, port)))
	t.Cleanup(func() { w.remove(t, agreeSentinel, true) })

	timeout := time.After(patience)
	for !w.caughtUp(uint16(port)) {
		select {
		case <-w.state.Changed():
			update := w.state.Take()
			for _, c := range update.Changes {
				w.services[c.Name] = c
			}
			if update.ServiceCIDRs != nil {
				w.ranges = update.ServiceCIDRs
			}
		case <-timeout:
			t.Fatal("the model does not hear of the last change")
		}
	}
	for _, n := range w.nodes {
		w.resolve(n)
		eventually(t, "the tables of "+n.Name+" are the model's", func(context.Context) error {
			got, err := tableLines(n.BPFRoot)
			if err != nil {
				return err
			}
			return different(modelLines(n.resolved), got)
		})
	}
}

func (w *agreeWorld) caughtUp(port uint16) bool {
	s := w.services[endpoints.ObjectName{Namespace: metav1.NamespaceDefault, Name: agreeSentinel}]
	return s.Service != nil && s.Service.Ports[0].Port == port && len(s.Slices) == 1 && s.Slices[0].Ports[0].Port == port &&
		w.ranges != nil
}

// agreeService is a dual-stack Service whose ClusterIPs end in number.
func agreeService(name string, number int, kind corev1.ServiceType, ports ...corev1.ServicePort) *corev1.Service {
	s := apiserver.NewService(name, kind, ports...)
	s.Spec.ClusterIPs = []string{fmt.Sprintf("10.96.77.%d", number), fmt.Sprintf("fd96::7:%x", number)}
	s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	return s
}

func agreeSlice(service, name string, family discoveryv1.AddressType, list []discoveryv1.Endpoint, ports ...discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	if list == nil {
		list = []discoveryv1.Endpoint{}
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: service + "-" + name,
			Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: family, Endpoints: list, Ports: ports,
	}
}

func agreePort(name string, protocol corev1.Protocol, port int32) discoveryv1.EndpointPort {
	return discoveryv1.EndpointPort{Name: &name, Protocol: &protocol, Port: &port}
}

// node returns the node that has an address, -1 if none has.
func (w *agreeWorld) node(addr netip.Addr) int {
	for i, n := range w.nodes {
		if addr == n.IPv4 || addr == n.IPv6 {
			return i
		}
	}
	return -1
}

// host returns the pod or node that has an address.
func (w *agreeWorld) host(addr netip.Addr) *agreeClient {
	for _, c := range w.clients {
		if addr == c.IPv4 || addr == c.IPv6 {
			return c
		}
	}
	panic(errors.New("a backend that is nobody's: " + addr.String()))
}
