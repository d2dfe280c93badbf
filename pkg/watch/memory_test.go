package watch

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
)

const (
	manySlices       = 1000
	endpointsInSlice = 100
)

// bigSlice is as the endpoint slice controller makes them.
func bigSlice(n int) *discoveryv1.EndpointSlice {
	yes, no := true, false
	portName, port, tcp := "http", int32(8080), corev1.ProtocolTCP
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: fmt.Sprintf("web-%d-x7k2p", n), ResourceVersion: fmt.Sprint(100000 + n),
			UID:    types.UID(fmt.Sprintf("5f0c1c4e-0000-4c1e-9f5e-%012d", n)),
			Labels: map[string]string{discoveryv1.LabelServiceName: fmt.Sprintf("web-%d", n), discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io", "app": "web"},
			Annotations: map[string]string{
				corev1.EndpointsLastChangeTriggerTime: "2026-01-02T03:04:05.000000006Z",
			},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: fmt.Sprintf("web-%d", n), Controller: &yes}},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kube-controller-manager", FieldsV1: metav1.NewFieldsV1(strings.Repeat("x", 2000))}},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &tcp}},
	}
	for i := range endpointsInSlice {
		at := n*endpointsInSlice + i
		node, zone := fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", at%5000/250, at%250), fmt.Sprintf("eu-central-1%c", 'a'+at%3)
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{fmt.Sprintf("10.%d.%d.%d", 128+at>>16, at>>8&255, at&255)},
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
			NodeName:   &node, Zone: &zone,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: fmt.Sprintf("web-%d-7d4b9c-%05d", n, i), UID: types.UID(fmt.Sprintf("c0ffee00-0000-4c1e-9f5e-%012d", at))},
			Hints:     &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}},
		})
	}
	return s
}

// bytesPerEndpoint returns what an endpoint of 100,000 costs once a real reflector has brought it into a
// State, everything included.
func bytesPerEndpoint(tb testing.TB) float64 {
	tb.Helper()
	before := heap()
	state := NewState()
	log := slog.New(slog.DiscardHandler)
	src := &apiSource{client: fake.NewClientset(), log: log, sink: sink{state: state, report: newReporter(state, log)}, interner: newInterner()}
	store := src.store(kindSlice)
	r := resource{
		kind: kindSlice, example: &discoveryv1.EndpointSlice{},
		list: func(context.Context, metav1.ListOptions) (kruntime.Object, error) {
			list := &discoveryv1.EndpointSliceList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
			for n := range manySlices {
				list.Items = append(list.Items, *bigSlice(n))
			}
			return list, nil
		},
		watch: func(context.Context, metav1.ListOptions) (apiwatch.Interface, error) { return apiwatch.NewFake(), nil },
	}
	ctx, cancel := context.WithCancel(tb.Context())
	stopped := make(chan struct{})
	go func() { defer close(stopped); src.reflect(ctx, r, store) }()
	if !store.wait(ctx) {
		tb.Fatal("there was no list")
	}
	state.sync()
	state.Take()
	used := heap() - before
	if got := state.Counters().EndpointChanges; got != manySlices {
		tb.Fatalf("%d slices arrived, want %d", got, manySlices)
	}
	runtime.KeepAlive(store)
	cancel()
	<-stopped
	return float64(used) / (manySlices * endpointsInSlice)
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestMemoryPerEndpoint(t *testing.T) {
	if got := bytesPerEndpoint(t); got > 140 {
		t.Errorf("an endpoint costs %.0f bytes, want at most 140", got)
	}
}

func BenchmarkMemoryPerEndpoint(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(bytesPerEndpoint(b), "B/endpoint")
	}
}
