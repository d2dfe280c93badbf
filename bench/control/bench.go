package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/svcproxy/svcproxy/internal/testenv"
	"github.com/svcproxy/svcproxy/internal/testenv/apiserver"
)

const (
	serverPort  = 8080
	clusterCIDR = "10.244.0.0/16"
	// patience is how long anything may take: kube-proxy's start with 10,000 Services is a quarter of a minute
	// on a machine that does nothing else.
	patience = 3 * time.Minute
)

// bench is one run.
type bench struct {
	server     *apiserver.Server
	client     kubernetes.Interface
	rand       *rand.Rand
	phase      time.Duration
	begun      time.Time
	report     report
	population int // Services besides the probes
	probes     []*probe
}

// A probe is a Service whose backends are moved between the two pods that answer. Their names are the
// first, a middle and the last.
type probe struct {
	service *corev1.Service
	at      int // which pod
}

func newBench(ctx context.Context, o options) (_ *bench, err error) {
	b := &bench{
		rand: rand.New(rand.NewPCG(o.seed, 0)), phase: o.phase, begun: time.Now(),
		report: report{Machine: machine(), Seed: o.seed, Began: time.Now().UTC()},
	}
	if b.server, err = apiserver.New(ctx, apiserver.Options{}, b.say); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	config, err := b.server.Config(apiserver.Admin.Name)
	if err != nil {
		return nil, err
	}
	config.ContentType = kruntime.ContentTypeProtobuf
	if b.client, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	for _, name := range []string{"a-first", "k-middle", "z-last"} {
		service, err := b.create(ctx, name, newSlice(name, "node-a", probeAddrs(0)))
		if err != nil {
			return nil, err
		}
		b.probes = append(b.probes, &probe{service: service})
	}
	return b, nil
}

func (b *bench) close() { _ = b.server.Close() }

func (b *bench) say(format string, args ...any) {
	fmt.Printf("%6.1fs  %s\n", time.Since(b.begun).Seconds(), fmt.Sprintf(format, args...))
}

func (b *bench) timed(format string, args ...any) func() {
	begin := time.Now()
	return func() { b.say("%s, after %.1f s", fmt.Sprintf(format, args...), time.Since(begin).Seconds()) }
}

func processors() int { return runtime.NumCPU() }

// probeAddrs are the addresses at which pod number i answers.
func probeAddrs(i int) []string {
	var list []string
	for n := range endpointsPerService {
		list = append(list, fmt.Sprintf("10.244.1.%d", 100+20*i+n))
	}
	return list
}

// world is a fresh node with its pods.
type world struct {
	*testenv.Cluster
	ctx     context.Context
	node    *testenv.Node
	servers []*testenv.Pod
	asks    *testenv.Pod
}

func (b *bench) newWorld(ctx context.Context) (_ *world, err error) {
	cluster, err := testenv.New(ctx, testenv.Options{Nodes: 1, PodsPerNode: 3})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, cluster.Close())
		}
	}()
	w := &world{Cluster: cluster, ctx: ctx, node: cluster.Nodes[0]}
	w.servers, w.asks = w.node.Pods[:2], w.node.Pods[2]
	for i, p := range w.servers {
		for _, addr := range probeAddrs(i) {
			if err := addAddress(p, netip.MustParseAddr(addr)); err != nil {
				return nil, err
			}
		}
		if _, err := p.Serve(ctx, "tcp", netip.AddrPortFrom(netip.IPv4Unspecified(), serverPort).String()); err != nil {
			return nil, err
		}
	}
	if _, err := apiserver.CreateNode(ctx, b.client, w.node); err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, err
	}
	_, err = b.server.Expose(w.node)
	return w, err
}

// addAddress gives a pod another address, and the node a route to it.
func addAddress(p *testenv.Pod, addr netip.Addr) error {
	host := netlink.NewIPNet(addr.AsSlice())
	eth0, err := p.Netlink().LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := p.Netlink().AddrAdd(eth0, &netlink.Addr{IPNet: host}); err != nil {
		return err
	}
	link, err := p.Node.Netlink().LinkByName(p.HostLink)
	if err != nil {
		return err
	}
	return p.Node.Netlink().RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: host, Scope: netlink.SCOPE_LINK})
}

// move puts all backends of a probe on the other pod.
func (b *bench) move(ctx context.Context, p *probe, to int) error {
	slice := newSlice(p.service.Name, "node-a", probeAddrs(to))
	_, err := b.client.DiscoveryV1().EndpointSlices(slice.Namespace).Update(ctx, slice, metav1.UpdateOptions{})
	p.at = to
	return err
}

// await asks a probe by new connections until the pod that it is on answers, and returns when that was.
func (w *world) await(ctx context.Context, p *probe, at int) (time.Time, error) {
	addr := netip.AddrPortFrom(netip.MustParseAddr(p.service.Spec.ClusterIP), 80).String()
	begin := time.Now()
	var last error
	for {
		// A hundredth of what it takes is as exact as it need be, and leaves the processors to others.
		pause := max(100*time.Microsecond, time.Since(begin)/100)
		timeout, cancel := context.WithTimeout(ctx, 250*time.Millisecond)
		reply, err := w.asks.Request(timeout, "tcp", addr)
		cancel()
		now := time.Now()
		switch {
		case err == nil && reply.Backend == w.servers[at].Name:
			return now, nil
		case ctx.Err() != nil:
			return now, ctx.Err()
		case now.Sub(begin) > patience:
			return now, fmt.Errorf("%s is not answered by %s: %w", p.service.Name, w.servers[at].Name, last)
		}
		last = err
		time.Sleep(pause)
	}
}
