package watch

import (
	"context"
	"fmt"
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

	"github.com/svcproxy/svcproxy/pkg/endpoints"
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
func RunAPI(ctx context.Context, client kubernetes.Interface, node string, state *State, log *slog.Logger) error {
	src := &apiSource{client: client, log: log, sink: sink{state: state, report: newReporter(state, log), node: node}, interner: newInterner()}
	services := client.CoreV1().Services(metav1.NamespaceAll)
	slices := client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll)
	nodes := client.CoreV1().Nodes()
	cidrs := client.NetworkingV1().ServiceCIDRs()

	var informers []cache.SharedIndexInformer
	var synced []cache.DoneChecker
	var cidrsSynced cache.DoneChecker
	for _, r := range []resource{
		{kindService, &corev1.Service{}, serviceLabels, serviceFields, lister(services.List), services.Watch, false},
		{kindSlice, &discoveryv1.EndpointSlice{}, sliceLabels, "", lister(slices.List), slices.Watch, false},
		{kindNode, &corev1.Node{}, "", "metadata.name=" + node, lister(nodes.List), nodes.Watch, false},
		{kindServiceCIDR, &networkingv1.ServiceCIDR{}, "", "", lister(cidrs.List), cidrs.Watch, true},
	} {
		informer, registration, err := src.informer(r)
		if err != nil {
			return fmt.Errorf("watch %ss: %w", r.kind, err)
		}
		informers = append(informers, informer)
		// The registration's, not the informer's: ours must have handled what the informer has received.
		if r.optional {
			cidrsSynced = registration.HasSyncedChecker()
		} else {
			synced = append(synced, registration.HasSyncedChecker())
		}
	}
	var running sync.WaitGroup
	for _, informer := range informers {
		running.Go(func() { informer.RunWithContext(ctx) })
	}
	running.Go(func() {
		if cache.WaitFor(ctx, "", cidrsSynced) {
			state.syncServiceCIDRs()
		}
	})
	if cache.WaitFor(ctx, "", synced...) {
		if !state.knowsNode() {
			log.Warn("the API server knows no Node of this name: nothing is known of this node but its name", "node", node)
			src.sink.apply(edit{src.sink.nodeKey(), &object{node: &Node{Name: node}}})
		}
		state.sync()
	}
	<-ctx.Done()
	running.Wait()
	return nil
}

// resource is what an informer reads.
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

// informer returns an informer that is not running yet, and the registration of our handler with it.
func (src *apiSource) informer(r resource) (cache.SharedIndexInformer, cache.ResourceEventHandlerRegistration, error) {
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
	informer := cache.NewSharedIndexInformerWithOptions(
		cache.ToListWatcherWithWatchListSemantics(lw, src.client), r.example, cache.SharedIndexInformerOptions{})
	if err := informer.SetTransform(src.shrink); err != nil {
		return nil, nil, err
	}
	// The default handler logs each retry; outage has seen the error already.
	if err := informer.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) {}); err != nil {
		return nil, nil, err
	}
	registration, err := informer.AddEventHandler(&handler{kind: r.kind, sink: &src.sink, log: src.log})
	return informer, registration, err
}

// cached is what the informer's cache keeps of an object: its identity, by which the cache works, and
// the converted object, which State shares. At 100,000 endpoints the API's own types would be the
// greatest part of our memory.
type cached struct {
	metav1.ObjectMeta // name, namespace, UID and resource version; nothing else
	key               key
	object            *object
}

// shrink is the informers' transform: it converts objects before they are kept.
func (src *apiSource) shrink(obj any) (any, error) {
	if _, done := obj.(*cached); done { // the cache may give us its own
		return obj, nil
	}
	meta, ok := obj.(metav1.Object)
	if !ok {
		return obj, nil // not an object of ours: the handler says so
	}
	k, o, err := convert(obj, src.interner)
	if err != nil {
		return nil, err
	}
	return &cached{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: k.name.Namespace, Name: k.name.Name,
			UID: meta.GetUID(), ResourceVersion: meta.GetResourceVersion(),
		},
		key: k, object: o,
	}, nil
}

// handler receives the events of one informer.
type handler struct {
	kind string
	sink *sink
	log  *slog.Logger
}

func (h *handler) OnAdd(obj any, _ bool) { h.OnUpdate(nil, obj) }

func (h *handler) OnUpdate(_, obj any) {
	c, ok := obj.(*cached)
	if !ok {
		h.log.Error("the informer holds something that is not ours", "kind", h.kind, "type", fmt.Sprintf("%T", obj))
		return
	}
	h.sink.apply(edit{c.key, c.object})
}

// OnDelete is also told of objects whose deletion we did not see: all that is sure then is the name.
func (h *handler) OnDelete(obj any) {
	text, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj)
	if err != nil {
		h.log.Error("the informer deletes something that is not ours", "kind", h.kind, "error", err)
		return
	}
	namespace, name, err := cache.SplitMetaNamespaceKey(text)
	if err != nil {
		h.log.Error("the informer deletes something that is not ours", "kind", h.kind, "error", err)
		return
	}
	h.sink.apply(edit{key: key{h.kind, endpoints.ObjectName{Namespace: namespace, Name: name}}})
}
