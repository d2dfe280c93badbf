package watch

import (
	"context"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// What we ask the server for. What it filters, convert filters again: manifests have no
// server.
const (
	serviceLabels = "!" + labelProxyName
	serviceFields = "spec.clusterIP!=" + corev1.ClusterIPNone
	sliceLabels   = "!" + corev1.IsHeadlessService
)

// RunAPI keeps state as the API server has it, for the node of that name, until ctx ends, and returns nil
// then. While the server cannot be reached, state stays as it is. state must have no other source.
//
// There are no informers: their caches would hold everything a second time, and hand each event through two more
// goroutines.
func RunAPI(ctx context.Context, client kubernetes.Interface, node string, state *State, log *slog.Logger) error {
	src := &apiSource{client: client, log: log, sink: sink{state: state, report: newReporter(state, log), node: node}, interner: newInterner()}
	services := client.CoreV1().Services(metav1.NamespaceAll)
	slices := client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll)
	nodes := client.CoreV1().Nodes()
	cidrs := client.NetworkingV1().ServiceCIDRs()

	var running, syncing sync.WaitGroup
	for _, r := range []resource{
		{kindService, &corev1.Service{}, serviceLabels, serviceFields, lister(services.List), services.Watch, false},
		{kindSlice, &discoveryv1.EndpointSlice{}, sliceLabels, "", lister(slices.List), slices.Watch, false},
		{kindNode, &corev1.Node{}, "", "metadata.name=" + node, lister(nodes.List), nodes.Watch, false},
		{kindServiceCIDR, &networkingv1.ServiceCIDR{}, "", "", lister(cidrs.List), cidrs.Watch, true},
	} {
		store := src.store(r.kind)
		running.Go(func() { src.reflect(ctx, r, store) })
		if r.optional {
			running.Go(func() {
				if store.wait(ctx) {
					state.syncServiceCIDRs()
				}
			})
		} else {
			syncing.Go(func() { store.wait(ctx) })
		}
	}
	if syncing.Wait(); ctx.Err() == nil {
		if !state.knowsNode() {
			log.Warn("the API server knows no Node of this name: nothing is known of this node but its name", "node", node)
			src.sink.apply(edit{src.sink.nodeKey(), &object{node: &Node{Name: node}}})
		}
		state.sync()
	}
	running.Wait()
	return nil
}

// resource is what a reflector reads.
type resource struct {
	kind           string
	example        runtime.Object
	labels, fields string
	list           func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch          func(context.Context, metav1.ListOptions) (apiwatch.Interface, error)
	optional       bool // the server may be too old for it
}

func lister[L runtime.Object](list func(context.Context, metav1.ListOptions) (L, error)) func(context.Context, metav1.ListOptions) (runtime.Object, error) {
	return func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return list(ctx, options)
	}
}

type apiSource struct {
	client   kubernetes.Interface
	log      *slog.Logger
	sink     sink
	interner *interner
}

// reflect keeps store as the server has r until ctx ends.
func (src *apiSource) reflect(ctx context.Context, r resource, store *store) {
	out := &outage{resource: r.kind, optional: r.optional, log: src.log}
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			options.LabelSelector, options.FieldSelector = r.labels, r.fields
			list, err := r.list(ctx, options)
			out.observe(ctx, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (apiwatch.Interface, error) {
			options.LabelSelector, options.FieldSelector = r.labels, r.fields
			w, err := r.watch(ctx, options)
			out.observe(ctx, err)
			return w, err
		},
	}
	reflector := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, src.client), r.example, store, cache.ReflectorOptions{Name: r.kind})
	reflector.RunWithContext(klog.NewContext(ctx, klog.Logger{})) // it logs each retry; outage has seen the error already
}
