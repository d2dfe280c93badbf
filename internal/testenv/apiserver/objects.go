package apiserver

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/svcproxy/svcproxy/internal/testenv"
)

// CreateNode creates the Node object of a node, with its addresses and pod CIDRs.
func CreateNode(ctx context.Context, client kubernetes.Interface, n *testenv.Node) (*corev1.Node, error) {
	object := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: map[string]string{corev1.LabelHostname: n.Name}}}
	for _, cidr := range n.PodCIDRs {
		object.Spec.PodCIDRs = append(object.Spec.PodCIDRs, cidr.String())
	}
	object.Spec.PodCIDR = object.Spec.PodCIDRs[0]
	created, err := client.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	created.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: n.Name}}
	for _, addr := range n.Addrs() {
		created.Status.Addresses = append(created.Status.Addresses,
			corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: addr.String()})
	}
	return client.CoreV1().Nodes().UpdateStatus(ctx, created, metav1.UpdateOptions{})
}

// NewService returns a dual-stack Service without a selector: nobody but the test makes its slices.
func NewService(name string, kind corev1.ServiceType, ports ...corev1.ServicePort) *corev1.Service {
	policy := corev1.IPFamilyPolicyRequireDualStack
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: name},
		Spec: corev1.ServiceSpec{
			Type:           kind,
			Ports:          ports,
			IPFamilies:     []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
			IPFamilyPolicy: &policy,
		},
	}
}

// Backend is who is behind a Service: [PodBackend] or [NodeBackend], changed as a test likes.
type Backend struct {
	Host       *testenv.Host
	Node       string
	Conditions discoveryv1.EndpointConditions
}

// PodBackend is a ready pod.
func PodBackend(p *testenv.Pod) Backend { return ready(p.Host, p.Node.Name) }

// NodeBackend is a ready pod on its node's own network.
func NodeBackend(n *testenv.Node) Backend { return ready(n.Host, n.Name) }

func ready(h *testenv.Host, node string) Backend {
	yes, no := true, false
	return Backend{Host: h, Node: node,
		Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no}}
}

// NewSlices returns the EndpointSlices of a Service, one a family. Its ports must name numeric target ports.
func NewSlices(service *corev1.Service, backends ...Backend) []*discoveryv1.EndpointSlice {
	var ports []discoveryv1.EndpointPort
	for _, p := range service.Spec.Ports {
		target := p.TargetPort.IntVal
		if target == 0 {
			target = p.Port
		}
		ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Protocol: &p.Protocol, Port: &target})
	}
	var slices []*discoveryv1.EndpointSlice
	for i, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: service.Namespace,
				Name:      fmt.Sprintf("%s-%s", service.Name, []string{"v4", "v6"}[i]),
				Labels:    map[string]string{discoveryv1.LabelServiceName: service.Name},
			},
			AddressType: family,
			Ports:       ports,
			Endpoints:   []discoveryv1.Endpoint{},
		}
		for _, b := range backends {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses:  []string{b.Host.Addrs()[i].String()},
				Conditions: b.Conditions,
				NodeName:   &b.Node,
			})
		}
		slices = append(slices, slice)
	}
	return slices
}

// CreateService creates a Service and its slices and returns what the API server made of it: cluster IPs,
// node ports.
func CreateService(ctx context.Context, client kubernetes.Interface, service *corev1.Service, backends ...Backend) (*corev1.Service, error) {
	created, err := client.CoreV1().Services(service.Namespace).Create(ctx, service, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return created, SetBackends(ctx, client, created, backends...)
}

// SetBackends replaces who is behind a Service.
func SetBackends(ctx context.Context, client kubernetes.Interface, service *corev1.Service, backends ...Backend) error {
	slices := client.DiscoveryV1().EndpointSlices(service.Namespace)
	for _, slice := range NewSlices(service, backends...) {
		_, err := slices.Update(ctx, slice, metav1.UpdateOptions{})
		if apierrors.IsNotFound(err) {
			_, err = slices.Create(ctx, slice, metav1.CreateOptions{})
		}
		if err != nil {
			return err
		}
	}
	return nil
}
