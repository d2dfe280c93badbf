package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	endpointsPerService = 10
	creators            = 16
)

// populate makes Services with ten endpoints each, until there are size besides the probes.
func (b *bench) populate(ctx context.Context, size int) error {
	defer b.timed("%d Services with %d endpoints each are there", size, endpointsPerService)()
	next := int64(b.population)
	errs := make([]error, creators)
	var running sync.WaitGroup
	for w := range creators {
		running.Go(func() {
			for errs[w] == nil {
				n := int(atomic.AddInt64(&next, 1)) - 1
				if n >= size {
					return
				}
				name := fmt.Sprintf("filler-%05d", n)
				_, errs[w] = b.create(ctx, name, fillerSlice(n, false))
			}
		})
	}
	running.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	b.population = size
	return nil
}

// create makes a Service of type ClusterIP and its slice.
func (b *bench) create(ctx context.Context, name string, slice *discoveryv1.EndpointSlice) (*corev1.Service, error) {
	service, err := b.client.CoreV1().Services(slice.Namespace).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: slice.Namespace, Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.ServiceSpec{
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromInt(serverPort)}},
		},
	}, metav1.CreateOptions{})
	if err == nil {
		_, err = b.client.DiscoveryV1().EndpointSlices(slice.Namespace).Create(ctx, slice, metav1.CreateOptions{})
	}
	return service, err
}

// fillerSlice is the slice of Service n, with the first endpoint at one of two addresses. Nobody is there.
func fillerSlice(n int, other bool) *discoveryv1.EndpointSlice {
	var addrs []string
	for i := range endpointsPerService {
		at := n*endpointsPerService + i
		addrs = append(addrs, fmt.Sprintf("10.%d.%d.%d", 128+at>>16, at>>8&255, at&255))
	}
	if other {
		addrs[0] = fmt.Sprintf("10.120.%d.%d", n>>8&255, n&255)
	}
	return newSlice(fmt.Sprintf("filler-%05d", n), fmt.Sprintf("other-node-%d", n%100), addrs)
}

// newSlice is as the endpoint slice controller makes them.
func newSlice(service, node string, addrs []string) *discoveryv1.EndpointSlice {
	yes, no, port, tcp, portName, zone := true, false, int32(serverPort), corev1.ProtocolTCP, "http", "zone-a"
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceDefault, Name: service + "-abcde",
			Labels: map[string]string{
				discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io", "app": service,
			},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: service, UID: "5f0c1c4e-0000-4c1e-9f5e-000000000000", Controller: &yes}},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &portName, Port: &port, Protocol: &tcp}},
	}
	for i, addr := range addrs {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses:  []string{addr},
			Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
			NodeName:   &node, Zone: &zone,
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: slice.Namespace, Name: fmt.Sprintf("%s-7d4b9c-%05d", service, i), UID: "c0ffee00-0000-4c1e-9f5e-000000000000"},
		})
	}
	return slice
}
